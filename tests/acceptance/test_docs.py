"""The documents do what they say: the quick start is run as it stands there, and the README's snippets work.

How a page is run is in ``tests.support.walks``; the guides are run by ``test_guides.py``.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import reference
from tests.protocol.comparing import is_alike
from tests.support.service import Service, environment, run_cli
from tests.support.store import S3Server
from tests.support.walks import SERVE, Walk, blocks, matches
from vectorpool.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
MAX_README_LINES = 150
COMMITLOG = ROOT / "src" / "vectorpool" / "commitlog" / "README.md"


def take(walk: Walk, *, shown_store: bool) -> dict[str, list[str]]:
    """Run the quick start's walk; return what each question printed, each time that it was asked."""
    page = QUICKSTART if shown_store else re.sub(r"^  store .*$", "  store ...", QUICKSTART, flags=re.MULTILINE)
    answers: dict[str, list[str]] = {}
    for command, printed in walk.take(page):
        if "/query " in command:
            answers.setdefault(command, []).append(printed)
    return answers


def check_answers(answers: dict[str, list[str]]) -> None:
    """Assert that a question asked again, after everything local was deleted, got the same answer."""
    again = [printed for printed in answers.values() if len(printed) > 1]
    assert again, "the walk asks no question twice"
    for first, *later in again:
        assert all(is_alike(json.loads(first), json.loads(printed)) for printed in later), (first, later)


@pytest.fixture
def walks(tmp_path: Path) -> Iterator[list[Walk]]:
    """A list for the walks of a test, whose services end with it."""
    taken: list[Walk] = []
    yield taken
    for walk in taken:
        walk.close()


def test_the_walk(tmp_path: Path, walks: list[Walk]) -> None:
    """Every command of the walk, run as it stands there with the defaults, prints what the README shows."""
    walks.append(Walk(tmp_path, {}))
    check_answers(take(walks[0], shown_store=True))


def walk_on(server: S3Server, directory: Path) -> Walk:
    """Return a walk whose every command uses a bucket of a server, served as the quick start's S3 part says."""
    serve = re.search(rf"^{SERVE}( --store \S+)$", QUICKSTART, re.MULTILINE)
    assert serve, "the quick start does not show how a bucket is served"
    url = f"s3://{server.make_bucket()}/prefix"
    return Walk(directory, server.environ(url), serve_flags=serve[1].replace("s3://bucket/prefix", url))


def test_the_walk_on_a_real_s3(tmp_path: Path, walks: list[Walk], radosgw_server: S3Server) -> None:
    """The same walk works on radosgw, with the variables that the quick start names."""
    walks.append(walk_on(radosgw_server, tmp_path))
    check_answers(take(walks[0], shown_store=False))


@pytest.mark.long
def test_the_walk_on_moto(tmp_path: Path, walks: list[Walk], moto_server: S3Server) -> None:
    """The same walk works on moto's server."""
    walks.append(walk_on(moto_server, tmp_path))
    check_answers(take(walks[0], shown_store=False))


# --- The README ------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    """A person reads the README to its end: what is long is in docs."""
    assert len(README.splitlines()) <= MAX_README_LINES


def test_the_readmes_client_snippet(service: Service) -> None:
    """The snippet with Chroma's own client, pasted, prints what its comment says."""
    (snippet,) = (content for language, content in blocks(README) if language == "python")
    port = service.url.rpartition(":")[2].strip("/")
    script = snippet.replace("port=8000", f"port={port}").replace('host="localhost"', 'host="127.0.0.1"')
    assert script != snippet
    env = environment(NO_PROXY="*", no_proxy="*")
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=env)
    assert ended.returncode == 0, ended.stderr
    comment = re.search(r"# (\[\[.*\]\])", snippet)
    assert comment and ended.stdout.strip() == comment[1]


def test_the_snippet_of_the_clients_page() -> None:
    """The page about Chroma's clients shows the README's snippet, which runs."""
    page = (ROOT / "docs" / "chroma-clients.md").read_text()
    assert [content for language, content in blocks(page) if language == "python"] == [
        content for language, content in blocks(README) if language == "python"
    ]


def test_the_librarys_programs(tmp_path: Path) -> None:
    """The programs of docs/library.md, run one after another, print what the page shows."""
    page = blocks((ROOT / "docs" / "library.md").read_text())
    programs = [content for language, content in page if language == "python"]
    shown = [content for language, content in page if language == "text"]
    assert len(programs) == len(shown) == 2
    for program, output in zip(programs, shown, strict=True):
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.strip() == output.strip()


