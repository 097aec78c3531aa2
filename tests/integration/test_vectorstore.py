"""What each command does to a vectorstore with real Chroma in it, and that a refused one does nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import NOTES, Instance, upsert, vectors
from tests.support.numbers import assert_close
from vectorpool.commands import (
    AddRecords,
    Command,
    CountRecords,
    CreateCollection,
    DeleteAvatar,
    DeleteCollection,
    DeleteRecords,
    DescribeVectorstore,
    Evict,
    ForgetDocument,
    GetCollection,
    GetRecords,
    Hnsw,
    IngestDocument,
    ListAvatars,
    ListIngested,
    ModifyCollection,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
    Vectors,
)
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket


@pytest.fixture(params=["memory", "directory"])
async def instance(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Instance]:
    """An instance with an empty collection, over a bucket in memory and one in a directory."""
    bucket = MemoryBucket() if request.param == "memory" else DirectoryBucket(tmp_path / "store")
    async with Instance(tmp_path, bucket) as made:
        await made.do(NOTES)
        yield made


def _ingest(*ids: str, path: str = "a.md", collection: str = "documents", avatar_id: str = "7") -> IngestDocument:
    return IngestDocument(
        avatar_id=avatar_id,
        collection=collection,
        path=path,
        etag="e1",
        size=10,
        recipe="r1",
        ids=list(ids),
        vectors=vectors(len(ids), embedder="model-a"),
        documents=[f"chunk {i}" for i in ids],
        metadatas=[{"path": path} for _ in ids],
    )


# --- Records -----------------------------------------------------------------------------------------


async def test_add_refuses_a_call_with_one_existing_id(instance: Instance) -> None:
    """One id that is there already refuses the whole call by name, and none of its other records appear."""
    await instance.do(upsert("a", text="first"))
    add = AddRecords(collection="notes", ids=["b", "a"], vectors=vectors(2), documents=["new", "new"])
    refusal = await instance.refusal(add)
    assert refusal.code == "record-exists"
    assert refusal.extra == {"existing": ["a"]}
    assert await instance.records() == {"a": ("first of a", None)}


async def test_add_then_get_returns_what_was_sent(instance: Instance) -> None:
    """Documents, metadata of every type, URIs and embeddings come back as they went in."""
    metadata = {"text": "Ünï cøde 🙂", "number": 7, "real": 0.5, "flag": True}
    sent = vectors(2)
    added = await instance.do(
        AddRecords(
            collection="notes",
            ids=["a", "ä b/c"],
            vectors=sent,
            documents=["one", None],
            metadatas=[metadata, None],
            uris=["s3://x", None],
        )
    )
    assert added == {"written": 2}
    page = await instance.do(GetRecords(collection="notes", include=("documents", "metadatas", "embeddings", "uris")))
    rows = np.frombuffer(sent.data, "<f4").reshape(2, 4)
    first, second = page["records"]
    assert_close(first.pop("embedding"), rows[0])
    assert_close(second.pop("embedding"), rows[1])
    assert first == {"id": "a", "document": "one", "metadata": metadata, "uri": "s3://x"}
    assert second == {"id": "ä b/c"}


async def test_update_refuses_a_call_with_one_missing_id(instance: Instance) -> None:
    """One id that is not there refuses the whole call by name, and the others stay as they were."""
    await instance.do(upsert("a", text="first"))
    refusal = await instance.refusal(UpdateRecords(collection="notes", ids=["a", "b"], documents=["x", "y"]))
    assert refusal.code == "record-not-found"
    assert refusal.extra == {"missing": ["b"]}
    assert await instance.records() == {"a": ("first of a", None)}


async def test_upsert_replaces_the_document_and_merges_metadata(instance: Instance) -> None:
    """A second upsert of an id replaces its text and the keys it names, and keeps the keys it does not name."""
    await instance.do(upsert("a", text="old", metadatas=[{"kept": 1, "changed": 1}]))
    await instance.do(upsert("a", "b", text="new", metadatas=[{"changed": 2, "added": 3}, None]))
    assert await instance.records() == {
        "a": ("new of a", {"kept": 1, "changed": 2, "added": 3}),
        "b": ("new of b", None),
    }


async def test_update_with_null_metadata_deletes_the_key(instance: Instance) -> None:
    """A null value takes its key away; text, embedding and other keys stay."""
    await instance.do(upsert("a", text="old", metadatas=[{"gone": 1, "kept": 2}]))
    include = ("embeddings",)
    before = await instance.do(GetRecords(collection="notes", include=include))
    await instance.do(UpdateRecords(collection="notes", ids=["a"], metadatas=[{"gone": None}]))
    assert await instance.records() == {"a": ("old of a", {"kept": 2})}
    assert await instance.do(GetRecords(collection="notes", include=include)) == before


async def test_update_changes_the_embeddings_of_the_named_rows_only(instance: Instance) -> None:
    """With ``rows``, the embedding of those positions changes and the others keep theirs."""
    await instance.do(upsert("a", "b"))
    include = ("embeddings",)
    before = (await instance.do(GetRecords(collection="notes", include=include)))["records"]
    new = Vectors(dimension=4, data=np.full((1, 4), 9, "<f4").tobytes(), rows=[1])
    await instance.do(UpdateRecords(collection="notes", ids=["a", "b"], vectors=new, documents=["x", "y"]))
    after = (await instance.do(GetRecords(collection="notes", include=include)))["records"]
    assert after[0] == before[0]
    assert after[1]["embedding"] == [9.0] * 4


async def test_delete_by_filters_takes_what_matches(instance: Instance) -> None:
    """``where`` and ``where_document`` delete the matching records and answer how many they were."""
    metadatas: list[Any] = [{"n": number} for number in range(6)]
    await instance.do(upsert(*"abcdef", metadatas=metadatas))
    assert await instance.do(DeleteRecords(collection="notes", where={"n": {"$lt": 2}})) == {"deleted": 2}
    contains_c = DeleteRecords(collection="notes", where_document={"$contains": "of c"})
    assert await instance.do(contains_c) == {"deleted": 1}
    both = DeleteRecords(collection="notes", ids=["d", "e"], where={"n": 4})
    assert await instance.do(both) == {"deleted": 1}
    assert set(await instance.records()) == {"d", "f"}


async def test_delete_by_ids_counts_only_what_was_there(instance: Instance) -> None:
    """Ids that are not there count nothing, and a delete of only such ids makes no commit."""
    await instance.do(upsert("a", "b"))
    assert await instance.do(DeleteRecords(collection="notes", ids=["a", "zz"])) == {"deleted": 1}
    before = await instance.commit()
    assert await instance.do(DeleteRecords(collection="notes", ids=["a", "zz"])) == {"deleted": 0}
    assert await instance.commit() == before
    assert set(await instance.records()) == {"b"}


async def test_query_finds_the_nearest_of_those_that_match(instance: Instance) -> None:
    """The nearest record comes first, filters restrict, and a collection without records answers with none."""
    empty = await instance.do(QueryRecords(collection="notes", vectors=vectors(2)))
    assert empty == {"results": [[], []]}
    axes = Vectors(dimension=3, data=np.eye(3, dtype="<f4").tobytes())
    await instance.do(upsert("x", "y", "z", vectors=axes, metadatas=[{"n": 0}, {"n": 1}, {"n": 2}]))
    near_y = Vectors(dimension=3, data=np.array([[0.1, 1, 0.2]], "<f4").tobytes())
    found = await instance.do(QueryRecords(collection="notes", vectors=near_y, n_results=2))
    assert [match["id"] for match in found["results"][0]] == ["y", "z"]
    assert found["results"][0][0]["distance"] < found["results"][0][1]["distance"]
    filtered = await instance.do(QueryRecords(collection="notes", vectors=near_y, where={"n": {"$ne": 1}}))
    assert [match["id"] for match in filtered["results"][0]] == ["z", "x"]


# --- Collections and avatars -------------------------------------------------------------------------


async def test_creating_again_is_refused_or_answers_what_is_there(instance: Instance) -> None:
    """A taken name is refused; with get_or_create it answers the collection as it is, and nothing is committed."""
    first = await instance.do(GetCollection(name="notes"))
    assert (await instance.refusal(NOTES)).code == "collection-exists"
    before = await instance.commit()
    again = CreateCollection(name="notes", metadata={"other": 1}, hnsw=Hnsw(space="l2"), get_or_create=True)
    assert await instance.do(again) == first
    assert await instance.commit() == before


async def test_a_rename_keeps_records_and_refuses_a_taken_name(instance: Instance) -> None:
    """A collection cannot take the name of another; it can take a free one, with its records and its id."""
    await instance.do(upsert("a"))
    await instance.do(CreateCollection(name="taken"))
    refusal = await instance.refusal(ModifyCollection(name="notes", new_name="taken"))
    assert refusal.code == "collection-exists"
    before = await instance.do(GetCollection(name="notes"))
    changed = await instance.do(ModifyCollection(name="notes", new_name="free", new_metadata={"k": "v"}))
    assert (changed["id"], changed["count"], changed["metadata"]) == (before["id"], 1, {"k": "v"})
    assert set(await instance.records(collection="free")) == {"a"}
    assert (await instance.refusal(GetCollection(name="notes"))).code == "collection-not-found"


async def test_deleting_a_collection_frees_its_name_and_dimension(instance: Instance) -> None:
    """After a delete the name is free, and the new collection of that name takes any dimension."""
    await instance.do(upsert("a"))
    assert await instance.do(DeleteCollection(name="notes")) == {"deleted": 1}
    await instance.do(NOTES)
    await instance.do(upsert("a", vectors=vectors(1, dimension=9)))
    assert await instance.do(CountRecords(collection="notes")) == {"count": 1}


async def test_deleting_an_avatar_leaves_the_others(instance: Instance) -> None:
    """An avatar goes with its collections and what is known of its documents; the same names elsewhere stay."""
    for avatar in ("7", "8"):
        await instance.do(_ingest("c1", "c2", avatar_id=avatar))
    await instance.do(upsert("own"))
    assert await instance.do(DeleteAvatar(avatar_id="7")) == {"deleted": 1}
    page = await instance.do(ListAvatars())
    assert page == {"avatars": [{"avatar_id": "8", "collections": 1, "records": 2, "documents": 1}], "total": 1}
    assert (await instance.do(ListIngested(avatar_id="7"))) == {"documents": []}
    assert (await instance.refusal(DeleteAvatar(avatar_id="7"))).code == "avatar-not-found"
    assert set(await instance.records()) == {"own"}
    assert (await instance.do(DescribeVectorstore()))["records"] == 3


# --- Documents ---------------------------------------------------------------------------------------


async def test_ingesting_again_replaces_the_chunks(instance: Instance) -> None:
    """What a document gave before and gives no more is gone; other documents' chunks stay; it is one commit."""
    await instance.do(_ingest("a1", "a2", "a3"))
    await instance.do(_ingest("b1", path="b.md"))
    before = await instance.commit()
    collection_id = (await instance.do(ListIngested(avatar_id="7")))["collections"]["documents"]
    assert await instance.do(_ingest("a2", "a4")) == {"written": 2, "collection_id": collection_id}
    assert await instance.commit() == before + 1
    records = await instance.records(collection="documents", avatar_id="7")
    assert set(records) == {"a2", "a4", "b1"}
    ingested = (await instance.do(ListIngested(avatar_id="7")))["documents"]
    assert [(d["path"], d["chunks"], d["embedder"]) for d in ingested] == [
        ("a.md", 2, "model-a"),
        ("b.md", 1, "model-a"),
    ]


