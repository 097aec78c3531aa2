"""The pool's bounds with real Chroma: slots, bytes, queues and waits; who stays, who goes, and what it costs."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

from tests.support.instances import NOTES, Barrier, HookedBucket, Instance, upsert
from vectorpool.commands import CountRecords, Evict, Flush, Hydrate
from vectorpool.errors import PoolBusy, QueueFull
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket

COUNT = CountRecords(collection="notes")


async def _prepare(root: Path, bucket: MemoryBucket | MeteredBucket, users: list[str]) -> None:
    """Give each user one record, from an instance that is gone afterwards."""
    async with Instance(root, bucket, name="earlier") as instance:
        for user in users:
            await instance.do(NOTES, user)
            await instance.do(upsert("a"), user)


async def test_forty_users_pass_through_four_slots(tmp_path: Path) -> None:
    """Forty concurrent users are all answered, while at most four vectorstores are ever open."""
    users = [f"user-{n}" for n in range(40)]
    async with Instance(tmp_path, MemoryBucket(), open_slots=4, slot_wait_s=60) as instance:
        most = [0, 0]
        ended = asyncio.Event()

        async def watch() -> None:
            while not ended.is_set():
                view = instance.pool.view()
                most[0] = max(most[0], view.open_slots)
                most[1] = max(most[1], len(instance.working_directories()))
                await asyncio.sleep(0.001)

        async def use(user: str) -> None:
            await instance.do(NOTES, user)
            await instance.do(upsert("a", text=user), user)
            assert await instance.records(user) == {"a": (f"{user} of a", None)}

        watching = asyncio.create_task(watch())
        await asyncio.gather(*(use(user) for user in users))
        ended.set()
        await watching
        print(f"most slots {most[0]}, most working directories {most[1]}")
        assert most[0] == 4
        assert most[1] <= 4


async def test_concurrent_first_reads_share_one_hydration(tmp_path: Path) -> None:
    """Twenty requests that find a user cold cause one LIST, and one GET of each object."""
    bucket = MeteredBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, ["42"])
    before = bucket.counts()
    async with Instance(tmp_path, bucket, deletion_bound_s=0) as instance:
        answers = await asyncio.gather(*(instance.answer(COUNT) for _ in range(20)))
        after = bucket.counts()
        assert {answer.body for answer in answers} == {b'{"count":1}'}
        assert after["list_objects"].requests - before["list_objects"].requests == 1
        gets = sum(after[name].requests - before[name].requests for name in ("get", "get_range"))
        assert gets <= len(await instance.history())


async def test_a_full_waiting_room_refuses_at_once(tmp_path: Path) -> None:
    """With every slot in use, as many as may wait do so; the next is refused with 503 while they still wait."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, ["a", "b", "c"])
    async with Instance(tmp_path, bucket, open_slots=1, slot_waiters=1, slot_wait_s=60) as instance:
        bucket.before_list = barrier = Barrier()
        first = asyncio.create_task(instance.do(COUNT, "a"))
        await barrier.reached.wait()
        second = asyncio.create_task(instance.do(COUNT, "b"))
        while instance.pool.view().waiting == 0:
            await asyncio.sleep(0)
        refusal = await instance.refusal(COUNT, "c")
        assert isinstance(refusal, PoolBusy)
        assert (refusal.status, refusal.retry_after_s) == (503, 1.0)
        assert not first.done() and not second.done()
        barrier.open.set()
        assert await first == await second == {"count": 1}
        assert await instance.do(COUNT, "c") == {"count": 1}


async def test_a_slot_in_use_is_not_evicted(tmp_path: Path) -> None:
    """Another user's request waits, is refused in the end, and leaves the slot that is committing open."""
    bucket = HookedBucket(MemoryBucket())
    await _prepare(tmp_path, bucket, ["a", "b"])
    async with Instance(tmp_path, bucket, open_slots=1, slot_wait_s=0.3) as instance:
        await instance.do(COUNT, "a")
        (directory,) = instance.working_directories()
        bucket.before_create = barrier = Barrier()
        write = asyncio.create_task(instance.do(upsert("b"), "a"))
        await barrier.reached.wait()
        assert isinstance(await instance.refusal(COUNT, "b"), PoolBusy)
        assert instance.working_directories() == [directory]
        assert (await instance.residency("a"))["state"] == "committing"
        barrier.open.set()
        assert await write == {"written": 1}
        assert await instance.do(COUNT, "b") == {"count": 1}
        assert (await instance.residency("a"))["state"] == "cold"


