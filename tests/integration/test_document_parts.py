"""Documents of more chunks than one command carries, in real vectorstores: unseen until they are whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import Instance, vectors
from vectorpool.commands import (
    CountRecords,
    DeleteAvatar,
    DeleteCollection,
    DiscardParts,
    Evict,
    FindChunks,
    ForgetDocument,
    GetAvatar,
    IngestDocument,
    ListCollections,
    ListIngested,
    PartsOf,
    QueryRecords,
    Restore,
    StageChunks,
)
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket

SIZE = 5


def part(number: int, *, token: str = "t1", path: str = "a.md", **more: Any) -> StageChunks:
    """Return a part of five chunks."""
    ids = [f"{path}#{number * SIZE + at:04d}" for at in range(SIZE)]
    members: dict[str, Any] = {
        "avatar_id": "7",
        "collection": "documents",
        "path": path,
        "token": token,
        "number": number,
        "ids": ids,
        "hashes": b"".join(i.encode()[-16:].rjust(16) for i in ids),
        "vectors": vectors(SIZE, embedder="model-a"),
        "documents": [f"text of {i}" for i in ids],
        "metadatas": [{"path": path, "chunk": number * SIZE + at} for at in range(SIZE)],
    }
    return StageChunks(**{**members, **more})


def last(parts: int, *, token: str = "t1", path: str = "a.md", **more: Any) -> IngestDocument:
    """Return the command that makes records of the parts."""
    return IngestDocument(
        avatar_id="7",
        collection="documents",
        path=path,
        etag="e1",
        size=10,
        recipe="model-a r1",
        digest="d1",
        content_type="text/markdown",
        ids=[],
        vectors=vectors(0, embedder="model-a"),
        documents=[],
        metadatas=[],
        token=token,
        parts=parts,
        **more,
    )


@pytest.fixture(params=["memory", "directory"])
async def instance(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Instance]:
    """An instance without collections."""
    bucket = MemoryBucket() if request.param == "memory" else DirectoryBucket(tmp_path / "store")
    async with Instance(tmp_path, bucket) as made:
        yield made


async def seen(instance: Instance) -> tuple[int, int, int]:
    """Return how many records a count, a get and a query show."""
    count = (await instance.do(CountRecords(avatar_id="7", collection="documents")))["count"]
    query = QueryRecords(avatar_id="7", collection="documents", vectors=vectors(1), n_results=100)
    found = (await instance.do(query))["results"][0]
    return count, len(await instance.records(collection="documents", avatar_id="7")), len(found)


async def test_no_read_shows_a_part_before_the_last_command(instance: Instance) -> None:
    """Counts, gets, queries and the avatar's numbers stay; then all chunks and the row come with one commit."""
    for number in range(3):
        await instance.do(part(number))
        assert await seen(instance) == (0, 0, 0)
        avatar = await instance.do(GetAvatar(avatar_id="7"))
        assert (avatar["records"], avatar["documents"]) == (0, 0)
        # Also after the replica was built again from the log.
        await instance.do(Evict())
    assert (await instance.do(ListIngested(avatar_id="7")))["parts"] == [["a.md", "t1"]]
    before = await instance.commit()
    assert (await instance.do(last(3)))["written"] == 3 * SIZE
    assert await instance.commit() == before + 1
    assert await seen(instance) == (15, 15, 15)
    page = await instance.do(ListIngested(avatar_id="7"))
    assert "parts" not in page
    (row,) = page["documents"]
    assert (row["chunks"], row["content_type"], row["digest"]) == (15, "text/markdown", "d1")
    known = await instance.do(FindChunks(avatar_id="7", path="b.md", digest="d1"))
    assert [(len(k["ids"]), k["document"]["path"]) for k in known["documents"]] == [(15, "a.md")]


