"""Ingestion into a real vectorstore, with the real model: documents in, passages out, and nothing stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.document_files import packed
from tests.support.texts import write_book
from vectorpool.answers import Answer, Match, QueryResult
from vectorpool.app import open_service
from vectorpool.settings import Settings


def matches(answer: Answer) -> list[Match]:
    return msgspec.json.decode(answer.body, type=QueryResult).results[0]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    values: dict[str, Any] = {"store": str(tmp_path / "store"), "replica_dir": str(tmp_path / "replicas"), "shards": -1}
    return Settings(**values)


async def test_a_book_answers_questions_and_leaves_nothing_when_it_goes(settings: Settings) -> None:
    """Every planted fact is found; a second ingest does nothing; a replaced and a deleted book leave nothing behind."""
    book = write_book(3, words=6000)
    async with open_service(settings) as service:
        library, ingestor = service.library, service.ingestor
        await library.put("42", "7", "book.md", book.text.encode())
        await library.put("42", "7", "empty.txt", b"")
        report = await ingestor.ingest("42", "7")
        assert [(outcome.status, outcome.code) for outcome in report.documents] == [
            ("ingested", None),
            ("failed", "document-empty"),
        ]
        for fact in book.facts:
            first = matches(await ingestor.query("42", "7", fact.question, 3))
            assert any(fact.sentence in (match.document or "") for match in first)
        again = await ingestor.ingest("42", "7")
        assert again.count("unchanged") == 1 and again.commit == report.commit

        await library.put("42", "7", "book.md", b"Plain text without a heading.")
        assert (await ingestor.ingest("42", "7")).count("ingested") == 1
        (only,) = matches(await ingestor.query("42", "7", "plain text", 10))
        assert only.document == "Plain text without a heading."
        assert only.metadata is not None and len(only.metadata.pop("hash")) == 32
        assert only.metadata == {"path": "book.md", "chunk": 0, "start": 0, "end": 29}

        await library.delete("42", "7", "book.md")
        assert (await ingestor.ingest("42", "7")).count("removed") == 1
        assert matches(await ingestor.query("42", "7", "plain text", 10)) == []


async def test_what_an_archive_has_beside_documents_is_told(settings: Settings) -> None:
    """Files that are passed over are in the outcome, each with its reason; the others become records."""
    archive = packed({"read.md": "# Read\n\nThis is read.", "film.mp4": b"\x00\x00\x00\x18ftypmp42", "empty.txt": ""})
    async with open_service(settings) as service:
        await service.library.put("42", "7", "all.zip", archive)
        (outcome,) = (await service.ingestor.ingest("42", "7")).documents
    assert (outcome.status, outcome.chunks) == ("ingested", 1)
    assert {each.member for each in outcome.skipped} == {"film.mp4", "empty.txt"}
    assert all(each.reason for each in outcome.skipped)
