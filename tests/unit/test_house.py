"""House rules that no linter knows, run as a test."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SOURCES = ROOT / "src" / "vectorpool"
MAX_LINES = 400
# A longer one, with its own bound: the one face of a vectorstore.
LONGER = {"src/vectorpool/vectorstore/vectorstore.py": 404}
MAX_FUNCTION_LINES = 70
BANNED = {"util", "utils", "helper", "helpers", "common", "core", "manager", "managers", "misc"}

modules = sorted(SOURCES.rglob("*.py"))
tests = sorted(TESTS.rglob("*.py"))
# The built wheel's tests run without the sources beside them.
needs_sources = pytest.mark.skipif(not SOURCES.is_dir(), reason="the sources are not beside these tests")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@needs_sources
def test_modules_are_short() -> None:
    """No module is longer than its bound: it is split by noun instead."""
    lengths = {_name(path): len(path.read_text().splitlines()) for path in modules}
    assert modules
    assert {name: length for name, length in lengths.items() if length > LONGER.get(name, MAX_LINES)} == {}


@needs_sources
def test_functions_are_short() -> None:
    """No function is longer than its bound."""
    long = {}
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long[f"{_name(path)}:{node.name}"] = length
    assert long == {}


@pytest.mark.parametrize("path", [*modules, *tests], ids=_name)
def test_names_say_what_is_inside(path: Path) -> None:
    """No module or folder has a name that could hold anything."""
    assert not BANNED & set(re.split(r"[/._]", _name(path)))


@pytest.mark.parametrize("path", modules, ids=_name)
def test_every_module_states_its_purpose(path: Path) -> None:
    """Each module, and each package's __init__, opens with a docstring of at least a sentence."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and len(docstring) >= 30, "say what the module is for"


@pytest.mark.parametrize("path", [p for p in tests if p.name.startswith("test_")], ids=_name)
def test_every_test_claims_something(path: Path) -> None:
    """Each test's docstring is a sentence: it says what must be true."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            assert (ast.get_docstring(node) or "").rstrip().endswith("."), node.name


# What only the engine may know: Chroma's tables in a statement, its bindings, its index files, the texts of its errors.
_CHROMAS_TABLES = (
    "collections|collection_metadata|databases|tenants|segments|segment_metadata|embeddings|embeddings_queue|"
    "embedding_metadata|embedding_metadata_array|embedding_fulltext_search|max_seq_id|migrations"
)
CHROMAS = {
    "SQL over Chroma's tables": re.compile(rf"\b(FROM|INTO|UPDATE|JOIN|TABLE)\s+({_CHROMAS_TABLES})\b"),
    # Clients of Chroma's package, which ``instance`` opens on top of a pool, know none of it.
    "the bindings": re.compile(
        r"\.rust\b|chromadb_rust_bindings|\bimport chromadb\b|\bfrom chromadb\b(?!\.(api|config)\b)"
    ),
    "an index file": re.compile(r"index_metadata\.pickle|(data_level0|header|length|link_lists)\.bin"),
    "a text of Chroma's errors": re.compile(
        "PanicException|sending (message|backfill request) to compactor|Failed to apply logs|Failed to send request|"
        "database disk image is malformed|hnsw segment reader|Error getting (embedding|collection)|Error finding id|"
        "UNIQUE constraint failed"
    ),
}


def _chromas(text: str) -> set[str]:
    return {what for what, pattern in CHROMAS.items() if pattern.search(text)}


def _names(path: Path) -> set[str]:
    """Return the names that a module defines or imports, wherever in it."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_tests_import_only_what_is_there() -> None:
    """A name that one test module imports from another exists: long forms are collected seldom."""
    missing = []
    for path in tests:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tests"):
                continue
            place = ROOT.joinpath(*(node.module or "").split("."))
            if place.is_dir():
                there = {child.stem for child in place.iterdir()} | _names(place / "__init__.py")
            else:
                there = _names(place.with_suffix(".py"))
            missing += [f"{_name(path)}: {a.name} of {node.module}" for a in node.names if a.name not in there]
    assert missing == []


