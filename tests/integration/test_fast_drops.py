"""Fast deletions of collections: every table is what Chroma would have left, and no reader sees a part."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.test_fast_writes import tables
from vectorpool.engine import fast_drops
from vectorpool.engine.collection_ids import wait_until_closed
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.engine import Engine, create_empty
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE

DATABASE = "default_database"
LARGEST = 100
THRESHOLD = 100
COUNT = 340


def _batch(first: int, count: int, *, lists: bool) -> Batch:
    numbers = range(first, first + count)
    vectors = np.random.default_rng(first).standard_normal((count, 4)).astype(np.float32)
    metadatas = [
        {"n": n, "text": f"t{n % 5}", **({"list": [n, n + 1]} if lists and n % 3 == 0 else {})} for n in numbers
    ]
    texts = [None if n % 4 == 0 else f"the document of number {n}" for n in numbers]
    return Batch([f"record-{n}" for n in numbers], vectors, metadatas, texts, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CollectionInfo, CollectionInfo]:
    """A directory with two collections of several slices, written in turns, one with lists; an index file each."""
    directory = tmp_path_factory.mktemp("drops") / "made"
    directory.mkdir()
    create_empty(directory)
    engine = Engine(directory, EngineOptions())
    configuration = f'{{"hnsw": {{"sync_threshold": {THRESHOLD}, "batch_size": {THRESHOLD}}}}}'
    pair = [
        engine.catalogue.create(DATABASE, name, metadata={"kept": name}, configuration=configuration)
        for name in ("gone", "kept")
    ]
    for first in range(0, COUNT, 85):
        for info in pair:
            engine.records.put(
                Operation.ADD, info.id, DATABASE, _batch(first, 85, lists=info.name == "gone"), lambda: None
            )
    engine.close()
    wait_until_closed(directory)
    return directory, pair[0], pair[1]


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_drops, "AT_ONCE", 50)


def _drop(
    source: Path, to: Path, info: CollectionInfo, options: EngineOptions, prepare: Callable[[Engine], Any]
) -> int:
    shutil.copytree(source, to)
    engine = Engine(to, options)
    prepare(engine)
    applied: list[int] = []
    count = engine.drop_collection(info, lambda: applied.append(1))
    assert applied
    engine.settle_deletions(1_000_000_000)
    engine.close()
    wait_until_closed(to)
    return count


@pytest.mark.parametrize("opens", [False, True], ids=["Chroma closed", "Chroma open"])
def test_a_dropped_collection_leaves_what_chroma_leaves(
    made: tuple[Path, CollectionInfo, CollectionInfo], tmp_path: Path, opens: bool
) -> None:
    """Every table and every file is the same after both ways; the other collection answers and takes records."""
    source, gone, kept = made

    def prepare(engine: Engine) -> None:
        if opens:
            for info in (gone, kept):
                engine._client.query(collection_id=info.id, database=DATABASE, embeddings=[[1.0] * 4], n_results=1)

    counts = [
        _drop(source, tmp_path / name, gone, EngineOptions(fast_writes=fast), prepare)
        for name, fast in (("ours", True), ("theirs", False))
    ]
    assert counts == [COUNT, COUNT]
    ours, theirs = tables(tmp_path / "ours"), tables(tmp_path / "theirs")
    # Chroma's way deletes records with lists one by one, by operations that it then deletes too.
    assert ours == theirs
    others = ("collection_metadata", "segment_metadata", "tenants", "databases")
    for table in others:
        rows = []
        for name in ("ours", "theirs"):
            with closing(sqlite3.connect(tmp_path / name / CHROMA_DATABASE_FILE)) as db:
                rows.append(db.execute(f"SELECT * FROM {table}").fetchall())
        assert rows[0] == rows[1], table
    files = [{str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).rglob("*")} for n in ("ours", "theirs")]
    assert files[0] == files[1]

    engine = Engine(tmp_path / "ours", EngineOptions())
    assert [info.name for info in engine.catalogue.collections(DATABASE)] == ["kept"]
    engine.records.put(Operation.ADD, kept.id, DATABASE, _batch(1000, 120, lists=False), lambda: None)
    assert engine.records.count(kept.id, DATABASE) == COUNT + 120
    engine.examine()
    again = engine.catalogue.create(DATABASE, "gone", metadata=None, configuration=None)
    engine.records.put(Operation.ADD, again.id, DATABASE, _batch(0, 10, lists=False), lambda: None)
    found = engine.records.get(again.id, DATABASE, include=["metadatas"])
    assert found is not None and found.metadatas is not None
    assert all(metadata is not None and "list" not in metadata for metadata in found.metadatas)
    engine.close()


def test_chroma_is_not_opened_to_drop_a_collection(
    made: tuple[Path, CollectionInfo, CollectionInfo], tmp_path: Path
) -> None:
    """A replica whose Chroma is closed stays without it."""
    shutil.copytree(made[0], tmp_path / "ours")
    engine = Engine(tmp_path / "ours", EngineOptions())
    engine.drop_collection(made[1], lambda: None)
    assert engine.calls_of_chroma == 0 and engine.chroma_use is None
    engine.close()


def test_readers_see_all_of_a_collection_or_none(
    made: tuple[Path, CollectionInfo, CollectionInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two slices the collection is not in the catalogue, and the other one answers in full."""
    source, gone, kept = made
    shutil.copytree(source, tmp_path / "ours")
    engine = Engine(tmp_path / "ours", EngineOptions())
    assert engine.records.count(gone.id, DATABASE) == COUNT
    seen: list[tuple[str | None, int | None]] = []

    def look() -> None:
        seen.append((engine.catalogue.find_id(DATABASE, "gone"), engine.records.count(kept.id, DATABASE)))

    def pause(_seconds: float) -> None:
        # On another thread, as a reader's, which the writer must not keep out between slices.
        reader = threading.Thread(target=look)
        reader.start()
        reader.join(30)
        assert not reader.is_alive()

    monkeypatch.setattr(fast_drops.time, "sleep", pause)
    engine.drop_collection(gone, lambda: None)
    assert len(seen) >= COUNT // 50
    assert set(seen) == {(None, COUNT)}
    engine.close()


def test_a_drop_that_cannot_go_on_breaks_the_replica(
    made: tuple[Path, CollectionInfo, CollectionInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the collection left the catalogue there is no way back but a new replica, which the error asks for."""
    shutil.copytree(made[0], tmp_path / "ours")
    engine = Engine(tmp_path / "ours", EngineOptions())
    monkeypatch.setattr(fast_drops, "_OF_RECORDS", ("DELETE FROM no_such_table WHERE id IN ({})",))
    applied: list[int] = []
    with pytest.raises(BrokenReplica):
        engine.drop_collection(made[1], lambda: applied.append(1))
    assert applied
    engine.close()


def test_a_drop_that_cannot_begin_is_left_to_chroma(
    made: tuple[Path, CollectionInfo, CollectionInfo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first transaction that fails is rolled back, and Chroma deletes the collection."""
    shutil.copytree(made[0], tmp_path / "ours")
    engine = Engine(tmp_path / "ours", EngineOptions())
    monkeypatch.setattr(fast_drops, "_OF_CATALOGUE", ("DELETE FROM no_such_table WHERE id = ?",))
    assert engine.drop_collection(made[1], lambda: None) == COUNT
    assert engine.calls_of_chroma > 0
    assert engine.catalogue.find_id(DATABASE, "gone") is None
    engine.close()
