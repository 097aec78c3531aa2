"""Every command of the documents is run as it stands, or says why it is not. ``tests.support.walks`` runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.walks import NOT_RUN, PROGRAMS, ROOT, Walk, between, blocks, missing_program

DOCS = ROOT / "docs"
# The quick start has tests of its own, which run it on several stores.
WALKED = sorted(
    page for page in DOCS.rglob("*.md") if page != DOCS / "quickstart.md" and "<!-- /walk -->" in page.read_text()
)
PAGES = sorted([ROOT / "README.md", *ROOT.glob("deploy/*.md"), *DOCS.rglob("*.md")])


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WALKED, ids=_name)
def test_a_guide_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Every command of the page, run as it stands there, prints what the page shows."""
    text = page.read_text()
    if reason := missing_program(text):
        pytest.skip(reason)
    walk = Walk(tmp_path, {})
    try:
        ran = list(walk.take(text))
    finally:
        walk.close()
    assert ran


def unrun(text: str) -> list[str]:
    """Return the commands and programs of a page that no test runs, and that give no reason."""
    rest = re.sub(r"<!-- walk(?:, served)? -->\n.*?<!-- /walk -->", "", NOT_RUN.sub("", text), flags=re.DOTALL)
    return [content for language, content in blocks(rest) if language in PROGRAMS]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_is_run_or_says_why_not(page: Path) -> None:
    """No page shows a command that nobody has tried: a walk has it, or a comment names its test, or says why not."""
    text = page.read_text()
    assert unrun(text) == []
    for test in re.findall(r"<!-- run by (\S+) -->", text):
        assert (ROOT / test).is_file(), f"it names {test}"


def test_a_command_outside_a_walk_is_found() -> None:
    """The search for commands that are not run finds them, and takes a reason."""
    block = "```bash\nls\n```\n"
    assert unrun(block) == ["ls\n"]
    assert unrun(f"<!-- walk -->\n{block}<!-- /walk -->\n") == []
    assert unrun(f"<!-- walk, served -->\n{block}<!-- /walk -->\n") == []
    assert unrun(f"<!-- not run: it needs a bucket -->\n\n{block}") == []
    assert unrun(f"<!-- run by tests/x.py -->\n\n{block}") == []
    assert unrun(f"<!-- not run: it needs a bucket -->\n\n{block}{block}") == ["ls\n"]
    assert between(f"<!-- walk -->\n<!-- not run: why -->\n{block}{block}<!-- /walk -->").count("ls") == 1
