"""Background tasks that fail: others go on, what they do is done later, and operators see it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import Instance, upsert
from tests.support.service import Service
from vectorpool.answers import TaskView
from vectorpool.commands import CreateCollection
from vectorpool.errors import VectorpoolError
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool import pool as pool_module
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.shard.channel import Channel, Take
from vectorpool.shard.router import ShardRouter

TICK = "pool tick"


async def until(done: Callable[[], bool | Awaitable[bool]], timeout_s: float = 60) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(timeout_s):
        while not ((asyncio.iscoroutine(so := done()) and await so) or so is True):
            await asyncio.sleep(0.02)


def named(tasks: list[TaskView], name: str) -> TaskView:
    """Return the one task of a name."""
    (found,) = (task for task in tasks if task.name == name)
    return found


async def test_a_tick_that_failed_evicts_and_commits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception in the tick, idle vectorstores are evicted and periodic commits are made as before."""
    monkeypatch.setattr(pool_module, "_TICK_S", 0.02)
    failures = iter(range(3))
    plain = Residency.evictable

    def evictable(self: Residency, idle_s: float) -> list[Slot]:
        if next(failures, None) is not None:
            raise RuntimeError("injected")
        return plain(self, idle_s)

    monkeypatch.setattr(Residency, "evictable", evictable)
    options: dict[str, Any] = {"durability": "write-back", "write_back_interval_s": 0.1, "idle_timeout_s": 1.0}
    async with Instance(tmp_path, MemoryBucket(), **options) as instance:
        pool = instance.pool
        await instance.do(CreateCollection(name="notes"))
        await instance.do(upsert("a"))
        await until(lambda: named(pool.tasks(), TICK).failures == 3)
        assert named(pool.tasks(), TICK).last_error == "RuntimeError"
        await until(lambda: pool.residency("42").commit > 0 or pool.residency("42").state == "cold")
        await until(lambda: not pool.view().slots)
        shown = named(pool.view().tasks, TICK)
        assert (shown.state, shown.starts, shown.shard, shown.is_essential) == ("running", 4, 0, True)
    assert named(pool.tasks(), TICK).state == "ended"


async def test_one_user_that_cannot_be_committed_does_not_keep_others_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the periodic commit of one slot cannot be started, the tick goes on to the next slot, and counts it."""
    monkeypatch.setattr(pool_module, "_TICK_S", 0.02)
    plain = SlotWriter.flush_later

    def flush_later(self: SlotWriter, slot: Slot) -> Any:
        if slot.user_id == "cursed" and slot.dirty_since_s is not None and not leaving:
            raise RuntimeError("injected")
        return plain(self, slot)

    leaving: list[bool] = []
    monkeypatch.setattr(SlotWriter, "flush_later", flush_later)
    options: dict[str, Any] = {"durability": "write-back", "write_back_interval_s": 0.1}
    async with Instance(tmp_path, MemoryBucket(), **options) as instance:
        for user in ("cursed", "plain"):
            await instance.do(CreateCollection(name="notes"), user)
        await until(lambda: instance.pool.residency("plain").commit == 1)
        await until(lambda: named(instance.pool.tasks(), "periodic commit").failures > 1)
        assert named(instance.pool.tasks(), TICK).failures == 0
        assert instance.pool.residency("cursed").commit == 0
        leaving.append(True)


async def test_a_defect_in_the_writer_fails_its_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers whose jobs are left when a slot's writer fails get an error at once, and the next write works."""

    async def fail(*_: Any) -> None:
        raise RuntimeError("injected")

    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(CreateCollection(name="notes"))
        with monkeypatch.context() as patched:
            patched.setattr(SlotWriter, "_serve_jobs", fail)
            async with asyncio.timeout(10):
                errors = await asyncio.gather(*(instance.do(upsert(i)) for i in "abc"), return_exceptions=True)
        assert [type(error).__name__ for error in errors] == ["InternalError"] * 3
        assert all(isinstance(error, VectorpoolError) for error in errors)
        assert await instance.do(upsert("d")) == {"written": 1}


async def test_a_watch_of_a_shard_that_fails_starts_the_shard_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an unexpected error in the watch, callers are answered, the shard serves again, and both are counted."""
    settings = Settings(store=str(tmp_path / "store"), replica_dir=str(tmp_path / "replicas"), shards=1)
    router = ShardRouter(settings)
    plain, failures = Channel.deliver, iter(range(1))

    async def deliver(self: Channel, take: Take) -> None:
        if next(failures, None) is not None:
            raise RuntimeError("injected")
        await plain(self, take)

    monkeypatch.setattr(Channel, "deliver", deliver)
    await router.start()
    try:

        async def is_back() -> bool:
            return router.is_ready() and named(await router.tasks(), "watch of shard 0").starts == 2

        await until(is_back)
        tasks = await router.tasks()
        assert named(tasks, "watch of shard 0").last_error == "RuntimeError"
        assert named(tasks, "process of shard 0").starts == 2
        assert named(tasks, TICK).state == "running"
        view = await router.pool_view()
        assert {task.name for task in view.tasks} == {task.name for task in tasks}
    finally:
        await router.stop(5.0)


def test_a_killed_shard_is_counted_and_shown(tmp_path: Path) -> None:
    """Over HTTP: a shard that was killed comes back, and ``/admin/pool`` says that it was started twice."""
    service = Service(tmp_path, "--shards", "2").start()
    try:
        ready = service.ok("GET", "/health/ready").json()
        assert ready == {"status": "ready"}
        tasks = service.ok("GET", "/admin/pool").json()["tasks"]
        assert {(task["name"], task["shard"]) for task in tasks} >= {(TICK, 0), (TICK, 1), ("memory return", 0)}
        assert ("memory return of the front", None) in {(task["name"], task["shard"]) for task in tasks}
        assert all(task["state"] == "running" and task["failures"] == 0 for task in tasks)
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)

        def died() -> list[dict[str, Any]]:
            shown = service.request("GET", "/admin/pool").json()["tasks"]
            return [task for task in shown if task["name"].startswith("process of") and task["starts"] == 2]

        asyncio.run(until(lambda: len(died()) == 1))
        assert died()[0]["failures"] == 1 and died()[0]["last_failure_ms"]
        asyncio.run(until(lambda: service.request("GET", "/health/ready").json() == ready))
    finally:
        service.close()
