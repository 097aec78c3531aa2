"""Queues of collections that need no index: squeezed in proportion to the records, and the same to Chroma."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.test_fast_writes import DATABASE, DIMENSION, Twins, row, tables
from tests.support.numbers import assert_close
from tests.support.queues import THRESHOLD, queue, take_as_usual
from vectorpool.engine import index_needs
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.index_needs import IndexNeeds
from vectorpool.engine.index_rows import IndexRows
from vectorpool.engine.squeeze import squeeze
from vectorpool.engine.tables import Operation
from vectorpool.names import CHROMA_DATABASE_FILE

IDS = [f"id-{n}" for n in range(9)]


@pytest.fixture(autouse=True)
def _usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the threshold with a few records."""
    take_as_usual(monkeypatch)


class History:
    """Random writes to both twins; ours is read without Chroma."""

    def __init__(self, root: Path, space: str, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.twins = Twins(root, space, THRESHOLD, keeps=True)
        self.squeezed = 0

    def write(self, operation: Operation) -> None:
        """Make one change of some records."""
        twins, random = self.twins, self.random
        ids = [str(each) for each in random.choice(IDS, random.integers(1, 4))]
        vectors: Any = np.round(random.normal(size=(len(ids), DIMENSION)), 3).astype("<f4")
        if operation is Operation.DELETE:
            vectors = None
        if operation is Operation.UPDATE:
            vectors = [None if random.random() < 0.4 else vector for vector in vectors]
            vectors = vectors if any(vector is not None for vector in vectors) else None
        columns: list[Any] = [None, None, None]
        if operation is not Operation.DELETE:
            columns = [[{"n": int(random.integers(9))} for _ in ids], [f"text {random.integers(9)}" for _ in ids], None]
        # As if Chroma had not been asked for long.
        twins.chroma.client._pause = 0
        before = len(queue(twins.ours))
        assert twins.put(operation, twins.info, ids, vectors, *columns)
        self.squeezed += len(queue(twins.ours)) < before

    def check(self) -> None:
        """Compare the tables, and the nearest records, without a call of Chroma on our side."""
        twins = self.twins
        ours, theirs = tables(twins.ours), tables(twins.theirs)
        for name in ("queue", "positions"):
            del ours[name], theirs[name]
        assert ours == theirs
        count = twins.twin.count(twins.info)
        if not count:
            return
        probe = self.random.normal(size=(1, DIMENSION)).astype("<f4")
        found = twins.reader.query(twins.info.id, DATABASE, probe, count, ["distances", "embeddings"])
        [wanted] = twins.twin.query(twins.info, probe, count, include=["distances", "embeddings"])
        assert found is not None and found[0].distances is not None and found[0].embeddings is not None
        near = dict(zip(wanted.ids, zip(wanted.distances, wanted.embeddings, strict=True), strict=True))  # type: ignore[arg-type]
        assert set(found[0].ids) == near.keys()
        for record_id, distance, vector in zip(found[0].ids, found[0].distances, found[0].embeddings, strict=True):
            assert_close(distance, near[record_id][0], 100)
            assert_close(list(vector), list(near[record_id][1]))


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(4, 60))])
def test_a_squeezed_queue_is_the_same_to_chroma(tmp_path: Path, space: str, seed: int) -> None:
    """After random writes, answers without Chroma and then those of Chroma are those of a twin that Chroma wrote.

    In every third history Chroma writes its index on the way, so that later deletions are of records that it has.
    """
    history = History(tmp_path, space, seed)
    twins, random = history.twins, history.random
    twins.put(Operation.UPSERT, twins.info, IDS[:3], np.ones((3, DIMENSION), "<f4"), [{"n": 1}] * 3, ["text"] * 3, None)
    for step in range(60):
        history.write(Operation(random.choice([0, 1, 2, 2, 3], p=[0.15, 0.3, 0.2, 0.15, 0.2])))
        if step % 7 == 0:
            history.check()
        if step == 25 and seed % 3 == 0 and twins.chroma.count(twins.info):
            twins.chroma.query(twins.info, row(1, 2, 3, 4), 1)
        if random.random() < 0.1:
            twins.close()
            twins.open()
    history.check()
    assert history.squeezed, "nothing was squeezed"
    records = twins.twin.count(twins.info)
    assert len(queue(twins.ours)) <= THRESHOLD + 2 * records + 4 + len(IDS)
    twins.assert_same([1, 2, 3, 4])
    twins.close()
    twins.open()
    twins.assert_same([4, 3, 2, 1])
    twins.close()


def test_a_load_leaves_its_vectors_in_the_queue(tmp_path: Path) -> None:
    """Of any size: no operation is taken in, and Chroma is not opened for them."""
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    for n in range(90):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], row(n, 1, 2, 3), [{"n": n}], None, None)
    assert len(queue(twins.ours)) == 90 and twins.chroma.client.use == "operation"
    twins.assert_same([3, 1, 2, 3])
    twins.close()


def test_a_threshold_that_somebody_chose_is_kept_to(tmp_path: Path) -> None:
    """Another number than the usual one: the index is written by it, however few records there are."""
    twins = Twins(tmp_path, "l2", THRESHOLD + 1, keeps=True)
    for n in range(40):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], row(n, 1, 2, 3), [{"n": n}], None, None)
        assert len(queue(twins.ours)) <= THRESHOLD + 2
    assert twins.chroma.collection("notes").hnsw["sync_threshold"] == THRESHOLD + 1
    twins.close()


