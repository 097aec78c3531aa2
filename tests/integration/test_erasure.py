"""Nothing deleted stays: after an erasure, compaction and garbage removal no object and no export holds it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.everything import damage_of, every_object, keys_with
from tests.support.instances import NOTES, USER, Instance, upsert, vectors
from tests.support.plain_chroma import PlainChroma
from tests.support.schemas import commit_changed
from vectorpool.commands import (
    ChromaAddRecords,
    ChromaCreateCollection,
    ChromaDeleteCollection,
    ChromaDeleteDatabase,
    ChromaDeleteRecords,
    ChromaUpdateRecords,
    ChromaUpsertRecords,
    Command,
    CreateCollection,
    DeleteAvatar,
    DeleteCollection,
    DeleteRecords,
    Evict,
    Flush,
    ForgetDocument,
    GetRecords,
    IngestDocument,
    QueryRecords,
    UpdateRecords,
    UpsertRecords,
    Vectors,
)
from vectorpool.engine.deletions import read_remains
from vectorpool.engine.erasure import erase
from vectorpool.names import CHROMA_DATABASE_FILE, DEFAULT_DATABASE, SIDECAR_FILE
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket

DIMENSION = 8
# Additions until Chroma writes an index, in most tests: some records are in it, and some in the queue.
THRESHOLD = 50
COUNT = 120
SPACE = {"hnsw_sync_threshold": THRESHOLD}
NEVER = 0


def word(number: int, of: str = "notes") -> str:
    """Return what the text of a record begins with, and no other text holds."""
    return f"secret-{of}-{number:04d}-terces"


def rows(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return ``count`` vectors that differ."""
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype("<f4")


def columns(of: str, count: int = COUNT) -> dict[str, Any]:
    """Return the columns of ``count`` records; each text fills some hundred bytes."""
    return {
        "ids": [f"r{n}" for n in range(count)],
        "vectors": Vectors(dimension=DIMENSION, data=rows(count).tobytes()),
        "documents": [f"{word(n, of)} " + f"filler {n} " * 40 for n in range(count)],
        "metadatas": [{"mark": f"meta-{word(n, of)}"} for n in range(count)],
    }


class Native:
    """The native API's commands for what these tests do."""

    async def fill(self, instance: Instance, name: str, avatar_id: str | None = None) -> None:
        await instance.do(CreateCollection(name=name, avatar_id=avatar_id))
        await instance.do(UpsertRecords(collection=name, avatar_id=avatar_id, **columns(name)))

    async def deletions(self, instance: Instance) -> list[Command]:
        return [
            DeleteRecords(collection="notes", ids=["r0", "r1", "r119"]),
            UpdateRecords(collection="notes", ids=["r2"], documents=["new"], metadatas=[{"mark": "new"}]),
            UpsertRecords(
                collection="notes", ids=["r3"], vectors=_one(), documents=["new"], metadatas=[{"mark": "new"}]
            ),
            DeleteCollection(name="dropped"),
            DeleteAvatar(avatar_id="7"),
        ]


class Protocol:
    """The same by Chroma's protocol."""

    async def fill(self, instance: Instance, name: str, avatar_id: str | None = None) -> None:
        database = DEFAULT_DATABASE if avatar_id is None else f"avatar-{avatar_id}"
        configuration = f'{{"hnsw": {{"space": "cosine", "sync_threshold": {THRESHOLD}}}}}'
        create = ChromaCreateCollection(database=database, name=name, configuration=configuration, make_database=True)
        collection_id = (await instance.do(create))["id"]
        await instance.do(ChromaAddRecords(database=database, collection_id=collection_id, **columns(name)))
        if name == "notes":
            self.notes = collection_id

    async def deletions(self, instance: Instance) -> list[Command]:
        of = {"database": DEFAULT_DATABASE, "collection_id": self.notes}
        new: dict[str, Any] = {"documents": ["new"], "metadatas": [{"mark": "new"}]}
        return [
            ChromaDeleteRecords(ids=["r0", "r1", "r119"], **of),
            ChromaUpdateRecords(ids=["r2"], **new, **of),
            ChromaUpsertRecords(ids=["r3"], vectors=_one(), **new, **of),
            ChromaDeleteCollection(database=DEFAULT_DATABASE, name="dropped"),
            ChromaDeleteDatabase(database="avatar-7"),
        ]