async def test_a_replaced_document_shows_its_old_chunks_until_the_new_ones_are_whole(instance: Instance) -> None:
    """The old chunks that the new document has no more go in the same commit."""
    for number in range(2):
        await instance.do(part(number))
    await instance.do(last(2))
    await instance.do(part(0, token="t2", documents=[f"new {at}" for at in range(SIZE)]))
    records = await instance.records(collection="documents", avatar_id="7")
    assert len(records) == 10 and records["a.md#0000"][0] == "text of a.md#0000"
    await instance.do(last(1, token="t2"))
    records = await instance.records(collection="documents", avatar_id="7")
    assert len(records) == 5 and records["a.md#0000"][0] == "new 0"


async def test_a_part_that_is_missing_refuses_the_document(instance: Instance) -> None:
    """Nothing changes then, and the parts that are there are told, so that only the others are sent."""
    await instance.do(part(0))
    await instance.do(part(2))
    assert (await instance.refusal(last(3))).code == "parts-missing"
    assert await seen(instance) == (0, 0, 0)
    known = await instance.do(FindChunks(avatar_id="7", path="a.md", digest="d1", token="t1"))
    assert known["parts"] == [0, 2]
    assert "parts" not in await instance.do(FindChunks(avatar_id="7", path="a.md", digest="d1", token="t2"))
    await instance.do(part(1))
    assert (await instance.do(last(3)))["written"] == 15


@pytest.mark.parametrize("how", ["discard", "forget", "collection", "avatar"])
async def test_parts_go_with_what_they_belong_to(instance: Instance, how: str) -> None:
    """With their document, their collection and their avatar, or when a sync finds them left over."""
    await instance.do(part(0))
    command: Any = {
        "discard": DiscardParts(avatar_id="7", parts=[PartsOf("a.md", "t1")]),
        "forget": ForgetDocument(avatar_id="7", path="a.md"),
        "collection": DeleteCollection(avatar_id="7", name="documents"),
        "avatar": DeleteAvatar(avatar_id="7"),
    }[how]
    await instance.do(command)
    assert "parts" not in await instance.do(ListIngested(avatar_id="7"))
    assert (await instance.refusal(last(1))).code == "parts-missing"


async def test_parts_of_a_restored_state_are_left_over_and_not_seen(instance: Instance) -> None:
    """A restore to the moment between two parts shows no half of the document."""
    await instance.do(part(0))
    await instance.do(part(1))
    between = await instance.commit()
    await instance.do(last(2))
    await instance.do(Restore(commit=between))
    assert await seen(instance) == (0, 0, 0)
    assert (await instance.do(ListIngested(avatar_id="7")))["parts"] == [["a.md", "t1"]]


async def test_two_instances_that_stage_the_same_document_end_with_one(tmp_path: Path) -> None:
    """Each takes in the other's parts, whoever commits first, and nothing is twice."""
    bucket = MemoryBucket()
    async with Instance(tmp_path / "a", bucket) as one, Instance(tmp_path / "b", bucket) as other:
        await one.do(part(0))
        await other.do(part(0))
        await other.do(part(1))
        await one.do(part(1))
        assert (await one.do(last(2)))["written"] == 10
        assert await seen(other) == (10, 10, 10)
        assert (await other.refusal(last(2))).code == "parts-missing"
        collections = (await other.do(ListCollections(avatar_id="7")))["collections"]
        assert [c["count"] for c in collections] == [10]


async def test_a_document_of_parts_that_do_not_fit_changes_nothing(tmp_path: Path) -> None:
    """Another dimension is refused where it comes; hashes that do not fit the ids, too."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(part(0, path="b.md"))
        await instance.do(last(1, path="b.md"))
        refused = await instance.refusal(part(0, vectors=vectors(SIZE, dimension=5, embedder="model-a")))
        assert refused.code == "dimension-mismatch"
        assert (await instance.refusal(part(0, hashes=b"short"))).code == "invalid-request"
        assert (await instance.refusal(part(5000))).code == "limit-exceeded"
        assert await seen(instance) == (5, 5, 5)
