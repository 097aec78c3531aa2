"""A bucket that is put back to an earlier state under a running instance: no write is acknowledged above the hole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.instances import NOTES, Instance, upsert
from vectorpool.commands import Evict, Flush
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket


async def _copy(bucket: Bucket) -> dict[str, bytes]:
    return {info.key: (await bucket.get(info.key)).data for info in await bucket.list_objects("", limit=10_000)}


async def _put_back(bucket: Bucket, objects: dict[str, bytes]) -> None:
    for info in await bucket.list_objects("", limit=10_000):
        if info.key not in objects:
            await bucket.delete(info.key)
    for key, data in objects.items():
        await bucket.put(key, data)


async def _check(instance: Instance, expected: set[str]) -> None:
    assert set(await instance.records()) == expected
    report = await instance.log().scrub()
    assert report.problems == []


async def test_a_write_above_a_hole_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    """The next write is refused with broken-log; the one after it rests on the state that was put back."""
    async with Instance(tmp_path, bucket, parent_proof_s=0) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        earlier = await _copy(bucket)
        for name in "bcd":
            await instance.do(upsert(name))
        await _put_back(bucket, earlier)
        refusal = await instance.refusal(upsert("e"))
        assert refusal.code == "broken-log"
        assert "put back to an earlier state" in refusal.detail
        await instance.do(upsert("f"))
        await _check(instance, {"a", "f"})
        async with Instance(tmp_path, bucket, name="b") as other:
            await _check(other, {"a", "f"})


async def test_another_history_is_refused_too(tmp_path: Path, bucket: Bucket) -> None:
    """Another instance committed the numbers anew after the bucket was put back: they are other commits."""
    async with Instance(tmp_path, bucket, parent_proof_s=0) as instance:
        await instance.do(NOTES)
        earlier = await _copy(bucket)
        await instance.do(upsert("a"))
        await _put_back(bucket, earlier)
        async with Instance(tmp_path, bucket, name="b") as other:
            await other.do(upsert("b"))
        refusal = await instance.refusal(upsert("c"))
        assert refusal.code == "broken-log"
        assert "is another one now" in refusal.detail
        await instance.do(upsert("d"))
        await _check(instance, {"b", "d"})


async def test_a_store_directory_that_is_put_back(tmp_path: Path) -> None:
    """A directory as store is replaced by its copy, as an operator does it."""
    store, kept = tmp_path / "store", tmp_path / "kept"
    async with Instance(tmp_path, DirectoryBucket(store), parent_proof_s=0) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        shutil.copytree(store, kept)
        await instance.do(upsert("b"))
        shutil.rmtree(store)
        shutil.copytree(kept, store)
        assert (await instance.refusal(upsert("c"))).code == "broken-log"
        await instance.do(upsert("d"))
        await _check(instance, {"a", "d"})


async def test_acknowledged_writes_are_applied_to_the_state_that_was_put_back(tmp_path: Path) -> None:
    """Under write-back the flush is refused once, and what was acknowledged is committed by the next."""
    bucket = MemoryBucket()
    options = {"durability": "write-back", "write_back_interval_s": 3600, "parent_proof_s": 0}
    async with Instance(tmp_path, bucket, **options) as instance:
        await instance.do(NOTES)
        await instance.do(Flush())
        earlier = await _copy(bucket)
        await instance.do(upsert("a"))
        await instance.do(Flush())
        await _put_back(bucket, earlier)
        await instance.do(upsert("b"))
        assert (await instance.refusal(Flush())).code == "broken-log"
        await instance.do(Flush())
        await _check(instance, {"b"})


@pytest.mark.parametrize(("proof_s", "gets"), [(3600.0, 0), (0.0, 5)])
async def test_a_frequent_writer_makes_one_request_a_commit(tmp_path: Path, proof_s: float, gets: int) -> None:
    """A commit within the time limit of the one before is one PUT; later ones look for their parent with one GET."""
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket, parent_proof_s=proof_s) as instance:
        await instance.do(NOTES)
        before = bucket.counts()
        for number in range(5):
            await instance.do(upsert(f"r{number}"))
        spent = {name: count.requests - before[name].requests for name, count in bucket.counts().items()}
        assert {name: count for name, count in spent.items() if count} == (
            {"create": 5, "get_range": gets} if gets else {"create": 5}
        )


async def test_a_parent_that_became_garbage_is_no_hole(tmp_path: Path) -> None:
    """An instance whose commit was removed as garbage meanwhile takes in the newer ones, and writes."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, parent_proof_s=0) as one:
        await one.do(NOTES)
        await one.do(upsert("a"))
        async with Instance(tmp_path, bucket, name="b", retention_s=0) as two:
            for number in range(5):
                await two.do(upsert(f"r{number}"))
            await two.do(Evict())
            removal = await two.log().remove_garbage()
            assert removal.buried
        await one.do(upsert("z"))
        assert set(await one.records()) == {"a", "z", *(f"r{number}" for number in range(5))}
