"""A full local disk, and a full directory as store: each is told by its own name, and nothing is lost or salvaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import MIB, SmallDisk, small_disk
from tests.support.instances import NOTES, Instance, upsert, vectors
from vectorpool.commands import (
    Command,
    CountRecords,
    CreateCollection,
    DeleteRecords,
    Evict,
    Flush,
    GetRecords,
    QueryRecords,
)
from vectorpool.errors import VectorpoolError
from vectorpool.objects.bucket import BucketFull
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket

SEEN = {f"r{number}" for number in range(20)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small") as made:
        yield made


def _commands(number: int) -> list[Command]:
    return [
        upsert(*(f"x{number}-{i}" for i in range(300)), text="y" * 1000),
        GetRecords(collection="notes"),
        CountRecords(collection="notes"),
        QueryRecords(collection="notes", vectors=vectors(1)),
        CreateCollection(name=f"more{number}"),
        DeleteRecords(collection="notes", ids=["not there"]),
        Evict(),
        GetRecords(collection="notes"),
    ]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "chroma"])
@pytest.mark.parametrize("leave", [0, 4096, 16_384, 65_536, 200_000])
async def test_a_full_local_disk_is_told_as_such(disk: SmallDisk, leave: int, fast: bool) -> None:
    """Each request works or is refused with local-disk-failed; with room again, all that was committed is there."""
    options = {"warm_bytes": 0, "fast_writes": fast, "fast_reads": fast}
    async with Instance(disk.path, MemoryBucket(), **options) as instance:
        await instance.do(NOTES)
        await instance.do(upsert(*sorted(SEEN)))
        disk.fill(leave=leave)
        codes = []
        for number in range(3):
            for command in _commands(number):
                try:
                    await instance.do(command)
                except VectorpoolError as error:
                    codes.append(error.code)
        assert set(codes) == {"local-disk-failed"}
        disk.free()
        assert set(await instance.records()) == SEEN
        await instance.do(upsert("z"))
        assert set(await instance.records()) == SEEN | {"z"}
        assert not any(entry.summary.salvaged or entry.summary.lost for entry in await instance.history())


async def test_a_full_local_disk_keeps_what_was_acknowledged(disk: SmallDisk) -> None:
    """Under write-back, what was acknowledged before the disk was full is committed once there is room."""
    options = {"warm_bytes": 0, "durability": "write-back", "write_back_interval_s": 3600}
    async with Instance(disk.path, MemoryBucket(), **options) as instance:
        await instance.do(NOTES)
        await instance.do(upsert(*sorted(SEEN)))
        disk.fill(leave=65_536)
        refusal = await instance.refusal(upsert(*(f"x{i}" for i in range(300)), text="y" * 1000))
        assert refusal.code == "local-disk-failed"
        disk.free()
        await instance.do(Flush())
        assert set(await instance.records()) == SEEN


async def test_a_full_store_directory_is_told_as_such(disk: SmallDisk, tmp_path: Path) -> None:
    """A commit that the store's directory has no room for is refused with store-full, is gone, and leaves no file."""
    bucket = DirectoryBucket(disk.path)
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert(*sorted(SEEN)))
        before = await instance.commit()
        disk.fill(leave=4096)
        refusal = await instance.refusal(upsert(*(f"x{i}" for i in range(300)), text="y" * 1000))
        assert refusal.code == "store-full"
        assert "Nothing was written" in refusal.detail
        assert set(await instance.records()) == SEEN
        disk.free()
        await instance.do(upsert("z"))
        assert set(await instance.records()) == SEEN | {"z"}
        assert await instance.commit() == before + 1
        assert list((disk.path / ".vectorpool-staging").iterdir()) == []


async def test_a_full_directory_refuses_each_write(disk: SmallDisk) -> None:
    """Creates and puts into a full directory raise BucketFull, and change nothing."""
    bucket = DirectoryBucket(disk.path)
    await bucket.put("a/b", b"kept")
    disk.fill(leave=0)
    for write in (bucket.create, bucket.put):
        with pytest.raises(BucketFull, match="No space left on device"):
            await write("a/b" if write == bucket.put else "a/c", bytes(2 * MIB))
    assert (await bucket.get("a/b")).data == b"kept"
    await bucket.close()