def _one() -> Vectors:
    return Vectors(dimension=DIMENSION, data=rows(1, seed=5).tobytes())


DELETED = [*(word(n) for n in (0, 1, 119, 2, 3)), *(word(n, of) for n in range(COUNT) for of in ("dropped", "mine"))]
KEPT = [word(n) for n in range(COUNT) if n not in (0, 1, 119, 2, 3)]


async def answers(instance: Instance) -> Any:
    """Return what readers see of the kept collection."""
    include = ("documents", "metadatas", "embeddings")
    found = [await instance.do(GetRecords(collection="notes", include=include, limit=1000))]
    for text in ("secret-notes-0050", "new", "filler 77 ", "terces"):
        found.append(await instance.do(GetRecords(collection="notes", where_document={"$contains": text})))
    queries = Vectors(dimension=DIMENSION, data=rows(10).tobytes())
    nearest = await instance.do(QueryRecords(collection="notes", vectors=queries, n_results=20))
    return [*found, [[r["id"] for r in result] for result in nearest["results"]]]


async def forget_the_past(instance: Instance) -> None:
    """Compact the log and remove its garbage."""
    log = instance.log()
    for _ in range(20):
        if (await log.remove_garbage()).complete:
            return
    raise AssertionError("garbage removal does not end")


@pytest.mark.parametrize("protocol", [Native, Protocol])
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "chroma"])
@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_nothing_deleted_stays(tmp_path: Path, protocol: type[Native], fast: bool, durability: str) -> None:
    """Records, texts, metadata, collections and avatars that were deleted are in no object and in no export."""
    bucket = MemoryBucket()
    options: dict[str, Any] = {"fast_reads": fast, "fast_writes": fast, "durability": durability, "retention_s": 0}
    async with Instance(tmp_path, bucket, **SPACE, **options) as instance:
        speaks = protocol()
        await speaks.fill(instance, "notes")
        await speaks.fill(instance, "dropped")
        await speaks.fill(instance, "mine", "7")
        await instance.do(Flush())
        for command in await speaks.deletions(instance):
            await instance.do(command)
        await instance.do(Flush())
        before = await answers(instance)
        # They are there until an erasure: otherwise this test proves nothing.
        objects = await every_object(bucket)
        assert all(keys_with(objects, text) for text in DELETED)
        await instance.do(Evict())
        newest = (await instance.history())[0]
        assert newest.summary.erased
        assert (newest.summary.added, newest.summary.deleted, newest.summary.migrated) == (0, 0, False)
        assert await answers(instance) == before
        await forget_the_past(instance)

        objects = await every_object(bucket)
        assert {text: keys_with(objects, text) for text in DELETED if keys_with(objects, text)} == {}
        assert all(keys_with(objects, text) for text in KEPT)
        await instance.log().export(tmp_path / "export")
        files = {str(path): path.read_bytes() for path in (tmp_path / "export").rglob("*") if path.is_file()}
        assert {text: keys_with(files, text) for text in DELETED if keys_with(files, text)} == {}
        # The same once more, from its answers and its files: only the index of what is left, and a sound database.
        assert len([path for path in (tmp_path / "export").iterdir() if path.is_dir()]) == 1
        assert damage_of(tmp_path / "export") == []
        with closing(sqlite3.connect(tmp_path / "export" / CHROMA_DATABASE_FILE)) as db:
            assert db.execute("PRAGMA freelist_count").fetchone() == (0,)
        async with Instance(tmp_path, bucket, name="b", **SPACE, **options) as other:
            assert await answers(other) == before


