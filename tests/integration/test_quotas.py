"""Quotas: what a write would add is refused where it is applied, on both protocols, whatever the state came from."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import chromadb
import pytest

from tests.support.instances import NOTES, USER, HookedBucket, Instance, upsert, vectors
from vectorpool.answers import Answer
from vectorpool.commands import (
    AddRecords,
    ChromaAddRecords,
    ChromaCreateCollection,
    ChromaDeleteDatabase,
    ChromaDeleteRecords,
    ChromaUpsertRecords,
    Command,
    CreateCollection,
    DeleteAvatar,
    DeleteCollection,
    DeleteRecords,
    DescribeVectorstore,
    Evict,
    Flush,
    ForgetDocument,
    Fork,
    GetCollection,
    IngestDocument,
    Restore,
    UpdateRecords,
)
from vectorpool.errors import QuotaExceeded
from vectorpool.limits import Quota
from vectorpool.names import vectorstore_prefix
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore import quota as quotas

RECORDS_5 = Quota(records=5)


class Limited(Instance):
    """An instance whose commands come with a quota."""

    quota: Quota | None = None

    async def answer(self, command: Command, user: str = USER) -> Answer:
        return await self.pool.execute(user, command, quota=self.quota)

    async def exceeds(self, command: Command, name: str, user: str = USER) -> None:
        """Send a command that its quota must refuse, with no effect on what is stored."""
        before = await self.commit(user)
        refused = await self.refusal(command, user)
        assert isinstance(refused, QuotaExceeded), refused
        assert (refused.status, refused.extra["limit_name"]) == (507, name)
        assert refused.extra["count"] > refused.extra["limit"] == getattr(self.quota, name)
        # A cold one is opened for the question.
        assert before in (0, await self.commit(user))


def add(*ids: str) -> AddRecords:
    return AddRecords(collection="notes", ids=list(ids), vectors=vectors(len(ids)))


def ingest(*ids: str, path: str = "a.md", avatar_id: str = "7") -> IngestDocument:
    return IngestDocument(
        avatar_id=avatar_id,
        collection="documents",
        path=path,
        etag="e1",
        size=10,
        recipe="r1",
        ids=list(ids),
        vectors=vectors(len(ids), embedder="model-a"),
        documents=[f"chunk {i}" for i in ids],
        metadatas=[{"path": path} for _ in ids],
    )


@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_records_are_counted_as_they_are(tmp_path: Path, durability: str) -> None:
    """What is there already does not count again; deletions make room; both protocols count alike."""
    async with Limited(tmp_path, MemoryBucket(), durability=durability, write_back_interval_s=3600) as instance:
        await instance.do(NOTES)
        collection = (await instance.do(GetCollection(name="notes")))["id"]
        chroma: dict[str, Any] = {"database": "default_database", "collection_id": collection}
        instance.quota = RECORDS_5
        await instance.do(upsert("a", "b", "c"))
        await instance.do(upsert("a", "b", "c", "d", "e"))
        await instance.exceeds(upsert("f"), "records")
        await instance.exceeds(add("f", "g"), "records")
        for kind in (ChromaAddRecords, ChromaUpsertRecords):
            await instance.exceeds(kind(**chroma, ids=["e", "f"], vectors=vectors(2)), "records")
            await instance.do(kind(**chroma, ids=["d", "e", "e"], vectors=vectors(3)))
        update = UpdateRecords(collection="notes", ids=["a"], documents=["other"])
        await instance.do(update)
        await instance.do(DeleteRecords(collection="notes", ids=["a", "not-there"]))
        await instance.do(upsert("f"))
        await instance.exceeds(upsert("g"), "records")
        await instance.do(ChromaDeleteRecords(**chroma, ids=["b", "not-there"]))
        await instance.do(ChromaDeleteRecords(**chroma, where_document='{"$contains": "of c"}'))
        await instance.do(upsert("g", "h"))
        await instance.exceeds(upsert("i"), "records")
        assert len(await instance.records()) == 5
        await instance.do(Flush())
        await instance.do(Evict())
        assert len(await instance.records()) == 5


async def test_collections_are_counted_in_all_databases(tmp_path: Path) -> None:
    """Those of avatars and of Chroma's own databases together; what is there may be asked for again."""
    async with Limited(tmp_path, MemoryBucket()) as instance:
        instance.quota = Quota(collections=3)
        chroma = ChromaCreateCollection(database="other", name="theirs", make_database=True)
        await instance.do(NOTES)
        await instance.do(CreateCollection(avatar_id="7", name="notes"))
        await instance.do(chroma)
        await instance.exceeds(CreateCollection(avatar_id="8", name="more"), "collections")
        more = ChromaCreateCollection(database="new", name="more", make_database=True, get_or_create=True)
        await instance.exceeds(more, "collections")
        await instance.exceeds(ingest("x", avatar_id="9"), "collections")
        await instance.do(CreateCollection(name="notes", get_or_create=True))
        await instance.do(ChromaCreateCollection(database="other", name="theirs", get_or_create=True))
        await instance.do(DeleteCollection(name="notes"))
        await instance.do(NOTES)
        await instance.do(ChromaDeleteDatabase(database="other"))
        await instance.do(DeleteAvatar(avatar_id="7"))
        await instance.do(more)
        await instance.do(ingest("x", avatar_id="9"))
        await instance.exceeds(CreateCollection(name="last"), "collections")


