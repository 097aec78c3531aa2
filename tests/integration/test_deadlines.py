"""Deadlines and callers that leave, in a pool with real Chroma: what stops, and what goes on to its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import NOTES, USER, Barrier, HookedBucket, Instance, upsert
from vectorpool.commands import Command, CountRecords, Fork
from vectorpool.context import RequestContext
from vectorpool.errors import DeadlineExceeded, OutcomeUnknown, PoolBusy
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.shard.inprocess import InProcessRouter

COUNT = CountRecords(collection="notes")
# Long enough for what should happen before a deadline, and waited out where it must pass.
SOON_S = 0.3


def _hurried(timeout_s: float = SOON_S) -> RequestContext:
    context = RequestContext("hurried", timeout_s=timeout_s)
    context.start()
    return context


async def _prepare(root: Path, bucket: Any, *users: str) -> None:
    """Give each user a record, from an instance that is gone afterwards."""
    async with Instance(root, bucket, name="earlier") as instance:
        for user in users:
            await instance.do(NOTES, user)
            await instance.do(upsert("a"), user)


async def _until_waiting(instance: Instance, command: Command, context: RequestContext) -> asyncio.Task[Any]:
    """Start a command whose way is barred, and let it get there."""
    task = asyncio.create_task(instance.pool.execute(USER, command, context))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


async def test_a_write_that_still_waits_is_taken_from_the_queue(tmp_path: Path) -> None:
    """Behind a commit that takes long, a write is told at its deadline that nothing was written, and nothing is."""
    bucket = HookedBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        bucket.before_create = barrier = Barrier()
        first = asyncio.create_task(instance.do(upsert("first")))
        await barrier.reached.wait()
        with pytest.raises(DeadlineExceeded):
            await instance.pool.execute(USER, upsert("late"), _hurried())
        gone = await _until_waiting(instance, upsert("gone"), _hurried(60))
        gone.cancel()
        await asyncio.wait([gone])
        slot = instance.pool._residency.slots[USER]
        assert (len(slot.jobs), slot.queued_bytes) == (0, 0)
        barrier.open.set()
        await first
        await instance.do(upsert("last"))
        assert set(await instance.records()) == {"first", "last"}


async def test_a_write_that_has_begun_goes_on(tmp_path: Path) -> None:
    """At the deadline of a write that is being committed its outcome is unknown; then it is there, as one commit."""
    bucket = HookedBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        bucket.before_create = barrier = Barrier()
        late = asyncio.create_task(instance.pool.execute(USER, upsert("late"), _hurried()))
        await barrier.reached.wait()
        with pytest.raises(OutcomeUnknown):
            await late
        barrier.open.set()
        await instance.do(upsert("next"))
        assert set(await instance.records()) == {"late", "next"}
        assert [entry.seq for entry in await instance.history()] == [3, 2, 1]


async def test_a_write_whose_caller_left_is_committed_before_the_end(tmp_path: Path) -> None:
    """A write that had begun when its caller was cancelled is finished by a drain that comes meanwhile."""
    bucket = HookedBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        bucket.before_create = barrier = Barrier()
        write = asyncio.create_task(instance.do(upsert("left")))
        await barrier.reached.wait()
        write.cancel()
        await asyncio.wait([write])
        drain = asyncio.create_task(instance.drain())
        await asyncio.sleep(0)
        barrier.open.set()
        report = await drain
        assert report.uncommitted == []
    async with Instance(tmp_path, bucket, name="later") as instance:
        assert set(await instance.records()) == {"left"}


async def test_a_read_gives_up_a_hydrate_that_others_wait_for(tmp_path: Path) -> None:
    """One hydrate serves who waits to its end, though the reader that began it ran out of time, and another left."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, USER)
    async with Instance(tmp_path, bucket) as instance:
        bucket.before_list = barrier = Barrier()
        first = asyncio.create_task(instance.pool.execute(USER, COUNT, _hurried()))
        await barrier.reached.wait()
        leaver = asyncio.create_task(instance.do(COUNT))
        patient = asyncio.create_task(instance.do(COUNT))
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(DeadlineExceeded):
            await first
        barrier.open.set()
        assert await patient == {"count": 1}
        assert leaver.cancelled()
        assert len(instance.working_directories()) == 1


