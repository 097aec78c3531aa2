"""Chroma's official JavaScript client, unmodified, over everything that it offers (``javascript/scenario.mjs``).

The scenario prints a line a step. Each line of ours must equal the reference's: returned values, exceptions and their
messages. Without Node, or without the client installed (``npm ci`` in ``javascript/``), this is skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.protocol.comparing import COMPUTED, is_alike, parser_words, ties_sorted
from tests.protocol.conftest import start_ours
from tests.protocol.sides import Server
from tests.support.chroma_server import ChromaServer

FOLDER = Path(__file__).with_name("javascript")
NODE = shutil.which("node")
BOUND_S = 240
RULE_VALUES = re.compile(r"\[\{.*\}\]$")

# The reference answers 500; the id is the caller's own mistake, so ours answers 400 with the same text.
DELETED_ID = "query an id that was deleted"

CHAPTERS = ["collections", "records", "filters", "queries", "refusals", "unimplemented", "reset"]

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="Node is not installed"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules" / "chromadb").is_dir(),
        reason="the JavaScript client is not installed: npm ci --prefix tests/protocol/javascript",
    ),
]

Line = dict[str, Any]


def play(server: Server, tenant: str, database: str, chapters: list[str]) -> list[Line]:
    """Run chapters of the scenario against a server and return its lines."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(FOLDER / "scenario.mjs"), server.url, tenant, database, *chapters],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        # Nothing of this machine's settings: no tenant, no proxy. The reference's SQLite may be locked; ours may not.
        env={"PATH": str(Path(NODE).parent), "PATIENT": "yes" if isinstance(server, ChromaServer) else "no"},
    )
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{server.errors[-3000:]}"
    return [_line(text) for text in done.stdout.splitlines()]


def _line(text: str) -> Line:
    line: Line = msgspec.json.decode(text)
    if "error" in line:
        # A JSON parser's wording is its own, and so is the order in which the reference prints the values of a rule.
        line["error"]["message"] = RULE_VALUES.sub("[...]", parser_words(line["error"]["message"]))
    if "answer" in line:
        line["answer"] = ties_sorted(_with_floats(line["answer"]))
    return line


def _with_floats(value: Any, *, is_computed: bool = False) -> Any:
    """Return an answer with floats for computed numbers: JavaScript prints 1.0 as 1, another type than 0.99999994."""
    if isinstance(value, dict):
        return {key: _with_floats(inside, is_computed=key in COMPUTED) for key, inside in value.items()}
    if isinstance(value, list):
        return [_with_floats(inside, is_computed=is_computed) for inside in value]
    return float(value) if is_computed and type(value) is int else value


def unexpected(lines: list[Line]) -> list[Line]:
    """Return the steps that should have succeeded and were refused, or the other way round."""
    return [line for line in lines if line["refusal"] != ("error" in line)]


def different(reference: list[Line], ours: list[Line]) -> list[str]:
    """Return a text for each step whose outcomes differ."""
    assert [(line["chapter"], line["step"]) for line in reference] == [(line["chapter"], line["step"]) for line in ours]
    return [
        f"{theirs['chapter']}: {theirs['step']}\n  reference: {_outcome(theirs)}\n  ours:      {_outcome(own)}"
        for theirs, own in zip(reference, ours, strict=True)
        if not is_alike(theirs, own) and not _deliberate(theirs, own)
    ]


def _deliberate(theirs: Line, own: Line) -> bool:
    """Return whether a step is the one in which ours says on purpose what the reference says as its own fault."""
    if theirs["step"] != DELETED_ID:
        return False
    faults = ("ChromaServerError", "ChromaClientError")
    names = (theirs["error"]["name"], own["error"]["name"])
    return names == faults and all("Error finding id" in line["error"]["message"] for line in (theirs, own))


def _outcome(line: Line) -> str:
    return msgspec.json.encode(line.get("error", line.get("answer")), order="sorted").decode()[:2000]


def test_every_step_of_the_javascript_client_is_answered_as_chroma_answers_it(
    reference: ChromaServer, ours: Server
) -> None:
    """Where tenants and databases are created first, the client sees no difference at all, reset included."""
    chapters = ["system", "administration", *CHAPTERS]
    theirs = play(reference, "user-42@example.com", "avatar-7", chapters)
    assert len(theirs) > 300 and unexpected(theirs) == []
    own = play(ours, "user-42@example.com", "avatar-7", chapters)
    found = different(theirs, own)
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def unset(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Both servers as they are when nothing is set: neither may be reset, and vectorpool makes users as they come."""
    theirs = ChromaServer(tmp_path_factory.mktemp("unset-reference")).start()
    own = start_ours(tmp_path_factory.mktemp("unset-ours"), {})
    yield theirs, own
    own.close()
    theirs.close()


def test_the_javascript_client_finds_an_avatar_that_nobody_created(unset: tuple[Server, Server]) -> None:
    """A user's avatar is there at the first request, and answers as Chroma's default database does."""
    theirs, own = unset
    place = ("default_tenant", "default_database") if isinstance(own, ChromaServer) else ("42", "avatar-7")
    reference = play(theirs, "default_tenant", "default_database", CHAPTERS)
    assert unexpected(reference) == []
    found = different(reference, play(own, *place, CHAPTERS))
    assert not found, "\n".join(found)