async def test_documents_and_their_records_are_asked_for_at_once(tmp_path: Path) -> None:
    """A document that does not fit changes nothing, and costs no rebuild; replacing one frees what it had."""
    async with Limited(tmp_path, MemoryBucket()) as instance:
        instance.quota = Quota(documents=2, records=4)
        await instance.do(ingest("a1", "a2"))
        directory = instance.working_directories()
        await instance.exceeds(ingest("b1", "b2", "b3", path="b.md"), "records")
        await instance.do(ingest("a3", "a4", "a5", "a6"))
        assert set(await instance.records(collection="documents", avatar_id="7")) == {"a3", "a4", "a5", "a6"}
        await instance.exceeds(ingest("a3", "a4", "a5", "a6", "a7"), "records")
        await instance.do(ingest("a3"))
        await instance.do(ingest("b1", path="b.md"))
        await instance.exceeds(ingest("c1", path="c.md"), "documents")
        await instance.exceeds(ingest(path="empty.md"), "documents")
        await instance.do(ForgetDocument(avatar_id="7", path="a.md"))
        await instance.do(ingest("c1", path="c.md"))
        await instance.do(DeleteCollection(avatar_id="7", name="documents"))
        await instance.do(ingest("d1", path="d.md"))
        await instance.do(ingest("e1", path="e.md"))
        await instance.exceeds(ingest("f1", path="f.md"), "documents")
        assert instance.working_directories() == directory


async def test_bytes_are_those_of_the_files_and_what_was_written_since(tmp_path: Path) -> None:
    """Writes end near the limit, deletions go on beyond it, and a deleted collection makes room."""
    options = {"durability": "write-back", "write_back_interval_s": 3600.0, "hnsw_sync_threshold": 100}
    async with Limited(tmp_path, MemoryBucket(), **options) as instance:
        await instance.do(NOTES)
        await instance.do(Flush())
        empty = (await instance.do(DescribeVectorstore()))["live_bytes"]
        instance.quota = Quota(bytes_stored=empty + 200_000)
        written = 0
        while written < 100:
            ids = [f"{written}-{n}" for n in range(20)]
            try:
                await instance.answer(upsert(*ids, vectors=vectors(20, 256)))
            except QuotaExceeded as refused:
                assert refused.extra["limit_name"] == "bytes_stored"
                break
            written += 1
        # 20 vectors of 256 numbers are 20 KiB.
        assert 3 <= written <= 10
        await instance.do(Flush())
        await instance.exceeds(upsert("x", vectors=vectors(1, 256), documents=["x" * 200_000]), "bytes_stored")
        await instance.do(DeleteRecords(collection="notes", ids=["0-0"]))
        await instance.do(DeleteCollection(name="notes"))
        await instance.do(Flush())
        await instance.do(NOTES)
        await instance.do(upsert("x", vectors=vectors(1, 256)))


