"""Ids of collections stay as they were told, though the command that made one is applied again elsewhere."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import Instance
from vectorpool.commands import (
    ChromaAddRecords,
    ChromaCountRecords,
    ChromaCreateCollection,
    ChromaDeleteCollection,
    ChromaGetCollection,
    ChromaGetRecords,
    ChromaQueryRecords,
    CreateCollection,
    Evict,
    Flush,
    GetCollection,
    IngestDocument,
    ListIngested,
    Vectors,
    Write,
)
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.outcomes import ORIGIN
from vectorpool.engine import collection_ids
from vectorpool.errors import BrokenReplica, ChromaRefusal
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.vectorstore.collection_ids import give_id
from vectorpool.vectorstore.effect import HalfApplied
from vectorpool.vectorstore.replica import Replica

KNOWN = "0f0e0d0c-0b0a-4908-8706-050403020100"
DIMENSION = 8
THRESHOLD = 100
WRITE_BACK = {"durability": "write-back", "write_back_interval_s": 3600}


def _rows(ids: range) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors of which each is nearest to itself."""
    return np.stack([np.random.default_rng(number).random(DIMENSION, np.float32) - 0.5 for number in ids])


def _vectors(ids: range) -> Vectors:
    return Vectors(data=_rows(ids).tobytes(), dimension=DIMENSION)


def _create(name: str, *, get_or_create: bool = False) -> ChromaCreateCollection:
    configuration = json.dumps({"hnsw": {"sync_threshold": THRESHOLD}})
    return ChromaCreateCollection(
        database=DEFAULT_DATABASE,
        name=name,
        metadata={"of": name},
        configuration=configuration,
        get_or_create=get_or_create,
    )


def _add(collection_id: str, ids: range) -> ChromaAddRecords:
    return ChromaAddRecords(
        database=DEFAULT_DATABASE,
        collection_id=collection_id,
        ids=[f"r{number}" for number in ids],
        vectors=_vectors(ids),
        documents=[f"text {number}" for number in ids],
        metadatas=[{"number": number} for number in ids],
    )


def _ingest(path: str, ids: range) -> IngestDocument:
    return IngestDocument(
        avatar_id="7",
        collection="documents",
        path=path,
        etag="e1",
        size=10,
        recipe="r1",
        ids=[f"r{number}" for number in ids],
        vectors=Vectors(data=_rows(ids).tobytes(), dimension=DIMENSION, embedder="model-a"),
        documents=[f"text {number}" for number in ids],
        metadatas=[{"number": number} for number in ids],
    )


async def _assert_holds(instance: Instance, collection_id: str, count: int, database: str = DEFAULT_DATABASE) -> None:
    """A collection answers under its id: counts, gets by filter, and finds each record nearest to itself."""
    place = {"database": database, "collection_id": collection_id}
    assert await instance.do(ChromaCountRecords(**place)) == count
    got = await instance.do(ChromaGetRecords(**place, where=json.dumps({"number": {"$gte": count - 5}})))
    assert got["documents"] == [f"text {number}" for number in range(count - 5, count)]
    some = range(0, count, 7)
    found = await instance.do(ChromaQueryRecords(**place, vectors=_vectors(some), n_results=1))
    assert [ids[0] for ids in found["ids"]] == [f"r{number}" for number in some]


# --- Through instances -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [30, 3 * THRESHOLD + 30], ids=["queued", "indexed"])
async def test_a_collection_keeps_its_acknowledged_id_through_a_lost_race(tmp_path: Path, count: int) -> None:
    """The id that a client was told under write-back names the collection with its records wherever it is opened."""
    bucket = MemoryBucket()
    async with (
        Instance(tmp_path, bucket) as other,
        Instance(tmp_path, bucket, name="b", hnsw_sync_threshold=THRESHOLD, **WRITE_BACK) as instance,
    ):
        # Open here before the other commits, so that what follows is applied to a state that is not the newest.
        told = (await instance.do(_create("ours")))["id"]
        native = (await instance.do(CreateCollection(name="native")))["id"]
        await instance.do(_add(told, range(count)))
        await instance.do(_ingest("a.md", range(count)))
        ingested = (await instance.do(GetCollection(avatar_id="7", name="documents")))["id"]
        theirs = (await other.do(CreateCollection(name="theirs")))["id"]
        await instance.do(Flush())
        assert (await instance.history())[1].summary.collections == ("theirs",), "there was no race to lose"
        for each in (instance, other):
            await _assert_holds(each, told, count)
            await _assert_holds(each, ingested, count, "avatar-7")
            assert (await each.do(ChromaGetCollection(database=DEFAULT_DATABASE, name="ours")))["id"] == told
            assert (await each.do(GetCollection(name="native")))["id"] == native
            assert (await each.do(GetCollection(name="theirs")))["id"] == theirs
            assert (await each.do(GetCollection(avatar_id="7", name="documents")))["id"] == ingested
            (document,) = (await each.do(ListIngested(avatar_id="7")))["documents"]
            assert (document["collection"], document["embedder"]) == ("documents", "model-a")
        await other.do(_add(told, range(count, count + THRESHOLD)))
        await instance.do(Evict())
        await _assert_holds(instance, told, count + THRESHOLD)


