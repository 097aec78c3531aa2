"""What operators do to a pool and a bucket: keep open, compact, delete all that is ours, and nothing of others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import NOTES, Instance, upsert
from vectorpool import names
from vectorpool.answers import Deletion
from vectorpool.commands import Compact, DeleteVectorstore, Evict, Hydrate, Inspect, KeepOpen
from vectorpool.commitlog.log import CommitLog
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.removal import remove_user
from vectorpool.errors import LimitExceeded, OutcomeUnknown, PoolBusy, UserNotFound
from vectorpool.objects.bucket import Bucket, BucketUnavailable
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool.keeping import LONGEST_S
from vectorpool.settings import Settings

# --- Keeping open ------------------------------------------------------------------------------------


async def _fill(instance: Instance, *users: str) -> None:
    for user in users:
        await instance.do(NOTES, user)
        await instance.do(upsert("a", "b"), user)


async def _states(instance: Instance, *users: str) -> dict[str, str]:
    return {user: (await instance.do(Inspect(), user))["state"] for user in users}


async def test_what_is_kept_open_outlives_the_need_of_others(tmp_path: Path) -> None:
    """With four slots, two may be kept; six others take turns in the rest, and the kept ones stay."""
    async with Instance(tmp_path, MemoryBucket(), open_slots=4) as instance:
        others = [f"other{number}" for number in range(6)]
        await _fill(instance, "one", "two", *others)
        for user in ("one", "two"):
            assert (await instance.do(KeepOpen(for_s=60), user))["kept_open_until_ms"]
        with pytest.raises(LimitExceeded, match="half of open_slots"):
            await instance.do(KeepOpen(for_s=60), others[0])
        for _ in range(2):
            for user in others:
                await instance.do(upsert("c"), user)
        assert set((await _states(instance, "one", "two")).values()) == {"ready"}
        assert list((await _states(instance, *others)).values()).count("ready") <= 2
        # The same user again only moves the time.
        await instance.do(KeepOpen(for_s=120), "one")


async def test_keeping_ends_with_its_time_and_by_wish(tmp_path: Path) -> None:
    """Then others get the slot; an eviction on demand and a deletion end it at once."""
    async with Instance(tmp_path, MemoryBucket(), open_slots=2, idle_timeout_s=0.2) as instance:
        await _fill(instance, "one", "two")
        await instance.do(KeepOpen(for_s=0.3), "one")
        async with asyncio.timeout(30):
            while (await _states(instance, "one"))["one"] != "cold":
                await asyncio.sleep(0.05)
        await instance.do(KeepOpen(for_s=60), "one")
        assert (await instance.do(Evict(), "one"))["state"] == "cold"
        await instance.do(KeepOpen(for_s=60), "two")
        assert (await instance.do(KeepOpen(for_s=0), "two"))["kept_open_until_ms"] is None
        await instance.do(KeepOpen(for_s=60), "two")
        await instance.do(DeleteVectorstore(), "two")
        assert (await instance.do(Inspect(), "two"))["kept_open_until_ms"] is None
        await instance.do(KeepOpen(for_s=10 * LONGEST_S), "one")


async def test_one_slot_keeps_nothing_open(tmp_path: Path) -> None:
    """Nobody else could be served; and a user who is not there is not kept either."""
    async with Instance(tmp_path, MemoryBucket(), open_slots=1) as instance:
        await _fill(instance, "one")
        with pytest.raises(LimitExceeded, match="0"):
            await instance.do(KeepOpen(for_s=60), "one")
    async with Instance(tmp_path / "b", MemoryBucket(), open_slots=4) as instance:
        with pytest.raises(UserNotFound):
            await instance.do(KeepOpen(for_s=60), "nobody")
        assert (await instance.do(Inspect(), "nobody"))["state"] == "cold"


async def test_kept_bytes_have_a_bound(tmp_path: Path) -> None:
    """One that is larger than half of open_bytes is not kept, and one that grows beyond is let go."""
    async with Instance(tmp_path, MemoryBucket(), open_slots=4, open_bytes=100_000) as instance:
        await _fill(instance, "one")
        with pytest.raises(LimitExceeded, match="open_bytes"):
            await instance.do(KeepOpen(for_s=60), "one")


async def test_compaction_on_demand(tmp_path: Path) -> None:
    """It merges what is due, whatever the pace, says what it wrote, and a second one writes nothing."""
    async with Instance(tmp_path, MemoryBucket(), compact_fanout=64) as instance:
        await instance.do(NOTES)
        for number in range(12):
            await instance.do(upsert(str(number)))
        log = CommitLog(instance.bucket, "42", settings=Settings(compact_fanout=4))
        position, done = await log.compact_now()
        assert done.written and position.seq == 13
        assert not (await log.compact_now())[1].written
        told = await instance.do(Compact())
        assert told == {"objects": 0, "bytes": 0}
        with pytest.raises(UserNotFound):
            await instance.do(Compact(), "nobody")


# --- Deleting all that is ours -----------------------------------------------------------------------

OURS = ("avatars/7/vectorstore_data/a.txt", "avatars/7/vectorstore_data/deep/b.md", "avatars/8/vectorstore_data/c.txt")
OTHERS = ("avatars/7/adapters/x.bin", "avatars/7/adapters/training_data/y.bin", "avatars/8/media/z.png", "image/me.png")


async def _stored(bucket: Bucket, user: str = "42") -> set[str]:
    prefix = names.user_prefix(user)
    return {info.key.removeprefix(prefix) for info in await bucket.list_objects(prefix, limit=10_000)}


async def _with_documents(bucket: Bucket) -> None:
    for path in (*OURS, *OTHERS):
        await bucket.put(names.user_prefix("42") + path, path.encode())


def _removal(bucket: Bucket, log: CommitLog | None = None) -> Any:
    log = log or CommitLog(bucket, "42", settings=Settings())

    async def end(documents: int, seal: bool) -> int:
        return await log.end(seal=seal, documents=documents)

    return remove_user(DocumentLibrary(bucket, Settings()), "42", end)


async def test_all_that_is_ours_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    """The receipt lists what stays; sent again, a complete deletion answers the same receipt and writes nothing."""
    bucket = MemoryBucket()
    await _with_documents(bucket)
    async with Instance(tmp_path, bucket) as instance:
        await _fill(instance, "42")
        await CommitLog(bucket, "42", settings=Settings()).tag("keep")
    await bucket.put(names.limits_key("42"), b"{}")
    receipt: Deletion = await _removal(bucket)
    assert await bucket.list_objects(names.limits_prefix(), limit=10) == []
    assert receipt.documents == 3 and receipt.backups == 1 and receipt.complete_at_ms and receipt.verified_empty_at_ms
    assert receipt.left == ["image/", "avatars/7/adapters/", "avatars/8/media/"]
    left = {path for path in await _stored(bucket) if not path.startswith("vectorstore/log/")}
    assert left == set(OTHERS)
    before = dict(bucket._objects)
    assert await _removal(bucket) == receipt
    assert dict(bucket._objects) == before


class Breaking(MemoryBucket):
    """A bucket that stops to answer writes and deletions after a number of them."""

    left = 10**9

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise BucketUnavailable("no answer")

    async def put(self, key: str, data: bytes) -> str:
        self._count()
        return await super().put(key, data)

    async def create(self, key: str, data: bytes) -> str:
        self._count()
        return await super().create(key, data)

    async def delete(self, key: str) -> None:
        self._count()
        await super().delete(key)

    async def delete_listed(self, key: str) -> None:
        self._count()
        await super().delete_listed(key)


@pytest.mark.parametrize("after", range(12))
async def test_a_deletion_that_is_cut_short_goes_on(after: int, tmp_path: Path) -> None:
    """Wherever it stopped: the vectorstore is gone first of all, and sent again it is complete."""
    bucket = Breaking()
    await _with_documents(bucket)
    async with Instance(tmp_path, bucket) as instance:
        await _fill(instance, "42")
    bucket.left = after
    try:
        await _removal(bucket)
    except Exception as error:
        assert not isinstance(error, UserNotFound)
        if after:
            newest = await _newest(bucket)
            assert newest.tombstone, "the tombstone is first"
    bucket.left = 10**9
    receipt = await _removal(bucket)
    assert receipt.complete_at_ms and receipt.left == ["image/", "avatars/7/adapters/", "avatars/8/media/"]
    assert {path for path in await _stored(bucket) if not path.startswith("vectorstore/log/")} == set(OTHERS)


async def _newest(bucket: Bucket) -> Any:
    from vectorpool.commitlog.ending import newest_header

    found = await newest_header(bucket, "42")
    assert found is not None
    return found.header


async def test_a_user_of_documents_alone_gets_a_tombstone() -> None:
    """So that an ingest that was under way begins no log of what is deleted; a user of nothing gets none."""
    bucket = MemoryBucket()
    await _with_documents(bucket)
    receipt = await _removal(bucket)
    assert receipt.documents == 3 and receipt.complete_at_ms
    assert (await _newest(bucket)).tombstone
    with pytest.raises(UserNotFound):
        await _removal(MemoryBucket())


async def test_a_deletion_of_what_came_back_is_a_new_one(tmp_path: Path) -> None:
    """A user who was deleted and is there again is deleted again, with another receipt."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await _fill(instance, "42")
    first = await _removal(bucket)
    await bucket.put(names.user_prefix("42") + OURS[0], b"again")
    second = await _removal(bucket)
    assert second.complete_at_ms >= first.complete_at_ms and second.documents == 1
    async with Instance(tmp_path / "b", bucket) as instance:
        await _fill(instance, "42")
    third = await _removal(bucket)
    assert third.commit > second.commit and third.objects