async def test_a_store_over_its_new_limit_is_read_and_emptied(tmp_path: Path) -> None:
    """A lower limit refuses additions only; what it takes away comes back under it."""
    async with Limited(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", "c", "d"))
        await instance.do(ingest("x1", "x2"))
        instance.quota = Quota(0, 0, 0, 0)
        for command in (upsert("a"), add("z"), CreateCollection(name="more"), ingest("y1", path="y.md")):
            assert isinstance(await instance.refusal(command), QuotaExceeded)
        assert len(await instance.records()) == 4
        await instance.do(DeleteRecords(collection="notes", ids=["a"]))
        await instance.do(ForgetDocument(avatar_id="7", path="a.md"))
        await instance.do(DeleteCollection(name="notes"))
        await instance.do(DeleteAvatar(avatar_id="7"))
        instance.quota = Quota(1, 1, 0)
        await instance.do(NOTES)
        await instance.do(add("z"))
        await instance.exceeds(add("y"), "records")


async def test_counts_are_right_after_restore_fork_and_adoption(tmp_path: Path) -> None:
    """Each state is counted from its files, cold and warm: the fourth record of three is allowed, the sixth never."""
    bucket = MemoryBucket()
    async with Limited(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", "c"))
        three = await instance.commit()
        instance.quota = RECORDS_5
        await instance.do(upsert("d", "e"))
        await instance.exceeds(upsert("f"), "records")
        await instance.do(Restore(commit=three))
        await instance.do(upsert("d"))
        await instance.do(upsert("e"))
        await instance.exceeds(upsert("f"), "records")
        await instance.do(Restore(commit=three))
        await instance.do(Evict())
        await instance.do(Fork(target_user_id="forked"))
        for user in (USER, "forked"):
            await instance.exceeds(upsert("x", "y", "z"), "records", user)
            await instance.do(upsert("x", "y"), user)
            await instance.exceeds(upsert("z"), "records", user)
        plain = tmp_path / "plain"
        client = chromadb.PersistentClient(plain)
        client.create_collection("notes").add(ids=["a", "b", "c"], embeddings=[[1.0, 2.0]] * 3)
        for path in sorted(path for path in plain.rglob("*") if path.is_file()):
            key = vectorstore_prefix("adopted") + path.relative_to(plain).as_posix()
            await bucket.put(key, path.read_bytes())
        await instance.exceeds(upsert("x", "y", "z", vectors=vectors(3, 2)), "records", "adopted")
        await instance.do(upsert("x", "y", vectors=vectors(2, 2)), "adopted")
        await instance.exceeds(upsert("z", vectors=vectors(1, 2)), "records", "adopted")


async def test_two_instances_race_and_do_not_exceed(tmp_path: Path) -> None:
    """Under write-through the loser of a race is checked on the winner's state, so the limit holds exactly."""
    bucket = HookedBucket(MemoryBucket())
    async with Limited(tmp_path, bucket, name="a") as one, Limited(tmp_path, bucket, name="b") as two:
        await one.do(NOTES)
        await one.do(upsert("a", "b", "c"))
        one.quota = two.quota = RECORDS_5
        assert len(await two.records()) == 3

        async def first() -> None:
            await two.do(upsert("d", "e"))

        bucket.before_create = first
        refused = await one.refusal(upsert("x", "y"))
        assert isinstance(refused, QuotaExceeded) and refused.extra["stored"] == 5
        assert set(await one.records()) == set(await two.records()) == {"a", "b", "c", "d", "e"}
        results = await asyncio.gather(
            *(instance.answer(upsert("a")) for instance in (one, two) for _ in range(5)), return_exceptions=True
        )
        assert not [error for error in results if isinstance(error, BaseException)]


async def test_acknowledged_writes_are_never_refused_again(tmp_path: Path) -> None:
    """Under write-back two instances acknowledge beyond the limit together: both are kept, and more is refused."""
    bucket = MemoryBucket()
    options = {"durability": "write-back", "write_back_interval_s": 3600.0}
    async with (
        Limited(tmp_path, bucket, name="a", **options) as one,
        Limited(tmp_path, bucket, name="b", **options) as two,
    ):
        await one.do(NOTES)
        await one.do(upsert("a", "b", "c"))
        await one.do(Flush())
        assert len(await two.records()) == 3
        one.quota = two.quota = RECORDS_5
        await one.do(upsert("d", "e"))
        await two.do(upsert("x", "y"))
        await one.do(Flush())
        await two.do(Flush())
        assert set(await two.records()) == {"a", "b", "c", "d", "e", "x", "y"}
        assert isinstance(await two.refusal(upsert("z")), QuotaExceeded)
        await two.do(DeleteRecords(collection="notes", ids=["a", "b", "c"]))
        await two.do(upsert("z"))
        assert isinstance(await two.refusal(upsert("q")), QuotaExceeded)


async def test_a_write_is_not_a_count_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored is counted once for an open replica, not for each write."""
    counted = []
    real = quotas.Counter._count

    def counting(self: Any, info: Any) -> int:
        counted.append(info.name)
        return real(self, info)

    monkeypatch.setattr(quotas.Counter, "_count", counting)
    async with Limited(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("warm"))
        assert counted == []
        instance.quota = Quota(records=1000)
        for number in range(20):
            await instance.do(upsert(f"r{number}"))
            await instance.do(DeleteRecords(collection="notes", ids=[f"r{number}"]))
        assert counted == ["notes"]
        instance.quota = Quota(records=1)
        for number in range(5):
            await instance.exceeds(upsert(f"r{number}"), "records")
        assert counted == ["notes"]
        instance.quota = None
        await instance.do(upsert("free"))
        instance.quota = Quota(records=2)
        await instance.exceeds(upsert("r"), "records")
        assert counted == ["notes", "notes"]
