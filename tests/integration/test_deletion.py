"""What is deleted stays deleted: on every instance, while others are at work, and after a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.documents import HashingEmbedder
from tests.support.instances import USER, Instance
from vectorpool.commands import (
    Command,
    DeleteAvatar,
    DeleteVectorstore,
    Evict,
    ForgetDocument,
    IngestDocument,
    ListAvatars,
    ListIngested,
    Vectors,
)
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.documents import DocumentLibrary, Ingestor
from vectorpool.errors import CollectionNotFound, UserNotFound, VectorpoolError
from vectorpool.objects.memory import MemoryBucket


class Interrupted:
    """A router to an instance that runs ``before`` once, ahead of the ingest of a named document."""

    def __init__(self, instance: Instance, path: str, before: Callable[[], Awaitable[Any]]) -> None:
        self._instance = instance
        self._path = path
        self._before = before

    async def execute(self, user_id: str, command: Command, context: RequestContext = BACKGROUND) -> Any:
        if isinstance(command, IngestDocument) and command.path == self._path:
            await self._before()
        return await self._instance.pool.execute(user_id, command, context)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Instance, Instance]]:
    """Two instances over one bucket."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, name="a") as a, Instance(tmp_path, bucket, name="b") as b:
        yield a, b


def ingestor(instance: Instance, router: Any) -> Ingestor:
    """Return an ingestor over an instance's bucket and a router."""
    return Ingestor(DocumentLibrary(instance.bucket, instance.settings), HashingEmbedder(), router, instance.settings)


async def put(instance: Instance, *paths: str) -> DocumentLibrary:
    """Put a document of a few words at each path, and return the library."""
    library = DocumentLibrary(instance.bucket, instance.settings)
    for path in paths:
        await library.put(USER, "7", path, f"what is in {path}".encode())
    return library


@pytest.mark.parametrize("path", ["a.txt", "b.txt"])
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_an_ingest_does_not_bring_a_deleted_user_back(
    pair: tuple[Instance, Instance], path: str, elsewhere: bool
) -> None:
    """Deleted here or elsewhere, before the first document or after it: the ingest ends, and nothing is there."""
    a, b = pair
    await put(a, "a.txt", "b.txt")
    await a.do(IngestDocument(**_document("old.txt")))
    router = Interrupted(a, path, lambda: (b if elsewhere else a).do(DeleteVectorstore()))
    with pytest.raises(UserNotFound, match="deleted while documents were ingested"):
        await ingestor(a, router).ingest(USER, "7")
    for instance in pair:
        assert (await instance.refusal(ListAvatars())).code == "user-not-found"
    # An ingest that begins afterwards is meant, and works.
    report = await ingestor(a, a.pool).ingest(USER, "7")
    assert [outcome.status for outcome in report.documents] == ["ingested", "ingested"]


async def test_an_ingest_does_not_begin_a_vectorstore_for_a_deleted_user(pair: tuple[Instance, Instance]) -> None:
    """A user of documents alone is sealed by the deletion, so that no ingest under way makes the first commit."""
    a, b = pair
    library = await put(a, "a.txt")

    async def delete() -> None:
        await library.delete(USER, "7", "a.txt")
        await b.do(DeleteVectorstore(documents=1))

    with pytest.raises(UserNotFound):
        await ingestor(a, Interrupted(a, "a.txt", delete)).ingest(USER, "7")
    for instance in pair:
        assert (await instance.refusal(ListAvatars())).code == "user-not-found"


@pytest.mark.parametrize("evicted", [False, True])
async def test_an_ingest_does_not_bring_a_deleted_avatar_back(pair: tuple[Instance, Instance], evicted: bool) -> None:
    """The collection that the ingest knew is gone, also where the name is taken again: the ingest ends."""
    a, b = pair
    await put(a, "a.txt", "b.txt")
    await a.do(IngestDocument(**_document("old.txt")))
    await a.do(IngestDocument(**_document("of another.txt", avatar_id="8")))

    async def delete() -> None:
        await b.do(DeleteAvatar(avatar_id="7"))
        if evicted:
            await a.do(Evict())

    with pytest.raises(CollectionNotFound, match="deleted or renamed"):
        await ingestor(a, Interrupted(a, "b.txt", delete)).ingest(USER, "7")
    for instance in pair:
        page = await instance.do(ListAvatars())
        assert [avatar["avatar_id"] for avatar in page["avatars"]] == ["8"]


async def test_a_document_deleted_during_its_commit_leaves_no_chunk(pair: tuple[Instance, Instance]) -> None:
    """The deletion found nothing to forget, because the commit was not there yet; so the ingest forgets it."""
    a, b = pair
    library = await put(a, "a.txt", "b.txt")

    async def delete() -> None:
        await library.delete(USER, "7", "b.txt")
        with pytest.raises(VectorpoolError):
            await b.do(ForgetDocument(avatar_id="7", path="b.txt"))

    report = await ingestor(a, Interrupted(a, "b.txt", delete)).ingest(USER, "7")
    assert {outcome.path: outcome.status for outcome in report.documents} == {"a.txt": "ingested", "b.txt": "removed"}
    for instance in pair:
        assert [d["path"] for d in (await instance.do(ListIngested(avatar_id="7")))["documents"]] == ["a.txt"]


def _document(path: str, avatar_id: str = "7") -> dict[str, Any]:
    return {
        "avatar_id": avatar_id,
        "collection": "documents",
        "path": path,
        "etag": "e",
        "size": 1,
        "recipe": "r",
        "ids": [f"{path}#0000"],
        "vectors": Vectors(64, np.ones(64, dtype="<f4").tobytes(), HashingEmbedder.name),
        "documents": ["text"],
        "metadatas": [{"path": path}],
    }