async def test_a_full_queue_of_one_user_is_429(tmp_path: Path) -> None:
    """Beyond its bound in writes a user's queue refuses with 429, and nothing that was taken is lost."""
    bucket = HookedBucket(MemoryBucket())
    async with Instance(tmp_path, bucket, user_queue=4) as instance:
        await instance.do(NOTES)
        bucket.before_create = barrier = Barrier()
        first = asyncio.create_task(instance.do(upsert("first")))
        await barrier.reached.wait()
        waiting = [asyncio.create_task(instance.do(upsert(f"r{n}"))) for n in range(4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refusal = await instance.refusal(upsert("refused"))
        assert isinstance(refusal, QueueFull)
        assert (refusal.status, refusal.retry_after_s) == (429, 1.0)
        barrier.open.set()
        await asyncio.gather(first, *waiting)
        assert set(await instance.records()) == {"first", "r0", "r1", "r2", "r3"}


async def test_a_queue_is_bounded_in_bytes(tmp_path: Path) -> None:
    """A write that would make the waiting bytes of a user too many is 429; alone it is taken."""
    bucket = HookedBucket(MemoryBucket())
    async with Instance(tmp_path, bucket, user_queue_bytes=10_000) as instance:
        await instance.do(NOTES)
        bucket.before_create = barrier = Barrier()
        first = asyncio.create_task(instance.do(upsert("first")))
        await barrier.reached.wait()
        large = upsert("large", documents=["x" * 9_000])
        waiting = asyncio.create_task(instance.do(large))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert isinstance(await instance.refusal(upsert("more", documents=["y" * 9_000])), QueueFull)
        barrier.open.set()
        await asyncio.gather(first, waiting)
        assert await instance.do(upsert("huge", documents=["z" * 20_000])) == {"written": 1}


async def test_an_unused_vectorstore_is_closed_after_the_idle_time(tmp_path: Path) -> None:
    """What nobody uses is evicted by itself, and the next request opens it again."""
    async with Instance(tmp_path, MemoryBucket(), idle_timeout_s=0.1) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        async with asyncio.timeout(30):
            while (await instance.residency())["state"] != "cold" or instance.working_directories():
                await asyncio.sleep(0.05)
        assert instance.pool.view().slots == []
        assert await instance.do(COUNT) == {"count": 1}


async def test_open_bytes_bound_what_is_open(tmp_path: Path) -> None:
    """With fewer open bytes than two vectorstores need, one is open at a time, and everybody is answered."""
    users = [f"user-{n}" for n in range(6)]
    bucket = MemoryBucket()
    await _prepare(tmp_path, bucket, users)
    async with Instance(tmp_path, bucket, open_bytes=1, slot_wait_s=60) as instance:
        for user in users:
            assert await instance.do(COUNT, user) == {"count": 1}
            assert instance.pool.view().open_slots == 1
        both = await asyncio.gather(*(instance.do(COUNT, user) for user in users))
        assert both == [{"count": 1}] * len(users)
        async with asyncio.timeout(30):
            while instance.pool.view().open_slots > 1:
                await asyncio.sleep(0.05)


async def test_reopening_a_warm_user_downloads_nothing(tmp_path: Path) -> None:
    """A user that was evicted is opened again from local objects, also by a process that starts anew."""
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        for number in range(5):
            await instance.do(upsert(f"r{number}"))
        assert (await instance.do(Evict()))["warm_bytes"] > 0
        before = bucket.total().bytes_received
        assert await instance.do(COUNT) == {"count": 5}
        assert bucket.total().bytes_received == before
    async with Instance(tmp_path, bucket) as again:
        assert await again.do(COUNT) == {"count": 5}
        assert bucket.total().bytes_received == before


async def test_a_drain_commits_what_is_dirty(tmp_path: Path) -> None:
    """Under write-back a drain commits every dirty vectorstore, reports nothing, and leaves no directory."""
    bucket = MemoryBucket()
    options = {"durability": "write-back", "write_back_interval_s": 3600}
    async with Instance(tmp_path, bucket, **options) as instance:
        for user in ("a", "b", "c"):
            await instance.do(NOTES, user)
            await instance.do(upsert("a"), user)
        report = await instance.drain()
        assert (report.unfinished, report.uncommitted) == (0, [])
        assert (await instance.refusal(COUNT, "a")).code == "draining"
    async with Instance(tmp_path, bucket, name="b") as other:
        for user in ("a", "b", "c"):
            assert await other.do(COUNT, user) == {"count": 1}


async def test_a_drain_reports_what_it_could_not_commit(tmp_path: Path) -> None:
    """If the store is away, a drain ends within its budget and names the users whose writes are not committed."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    options = {"durability": "write-back", "write_back_interval_s": 3600}
    async with Instance(tmp_path, bucket, **options) as instance:
        for user in ("a", "b"):
            await instance.do(NOTES, user)
        await instance.do(Flush(), "b")
        bucket.faults = Faults(before=1)
        report = await instance.drain(2.0)
        assert (report.unfinished, report.uncommitted) == (0, ["a"])


def _threads_and_descriptors() -> tuple[int, int]:
    gc.collect()
    tasks = len(list(Path("/proc/self/task").iterdir()))
    return tasks, len(list(Path("/proc/self/fd").iterdir()))


async def test_threads_and_descriptors_stay_flat(tmp_path: Path) -> None:
    """Two hundred times opened and evicted, a vectorstore leaves no thread and no descriptor behind."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))

        async def cycle(times: int) -> tuple[int, int]:
            for _ in range(times):
                assert (await instance.do(Hydrate()))["state"] == "ready"
                assert (await instance.do(Evict()))["state"] == "cold"
            return _threads_and_descriptors()

        first = await cycle(20)
        last = await cycle(180)
        print(f"threads and descriptors after 20 cycles {first}, after 200 {last}")
        assert last[0] <= first[0] + 4
        assert last[1] <= first[1] + 8