def test_a_queue_that_does_not_lead_to_the_records_is_left_alone(tmp_path: Path) -> None:
    """A vector of another encoding, a missing one, records that differ: nothing is changed."""
    twins = Twins(tmp_path, "l2", 1000)
    for n in range(3):
        for record_id in ("a", "b"):
            twins.put(Operation.UPSERT, twins.info, [record_id], row(n, 1, 2, 3), None, None, None)
    with closing(sqlite3.connect(twins.ours / CHROMA_DATABASE_FILE)) as db:
        before = db.execute("SELECT * FROM embeddings_queue").fetchall()
        assert squeeze(db, twins.info.id, 0, {"a"}, {}) is None
        assert squeeze(db, twins.info.id, 0, {"a", "b"}, {"c": 1}) == 2
        db.rollback()
        for change in ("encoding = 'INT32'", "vector = NULL"):
            db.execute(f"UPDATE embeddings_queue SET {change} WHERE seq_id = 2")
            assert squeeze(db, twins.info.id, 0, {"a", "b"}, {}) is None
            db.rollback()
        assert db.execute("SELECT * FROM embeddings_queue").fetchall() == before
    twins.close()


def test_a_vector_that_came_and_went_is_in_no_index_in_memory(tmp_path: Path) -> None:
    """An index that took in an addition before a squeeze drops its deletion, and the next vector of that id counts."""
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    twins.put(Operation.UPSERT, twins.info, ["a"], row(1, 0, 0, 0), None, None, None)
    twins.put(Operation.ADD, twins.info, ["b"], row(5, 0, 0, 0), None, None, None)
    assert twins.reader.query(twins.info.id, DATABASE, row(5, 0, 0, 0), 1, ["distances"])[0].ids == ["b"]  # type: ignore[index]
    twins.put(Operation.DELETE, twins.info, ["b"], None, None, None, None)
    before = len(queue(twins.ours))
    while len(queue(twins.ours)) >= before:
        before = len(queue(twins.ours))
        twins.put(Operation.UPSERT, twins.info, ["a"], row(1, 0, 0, 0), None, None, None)
    assert not any(record_id == "b" for _, _, record_id, _ in queue(twins.ours))
    twins.put(Operation.ADD, twins.info, ["b"], row(9, 0, 0, 0), None, None, None)
    found = twins.reader.query(twins.info.id, DATABASE, row(9, 0, 0, 0), 1, ["distances"])
    assert found is not None and found[0].ids == ["b"] and found[0].distances == [0]
    twins.assert_same([9, 0, 0, 0])
    twins.close()


def test_a_larger_collection_is_searched_exactly_while_much_waits_for_its_index(tmp_path: Path) -> None:
    """Up to four times what is kept in memory, so that no answer waits until Chroma has taken that in."""
    twins = Twins(tmp_path, "l2", 1000)
    rows = np.random.default_rng(1).normal(size=(40, DIMENSION)).astype("<f4")
    ids = [f"r{n}" for n in range(40)]
    twins.put(Operation.UPSERT, twins.info, ids, rows, None, None, None)
    known, size = twins.chroma.catalogue.known_by_id, 40 * 4 * DIMENSION
    for kept, is_answered in ((size // 4, True), (size // 4 - 1, False)):
        needs, held = IndexNeeds(), IndexRows(kept)
        reader = FastReader(DatabaseFile(twins.ours, twins.files), known, size // 8, rows=held, needs=needs)
        found = reader.query(twins.info.id, DATABASE, rows[:1], 1, ["distances"])
        assert (found is not None and found[0].ids == ["r0"]) == is_answered
        # It is not kept, and another one may be used now.
        assert held.bytes == 0 and not held.large.locked()
        reader.close()
    twins.close()
    # Nothing waits any more.
    with closing(sqlite3.connect(twins.ours / CHROMA_DATABASE_FILE)) as db:
        db.execute("UPDATE max_seq_id SET seq_id = (SELECT MAX(seq_id) FROM embeddings_queue)")
        segment = db.execute("SELECT s.id FROM segments s WHERE s.scope = 'VECTOR'").fetchone()[0]
        db.execute("INSERT OR IGNORE INTO max_seq_id SELECT ?, MAX(seq_id) FROM embeddings_queue", (segment,))
        db.commit()
    reader = FastReader(DatabaseFile(twins.ours, twins.files), known, size // 8, rows=IndexRows(size))
    assert reader.query(twins.info.id, DATABASE, rows[:1], 1, ["distances"]) is None
    reader.close()


def test_an_index_is_due_once_searches_cost_what_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a collection above the bound of exact search; below it never, and once begun it is not due any more."""
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True, exact_bytes=8 * 4 * DIMENSION)
    monkeypatch.setattr(index_needs, "_BYTES_AN_OPERATION", 10 * 4 * DIMENSION)
    needs = twins.chroma.client.needs

    def search() -> None:
        assert twins.reader.query(twins.info.id, DATABASE, row(1, 2, 3, 4), 3, ["distances"]) is not None

    for n in range(20):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], row(n, 1, 2, 3), None, None, None)
    for _ in range(10):
        assert not needs.is_due
        search()
    assert needs.is_due
    needs.begin()
    search()
    assert not needs.is_due
    twins.close()
