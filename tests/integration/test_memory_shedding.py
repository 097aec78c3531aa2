"""A pool that is short of memory refuses cold users and closes idle ones; so many are opened at once as may be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.instances import NOTES, Barrier, HookedBucket, Instance, upsert
from vectorpool.commands import Flush
from vectorpool.errors import MemoryShort
from vectorpool.objects.memory import MemoryBucket


async def _closed(instance: Instance, *users: str) -> None:
    async with asyncio.timeout(30):
        while any([(await instance.residency(user))["state"] != "cold" for user in users]):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_cold_users_are_refused_and_idle_ones_closed(tmp_path: Path, durability: str) -> None:
    """What is open is served; some idle slots are closed at a time, with their writes committed."""
    options = {"durability": durability, "write_back_interval_s": 3600.0}
    async with Instance(tmp_path, MemoryBucket(), **options) as instance:
        for user in ("one", "two", "three"):
            await instance.do(NOTES, user)
            await instance.do(upsert("a"), user)
        await instance.do(Flush(), "cold")
        instance.pool._residency.is_short_of_memory = True
        refused = await instance.refusal(NOTES, "cold")
        assert isinstance(refused, MemoryShort) and (refused.status, refused.retry_after_s) == (503, 5.0)
        assert set(await instance.records("one")) == {"a"}, "what is open is served"
        instance.pool.press(is_short=True)
        await _closed(instance, "two")
        assert (await instance.residency("one"))["state"] == "ready", "the longest unused is closed first"
        for _ in range(3):
            instance.pool.press(is_short=True)
            await asyncio.sleep(0.1)
        await _closed(instance, "one", "two", "three")
        # A shard that holds nothing opens one.
        assert set(await instance.records("two")) == {"a"}
        assert isinstance(await instance.refusal(upsert("b"), "three"), MemoryShort)
        instance.pool.press(is_short=False)
        for user in ("one", "two", "three"):
            await instance.do(upsert("b"), user)
            assert set(await instance.records(user)) == {"a", "b"}


async def test_so_many_are_opened_at_once_as_may_be(tmp_path: Path) -> None:
    """With one hydration at a time the second user waits for the first, and is opened when that one is."""
    store = MemoryBucket()
    async with Instance(tmp_path, store, name="a") as instance:
        for user in ("one", "two"):
            await instance.do(NOTES, user)
    bucket, barrier = HookedBucket(store), Barrier()
    async with Instance(tmp_path, bucket, name="b", hydrations=1) as instance:
        bucket.before_list = barrier
        first = asyncio.create_task(instance.records("one"))
        await barrier.reached.wait()
        second = asyncio.create_task(instance.records("two"))
        for _ in range(20):
            await asyncio.sleep(0.005)
        view = instance.pool.view()
        assert (view.open_slots, view.waiting) == (1, 1)
        assert not second.done()
        barrier.open.set()
        assert await asyncio.gather(first, second) == [{}, {}]
        assert instance.pool.view().open_slots == 2