@pytest.mark.parametrize("count", [20, 49, 130])
async def test_chroma_goes_on_after_an_erasure(tmp_path: Path, count: int) -> None:
    """Records that wait in the queue are found, written to the index and deleted as before; plain Chroma reads them."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, exact_bytes=0, **SPACE) as instance:
        await instance.do(NOTES)
        await instance.do(UpsertRecords(collection="notes", **columns("notes", count)))
        await instance.do(DeleteRecords(collection="notes", ids=["r1"]))
        await instance.do(Evict())
        assert (await instance.history())[0].summary.erased
        queries = Vectors(dimension=DIMENSION, data=rows(count).tobytes())

        async def nearest() -> list[str]:
            found = await instance.do(QueryRecords(collection="notes", vectors=queries, n_results=1))
            return [result[0]["id"] for result in found["results"]]

        expected = [f"r{n}" for n in range(count)]
        found = await nearest()
        assert [a for a, b in zip(found, expected, strict=True) if a != b] == [found[1]]
        await instance.log().export(tmp_path / "export")
        plain = PlainChroma(tmp_path / "export")
        info = plain.collection("notes")
        assert [r.ids[0] for r in plain.query(info, rows(count), 1)] == found
        assert plain.count(info) == count - 1
        plain.close()
        # Across the threshold, where the queue is written to the index and removed.
        more = columns("more", 2 * THRESHOLD) | {"ids": [f"m{n}" for n in range(2 * THRESHOLD)]}
        more["vectors"] = Vectors(dimension=DIMENSION, data=rows(2 * THRESHOLD, seed=9).tobytes())
        await instance.do(UpsertRecords(collection="notes", **more))
        await instance.do(DeleteRecords(collection="notes", ids=["r2"]))
        await instance.do(Evict())
        assert {"r1", "r2"} & set(await instance.records()) == set()
        assert len(await instance.records()) == count - 2 + 2 * THRESHOLD
        found = await nearest()
        assert [a for a, b in zip(found, expected, strict=True) if a != b] == found[1:3]


@pytest.mark.parametrize("protocol", [Native, Protocol])
async def test_cycles_do_not_grow(tmp_path: Path, protocol: type[Native]) -> None:
    """Create, add, drop: the commit of the drop has no index folder of it, and the state stays as large as before."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, **SPACE) as instance:
        await instance.do(CreateCollection(name="other"))
        sizes = []
        for _ in range(4):
            await protocol().fill(instance, "dropped")
            await instance.do(DeleteCollection(name="dropped"))
            (directory,) = instance.working_directories()
            assert [path.name for path in directory.iterdir() if path.is_dir()] == []
            await instance.do(Evict())
            newest = (await instance.history())[0]
            assert newest.summary.erased
            sizes.append(newest.state_bytes)
        assert len(set(sizes)) == 1
        # An erased state is about as small as one that never held anything.
        assert sizes[0] < 400_000


async def test_additions_alone_need_no_erasure(tmp_path: Path) -> None:
    """New collections and records, also through Chroma, and reads leave nothing behind: no commit is made for that."""
    async with Instance(tmp_path, MemoryBucket(), **SPACE) as instance:
        await instance.do(NOTES)
        await instance.do(UpsertRecords(collection="notes", **columns("notes")))
        await instance.do(upsert("x", collection="notes", vectors=_one()))
        await instance.do(Evict())
        await instance.records()
        await instance.do(upsert("y", collection="notes", vectors=_one()))
        await instance.do(Evict())
        assert not any(entry.summary.erased for entry in await instance.history())


async def test_an_erasure_happens_once(tmp_path: Path) -> None:
    """What was erased is not erased again, here or elsewhere, and the next deletion is."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", "c"))
        for number, name in enumerate("ab", 1):
            await instance.do(DeleteRecords(collection="notes", ids=[name]))
            for _ in range(2):
                await instance.do(Evict())
                await instance.records()
            assert sum(entry.summary.erased for entry in await instance.history()) == number
    async with Instance(tmp_path, bucket, name="b") as other:
        await other.do(upsert("d"))
        await other.do(Evict())
        assert sum(entry.summary.erased for entry in await other.history()) == 2


async def test_a_deletion_is_remembered_in_the_files(tmp_path: Path) -> None:
    """An instance that ended before the erasure leaves it to the next one that is written to; reads make no commit."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        await instance.do(DeleteRecords(collection="notes", ids=["a"]))
    async with Instance(tmp_path, bucket, name="b") as other:
        await other.records()
        await other.do(Evict())
        assert not any(entry.summary.erased for entry in await other.history())
        await other.do(upsert("c"))
        await other.do(Evict())
        assert (await other.history())[0].summary.erased
        assert not keys_with(await _newest(other, tmp_path / "export"), "text of a")