async def test_ingesting_into_another_collection_moves_the_chunks(instance: Instance) -> None:
    """A document is in one collection at a time."""
    await instance.do(_ingest("a1", "a2"))
    await instance.do(_ingest("a1", collection="elsewhere"))
    assert await instance.records(collection="documents", avatar_id="7") == {}
    assert set(await instance.records(collection="elsewhere", avatar_id="7")) == {"a1"}
    assert [d["collection"] for d in (await instance.do(ListIngested(avatar_id="7")))["documents"]] == ["elsewhere"]


async def test_forgetting_a_document_deletes_its_chunks_only(instance: Instance) -> None:
    """The chunks of the named document go, those of others stay, and a second time it is not found."""
    await instance.do(_ingest("a1", "a2"))
    await instance.do(_ingest("b1", path="b.md"))
    assert await instance.do(ForgetDocument(avatar_id="7", path="a.md")) == {"deleted": 2}
    assert set(await instance.records(collection="documents", avatar_id="7")) == {"b1"}
    assert (await instance.refusal(ForgetDocument(avatar_id="7", path="a.md"))).code == "document-not-found"


# --- Refusals ----------------------------------------------------------------------------------------

_NAN = Vectors(dimension=4, data=np.array([[0, np.nan, 0, 0]], "<f4").tobytes())
_INFINITE = Vectors(dimension=4, data=np.array([[0, np.inf, 0, 0]], "<f4").tobytes())
REFUSED: dict[str, tuple[Command, str]] = {
    "add existing": (AddRecords(collection="notes", ids=["n", "a"], vectors=vectors(2)), "record-exists"),
    "add without embeddings": (AddRecords(collection="notes", ids=["n"]), "invalid-embedding"),
    "too few embeddings": (upsert("n", "m", vectors=vectors(1)), "invalid-embedding"),
    "ragged bytes": (upsert("n", vectors=Vectors(dimension=4, data=bytes(15))), "invalid-embedding"),
    "nan": (upsert("n", vectors=_NAN), "invalid-embedding"),
    "infinite": (upsert("n", vectors=_INFINITE), "invalid-embedding"),
    "another dimension": (upsert("n", vectors=vectors(1, dimension=5)), "dimension-mismatch"),
    "an id twice": (upsert("n", "n"), "invalid-request"),
    "no ids": (upsert(), "invalid-request"),
    "too many": (upsert(*(f"r{n}" for n in range(101))), "limit-exceeded"),
    "texts differ in number": (upsert("n", documents=["x", "y"]), "invalid-request"),
    "no collection": (upsert("n", collection="absent"), "collection-not-found"),
    "update missing": (UpdateRecords(collection="notes", ids=["a", "n"], documents=["x", "y"]), "record-not-found"),
    "update another dimension": (
        UpdateRecords(collection="notes", ids=["a"], vectors=vectors(1, dimension=3)),
        "dimension-mismatch",
    ),
    "delete nothing named": (DeleteRecords(collection="notes"), "invalid-request"),
    "delete by a bad filter": (DeleteRecords(collection="notes", where={"n": {"$odd": 1}}), "invalid-filter"),
    "create existing": (NOTES, "collection-exists"),
    "create a bad name": (CreateCollection(name="a"), "invalid-id"),
    "modify nothing": (ModifyCollection(name="notes"), "invalid-request"),
    "modify absent": (ModifyCollection(name="absent", new_name="other"), "collection-not-found"),
    "delete absent": (DeleteCollection(name="absent"), "collection-not-found"),
    "delete an absent avatar": (DeleteAvatar(avatar_id="99"), "avatar-not-found"),
    "forget an absent document": (ForgetDocument(avatar_id="7", path="zz.md"), "document-not-found"),
    "ingest another dimension": (
        IngestDocument(
            avatar_id="7",
            collection="documents",
            path="n.md",
            etag="e",
            size=1,
            recipe="r",
            ids=["n"],
            vectors=vectors(1, dimension=5),
            documents=["x"],
            metadatas=[{}],
        ),
        "dimension-mismatch",
    ),
}


