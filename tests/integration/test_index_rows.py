"""The bound of a shard for the vectors that it keeps in memory: what is dropped is read again; answers stay exact."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.flat_index import FlatIndex
from vectorpool.engine.index_rows import Held, IndexRows
from vectorpool.engine.records import EngineOptions, Records
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings

DIMENSION, COUNT = 4, 300


def held(count: int) -> Held:
    """Return an index of some records."""
    index = FlatIndex("l2", DIMENSION)
    index.fill([str(n) for n in range(count)], np.ones((count, DIMENSION), "<f4"))
    return Held(index, "segment", 0, (b"", 0), 0, 0, b"")


def test_the_least_recently_used_is_dropped() -> None:
    """Within the bound, by use and not by age; what alone exceeds the bound is not kept, and drops nothing."""
    one = held(10)
    rows = IndexRows(2 * one.index.nbytes)
    owner = rows.owner()
    assert owner != rows.owner()
    first, second, third = ((owner, name, "d") for name in "abc")
    for place in (first, second):
        rows.put(place, held(10))
    assert rows.get(first) is not None
    rows.put(third, held(10))
    assert rows.get(second) is None and rows.get(first) is not None and rows.get(third) is not None
    assert rows.bytes == 2 * one.index.nbytes
    rows.put(second, held(1000))
    assert rows.get(second) is None and rows.get(first) is not None
    rows.put(first, held(5))
    assert rows.bytes == one.index.nbytes + held(5).index.nbytes
    rows.drop(first)
    rows.drop(first)
    rows.drop_all(owner)
    assert rows.bytes == 0


class Shard:
    """Some open directories that share the rows, each with one collection."""

    def __init__(self, root: Path, rows: IndexRows, directories: int) -> None:
        self.rows = rows
        self.random = np.random.default_rng(1)
        self.open: list[tuple[PlainChroma, Records, Any, Any]] = []
        for number in range(directories):
            path = root / str(number)
            path.mkdir()
            chroma = PlainChroma(path)
            info = chroma.create("notes", {"space": "l2", "sync_threshold": 100})
            options = EngineOptions(index_rows=rows)
            records = Records(DatabaseFile(path, threading.Lock()), chroma.client, chroma.catalogue, options)
            self.open.append((chroma, records, info, np.empty((COUNT, DIMENSION), "<f4")))
            self.write(number, range(COUNT))

    def write(self, number: int, of: range) -> None:
        """Give records new vectors."""
        _, records, info, vectors = self.open[number]
        vectors[of.start : of.stop] = self.random.normal(size=(len(of), DIMENSION))
        batch = Batch([f"r{n}" for n in of], vectors[of.start : of.stop], None, None, None)
        records.put(Operation.UPSERT, info.id, info.database, batch, lambda: None)

    def check(self, number: int) -> None:
        """Assert that each record is found by its own vector."""
        _, records, info, vectors = self.open[number]
        found = records.query(info.id, info.database, vectors, 1, include=("distances",))
        assert found is not None
        assert [rows.ids for rows in found] == [[f"r{n}"] for n in range(COUNT)]
        assert all(rows.distances == [0.0] for rows in found)

    def close(self) -> None:
        """Close all."""
        for chroma, records, _, _ in self.open:
            records.close()
            chroma.close()


@pytest.mark.parametrize("indexes", [0, 1, 2, 3])
def test_answers_are_exact_whatever_is_kept(tmp_path: Path, indexes: int) -> None:
    """Three directories in turns, with writes between, and room for none to three of their indexes."""
    bound = round(indexes * held(COUNT).index.nbytes * 1.6)
    shard = Shard(tmp_path, IndexRows(bound), 3)
    most = 0
    for turn in range(6):
        for number in range(3):
            shard.check(number)
            most = max(most, shard.rows.bytes)
            shard.write(number, range(turn * 40, turn * 40 + 40))
            shard.check(number)
    assert most <= bound and (most > 0) == (indexes > 0)
    shard.close()
    assert shard.rows.bytes == 0


async def test_all_vectorstores_of_a_shard_share_one_bound(tmp_path: Path) -> None:
    """The setting is the bound, and each replica of the shard gets the same rows."""
    settings = Settings(store="memory://", replica_dir=str(tmp_path), index_rows_bytes=12_345)
    stores = StoreFactory(MemoryBucket(), settings)
    first, second = (stores.make(user)._builder._open_replica.keywords["index_rows"] for user in ("1", "2"))  # type: ignore[attr-defined]
    assert first is second and first.max_bytes == 12_345
    stores.close()