async def test_an_id_stays_through_many_lost_races(tmp_path: Path) -> None:
    """However often a command is applied again, its collection has the id that was told the first time."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as other, Instance(tmp_path, bucket, name="b", **WRITE_BACK) as instance:
        told = (await instance.do(_create("ours")))["id"]
        for number in range(3):
            await other.do(CreateCollection(name=f"theirs-{number}"))
            # A strong read builds the replica anew, and applies again what was not committed.
            assert (await instance.do(GetCollection(name="ours")))["id"] == told
            await instance.do(_add(told, range(number * 10, number * 10 + 10)))
        await instance.do(Flush())
        await _assert_holds(other, told, 30)


async def test_a_name_that_was_taken_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    """The collection that was committed first keeps its id and its records; the other one's id names nothing."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as other, Instance(tmp_path, bucket, name="b", **WRITE_BACK) as instance:
        told = (await instance.do(_create("ours")))["id"]
        theirs = (await other.do(_create("ours")))["id"]
        await other.do(_add(theirs, range(20)))
        await instance.do(Flush())
        for each in (instance, other):
            await _assert_holds(each, theirs, 20)
            refused = await each.refusal(ChromaCountRecords(database=DEFAULT_DATABASE, collection_id=told))
            assert isinstance(refused, ChromaRefusal)


async def test_records_under_the_id_that_lost_are_in_the_collection_that_won(tmp_path: Path) -> None:
    """Two instances get or create one name at once: both ids that were told name one collection with all records."""
    bucket = MemoryBucket()
    async with (
        Instance(tmp_path, bucket, **WRITE_BACK) as first,
        Instance(tmp_path, bucket, name="b", **WRITE_BACK) as second,
        Instance(tmp_path, bucket, name="c") as third,
    ):
        won = (await first.do(_create("ours", get_or_create=True)))["id"]
        lost = (await second.do(_create("ours", get_or_create=True)))["id"]
        assert won != lost
        await first.do(_add(won, range(20)))
        await second.do(_add(lost, range(20, 40)))
        await first.do(Flush())
        await second.do(Flush())
        for told in (won, lost):
            for each in (first, second, third):
                await _assert_holds(each, told, 40)
                place = {"database": DEFAULT_DATABASE, "collection_id": told}
                assert (await each.do(ChromaGetCollection(**place)))["id"] == won
            # A cold start learns it from the log.
            await second.do(Evict())
            await _assert_holds(second, told, 40)
        await third.do(_add(lost, range(40, 60)))
        await _assert_holds(first, won, 60)