async def test_a_refused_write_changes_nothing(tmp_path: Path) -> None:
    """Every refusal has its code and a sentence, and leaves commit, log and all records as they were."""
    async with Instance(tmp_path, MemoryBucket(), max_records=100) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", metadatas=[{"n": 1}, {"n": 2}]))
        await instance.do(_ingest("c1"))
        state = await instance.everything(avatars=(None, "7"))
        commit, history = await instance.commit(), await instance.history()
        for name, (command, code) in REFUSED.items():
            refusal = await instance.refusal(command)
            assert refusal.code == code, (name, refusal.code, refusal.detail)
            assert refusal.detail.endswith("."), (name, refusal.detail)
            assert refusal.status < 500
        assert await instance.everything(avatars=(None, "7")) == state
        assert await instance.commit() == commit
        assert await instance.history() == history


async def test_a_refused_first_write_creates_no_user(tmp_path: Path) -> None:
    """A user whose only write was refused does not exist, and nothing is stored for them."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        assert (await instance.refusal(upsert("a"))).code == "collection-not-found"
        assert (await instance.refusal(DescribeVectorstore())).code == "user-not-found"
    assert await bucket.list_objects("", limit=10) == []


async def test_text_of_another_embedder_is_refused_by_name(instance: Instance) -> None:
    """A collection remembers who embedded it: writes and queries of another model are refused, naming both."""
    await instance.do(upsert("a", vectors=vectors(1, embedder="model-a")))
    other = vectors(1, embedder="model-b")
    commands: list[Command] = [
        upsert("b", vectors=other),
        UpdateRecords(collection="notes", ids=["a"], vectors=other),
        QueryRecords(collection="notes", vectors=other),
    ]
    for command in commands:
        refusal = await instance.refusal(command)
        assert refusal.code == "embedder-mismatch"
        assert refusal.extra == {"collection_embedder": "model-a", "request_embedder": "model-b"}
    # Embeddings that the caller brought carry no name, so only their dimension can be held against them.
    await instance.do(upsert("b"))
    assert (await instance.do(GetCollection(name="notes")))["embedder"] == "model-a"


async def test_a_query_of_another_dimension_is_refused_by_name(instance: Instance) -> None:
    """A query must have the collection's dimension, and the refusal says both."""
    await instance.do(upsert("a"))
    refusal = await instance.refusal(QueryRecords(collection="notes", vectors=vectors(1, dimension=7)))
    assert refusal.code == "dimension-mismatch"
    assert {name: value for name, value in refusal.extra.items() if value is not None} == {
        "collection_dimension": 4,
        "request_dimension": 7,
    }


async def test_what_was_written_is_there_after_a_new_hydration(instance: Instance) -> None:
    """A vectorstore that was evicted and opened again shows the same to every reader."""
    await instance.do(upsert("a", "b", metadatas=[{"n": 1}, None]))
    await instance.do(UpsertRecords(collection="notes", ids=["c"], vectors=vectors(1, embedder="model-a")))
    await instance.do(_ingest("c1", "c2"))
    before = await instance.everything(avatars=(None, "7"))
    documents = await instance.do(ListIngested(avatar_id="7"))
    assert (await instance.do(Evict()))["state"] == "cold"
    assert await instance.everything(avatars=(None, "7")) == before
    assert await instance.do(ListIngested(avatar_id="7")) == documents
