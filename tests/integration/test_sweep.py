"""Sweeps over a real bucket and vectorstore: what is out of step is found, and nothing that is gone comes back."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vectorpool import commands
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.context import BACKGROUND
from vectorpool.documents.sweep import Sweep
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources

HOUR_MS = 3_600_000


class Clock(SystemSources):
    """A clock that tests set forward."""

    def __init__(self) -> None:
        self.later_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.later_ms


class Fleet:
    """A service, the syncs that its sweeps asked for, and the time."""

    def __init__(self, service: Service, clock: Clock) -> None:
        self.service = service
        self.clock = clock
        self.asked: list[tuple[str, str, list[str] | None]] = []
        self.queued = 0

    async def swept(self) -> list[tuple[str, str, list[str] | None]]:
        """Return what a sweep of an instance that has just started asks for, an interval later."""
        self.clock.later_ms += HOUR_MS
        return await self.swept_at_once()

    async def swept_at_once(self) -> list[tuple[str, str, list[str] | None]]:
        self.asked = []
        await Sweep(self.service.ingestor, self._ask, self._waiting).round()
        return self.asked

    async def _ask(self, user_id: str, avatar_id: str, paths: list[str] | None) -> None:
        self.asked.append((user_id, avatar_id, paths))

    async def _waiting(self) -> int:
        return self.queued

    async def put(self, path: str, text: bytes = b"Some text.", avatar_id: str = "7") -> None:
        await self.service.library.put("42", avatar_id, path, text)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    values: dict[str, Any] = {"store": str(tmp_path / "store"), "replica_dir": str(tmp_path / "replicas"), "shards": -1}
    clock = Clock()
    async with open_service(Settings(**values, sweep_interval_s=3600.0), clock) as service:
        yield Fleet(service, clock)


async def test_changes_are_found_and_what_is_in_step_costs_one_listing(fleet: Fleet) -> None:
    """New, changed and deleted documents are each found; then no sweep asks again, or reads the registry."""
    await fleet.put("a.md")
    assert await fleet.swept() == [("42", "7", ["a.md"])]
    await fleet.service.ingestor.ingest("42", "7")
    assert await fleet.swept() == []
    reads = fleet.service.router
    executed: list[object] = []
    real = reads.execute

    async def execute(user_id: str, command: Any, context: Any = BACKGROUND) -> Any:
        executed.append(command)
        return await real(user_id, command, context)

    reads.execute = execute  # type: ignore[method-assign, assignment]
    assert await fleet.swept() == []
    assert executed == []
    await fleet.put("b.md", b"Another.")
    assert await fleet.swept() == [("42", "7", None)]
    await fleet.service.ingestor.ingest("42", "7")
    assert await fleet.swept() == []
    for path in ("a.md", "b.md"):
        await fleet.service.library.delete("42", "7", path)
    # The avatar has no object any more, and is remembered.
    assert await fleet.swept() == [("42", "7", None)]
    await fleet.service.ingestor.ingest("42", "7")
    assert await fleet.swept() == []


async def test_a_lost_job_is_asked_for_again_and_not_for_ever(fleet: Fleet) -> None:
    """A sync that never came is asked for three times; a change of the documents begins anew."""
    await fleet.put("a.md")
    assert [len(await fleet.swept()) for _ in range(5)] == [1, 1, 1, 0, 0]
    await fleet.put("b.md")
    assert len(await fleet.swept()) == 1


async def test_instances_share_sweeps(fleet: Fleet) -> None:
    """Within the interval another instance finds that the user was swept; it asks for nothing."""
    await fleet.put("a.md")
    assert len(await fleet.swept()) == 1
    assert await fleet.swept_at_once() == []


async def test_a_document_that_always_fails_is_not_taken_again(fleet: Fleet) -> None:
    """A format that is not read is no reason for a sync."""
    await fleet.put("a.md")
    await fleet.put("film.mp4", b"\x00\x00\x00\x18ftypmp42" + bytes(100))
    await fleet.service.ingestor.ingest("42", "7")
    assert await fleet.swept() == []


async def test_what_was_deleted_does_not_come_back(fleet: Fleet) -> None:
    """Documents that stay after their avatar or user was deleted are left alone; one that is put later is taken."""
    await fleet.put("a.md")
    await fleet.put("b.md", avatar_id="8")
    await fleet.service.ingestor.ingest("42", "7")
    await fleet.service.ingestor.ingest("42", "8")
    router = fleet.service.router
    fleet.clock.later_ms += 1000
    await router.execute("42", commands.DeleteAvatar(avatar_id="7"), BACKGROUND)
    assert await fleet.swept() == []
    await router.execute("42", commands.DeleteVectorstore(), BACKGROUND)
    assert await fleet.swept() == []
    # The store has the real time, and the clock of the test is hours ahead of it.
    path = Path(fleet.service.settings.store) / "users/42/avatars/7/vectorstore_data/c.md"
    path.write_text("Put by another program.")
    later_s = (fleet.clock.now_ms() + 1000) / 1000
    os.utime(path, (later_s, later_s))
    assert await fleet.swept() == [("42", "7", ["c.md"])]


async def test_a_change_of_the_pipeline_is_found(fleet: Fleet) -> None:
    """Other numbers of the settings make the listing another one, and the registry is out of step with them."""
    await fleet.put("a.md")
    await fleet.service.ingestor.ingest("42", "7")
    assert await fleet.swept() == []
    fleet.service.ingestor.settings = msgspec.structs.replace(fleet.service.settings, chunk_tokens=100)
    assert await fleet.swept() == [("42", "7", None)]
