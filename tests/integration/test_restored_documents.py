"""Restores and forks with real vectorstores, real embeddings and two instances: nothing that came back is undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.radosgw import Radosgw
from vectorpool.answers import QueryResult, RecoveredDocuments, RestoredPage
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.commands import (
    DeleteAvatar,
    Evict,
    Fork,
    Hydrate,
    ListRestored,
    Restore,
)
from vectorpool.context import BACKGROUND
from vectorpool.documents import Recovery
from vectorpool.settings import Settings


@pytest.fixture(params=["directory", "radosgw"])
async def services(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Service]]:
    """Two instances over one store."""
    values: dict[str, Any] = {"shards": -1}
    if request.param == "directory":
        settings = Settings(store=str(tmp_path / "store"), **values)
    else:
        server: Radosgw = request.getfixturevalue("radosgw_server")
        settings = server.settings(request.getfixturevalue("radosgw_url"), **values)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_service(msgspec.structs.replace(settings, replica_dir=str(tmp_path / name)))
            )
            for name in ("a", "b")
        ]


async def _put(service: Service, **texts: str) -> None:
    for name, text in texts.items():
        await service.library.put("42", "7", f"{name}.txt", text.encode())


async def _ingest(service: Service, user: str = "42") -> dict[str, str]:
    report = await service.ingestor.ingest(user, "7")
    return {outcome.path[:-4]: outcome.status for outcome in report.documents}


async def _found(service: Service, user: str = "42") -> set[str | None]:
    """Return the texts of all passages."""
    answer = await service.ingestor.query(user, "7", "a question", 100)
    return {match.document for match in msgspec.json.decode(answer.body, type=QueryResult).results[0]}


async def _restore(service: Service, commit: int) -> None:
    """Restore the state alone, as an instance does that is killed before it brings documents back."""
    await service.router.execute("42", Restore(commit=commit), BACKGROUND)


async def _flagged(service: Service) -> list[str]:
    answer = await service.router.execute("42", ListRestored(), BACKGROUND)
    return [row.path for row in msgspec.json.decode(answer.body, type=RestoredPage).documents]


async def test_an_ingest_of_any_instance_keeps_what_a_restore_brought(services: list[Service]) -> None:
    """Also if the restore was cut short before any document came back; the same restore goes on where it was."""
    one, other = services
    await _put(one, first="The first.", second="The second.")
    report = await one.ingestor.ingest("42", "7")
    await one.library.delete("42", "7", "first.txt")
    await _put(one, second="Changed.")
    assert await _ingest(other) == {"first": "removed", "second": "ingested"}
    assert await _found(other) == {"Changed."}

    await _restore(one, report.commit)
    assert await _flagged(other) == ["first.txt", "second.txt"]
    assert await _ingest(other) == {"first": "missing", "second": "ingested"}
    assert await _found(one) == {"The first.", "Changed."}
    assert await _flagged(one) == ["first.txt"]

    await _restore(other, report.commit)
    assert await Recovery(other.library, "42").run(other.router) == RecoveredDocuments(written=2)
    assert await _flagged(one) == []
    assert await _ingest(one) == {"first": "unchanged", "second": "unchanged"}
    for service in services:
        await service.router.execute("42", Evict(), BACKGROUND)
        await service.router.execute("42", Hydrate(), BACKGROUND)
        assert await _found(service) == {"The first.", "The second."}
    # Brought back, they are documents like any other: what another program deletes is removed.
    await one.library.bucket.delete("users/42/avatars/7/vectorstore_data/first.txt")
    assert await _ingest(other) == {"first": "removed", "second": "unchanged"}


async def test_two_instances_bring_the_same_documents_back(services: list[Service]) -> None:
    """At once, and while a third caller ingests: each document is there once, with the state's bytes."""
    one, other = services
    names = [f"n{number:02}" for number in range(12)]
    await _put(one, **{name: f"The first of {name}." for name in names})
    report = await one.ingestor.ingest("42", "7")
    await _put(other, **{name: f"The second of {name}." for name in names[:6]})
    for name in names[6:]:
        await other.library.delete("42", "7", f"{name}.txt")
    await _ingest(other)
    await _restore(one, report.commit)
    first, second, _ = await asyncio.gather(
        Recovery(one.library, "42").run(one.router), Recovery(other.library, "42").run(other.router), _ingest(one)
    )
    for result in (first, second):
        assert result is not None and (result.missing, result.failed) == (0, 0)
    # The ingest may have seen some documents before they came back: the bytes at the paths decide.
    assert (await one.library.get("42", "7", "n00.txt")).data == b"The first of n00."
    await _ingest(other)
    assert await _found(one) == {f"The first of {name}." for name in names}


async def test_a_fork_has_its_documents_and_goes_its_own_way(services: list[Service]) -> None:
    """Its documents are copies: neither user's ingest, deletion or restore touches the other's."""
    one, other = services
    await _put(one, kept="Kept.", live="Live.")
    report = await one.ingestor.ingest("42", "7")
    await _put(one, kept="Newer.")
    await _ingest(one)
    await one.router.execute("42", Fork(target_user_id="43", commit=report.commit), BACKGROUND)
    # The fork alone, as a process leaves it that is killed then: an ingest removes nothing.
    assert await _ingest(other, "43") == {"kept": "missing", "live": "missing"}
    assert await Recovery(one.library, "43", "42").run(one.router) == RecoveredDocuments(written=2)
    assert await _ingest(other, "43") == {"kept": "unchanged", "live": "unchanged"}
    assert await _found(other, "43") == {"Kept.", "Live."}
    await one.library.delete("42", "7", "live.txt")
    await one.library.discard_kept("42")
    assert await _found(one, "43") == {"Kept.", "Live."}
    assert await _ingest(one) == {"kept": "unchanged", "live": "removed"}
    assert await _ingest(other, "43") == {"kept": "unchanged", "live": "unchanged"}


async def test_an_avatar_that_comes_back_without_bytes_is_searched_all_the_same(services: list[Service]) -> None:
    """Its collections were deleted and nothing is kept: its records come back, and stay until each goes by path."""
    one, other = services
    await _put(one, first="The first.", second="The second.")
    report = await one.ingestor.ingest("42", "7")
    await one.router.execute("42", DeleteAvatar(avatar_id="7"), BACKGROUND)
    for name in ("first", "second"):
        await one.library.bucket.delete(f"users/42/avatars/7/vectorstore_data/{name}.txt")
    await one.library.discard_kept("42", "7")
    await _restore(one, report.commit)
    assert await Recovery(one.library, "42").run(one.router) == RecoveredDocuments(missing=2)
    for service in (other, one):
        assert await _ingest(service) == {"first": "missing", "second": "missing"}
        assert await _found(service) == {"The first.", "The second."}
    await other.ingestor.forget("42", "7", "first.txt")
    assert await _ingest(one) == {"second": "missing"}
    assert await _found(other) == {"The second."}