async def test_a_verification_leaves_a_complete_deletion_complete() -> None:
    """Its report is removed again, and the receipt says so with a later time, and is complete all the same."""
    bucket = MemoryBucket()
    await _with_documents(bucket)
    receipt = await _removal(bucket)
    log = CommitLog(bucket, "42", settings=Settings())
    await log.verify()
    assert await log.finish_end() == 1
    after = await log.deletion()
    assert after is not None and after.complete_at_ms == receipt.complete_at_ms
    assert after.verified_empty_at_ms >= receipt.verified_empty_at_ms and after.left == receipt.left


async def test_documents_that_keep_coming_are_told(tmp_path: Path) -> None:
    """Somebody uploads as fast as it deletes: the outcome is unknown, and not complete."""

    class Refilled(MemoryBucket):
        async def delete_listed(self, key: str) -> None:
            await super().delete_listed(key)
            await super().put(key, b"back")

    bucket = Refilled()
    await bucket.put(names.user_prefix("42") + OURS[0], b"x")
    with pytest.raises(OutcomeUnknown, match="again and again"):
        await _removal(bucket)


async def test_a_full_pool_of_kept_slots_still_serves_others(tmp_path: Path) -> None:
    """Two of four slots are kept and in use; many others come at once, and each is served in turn."""
    async with Instance(tmp_path, MemoryBucket(), open_slots=4, slot_wait_s=30) as instance:
        others = [f"other{number}" for number in range(5)]
        await _fill(instance, "one", "two", *others)
        for user in ("one", "two"):
            await instance.do(KeepOpen(for_s=60), user)
        done = await asyncio.gather(*(instance.do(Hydrate(), user) for user in others), return_exceptions=True)
        assert not [error for error in done if isinstance(error, PoolBusy)]