async def _newest(instance: Instance, directory: Path) -> dict[str, bytes]:
    await instance.log().export(directory)
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


async def test_erasure_can_be_switched_off(tmp_path: Path) -> None:
    """With ``erase_after_s`` 0 nothing is erased."""
    async with Instance(tmp_path, MemoryBucket(), erase_after_s=NEVER) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        await instance.do(DeleteRecords(collection="notes", ids=["a"]))
        await instance.do(Evict())
        assert not any(entry.summary.erased for entry in await instance.history())


@pytest.mark.parametrize(
    "options", [{"erase_after_s": 0.01}, {"idle_timeout_s": 1.0}], ids=["after a time", "before it is closed"]
)
async def test_an_erasure_needs_no_request(tmp_path: Path, options: dict[str, float]) -> None:
    """It follows a deletion by itself: after the time, or when the vectorstore is not in use; reads go on meanwhile."""
    async with Instance(tmp_path, MemoryBucket(), **options) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        await instance.do(DeleteRecords(collection="notes", ids=["a"]))
        for _ in range(200):
            await asyncio.sleep(0.05)
            if "erase_after_s" in options:
                assert set(await instance.records()) == {"b"}
            if any(entry.summary.erased for entry in await instance.log().entries(limit=5)):
                break
        else:
            raise AssertionError("nothing was erased")
        assert set(await instance.records()) == {"b"}
        await instance.do(upsert("c"))
        assert (await instance.history())[0].summary.added == 1


async def test_an_erasure_that_fails_changes_nothing(tmp_path: Path) -> None:
    """The store refuses: the vectorstore is closed all the same, and erased after the next write."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        await instance.do(DeleteRecords(collection="notes", ids=["a"]))
        at = await instance.commit()
        bucket.faults = Faults(denied=1, operations=frozenset({"create"}))
        await instance.do(Evict())
        bucket.faults = Faults()
        assert (await instance.residency())["state"] == "cold"
        assert set(await instance.records()) == {"b"}
        assert await instance.commit() == at
        await instance.do(upsert("c"))
        await instance.do(Evict())
        assert (await instance.history())[0].summary.erased


async def test_an_erasure_that_loses_its_number_is_made_later(tmp_path: Path) -> None:
    """Two instances erase and write at once: every write is there once, and an erasure follows."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, name="a") as a, Instance(tmp_path, bucket, name="b") as b:
        await a.do(NOTES)
        await a.do(upsert("first", "gone"))
        await a.do(DeleteRecords(collection="notes", ids=["gone"]))
        for turn in range(5):
            await asyncio.gather(a.do(Evict()), b.do(upsert(f"b{turn}")))
            await a.do(upsert(f"a{turn}"))
        await b.do(Evict())
        await a.do(upsert("last"))
        await a.do(Evict())
        expected = {"first", "last", *(f"a{n}" for n in range(5)), *(f"b{n}" for n in range(5))}
        assert set(await a.records()) == set(await b.records()) == expected
        assert sum(entry.summary.erased for entry in await a.history()) >= 1
        assert not keys_with(await _newest(a, tmp_path / "export"), "text of gone")


