"""The vectors of a directory at rest are those that Chroma answers, whatever the queue and the index files hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.engine import Engine
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.resting_vectors import RestingVectors
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.platform.trees import open_database
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.records import Collection, Records

DIMENSION = 6


def _records(ids: list[str], seed: int) -> Records:
    count = len(ids)
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32) * 3
    return Records(ids, vectors, [None] * count, [{"n": number} for number in range(count)], [None] * count)


def _store(directory: Path, space: str, threshold: int) -> None:
    directory.mkdir()
    writer = DirectoryWriter(directory)
    index = {"hnsw": {"space": space, "sync_threshold": threshold, "batch_size": threshold}}
    made = writer.create(Collection("", "default_database", "notes", None, None, index))
    for start in range(0, 60, 10):
        writer.put(made, _records([f"r{number}" for number in range(start, start + 10)], start))
    writer.close()
    chroma = PlainChroma(directory)
    notes = chroma.collection("notes")
    random = np.random.default_rng(9)
    chroma.delete(notes, ["r3", "r40", "r41"])
    chroma.upsert(notes, ["r5", "r59", "new"], random.normal(size=(3, DIMENSION)).astype(np.float32))
    # Ignored: it is there. And one that comes back.
    chroma.add(notes, ["r6"], random.normal(size=(1, DIMENSION)).astype(np.float32))
    chroma.add(notes, ["r40"], random.normal(size=(1, DIMENSION)).astype(np.float32))
    chroma.update(notes, ["r7", "r59"], None, [{"changed": True}] * 2, None)
    chroma.close()


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("threshold", [7, 1000])
def test_the_vectors_are_those_of_chroma(tmp_path: Path, space: str, threshold: int) -> None:
    """All at once, a few, and one by one: from the queue, from the files, and where both have one."""
    directory = tmp_path / "store"
    _store(directory, space, threshold)
    engine = Engine(directory, EngineOptions(fast_reads=False))
    try:
        (info,) = engine.catalogue.collections("default_database")
        rows = engine.records.get(info.id, info.database, include=("embeddings",))
    finally:
        engine.close()
    assert rows is not None
    assert len(rows.ids) == 59
    wanted = dict(zip(rows.ids, np.asarray(rows.embeddings, np.float32), strict=True))
    with open_database(directory / CHROMA_DATABASE_FILE) as db:
        for ids in (list(wanted), ["new", "r7", "r1"], *([each] for each in wanted)):
            found = RestingVectors(directory, info).of(db, ids)
            assert found is not None
            np.testing.assert_allclose(found, [wanted[each] for each in ids], rtol=2e-6, atol=1e-7)
        assert RestingVectors(directory, info).of(db, ["r3"]) is None
        assert RestingVectors(directory, info).of(db, ["never there"]) is None


def test_index_files_that_contradict_leave_the_answer_to_chroma(tmp_path: Path) -> None:
    """Vectors whose file is shorter than it says are not guessed."""
    directory = tmp_path / "store"
    _store(directory, "l2", 7)
    (data,) = directory.glob("*/data_level0.bin")
    engine = Engine(directory, EngineOptions())
    try:
        (info,) = engine.catalogue.collections("default_database")
    finally:
        engine.close()
    data.write_bytes(data.read_bytes()[:500])
    with open_database(directory / CHROMA_DATABASE_FILE) as db:
        assert RestingVectors(directory, info).of(db, ["r20", "r30"]) is None


@pytest.mark.parametrize("threshold", [7, 1000])
def test_changes_are_found_with_and_without_the_queue(tmp_path: Path, threshold: int) -> None:
    """The ids that changed since a position are the same, whether the queue still names them or not."""
    directory = tmp_path / "store"
    _store(directory, "l2", threshold)
    source = DirectorySource(directory)
    (notes,) = source.collections()
    mark = source.position(notes)
    source.close()
    chroma = PlainChroma(directory)
    held = chroma.collection("notes")
    chroma.upsert(held, ["late", "r9"], np.ones((2, DIMENSION), np.float32))
    chroma.delete(held, ["r10"])
    chroma.close()
    source = DirectorySource(directory)
    try:
        assert set(source.ids(notes, mark)) == {"late", "r9"}
        assert source.count(notes) == 59
        np.testing.assert_array_equal(source.read(notes, ["r9"]).vectors, np.ones((1, DIMENSION), np.float32))
    finally:
        source.close()