@needs_sources
def test_only_the_engine_knows_chroma() -> None:
    """Outside of the engine there is no table, file, error text or binding of Chroma; the engine has all of them."""
    outside = {
        _name(path): found
        for path in modules
        if "engine" not in path.relative_to(SOURCES).parts and (found := _chromas(path.read_text()))
    }
    assert outside == {}
    inside = {what for path in (SOURCES / "engine").glob("*.py") for what in _chromas(path.read_text())}
    assert inside == CHROMAS.keys()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('db.execute("SELECT id FROM embeddings WHERE id = ?")', "SQL over Chroma's tables"),
        ("self._chroma.rust.count(name)", "the bindings"),
        ('path / "data_level0.bin"', "an index file"),
        ('"Error finding id" in text', "a text of Chroma's errors"),
    ],
)
def test_knowledge_of_chroma_is_recognised(text: str, what: str) -> None:
    """The rule above sees a statement, a binding, a file and an error text."""
    assert _chromas(text) == {what}


@needs_sources
def test_nothing_is_left_for_later() -> None:
    """No note in the code promises what is not there."""
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    assert [_name(path) for path in [*modules, *tests] if marks.search(path.read_text())] == []


def test_the_lock_names_only_the_public_index() -> None:
    """uv.lock installs anywhere: it names no registry but the public default."""
    hosts = set(re.findall(r"https?://([^/\"\s]+)", (ROOT / "uv.lock").read_text()))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}


def test_every_dependency_has_its_reason() -> None:
    """A comment stands above each dependency, or above the group of lines that it heads."""
    text = (ROOT / "pyproject.toml").read_text()
    declared = tomllib.loads(text)["project"]["dependencies"]
    lines = text.splitlines()
    reasoned = False
    seen = 0
    for line in lines[lines.index("dependencies = [") + 1 :]:
        if line == "]":
            break
        reasoned = reasoned or line.strip().startswith("#")
        if line.strip().startswith('"'):
            assert reasoned, line
            seen += 1
    assert seen == len(declared) > 5


def test_workflow_actions_are_pinned() -> None:
    """Each action is named by the hash of a commit, which cannot be moved, with its version beside it."""
    pinned = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*")
    uses = [
        line.split("uses:", 1)[1].strip()
        for path in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        for line in path.read_text().splitlines()
        if "uses:" in line
    ]
    assert [each for each in uses if not pinned.fullmatch(each)] == []


# What a reader stumbles over: inversions, and a word of Chroma's for something of the log's.
WORDS = re.compile(r"\b(whoever|nobody|let no|lets no)\b", re.IGNORECASE)
GERUNDS = {"asking", "guarding", "passing", "refusing", "documenting"}


def _prose(path: Path) -> str:
    """Return the comments and docstrings of a module. Texts of errors are for their readers alone."""
    text = path.read_text()
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, documented)]
    return "\n".join(comments + docstrings)


@needs_sources
def test_modules_are_nouns() -> None:
    """No module is named by what it does to something else."""
    assert [_name(path) for path in modules if path.stem in GERUNDS] == []


@needs_sources
def test_the_prose_is_plain() -> None:
    """Sources and documents say who does what, in the order of a sentence."""
    pages = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
    found = {_name(path): len(WORDS.findall(path.read_text())) for path in pages}
    found |= {_name(path): len(WORDS.findall(_prose(path))) for path in modules}
    assert {name: count for name, count in found.items() if count} == {}


@needs_sources
def test_a_collection_is_chromas() -> None:
    """The log has garbage; only Chroma has collections."""
    log = [path for path in modules if path.parent.name == "commitlog"]
    assert log
    # Not the standard library's module, nor the field that names what a commit touched.
    word = re.compile(r"\bcollection\b|collector|collected", re.IGNORECASE)
    assert {_name(path): len(word.findall(path.read_text())) for path in log if word.search(path.read_text())} == {}
