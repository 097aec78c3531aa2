"""Chroma is opened for what only Chroma does: most users are read, filtered, queried and written without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import NOTES, Instance, upsert, vectors
from vectorpool.commands import (
    ChromaAddRecords,
    ChromaCountCollections,
    ChromaCountRecords,
    ChromaCreateCollection,
    ChromaCreateDatabase,
    ChromaDeleteRecords,
    ChromaGetCollection,
    ChromaGetDatabase,
    ChromaGetRecords,
    ChromaListCollections,
    ChromaListDatabases,
    ChromaQueryRecords,
    ChromaUpdateRecords,
    ChromaUpsertRecords,
    Command,
    CountRecords,
    CreateCollection,
    DeleteRecords,
    DescribeVectorstore,
    GetCollection,
    GetRecords,
    Hnsw,
    ListCollections,
    QueryRecords,
    UpdateRecords,
    Vectors,
)
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.objects.memory import MemoryBucket

METADATA = {"kind": "a", "number": 1, "share": 0.5, "flag": True}


def _columns(count: int) -> dict[str, Any]:
    return {"metadatas": [METADATA] * count, "vectors": vectors(count, embedder="known")}


def _native() -> list[Command]:
    return [
        DescribeVectorstore(),
        ListCollections(),
        GetCollection(name="notes"),
        CreateCollection(name="notes", get_or_create=True),
        CountRecords(collection="notes"),
        GetRecords(collection="notes", ids=["a"], include=("documents", "metadatas")),
        GetRecords(collection="notes", where={"kind": "a"}, where_document={"$contains": "of a"}),
        GetRecords(collection="notes", include=("embeddings",)),
        QueryRecords(collection="notes", vectors=vectors(1), include=("embeddings",), n_results=2),
        QueryRecords(collection="notes", vectors=vectors(1), n_results=2),
        QueryRecords(collection="notes", vectors=vectors(1), where={"number": {"$gte": 1}}),
        upsert("a", "c", **_columns(2)),
        upsert("d", vectors=vectors(1, embedder="known"), metadatas=[{"new key": ["a", "list"]}]),
        UpdateRecords(collection="notes", ids=["c"], documents=["changed"], metadatas=[{"kind": None}]),
        DeleteRecords(collection="notes", where={"number": 1}),
        DeleteRecords(collection="notes", ids=["d"]),
        upsert("a", "b", "c", **_columns(3)),
        QueryRecords(collection="notes", vectors=vectors(1), n_results=3),
    ]


def _chroma(collection_id: str) -> list[Command]:
    of: dict[str, Any] = {"database": DEFAULT_DATABASE, "collection_id": collection_id}
    records: dict[str, Any] = {"documents": ["new"], "metadatas": [METADATA], **of}
    records_of_two: dict[str, Any] = {"documents": ["text", None], "metadatas": [None, {"kind": None}], **of}
    return [
        ChromaListDatabases(),
        ChromaGetDatabase(database=DEFAULT_DATABASE),
        ChromaCreateDatabase(database=DEFAULT_DATABASE, exist_ok=True),
        ChromaListCollections(database=DEFAULT_DATABASE),
        ChromaCountCollections(database=DEFAULT_DATABASE),
        ChromaGetCollection(database=DEFAULT_DATABASE, name="notes"),
        ChromaGetCollection(database=DEFAULT_DATABASE, name=None, collection_id=collection_id),
        ChromaCreateCollection(database=DEFAULT_DATABASE, name="notes", get_or_create=True),
        ChromaCountRecords(**of),
        ChromaGetRecords(ids=["a"], **of),
        ChromaGetRecords(where='{"kind": "a"}', where_document='{"$contains": "of a"}', **of),
        ChromaQueryRecords(vectors=vectors(1), n_results=2, **of),
        ChromaQueryRecords(vectors=vectors(1), n_results=2, where='{"flag": true}', **of),
        ChromaUpsertRecords(ids=["a"], vectors=vectors(1), **records),
        ChromaAddRecords(ids=["d"], vectors=vectors(1), **records),
        ChromaUpsertRecords(
            ids=["e", "e"], vectors=vectors(2), documents=["x", "y"], metadatas=[{"new": 1}, {"new": [True]}], **of
        ),
        ChromaUpdateRecords(
            ids=["d", "e"], vectors=Vectors(data=bytes(16), dimension=4, rows=[1]), embeddings=2, **records_of_two
        ),
        ChromaDeleteRecords(ids=["d", "not there"], **of),
        ChromaDeleteRecords(where='{"new": 1}', **of),
        ChromaQueryRecords(vectors=vectors(1), n_results=2, **of),
    ]


@pytest.mark.parametrize("protocol", ["native", "chroma"])
async def test_a_typical_user_never_opens_chroma(tmp_path: Path, protocol: str) -> None:
    """What clients of both protocols send most is answered without Chroma, cold and after writes."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        made = await instance.do(NOTES)
        await instance.do(upsert("a", "b", **_columns(2)))
    async with Instance(tmp_path, bucket, name="b") as instance:
        for _ in range(2):
            for command in _native() if protocol == "native" else _chroma(made["id"]):
                await instance.do(command)
                residency = await instance.residency()
                assert (residency["state"], residency["chroma"]) == ("ready", None), command


async def test_a_creation_that_chroma_took_before_is_answered_without_it(tmp_path: Path) -> None:
    """A client that asks for its collection at each start, with a configuration, opens Chroma once in a process."""
    bucket = MemoryBucket()
    asked: dict[str, Any] = {"configuration": '{"hnsw": {"space": "cosine"}}', "metadata": {"a": "b"}}
    command = ChromaCreateCollection(database=DEFAULT_DATABASE, name="notes", get_or_create=True, **asked)
    async with Instance(tmp_path, bucket) as instance:
        made = await instance.do(command)
    async with Instance(tmp_path, bucket, name="b") as instance:
        assert await instance.do(command) == made
        assert (await instance.residency())["chroma"] is None
        wrong = ChromaCreateCollection(
            database=DEFAULT_DATABASE, name="notes", get_or_create=True, configuration="no JSON"
        )
        await instance.refusal(wrong)
        assert (await instance.residency())["chroma"] == "operation"


def _many(instance: Instance) -> Any:
    return instance.do(upsert(*(f"r{n}" for n in range(20)), vectors=vectors(20)))


USES: dict[str, tuple[dict[str, Any], Callable[[Instance], Any]]] = {
    "setting": ({"fast_reads": False}, lambda instance: instance.do(CountRecords(collection="notes"))),
    "filter": ({}, lambda instance: instance.do(GetRecords(collection="notes", where_document={"$regex": "o."}))),
    "size": (
        {"exact_bytes": 16},
        lambda instance: instance.do(QueryRecords(collection="notes", vectors=vectors(1), n_results=1)),
    ),
    # The commit of such a write closes Chroma again; here it comes later.
    "threshold": ({"durability": "write-back"}, _many),
    "operation": ({}, lambda instance: instance.do(CreateCollection(name="others"))),
}


@pytest.mark.parametrize("use", USES)
async def test_the_pool_says_why_chroma_is_open(tmp_path: Path, use: str) -> None:
    """A slot shows the reason for which Chroma was opened on it."""
    options, act = USES[use]
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(CreateCollection(name="notes", hnsw=Hnsw(sync_threshold=10)))
        await instance.do(upsert("a", "b"))
    async with Instance(tmp_path, bucket, name="b", **options) as instance:
        await act(instance)
        assert (await instance.residency())["chroma"] == use
        assert instance.pool.view().slots[0].chroma == use
