"""Exports of collections whose vectors wait in the queue: plain Chroma finds its index written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest

from tests.support.instances import Instance, upsert, vectors
from vectorpool.commands import CreateCollection, DeleteRecords, ExportTo, Hnsw
from vectorpool.commitlog.image import Image, capture
from vectorpool.engine import index_build
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore.exporting import export_directory

COUNT = 1100


async def _load(instance: Instance, hnsw: Hnsw | None = None) -> None:
    """Fill a collection with more records than Chroma lets wait, and delete and replace some."""
    await instance.do(CreateCollection(name="notes", hnsw=hnsw or Hnsw(space="l2")))
    ids = [f"r{n}" for n in range(COUNT)]
    for start in range(0, COUNT, 550):
        part = ids[start : start + 550]
        await instance.do(upsert(*part, vectors=vectors(len(part), seed=start)))
    await instance.do(DeleteRecords(collection="notes", ids=ids[:10]))
    await instance.do(upsert("r10", vectors=vectors(1, seed=9)))


def _waiting(directory: Path) -> int:
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db:
        return int(db.execute("SELECT COUNT(*) FROM embeddings_queue").fetchone()[0])


async def test_plain_chroma_finds_the_index_of_an_export(tmp_path: Path) -> None:
    """What waited is in the index files of the export and not of the vectorstore; every record is as it was."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await _load(instance)
        [working] = instance.working_directories()
        assert _waiting(working) == COUNT + 11
        commit = await instance.commit()
        target = tmp_path / "exported"
        assert (await instance.do(ExportTo(directory=str(target))))["commit"] == commit
        assert _waiting(working) == COUNT + 11 and await instance.commit() == commit
        expected = await instance.records()
        files = {path.name for path in working.iterdir() if path.is_file()}
    assert _waiting(target) == 1
    assert next(target.glob("*/data_level0.bin")).stat().st_size > (COUNT - 10) * 4 * 4
    assert {path.name for path in target.iterdir() if path.is_file()} == files
    client = chromadb.PersistentClient(str(target))
    collection = client.get_collection("notes")
    assert collection.count() == COUNT - 10
    got: Any = collection.get()
    assert dict(zip(got["ids"], got["documents"], strict=True)) == {i: text for i, (text, _) in expected.items()}
    array = np.frombuffer(vectors(1, seed=9).data, "<f4")
    found = collection.query(query_embeddings=[array.tolist()], n_results=1)
    assert found["ids"] == [["r10"]]


async def test_an_export_in_which_nothing_waits_is_the_commit(tmp_path: Path) -> None:
    """Below the threshold, and where somebody chose one, no byte differs."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await _load(instance, Hnsw(space="l2", sync_threshold=100))
        await instance.do(CreateCollection(name="small"))
        await instance.do(upsert("a", collection="small"))
        target = tmp_path / "exported"
        hydrated = await export_directory(instance.log(), target)
    assert capture(target, Image({})).image.checksum() == hydrated.image.checksum()


async def test_an_export_whose_index_cannot_be_written_is_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done until then is taken back."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await _load(instance)

        def fail(directory: Path) -> int:
            (directory / CHROMA_DATABASE_FILE).write_bytes(b"half")
            raise RuntimeError("Chroma stopped")

        monkeypatch.setattr(index_build, "write_indexes", fail)
        target = tmp_path / "exported"
        hydrated = await export_directory(instance.log(), target)
    assert capture(target, Image({})).image.checksum() == hydrated.image.checksum()


async def test_a_directory_of_another_schema_is_not_opened(tmp_path: Path) -> None:
    """Its bytes are copied and nothing else."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await _load(instance)
        target = tmp_path / "exported"
        await instance.log().export(target)
    with closing(sqlite3.connect(target / CHROMA_DATABASE_FILE)) as db:
        db.execute("CREATE TABLE unknown (id INTEGER)")
    assert index_build.write_indexes(target) == 0
    assert _waiting(target) == COUNT + 11
    assert index_build.write_indexes(tmp_path / "nowhere") == 0
