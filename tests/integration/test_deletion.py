"""What is deleted stays deleted: on every instance, while others are at work, and after a restart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.documents import HashingEmbedder
from tests.support.instances import USER, Instance
from vectorpool.commands import (
    Command,
    CountRecords,
    CreateBackup,
    CreateCollection,
    DeleteAvatar,
    DeleteVectorstore,
    Evict,
    ForgetDocument,
    IngestDocument,
    LastDeletion,
    ListAvatars,
    ListIngested,
    ReadOptions,
    UpsertRecords,
    Vectors,
)
from vectorpool.commitlog.log import CommitLog
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.documents import DocumentLibrary, Ingestor
from vectorpool.errors import CollectionNotFound, UserNotFound, VectorpoolError
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket


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


# --- Bytes that other instances hold -----------------------------------------------------------------

BOUND_S = 2.0
SECRET = "vollkommen unverwechselbar"


def holds(instance: Instance, secret: str = SECRET) -> list[Path]:
    """Return the files below an instance's replica directory that have the secret in their bytes.

    The instance removes files meanwhile. What vanishes between two steps of this walk is not held.
    """
    found = []
    for folder, _, names in os.walk(instance.settings.replica_dir):
        for path in (Path(folder, name) for name in names):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            # Log objects are compressed, so that their names tell instead: any of the user's is too many.
            if secret.encode() in data or (path.parent.name == USER and path.parent.parent.parent.name == "warm"):
                found.append(path)
    return found


async def until_gone(instance: Instance) -> float:
    """Return after how many seconds an instance holds nothing any more; fail after four times the bound."""
    began = time.monotonic()
    while left := holds(instance):
        assert time.monotonic() - began < 4 * BOUND_S, left
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def fill(instance: Instance) -> None:
    """Store the secret: in several commits, and in an object that is too large to be held in memory alone."""
    for number in range(3):
        rows = np.random.default_rng(number).standard_normal((60, 64)).astype("<f4")
        await instance.do(
            UpsertRecords(
                collection="notes",
                ids=[f"r{number}-{row}" for row in range(60)],
                vectors=Vectors(64, rows.tobytes()),
                documents=[f"{SECRET} {row}" for row in range(60)],
            )
        )


@pytest.mark.parametrize("held", ["open", "warm", "past"])
@pytest.mark.parametrize("consistency", ["strong", "local"])
async def test_no_instance_holds_a_byte_after_the_bound(tmp_path: Path, held: str, consistency: str) -> None:
    """Open, cached or open at a past commit, nobody asks for the user again, and its neighbour stays as it is."""
    bucket = MemoryBucket()
    options: dict[str, Any] = {"deletion_bound_s": BOUND_S, "consistency": consistency}
    async with Instance(tmp_path, bucket, name="a") as a, Instance(tmp_path, bucket, name="b", **options) as b:
        for user in (USER, "43"):
            await a.do(CreateCollection(name="notes"), user)
        await fill(a)
        await b.do(CountRecords(collection="notes"), "43")
        at = 2 if held == "past" else None
        context = RequestContext(read=ReadOptions(at=at))
        await b.pool.execute(USER, CountRecords(collection="notes"), context)
        if held == "warm":
            await b.do(Evict())
        assert holds(b)
        await a.do(DeleteVectorstore())
        await until_gone(b)
        assert (await b.refusal(CountRecords(collection="notes"))).code == "user-not-found"
        assert await b.do(CountRecords(collection="notes"), "43") == {"count": 0}
        assert (await b.residency("43"))["warm_bytes"] > 0


async def test_a_past_commit_that_is_read_all_the_time_is_dropped_too(tmp_path: Path) -> None:
    """A reader that never stops does not keep the files: its reads are refused."""
    bucket = MemoryBucket()
    async with (
        Instance(tmp_path, bucket, name="a") as a,
        Instance(tmp_path, bucket, name="b", deletion_bound_s=BOUND_S) as b,
    ):
        await a.do(CreateCollection(name="notes"))
        await fill(a)
        context = RequestContext(read=ReadOptions(at=2))
        await b.pool.execute(USER, CountRecords(collection="notes"), context)
        await a.do(DeleteVectorstore())
        with pytest.raises(VectorpoolError) as refused:
            for _ in range(10_000):
                await b.pool.execute(USER, CountRecords(collection="notes"), context)
                await asyncio.sleep(0.01)
        assert refused.value.code in ("commit-not-found", "user-not-found", "broken-log")
        await until_gone(b)


async def test_what_was_deleted_while_an_instance_was_off_is_dropped_when_it_starts(tmp_path: Path) -> None:
    """Its cached objects outlive it; the first look is at once, and asks for what came since the last one."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, name="a") as a:
        for user in (USER, "43"):
            await a.do(CreateCollection(name="notes"), user)
        await fill(a)
        async with Instance(tmp_path, bucket, name="b") as b:
            for user in (USER, "43"):
                await b.do(CountRecords(collection="notes"), user)
        assert holds(b)
        await a.do(DeleteVectorstore())
        async with Instance(tmp_path, bucket, name="b") as b:
            await until_gone(b)
            assert (await b.residency("43"))["warm_bytes"] > 0


