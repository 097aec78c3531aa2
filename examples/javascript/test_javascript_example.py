"""The JavaScript example answers from the hut's documents. It needs Node, and the packages of the protocol's tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.service import Service
from tests.support.walks import NODE_MODULES

FOLDER = Path(__file__).parent
LIBRARY = FOLDER.parent / "library"

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed"),
    pytest.mark.skipif(
        not (NODE_MODULES / "chromadb").is_dir(),
        reason="the JavaScript client is not installed: npm ci --prefix tests/protocol/javascript",
    ),
]


def test_it_finds_the_passage_that_answers(run: Callable[..., str], service: Service, tmp_path: Path) -> None:
    """The best passage is the one about prices; the records are the avatar's, and are there once."""
    shutil.copy(FOLDER / "ask.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    first = run("node", "ask.mjs", str(LIBRARY), cwd=tmp_path)
    assert first.startswith("booking.md: ") and "17 crowns" in first
    records = service.ok("GET", "/users/42/avatars/9/collections/hut/count").json()["count"]
    assert records > 10
    assert run("node", "ask.mjs", str(LIBRARY), "How do I call for help?", cwd=tmp_path).startswith("emergency.md: ")
    assert service.ok("GET", "/users/42/avatars/9/collections/hut/count").json()["count"] == records


def test_it_asks_for_the_client_that_is_tested() -> None:
    """The version of the example is the one whose every call is compared with Chroma's own server."""
    tested = NODE_MODULES.parent / "package.json"
    needs = [json.loads(path.read_text())["dependencies"] for path in (FOLDER / "package.json", tested)]
    assert needs[0] == needs[1]
