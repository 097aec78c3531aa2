"""The LangChain example answers from the hut's documents, and a second run changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.service import Service

FOLDER = Path(__file__).parent


def test_it_finds_the_passage_that_answers(run: Callable[..., str], service: Service) -> None:
    """The best passage is the one about prices; the records are the avatar's, and are there once."""
    first = run("python", "ask.py", cwd=FOLDER)
    assert first.startswith("booking.md: ") and "17 crowns" in first
    records = service.ok("GET", "/users/42/avatars/7/collections/hut/count").json()["count"]
    assert records > 10
    assert run("python", "ask.py", "How do I call for help?", cwd=FOLDER).startswith("emergency.md: ")
    assert service.ok("GET", "/users/42/avatars/7/collections/hut/count").json()["count"] == records
