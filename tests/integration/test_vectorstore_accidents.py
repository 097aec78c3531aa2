"""Accidents: a directory removed, a Chroma that panics, an answer that is lost. What was acknowledged stays, once."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import NOTES, Instance, upsert, vectors
from vectorpool.commands import (
    ChromaAddRecords,
    ChromaCountRecords,
    ChromaCreateCollection,
    ChromaCreateDatabase,
    ChromaDeleteRecords,
    ChromaGetRecords,
    ChromaListCollections,
    ChromaQueryRecords,
    ChromaUpdateCollection,
    ChromaUpdateRecords,
    ChromaUpsertRecords,
    CreateCollection,
    DeleteRecords,
    DescribeVectorstore,
    Evict,
    Flush,
    ListCollections,
    ModifyCollection,
    QueryRecords,
    UpdateRecords,
    Write,
)
from vectorpool.errors import OutcomeUnknown, VectorpoolError
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket

# Chroma takes this key for its own; without a document beside it, its writer panics after the write was queued.
POISON = {"chroma:document": 1}
ALL_OF_IT = frozenset({"create", "head", "get", "get_range", "list_objects"})


# --- Accidents on this instance ----------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_a_write_into_a_removed_directory_loses_nothing(tmp_path: Path, durability: str) -> None:
    """If the open working directory is removed, the next writes work and no deletion is committed."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, durability=durability) as instance:
        await instance.do(NOTES)
        await instance.do(upsert(*(f"r{n}" for n in range(20))))
        (directory,) = instance.working_directories()
        shutil.rmtree(directory)
        with_retries: list[str] = []
        for _ in range(3):
            try:
                await instance.do(upsert("new"))
                break
            except VectorpoolError as error:
                with_retries.append(error.code)
        else:
            raise AssertionError(with_retries)
        print(f"{durability}: refused {with_retries} before it worked")
        assert set(await instance.records()) == {f"r{n}" for n in range(20)} | {"new"}
        await instance.do(Flush())
        assert not any(entry.summary.deleted for entry in await instance.history())
        async with Instance(tmp_path, bucket, name="b") as other:
            assert set(await other.records()) == {f"r{n}" for n in range(20)} | {"new"}


async def test_reads_heal_a_removed_directory(tmp_path: Path) -> None:
    """If the open working directory is removed, reads go on to answer with all that was committed."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        await instance.do(upsert(*(f"r{n}" for n in range(20))))
        (directory,) = instance.working_directories()
        shutil.rmtree(directory)
        reads = await asyncio.gather(*(instance.records() for _ in range(12)))
        assert all(set(read) == {f"r{n}" for n in range(20)} for read in reads)


PROTOCOL = ChromaCreateCollection(database=DEFAULT_DATABASE, name="notes", get_or_create=True)


def _protocol_writes(collection_id: str) -> dict[str, tuple[Write, int]]:
    """Return a write of each kind of Chroma's protocol that changes ``a`` .. ``c``, and how many records it leaves."""
    of = {"database": DEFAULT_DATABASE, "collection_id": collection_id}
    values: dict[str, Any] = {"vectors": vectors(1), "documents": ["new"]}
    return {
        "add": (ChromaAddRecords(ids=["d"], **values, **of), 4),
        "upsert": (ChromaUpsertRecords(ids=["d"], **values, **of), 4),
        "update": (ChromaUpdateRecords(ids=["a"], documents=["new"], **of), 3),
        "delete": (ChromaDeleteRecords(ids=["a"], **of), 2),
        "rename": (ChromaUpdateCollection(**of, new_metadata={"a": 1}), 3),
        "database": (ChromaCreateDatabase(database="other"), 3),
    }