async def test_an_instance_that_cannot_know_drops_all_that_it_cached(tmp_path: Path) -> None:
    """Without the time of its last look, or with one from before the oldest mark, nothing cached is kept."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, name="a") as a:
        await a.do(CreateCollection(name="notes"))
        await fill(a)
    swept = a.pool._stores.swept_file
    for stale in ("", "1000"):
        swept.write_text(stale)
        assert holds(a)
        async with Instance(tmp_path, bucket, name="a") as a:
            await until_gone(a)
            await a.do(CountRecords(collection="notes"))


async def test_looks_are_few_and_none_without_files(tmp_path: Path) -> None:
    """A look is one listing, however many users there are; a shard that holds nothing asks nothing."""
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket, name="a", deletion_bound_s=BOUND_S, verify_interval_s=0.0) as a:
        await asyncio.sleep(BOUND_S)
        assert bucket.total().requests == 0
        for user in range(5):
            await a.do(CreateCollection(name="notes"), f"user-{user}")
        before = bucket.total().requests
        await asyncio.sleep(BOUND_S)
        assert 1 <= bucket.total().requests - before <= 6


async def test_a_receipt_says_what_was_deleted_and_when_nothing_was_left(pair: tuple[Instance, Instance]) -> None:
    """On every instance, also after the user came back; a deletion that was cut short is finished by the next."""
    a, b = pair
    assert (await a.refusal(LastDeletion())).code == "deletion-not-found"
    await a.do(CreateCollection(name="notes"))
    await fill(a)
    await a.do(CreateBackup(name="before"))
    before = await a.commit()
    deleted = await a.do(DeleteVectorstore(documents=3))
    for instance in pair:
        receipt = await instance.do(LastDeletion())
        assert (receipt["user_id"], receipt["commit"], receipt["documents"]) == (USER, before + 1, 3)
        assert receipt["objects"] == deleted["deleted"] > before and receipt["backups"] == 1
        assert receipt["deleted_at_ms"] <= receipt["verified_empty_at_ms"] and receipt["bytes"] > 1000
    left = [info for info in await a.bucket.list_objects(f"users/{USER}/", limit=1000) if info.size != 16]
    assert [info.key.rpartition("/")[2][-5:] for info in left][1:] == ["floor"] and len(left) == 2
    await b.do(CreateCollection(name="notes"))
    assert (await a.do(LastDeletion())) == receipt
    # What a writer that slept puts there later goes with the next deletion, whoever asks for it.
    await a.do(DeleteVectorstore())
    await a.bucket.put(f"users/{USER}/vectorstore/tags/late", b"x")
    assert await b.do(DeleteVectorstore()) == {"deleted": 1}
    assert (await b.refusal(DeleteVectorstore())).code == "user-not-found"


async def test_verification_finishes_a_deletion_that_was_cut_short(tmp_path: Path) -> None:
    """An instance died between the tombstone and the rest: the rounds of another one delete what is left."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    async with Instance(tmp_path, bucket, name="a", verify_interval_s=0.0) as a:
        await a.do(CreateCollection(name="notes"))
        await fill(a)
        # The tombstone is created; marks, receipts and graves are put.
        bucket.faults = Faults(before=1.0, operations=frozenset({"put"}))
        assert (await a.refusal(DeleteVectorstore())).code == "outcome-unknown"
    bucket.faults = Faults()
    log = CommitLog(bucket, USER, settings=a.settings)
    assert await log.deletion() is None
    async with Instance(tmp_path, bucket, name="b", verify_interval_s=0.05):
        while (receipt := await log.deletion()) is None or receipt.verified_empty_at_ms is None:
            await asyncio.sleep(0.05)
    assert receipt.objects >= 3


async def test_what_is_kept_of_documents_goes_with_the_user(pair: tuple[Instance, Instance]) -> None:
    """Bytes of replaced documents lie below ``vectorstore/``: they go too, also without a log, and are counted."""
    a, b = pair
    key = f"users/{USER}/vectorstore/kept/7/x"
    await a.bucket.put(key, b"kept")
    assert await b.do(DeleteVectorstore()) == {"deleted": 1}
    assert (await a.do(LastDeletion()))["objects"] == 1
    assert key not in [info.key for info in await a.bucket.list_objects(f"users/{USER}/", limit=9)]
    assert (await b.refusal(DeleteVectorstore())).code == "user-not-found"