async def test_what_an_older_chroma_left_is_erased(tmp_path: Path) -> None:
    """Records and folders whose collection plain Chroma deleted are gone from an adopted directory after an erasure."""
    source = tmp_path / "plain"
    source.mkdir()
    chroma = PlainChroma(source)
    for name in ("kept", "dropped"):
        info = chroma.create(name, {"sync_threshold": THRESHOLD})
        data = columns(name)
        chroma.upsert(info, data["ids"], rows(COUNT), data["metadatas"], data["documents"], None)
    chroma.delete_collection("dropped")
    chroma.close()
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, retention_s=0) as instance:
        await instance.log().adopt(source)
        await instance.do(upsert("new", collection="kept", vectors=_one()))
        assert keys_with(await every_object(bucket), word(5, "dropped"))
        await instance.do(Evict())
        assert (await instance.history())[0].summary.erased
        await forget_the_past(instance)
        objects = await every_object(bucket)
        assert not keys_with(objects, "secret-dropped")
        assert keys_with(objects, word(5, "kept"))
        assert len(await instance.records(collection="kept")) == COUNT + 1
        (directory,) = instance.working_directories()
        assert len([path for path in directory.iterdir() if path.is_dir()]) == 1


async def test_an_adopted_export_is_not_believed(tmp_path: Path) -> None:
    """Plain Chroma deletes from an export that says that it was erased: it is erased again once it is adopted."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        await instance.do(DeleteRecords(collection="notes", ids=["a"]))
        await instance.do(Evict())
        await instance.log().export(tmp_path / "export")
    assert read_remains(tmp_path / "export").since_ms is None
    chroma = PlainChroma(tmp_path / "export")
    chroma.delete(chroma.collection("notes"), ["b"])
    chroma.close()
    async with Instance(tmp_path, MemoryBucket(), name="b") as other:
        await other.log().adopt(tmp_path / "export")
        await other.do(upsert("c"))
        await other.do(Evict())
        assert not keys_with(await _newest(other, tmp_path / "again"), "text of b")


async def test_documents_and_the_sidecar_are_erased(tmp_path: Path) -> None:
    """The chunks of a forgotten document are in no file of an export, and its path is not in the sidecar."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        for path in ("secret-path.txt", "kept-path.txt"):
            ingest = IngestDocument(
                avatar_id="7",
                collection="documents",
                path=path,
                etag="e",
                size=3,
                recipe="r",
                ids=[f"{path}#0"],
                vectors=vectors(1),
                documents=[f"text of {path}"],
                metadatas=[{"path": path}],
            )
            await instance.do(ingest)
        await instance.do(ForgetDocument(avatar_id="7", path="secret-path.txt"))
        await instance.do(Evict())
        files = await _newest(instance, tmp_path / "export")
        sidecar = str(tmp_path / "export" / SIDECAR_FILE)
        assert keys_with(files, "text of secret-path") == []
        assert sidecar not in keys_with(files, "secret-path")
        assert sidecar in keys_with(files, "kept-path")


async def test_an_operation_that_waits_is_erased_later(tmp_path: Path) -> None:
    """A deletion that Chroma has queued and not taken in yet counts as made later: the next erasure removes it."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", "c"))
        await instance.do(DeleteRecords(collection="notes", ids=["c"]))

    def queue(directory: Path) -> None:
        with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db, db:
            topic = "SELECT topic FROM embeddings_queue LIMIT 1"
            columns = "operation, topic, id, vector, encoding, metadata"
            db.execute(f"INSERT INTO embeddings_queue ({columns}) VALUES (3, ({topic}), 'a', NULL, NULL, '{{}}')")

    await commit_changed(bucket, USER, instance.settings, tmp_path / "changed", queue)
    assert erase(tmp_path / "changed")
    assert read_remains(tmp_path / "changed").since_ms is not None
    async with Instance(tmp_path, bucket, name="b") as other:
        await other.do(UpdateRecords(collection="notes", ids=["b"], documents=["new"]))
        for _ in range(2):
            await other.do(upsert("d"))
            assert set(await other.records()) == {"b", "d"}
            await other.do(Evict())
        files = await _newest(other, tmp_path / "export")
        assert [text for text in ("text of a", "text of b", "text of c") if keys_with(files, text)] == []
        assert keys_with(files, "text of d")
