"""Texts with a NUL that are stored already: a commit of its own mends them, and the full-text index is right again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.everything import damage_of
from tests.support.instances import NOTES, USER, Instance, upsert
from tests.support.plain_chroma import PlainChroma
from tests.support.schemas import commit_changed
from vectorpool.commands import (
    ChromaGetRecords,
    ChromaListCollections,
    CountRecords,
    DeleteRecords,
    GetRecords,
    UpdateRecords,
)
from vectorpool.engine.collection_ids import wait_until_closed
from vectorpool.engine.salvage import salvage
from vectorpool.names import CHROMA_DATABASE_FILE, DEFAULT_DATABASE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore.template import Template

TEXT = "before\0after it there is more"
MENDED = "before\ufffdafter it there is more"
SIZE = 4


def add_nul(directory: Path, *, collection: str = "notes") -> None:
    """Write a text with a NUL as plain Chroma does, and take the mark that this version left."""
    chroma = PlainChroma(directory)
    vectors = np.ones((2, SIZE), np.float32)
    chroma.upsert(chroma.collection(collection), ["nul", "plain"], vectors, None, [TEXT, "a plain text"], None)
    chroma.close()
    wait_until_closed(directory)
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db, db:
        db.execute("PRAGMA user_version = 0")


def indexed(directory: Path, text: str) -> int:
    """Return how many texts SQLite's full-text index of a closed directory has with ``text``."""
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db:
        sql = "SELECT count(*) FROM embedding_fulltext_search WHERE embedding_fulltext_search MATCH ?"
        return int(db.execute(sql, (f'"{text}"',)).fetchone()[0])


async def found(instance: Instance, text: str) -> list[str]:
    """Return the ids of the records with a text, by both protocols, which agree."""
    native = await instance.do(GetRecords(collection="notes", where_document={"$contains": text}))
    ids = [record["id"] for record in native["records"]]
    listed = await instance.do(ChromaListCollections(database=DEFAULT_DATABASE))
    (collection_id,) = [collection["id"] for collection in listed if collection["name"] == "notes"]
    where = f'{{"$contains": "{text}"}}'
    of: dict[str, Any] = {"database": DEFAULT_DATABASE, "collection_id": collection_id, "where_document": where}
    assert (await instance.do(ChromaGetRecords(**of)))["ids"] == ids
    return ids


async def older_log(tmp_path: Path) -> MemoryBucket:
    """Return a bucket whose newest commit was made by a version that let a NUL in."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, name="old") as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
    await commit_changed(bucket, USER, instance.settings, tmp_path / "changed", add_nul)
    return bucket


async def adopted(tmp_path: Path) -> MemoryBucket:
    """Return a bucket with an adopted directory."""
    source = tmp_path / "plain"
    source.mkdir()
    chroma = PlainChroma(source)
    chroma.upsert(chroma.create("notes"), ["a"], np.ones((1, SIZE), np.float32), None, ["text of a"], None)
    chroma.close()
    add_nul(source)
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, name="old") as instance:
        await instance.log().adopt(source)
    return bucket


@pytest.mark.parametrize("made", [older_log, adopted])
@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_a_stored_nul_is_mended_in_a_commit_of_its_own(made: Any, durability: str, tmp_path: Path) -> None:
    """Reads find text after the NUL and commit nothing; the first write comes after a commit that mends."""
    bucket = await made(tmp_path)
    async with Instance(tmp_path, bucket, name="a", durability=durability) as instance:
        at = (await instance.history())[0].seq
        await instance.log().export(tmp_path / "export before")
        assert indexed(tmp_path / "export before", "after it") == 0
        assert await found(instance, "after it") == ["nul"]
        assert await instance.commit() == at
        assert len(await instance.history()) == at
        await instance.do(upsert("b"))
    async with Instance(tmp_path, bucket, name="b") as instance:
        write, mending, *_ = await instance.history()
        assert (write.summary.migrated, write.summary.added) == (False, 1)
        assert (mending.summary.migrated, mending.summary.added, mending.seq) == (True, 0, at + 1)
        records = await instance.records()
        assert {key: text for key, (text, _) in records.items()} == {
            "a": "text of a",
            "b": "text of b",
            "nul": MENDED,
            "plain": "a plain text",
        }
        assert await found(instance, "after it") == await found(instance, "before") == ["nul"]
        await instance.log().export(tmp_path / "export")
        assert damage_of(tmp_path / "export") == []
        assert indexed(tmp_path / "export", "after it") == 1
        # The index knows what it holds: updates and deletions leave it whole.
        await instance.do(UpdateRecords(collection="notes", ids=["nul"], documents=["no more of it"]))
        assert await found(instance, "after it") == []
        await instance.do(DeleteRecords(collection="notes", ids=["nul", "plain"]))
        assert await instance.do(CountRecords(collection="notes")) == {"count": 2}
        await instance.log().export(tmp_path / "export after")
        assert damage_of(tmp_path / "export after") == []
        assert sum(entry.summary.migrated for entry in await instance.history()) == 1


async def test_a_state_without_a_nul_is_left_as_it_is(tmp_path: Path) -> None:
    """Looking for a NUL alone makes no commit."""
    source = tmp_path / "plain"
    source.mkdir()
    chroma = PlainChroma(source)
    chroma.upsert(chroma.create("notes"), ["a"], np.ones((1, SIZE), np.float32), None, ["text of a"], None)
    chroma.close()
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.log().adopt(source)
        await instance.records()
        await instance.do(upsert("b"))
        assert [entry.seq for entry in await instance.history()] == [2, 1]


def test_a_salvage_mends_texts(tmp_path: Path) -> None:
    """What a salvage writes again has no NUL."""
    broken, fresh = tmp_path / "broken", tmp_path / "fresh"
    broken.mkdir()
    chroma = PlainChroma(broken)
    chroma.create("notes")
    chroma.close()
    add_nul(broken)
    fresh.mkdir()
    Template(tmp_path / "template").copy_to(fresh)
    report = salvage(broken, fresh, 0, lambda losses: len(losses))
    assert (report.salvaged, report.lost) == (2, 0)
    wait_until_closed(fresh)
    assert damage_of(fresh) == []
    with closing(sqlite3.connect(fresh / CHROMA_DATABASE_FILE)) as db:
        assert {row[0] for row in db.execute("SELECT c0 FROM embedding_fulltext_search_content")} == {
            MENDED,
            "a plain text",
        }