async def test_a_hydrate_that_has_begun_serves_the_next_request(tmp_path: Path) -> None:
    """If every reader left, the replica is there all the same, and may be evicted."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, USER)
    async with Instance(tmp_path, bucket) as instance:
        bucket.before_list = barrier = Barrier()
        reader = asyncio.create_task(instance.do(COUNT))
        await barrier.reached.wait()
        reader.cancel()
        await asyncio.wait([reader])
        barrier.open.set()
        async with asyncio.timeout(30):
            while (await instance.residency())["state"] != "ready":
                await asyncio.sleep(0.01)
        assert instance.pool._residency.slots[USER].pins == 0
        assert await instance.do(COUNT) == {"count": 1}


async def test_callers_that_leave_free_the_waiting_room(tmp_path: Path) -> None:
    """A hydrate that waits for a free slot ends with the last request that waits for it."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, USER, "holder")
    async with Instance(tmp_path, bucket, open_slots=1, slot_waiters=1, slot_wait_s=60) as instance:
        bucket.before_create = barrier = Barrier()
        holder = asyncio.create_task(instance.do(upsert("b"), "holder"))
        await barrier.reached.wait()
        waiting = [await _until_waiting(instance, COUNT, _hurried(60)) for _ in range(2)]
        assert instance.pool.view().waiting == 1
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        assert instance.pool.view().waiting == 1
        assert isinstance(await instance.refusal(COUNT, "third"), PoolBusy)
        waiting[1].cancel()
        await asyncio.wait([waiting[1]])
        await asyncio.sleep(0.05)
        assert instance.pool.view().waiting == 0
        assert USER not in instance.pool._residency.slots
        barrier.open.set()
        await holder
        assert await instance.do(COUNT) == {"count": 1}


async def test_a_read_in_a_thread_keeps_the_replica_until_it_ends(tmp_path: Path) -> None:
    """A cancelled read ends when its thread does, so that no replica is closed under it; a queued one never begins."""
    async with Instance(tmp_path, MemoryBucket(), workers=1) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        store = instance.pool._residency.slots[USER].store
        assert store is not None and store._replica is not None
        loop, began, go_on, reads = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), []

        def slow_read(command: Command) -> bytes:
            reads.append(command)
            loop.call_soon_threadsafe(began.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return b"{}"

        store._replica.read = slow_read  # type: ignore[method-assign,assignment]
        store._replica.read_at_once = lambda command: None  # type: ignore[method-assign]
        reader = asyncio.create_task(instance.do(COUNT))
        await began.wait()
        queued = await _until_waiting(instance, COUNT, _hurried(60))
        for task in (reader, queued):
            task.cancel()
        await asyncio.sleep(0.05)
        assert not reader.done() and store._open.lock._readers == 2
        go_on.set()
        await asyncio.wait([reader, queued])
        assert reader.cancelled() and queued.cancelled()
        assert len(reads) == 1 and store._open.lock._readers == 0


async def test_the_router_in_this_process_keeps_the_deadline(tmp_path: Path) -> None:
    """A read that cannot stop at once is left at its deadline; the next one is answered."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, USER)
    router = InProcessRouter(Settings(replica_dir=str(tmp_path / "twin")), bucket=bucket)
    await router.start()
    try:
        assert router._bucket is not None
        bucket.before_list = barrier = Barrier()
        with pytest.raises(DeadlineExceeded):
            await router.execute(USER, COUNT, _hurried())
        assert barrier.reached.is_set()
        barrier.open.set()
        assert (await router.execute(USER, COUNT, _hurried(60))).body == b'{"count":1}'
    finally:
        await router.stop()


async def test_an_operation_on_the_log_goes_on(tmp_path: Path) -> None:
    """A fork that exceeds its deadline has an unknown outcome, and is whole in the end."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, USER)
    async with Instance(tmp_path, bucket) as instance:
        bucket.before_create = barrier = Barrier()
        fork = asyncio.create_task(instance.pool.execute(USER, Fork(target_user_id="43"), _hurried()))
        await barrier.reached.wait()
        with pytest.raises(OutcomeUnknown):
            await fork
        barrier.open.set()
        await instance.drain()
    async with Instance(tmp_path, bucket, name="later") as instance:
        assert set(await instance.records("43")) == {"a"}