@pytest.mark.parametrize("kind", ["add", "upsert", "update", "delete", "rename", "database"])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "chroma"])
async def test_a_protocol_write_into_a_removed_directory_works(tmp_path: Path, kind: str, fast: bool) -> None:
    """Each write of Chroma's protocol is applied, at once, to a directory that is built again; nothing else changes."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, fast_reads=fast, fast_writes=fast) as instance:
        collection_id = (await instance.do(PROTOCOL))["id"]
        await instance.do(upsert("a", "b", "c"))
        write, left = _protocol_writes(collection_id)[kind]
        (directory,) = instance.working_directories()
        shutil.rmtree(directory)
        await instance.do(write)
        assert len(await instance.records()) == left
        async with Instance(tmp_path, bucket, name="b") as other:
            assert len(await other.records()) == left


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "chroma"])
async def test_native_writes_into_a_removed_directory_work(tmp_path: Path, fast: bool) -> None:
    """Each write of the native API is applied at once, and a refusal is that of the committed state."""
    async with Instance(tmp_path, MemoryBucket(), fast_reads=fast, fast_writes=fast) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", "c"))
        for write in (
            upsert("d"),
            UpdateRecords(collection="notes", ids=["a"], documents=["new"]),
            DeleteRecords(collection="notes", ids=["b"]),
            ModifyCollection(name="notes", new_metadata={"a": 1}),
            CreateCollection(name="others"),
        ):
            (directory,) = instance.working_directories()
            shutil.rmtree(directory)
            await instance.do(write)
        (directory,) = instance.working_directories()
        shutil.rmtree(directory)
        assert (await instance.refusal(CreateCollection(name="others"))).code == "collection-exists"
        assert set(await instance.records()) == {"a", "c", "d"}


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
async def test_every_read_of_both_protocols_heals_a_removed_directory(tmp_path: Path, replaced: bool) -> None:
    """No read answers from a directory that is gone or another one, and none fails because of it."""
    async with Instance(tmp_path, MemoryBucket(), fast_reads=False) as instance:
        collection_id = (await instance.do(PROTOCOL))["id"]
        await instance.do(upsert("a", "b", "c"))
        of = {"database": DEFAULT_DATABASE, "collection_id": collection_id}
        for read in (
            ListCollections(),
            DescribeVectorstore(),
            QueryRecords(collection="notes", vectors=vectors(1)),
            ChromaListCollections(database=DEFAULT_DATABASE),
            ChromaGetRecords(**of, include=("embeddings",)),
            ChromaQueryRecords(**of, vectors=vectors(1)),
            ChromaCountRecords(**of),
        ):
            expected = await instance.do(read)
            (directory,) = instance.working_directories()
            shutil.rmtree(directory)
            if replaced:
                directory.mkdir()
            assert await instance.do(read) == expected
            # One that needed no file did not heal it.
            await instance.do(Evict())


@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_a_write_that_breaks_chroma_half_way_fails_alone(tmp_path: Path, durability: str) -> None:
    """A command that wedges Chroma gets an error, its group is committed without it, and the next request works."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, durability=durability) as instance:
        await instance.do(NOTES)
        poison = upsert("bad", documents=None, metadatas=[POISON])
        commands = [upsert("r1"), upsert("r2"), poison, upsert("r3")]
        results = await asyncio.gather(*(instance.answer(c) for c in commands), return_exceptions=True)
        codes = [getattr(r, "code", "written") for r in results]
        assert codes[:2] + codes[3:] == ["written"] * 3
        assert codes[2] == "broken-replica"
        await instance.do(upsert("r4"))
        assert set(await instance.records()) == {"r1", "r2", "r3", "r4"}
        await instance.do(Flush())
        assert (await instance.history())[0].seq == await instance.commit()
        async with Instance(tmp_path, bucket, name="b") as other:
            assert set(await other.records()) == {"r1", "r2", "r3", "r4"}


async def test_a_bulk_write_that_fails_half_way_leaves_no_half(tmp_path: Path) -> None:
    """If a later slice of a write fails, none of its records are there afterwards."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, write_slice_ms=1) as instance:
        await instance.do(NOTES)
        metadatas: list[Any] = [None] * 199 + [POISON]
        refusal = await instance.refusal(upsert(*(f"r{n}" for n in range(200)), documents=None, metadatas=metadatas))
        assert refusal.code == "broken-replica"
        assert await instance.records() == {}
        assert [entry.summary.added for entry in await instance.history()] == [0]


# --- The answer is lost ------------------------------------------------------------------------------


async def test_a_lost_answer_to_a_commit_is_one_commit(tmp_path: Path) -> None:
    """The commit landed and its answer did not: the write is acknowledged, and committed exactly once."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        before = await instance.commit()
        bucket.faults = Faults(after=1, operations=frozenset({"create"}))
        assert await instance.do(upsert("a")) == {"written": 1}
        bucket.faults = Faults()
        assert await instance.commit() == before + 1
        assert [entry.summary.added for entry in await instance.history()] == [1, 0]
        assert set(await instance.records()) == {"a"}


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_an_unknown_outcome_is_told_and_settled_first(tmp_path: Path, fault: str) -> None:
    """While the store cannot say whether a commit landed, its caller is told so, later writes are refused with
    nothing applied, and the first write after that finds the commit in its place, once."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        before = await instance.commit()
        bucket.faults = Faults(**{fault: 1.0}, operations=ALL_OF_IT)
        unknown = await instance.refusal(upsert("a"))
        assert isinstance(unknown, OutcomeUnknown)
        refusal = await instance.refusal(upsert("b"))
        assert refusal.code == "store-unavailable"
        assert (await instance.residency())["dirty"]
        bucket.faults = Faults()
        answer = await instance.answer(upsert("c"))
        assert answer.commit == before + 2
        assert [entry.summary.added for entry in await instance.history()] == [1, 1, 0]
        assert set(await instance.records()) == {"a", "c"}


async def test_an_unknown_outcome_that_another_instance_overtook_is_not_applied_again(tmp_path: Path) -> None:
    """A write whose caller was told that its outcome is unknown, and which lost, leaves no trace later."""
    below = MemoryBucket()
    bucket = FaultyBucket(below, Faults())
    async with Instance(tmp_path, bucket) as instance, Instance(tmp_path, below, name="b") as other:
        await instance.do(NOTES)
        bucket.faults = Faults(before=1, operations=ALL_OF_IT)
        assert isinstance(await instance.refusal(upsert("a")), OutcomeUnknown)
        await other.do(upsert("b"))
        bucket.faults = Faults()
        await instance.do(upsert("c"))
        assert set(await instance.records()) == set(await other.records()) == {"b", "c"}


async def test_an_unknown_outcome_survives_eviction(tmp_path: Path) -> None:
    """A vectorstore with a commit in doubt is settled before it is closed."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        bucket.faults = Faults(before=1, operations=ALL_OF_IT)
        assert isinstance(await instance.refusal(upsert("a")), OutcomeUnknown)
        bucket.faults = Faults()
        assert (await instance.do(Evict()))["state"] == "cold"
        assert set(await instance.records()) == {"a"}
        assert len(await instance.history()) == 2