async def test_an_alias_goes_with_its_collection(tmp_path: Path) -> None:
    """Once the collection is deleted the lost id names nothing, also not a new collection of the name."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as first, Instance(tmp_path, bucket, name="b", **WRITE_BACK) as second:
        lost = (await second.do(_create("ours", get_or_create=True)))["id"]
        await first.do(_create("ours", get_or_create=True))
        # Nothing else was written under it: that it was told is enough.
        await second.do(Flush())
        assert await first.do(ChromaCountRecords(database=DEFAULT_DATABASE, collection_id=lost)) == 0
        await first.do(ChromaDeleteCollection(database=DEFAULT_DATABASE, name="ours"))
        await first.do(_create("ours"))
        for each in (first, second):
            refused = await each.refusal(ChromaCountRecords(database=DEFAULT_DATABASE, collection_id=lost))
            assert isinstance(refused, ChromaRefusal)


# --- One replica -------------------------------------------------------------------------------------


def _replica(directory: Path) -> Replica:
    directory.mkdir(exist_ok=True)
    return Replica("42", directory, ORIGIN, Image({}), Settings())


@pytest.mark.parametrize("command", [_create("notes"), CreateCollection(name="notes"), _ingest("a.md", range(5))])
def test_an_answer_names_the_id_that_the_collection_was_given(tmp_path: Path, command: Write) -> None:
    """A command that is applied again answers with the id that was told, and remembers it."""
    first, second = _replica(tmp_path / "first"), _replica(tmp_path / "second")
    body, effect = first.write(command)
    assert effect.made is not None
    again, same = second.write(command, effect.made)
    assert (json.loads(again), same.made) == (json.loads(body), effect.made)
    first.discard()
    second.discard()


def test_nothing_is_made_where_the_collection_is_there(tmp_path: Path) -> None:
    """``get_or_create`` leaves the id of a collection that is there; another one that was told becomes its alias."""
    replica = _replica(tmp_path / "replica")
    _, made = replica.write(CreateCollection(name="notes"))
    body, effect = replica.write(CreateCollection(name="notes", get_or_create=True), KNOWN)
    assert json.loads(body)["id"] == made.made != KNOWN
    assert effect.touched is True, "the alias would not be committed"
    place = {"database": DEFAULT_DATABASE, "collection_id": KNOWN}
    assert json.loads(replica.read(ChromaGetCollection(**place)))["id"] == made.made
    _, effect = replica.write(CreateCollection(name="notes", get_or_create=True))
    assert effect.touched is False
    replica.discard()


def test_an_id_that_is_taken_breaks_the_replica_and_not_the_other_collection(tmp_path: Path) -> None:
    """Two collections of one id cannot be: the command counts as applied by half, and the replica is of no use."""
    replica = _replica(tmp_path / "replica")
    _, effect = replica.write(CreateCollection(name="notes"))
    with pytest.raises(HalfApplied) as raised:
        replica.write(CreateCollection(name="others"), effect.made)
    assert isinstance(raised.value.cause, BrokenReplica)
    replica.discard()
    assert not replica.directory.exists()


def test_the_old_id_stands_nowhere_any_more(tmp_path: Path) -> None:
    """After the rewrite no column of any table holds the old id, and other collections are as they were."""
    replica = _replica(tmp_path / "replica")
    _, other = replica.write(_create("others"))
    _, effect = replica.write(_ingest("a.md", range(120)))
    assert effect.made is not None and other.made is not None
    replica.write(_add(other.made, range(120)))
    replica.close()
    give_id(replica.directory, effect.made, KNOWN)
    assert _places(replica.directory, effect.made) == set()
    expected = {("collections", "id"), ("segments", "collection"), ("embeddings_queue", "topic")}
    sidecar = {("collection", "id"), ("document", "collection_id")}
    assert _places(replica.directory, KNOWN) == expected | sidecar
    assert _places(replica.directory, other.made) == expected | {("collection_metadata", "collection_id")}


def _places(directory: Path, text: str) -> set[tuple[str, str]]:
    """Return (table, column) of all that contain a text, in every SQLite file of a directory."""
    found = set()
    for path in (path for path in directory.iterdir() if path.is_file()):
        with closing(sqlite3.connect(path)) as db:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                for _, column, *_ in db.execute(f'PRAGMA table_info("{table}")').fetchall():
                    query = f'SELECT 1 FROM "{table}" WHERE instr(CAST("{column}" AS BLOB), CAST(? AS BLOB)) LIMIT 1'
                    if db.execute(query, (text,)).fetchone():
                        found.add((table, column))
    return found


def test_files_that_are_still_open_are_not_edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Chroma holds the files of a directory, its ids are not rewritten beside it: that is refused."""
    monkeypatch.setattr(collection_ids, "_CLOSE_WITHIN_S", 0.05)
    replica = _replica(tmp_path / "replica")
    _, effect = replica.write(CreateCollection(name="notes"))
    assert effect.made is not None
    with pytest.raises(BrokenReplica):
        give_id(replica.directory, effect.made, KNOWN)
    assert _places(replica.directory, KNOWN) == set()
    replica.discard()