def test_the_readmes_container_line() -> None:
    """The line publishes the port that the image serves, and names the image that it builds."""
    line = next(content for language, content in blocks(README) if "docker run" in content)
    dockerfile = (ROOT / "Dockerfile").read_text()
    exposed = re.search(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
    assert exposed and f":{exposed[1]} " in line
    assert re.search(r"docker build -t (\S+) \. && docker run .* \1$", line.strip())
    # The default, so that PORT is honoured: the image sets neither.
    assert "VECTORPOOL_HOST=0.0.0.0" in dockerfile and int(exposed[1]) == Settings().port
    assert not re.search(r"\bPORT=|VECTORPOOL_PORT=", dockerfile)


@pytest.mark.parametrize("way", ["PORT", "VECTORPOOL_PORT", "--port"])
def test_the_images_health_check_asks_where_the_service_listens(way: str, tmp_path: Path) -> None:
    """Whatever sets the port, the image's command succeeds while the service runs, and fails once it has stopped."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    (check,) = re.findall(r"^    CMD (\[.*\])$", dockerfile, re.MULTILINE)
    command = [sys.executable, *json.loads(check)[1:]]
    # Held, and listened to by the service alone: another program could take a port that was only found to be free.
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("0.0.0.0", 0))
    port = str(held.getsockname()[1])
    place = {"VECTORPOOL_ADDRESS_FILE": str(tmp_path / "made" / "address"), "VECTORPOOL_HOST": "0.0.0.0"}
    # As the documented line of a first try does.
    place["VECTORPOOL_INSECURE_OPEN"] = "true"
    env = place if way == "--port" else {**place, way: port}
    flags = ["--port", port] if way == "--port" else []
    served = Service(tmp_path, "--shards", "1", *flags, env=env, port=None)
    try:
        served.start()
        assert f":{port}" in served.url
        # Docker too calls a container unhealthy only after three checks: one has two seconds, however busy it is.
        checks = (subprocess.run(command, env=environment(**env), timeout=60).returncode for _ in range(3))
        assert 0 in checks
        assert served.stop() == 0, served.errors
        assert subprocess.run(command, env=environment(**env), timeout=60, stderr=subprocess.DEVNULL).returncode != 0
    finally:
        served.close()
        held.close()


# --- The reference ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", reference.pages())
def test_the_reference_is_that_of_the_code(name: str) -> None:
    """Each page of the reference is what the code makes of it."""
    page = reference.REFERENCE / name
    assert page.read_text() == reference.pages()[name], "run `uv run python -m tests.reference --write`"


def test_the_reference_names_every_command() -> None:
    """The page of commands lists what ``--help`` lists, in its order."""
    told = run_cli("--help").stdout.partition("Commands:")[2]
    commands = re.findall(r"^  (\w+)  ", told, re.MULTILINE)
    listed = re.findall(r"^\| `vectorpool (\w+)", reference.pages()["cli.md"], re.MULTILINE)
    # The commands of a group follow it.
    assert commands and list(dict.fromkeys(listed)) == commands


def test_the_reference_names_every_served_route(service: Service) -> None:
    """The page of routes lists every route of the served OpenAPI document."""
    document = service.ok("GET", "/schema/openapi.json").json()
    served = {(m.upper(), path) for path, item in document["paths"].items() for m in item if m in reference.METHODS}
    listed = re.findall(r"^\| `([A-Z]+) (\S+)` \|", reference.pages()["http.md"], re.MULTILINE)
    assert set(listed) == served and len(listed) == len(served)


# --- All documents -----------------------------------------------------------------------------------

DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("deploy/*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*/README.md"),
        COMMITLOG,
    ]
)


def _anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    """Every relative link, and every path of a source file that is named, is there."""
    text = document.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        page = document.parent / target if target else document
        assert page.exists(), f"it links to {target}"
        if anchor:
            assert anchor in _anchors(page.read_text()), f"it links to {target}#{anchor}"
    for named in re.findall(r"`((?:src|tests|docs|deploy)/[\w./-]+\.(?:py|md|yaml|toml))", text):
        assert (ROOT / named).exists(), f"it names {named}"
    for package, module in re.findall(r"`(\w+)/(\w+\.py)`", text):
        assert (ROOT / "src/vectorpool" / package / module).exists(), f"it names {package}/{module}"


def test_the_index_of_decisions_is_complete() -> None:
    """Every page of a decision is in the index, once, under its title."""
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    pages = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    expected = []
    for page in pages:
        title = page.read_text().splitlines()[0].removeprefix("# ")
        number, _, words = title.partition(". ")
        assert int(page.name[:4]) == int(number), page.name
        expected.append((number, page.name, words))
        for part in ("Status", "Decision", "Reason", "Alternatives", "Measured by"):
            assert re.search(rf"^(## |\*\*){part}", page.read_text(), re.MULTILINE), f"{page.name} has no part {part}"
    assert listed == expected


@pytest.mark.parametrize(
    ("shown", "got", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("a ... d", "a b c d", True),
        ("a...", "a\nb\nc", True),
        ("a ... d", "a b c", False),
        ("a", "a\nb", False),
    ],
)
def test_an_output_is_compared_strictly(shown: str, got: str, same: bool) -> None:
    """Only three dots stand for something else, and what is not shown may not be printed."""
    assert matches(shown, got) is same
