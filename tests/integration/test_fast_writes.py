"""Fast writes: every table is what Chroma would have left, and Chroma goes on from there."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.numbers import assert_close, largest_term
from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.calls import FAST_WRITE_PAUSE
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.names import CHROMA_DATABASE_FILE

DIMENSION = 4
LARGEST = 100
DATABASE = "default_database"
# Row ids of metadata follow the order of a hash map in Chroma, and times are times; of the full-text index, its words.
TABLES = {
    "collections": "SELECT id, name, dimension, database_id FROM collections",
    "segments": "SELECT * FROM segments",
    "embeddings": "SELECT id, segment_id, embedding_id, seq_id, typeof(seq_id) FROM embeddings",
    "metadata": "SELECT id, key, string_value, int_value, float_value, bool_value, typeof(bool_value) "
    "FROM embedding_metadata",
    "lists": "SELECT * FROM embedding_metadata_array",
    "queue": "SELECT seq_id, operation, topic, id, vector, encoding FROM embeddings_queue",
    "positions": "SELECT segment_id, seq_id, typeof(seq_id) FROM max_seq_id",
    "texts": "SELECT rowid, string_value FROM embedding_fulltext_search",
    "words": "SELECT term, doc, col, offset FROM words",
}


def tables(directory: Path) -> dict[str, list[Any]]:
    """Return the rows of every table that holds content."""
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db:
        db.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab('main', 'embedding_fulltext_search', 'instance')")
        found = {name: sorted(map(repr, db.execute(sql))) for name, sql in TABLES.items()}
        schemas = db.execute("SELECT id, schema_str FROM collections ORDER BY id")
        found["schemas"] = [(each, json.loads(schema)) for each, schema in schemas]
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.execute("INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES ('integrity-check')")
        return found


class Twins:
    """Two directories with the same content and ids: one is written directly where that is possible, one by Chroma."""

    def __init__(
        self, root: Path, space: str = "l2", threshold: int = 1000, *, keeps: bool = False, exact_bytes: int = 1024**2
    ) -> None:
        self.space, self.threshold, self.keeps, self.exact_bytes = space, threshold, keeps, exact_bytes
        self.ours, self.theirs = root / "ours", root / "theirs"
        self.ours.mkdir()
        chroma = PlainChroma(self.ours)
        hnsw = {"space": space, "sync_threshold": threshold, "batch_size": min(threshold, 100)}
        self.info = chroma.create("notes", hnsw)
        self.other = chroma.create("other", hnsw)
        chroma.close()
        shutil.copytree(self.ours, self.theirs)
        self.fast = Counter[Operation]()
        self.files = threading.Lock()
        self.open()

    def open(self) -> None:
        """Open both."""
        self.chroma, self.twin = PlainChroma(self.ours), PlainChroma(self.theirs)
        self.writer = FastWriter(self.ours, self.chroma.client, self.files, keeps=self.keeps)
        known, needs = self.chroma.catalogue.known_by_id, self.chroma.client.needs
        source = DatabaseFile(self.ours, self.files)
        self.reader = FastReader(source, known, self.exact_bytes, needs=needs)

    def close(self) -> None:
        """Close both."""
        self.reader.close()
        self.writer.close()
        self.chroma.close()
        self.twin.close()

    def put(self, operation: Operation, info: CollectionInfo, ids: Any, array: Any, *columns: Any) -> bool:
        """Write to both, to one by the fast path if that may be; return whether it was."""

        def call(chroma: PlainChroma) -> None:
            if operation is Operation.DELETE:
                chroma.delete(info, ids)
            else:
                getattr(chroma, operation.name.lower())(info, ids, array, *columns)

        batch = Batch(ids, array, *columns)
        try:
            call(self.twin)
        except TypeError:
            # An addition of None, for one.
            assert not self.writer.write(operation, info.id, DATABASE, batch)
            return False
        done = self.writer.write(operation, info.id, DATABASE, batch)
        if done:
            self.fast[operation] += 1
        else:
            call(self.chroma)
        return done

    def assert_same(self, probe: list[float]) -> None:
        """Compare all tables, and what Chroma answers from both."""
        ours, theirs = tables(self.ours), tables(self.theirs)
        if self.threshold < 1000:
            # Which call writes the index depends on what the client had taken in before.
            for name in ("queue", "positions"):
                del ours[name], theirs[name]
        assert ours == theirs
        for info in (self.info, self.other):
            count = self.twin.count(info)
            assert self.chroma.count(info) == count
            include = ["documents", "metadatas", "uris"]
            everything = self.twin.get(info, include=include)
            assert self.reader.count(info.id, DATABASE) in (count, None)
            read = self.reader.get(info.id, DATABASE, ids=None, limit=None, offset=0, include=include)
            assert read in (everything, None)
            assert self.chroma.get(info, include=include) == everything
            if count:
                largest = largest_term(self.space, probe, LARGEST)
                nearest = self.reader.query(info.id, DATABASE, np.array([probe], "<f4"), count, ["distances"])
                found = [
                    chroma.query(info, np.array([probe], "<f4"), count, include=["distances", "embeddings"])[0]
                    for chroma in (self.chroma, self.twin)
                ]
                rows = [
                    dict(zip(each.ids, zip(each.distances, each.embeddings, strict=True), strict=True))  # type: ignore[arg-type]
                    for each in found
                ]
                # Chroma rounds the last digit by where it has a vector from, its index or its queue.
                assert rows[0].keys() == rows[1].keys()
                for record_id, (distance, vector) in rows[0].items():
                    assert_close(distance, rows[1][record_id][0], largest)
                    assert_close(vector, rows[1][record_id][1])
                assert nearest is not None and nearest[0].distances is not None
                near = {i: rows[1][i][0] for i in nearest[0].ids}
                assert_close(nearest[0].distances, list(near.values()), largest)
                assert near.keys() == rows[1].keys()


NUMBERS = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False).map(lambda x: round(x, 3))
VECTORS = st.lists(NUMBERS, min_size=DIMENSION, max_size=DIMENSION)
IDS = st.sampled_from([f"id-{n}" for n in range(8)] + ["ключ", "a'b", " "])
PLAIN = st.one_of(st.integers(-(2**63), 2**63 - 1), st.booleans(), st.text("xyé%'\"", max_size=5), NUMBERS)
ODD = st.one_of(PLAIN, st.lists(st.integers(0, 9), min_size=1, max_size=3), st.none())
METADATA = st.none() | st.dictionaries(
    st.sampled_from(["a", "b", "a", "b", "new"]), st.one_of(PLAIN, PLAIN, PLAIN, ODD), min_size=1
)
TEXTS = st.none() | st.text("abc déß漢\U0001f600İ", max_size=12)
RECORDS = st.lists(
    st.tuples(IDS, VECTORS, METADATA, TEXTS, st.none() | st.just("file:///x")),
    min_size=1,
    max_size=4,
)
CHANGED = st.lists(
    st.tuples(IDS, st.none() | VECTORS, METADATA, TEXTS, st.none() | st.just("file:///y")),
    min_size=1,
    max_size=4,
)
# Each with whether Chroma is closed before it.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["upsert", "upsert", "add", "other"]), RECORDS, st.booleans()),
        st.tuples(st.just("update"), CHANGED, st.booleans()),
        # Twice the same id too.
        st.tuples(st.just("delete"), st.lists(IDS, min_size=1, max_size=4), st.booleans()),
        st.tuples(st.just("reopen"), st.none(), st.booleans()),
    ),
    min_size=5,
    max_size=14,
)
# Every type of every key, and a dimension: what comes after it is mostly plain.
FIRST = [(f"id-{n}", {"a": value, "b": value}) for n, value in enumerate([1, 1.5, True, "x"])]


def live_through(root: Path, space: str, threshold: int, steps: Any, probe: list[float]) -> Counter[Operation]:
    """Compare the twins after every step; return how many writes were fast."""
    twins = Twins(root, space, threshold)
    for record_id, metadata in FIRST:
        for info in (twins.info, twins.other):
            twins.put(Operation.UPSERT, info, [record_id], np.ones((1, DIMENSION), "<f4"), [metadata], None, None)
    for step, value, closes in steps:
        # As if the last comparison, which asked Chroma, had been long ago.
        twins.chroma.client._pause = 0
        if closes:
            twins.chroma.client.release()
        if step == "reopen":
            twins.close()
            twins.open()
        elif step == "delete":
            twins.put(Operation.DELETE, twins.info, value, None)
        else:
            ids, vectors, metadatas, documents, uris = map(list, zip(*value, strict=True))
            info = twins.other if step == "other" else twins.info
            kind = Operation["UPSERT" if step == "other" else step.upper()]
            rows: Any = np.array(vectors, "<f4") if step != "update" else None
            if step == "update" and any(vectors):
                # Chroma applies some operations twice: then a record that is added later has the vector of an update
                # that came before it. Our side need not have asked it as often.
                there = set(twins.twin.get(info).ids)
                rows = [
                    np.array(vector, "<f4") if vector is not None and record_id in there else None
                    for record_id, vector in zip(ids, vectors, strict=True)
                ]
                rows = rows if any(vector is not None for vector in rows) else None
            twins.put(kind, info, ids, rows, metadatas, documents, uris)
        twins.assert_same(probe)
    twins.close()
    return twins.fast


def test_the_tables_are_chromas(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After every step of random histories, all tables and Chroma's own answers are what Chroma alone makes of them."""
    direct = Counter[Operation]()

    @given(st.sampled_from(["l2", "cosine", "ip"]), st.sampled_from([12, 1000]), STEPS, VECTORS)
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def history(space: str, threshold: int, steps: Any, probe: list[float]) -> None:
        direct.update(live_through(tmp_path_factory.mktemp("twins"), space, threshold, steps, probe))

    history()
    # Otherwise it would have been Chroma compared with itself.
    assert direct.keys() == set(Operation) and direct.total() > 80


@pytest.fixture
def twins(tmp_path: Path) -> Any:
    made = Twins(tmp_path, threshold=20)
    made.put(Operation.UPSERT, made.info, ["a"], np.ones((1, DIMENSION), "<f4"), [{"n": 1}], ["text"], None)
    yield made
    made.close()


def row(*numbers: float) -> Any:
    """Return one vector."""
    return np.array([numbers], "<f4")


def test_the_index_is_written_all_the_same(twins: Twins) -> None:
    """Of 60 lone upserts none goes through Chroma; at each threshold it takes the queue into its files."""
    for n in range(60):
        assert twins.put(Operation.UPSERT, twins.info, [f"r{n}"], row(n, 1, 2, 3), [{"n": n}], [f"text {n}"], None)
        queued = sqlite3.connect(twins.ours / CHROMA_DATABASE_FILE).execute("SELECT COUNT(*) FROM embeddings_queue")
        assert queued.fetchone()[0] <= 20 + 1
    assert next(twins.ours.glob("*/data_level0.bin")).stat().st_size > 0
    twins.assert_same([7, 1, 2, 3])
    twins.close()
    twins.open()
    twins.assert_same([3, 1, 2, 3])


@pytest.mark.parametrize(
    "columns",
    [
        ([{"n": []}], None, None),
        ([{"n": [1, "a"]}], None, None),
        ([{"n": 2**63}], None, None),
        ([{"n": float("inf")}], None, None),
        ([{"chroma:document": "x"}], None, None),
        (None, ["\ud800"], None),
    ],
)
def test_what_is_not_plain_is_left_to_chroma(twins: Twins, columns: Any) -> None:
    """Lists that Chroma refuses, and what has no place in the file: nothing is written."""
    before = tables(twins.ours)
    assert not twins.writer.write(Operation.UPSERT, twins.info.id, DATABASE, Batch(["x"], row(1, 2, 3, 4), *columns))
    assert tables(twins.ours) == before


def test_nothing_is_written_where_chroma_would_refuse(twins: Twins) -> None:
    """Another dimension, NaN, an empty id, an unknown collection or database."""
    before = tables(twins.ours)
    two = np.ones((2, DIMENSION), "<f4")

    def put(ids: list[str], array: Any, collection_id: str = twins.info.id, database: str = DATABASE) -> bool:
        return twins.writer.write(Operation.UPSERT, collection_id, database, Batch(ids, array))

    assert not put(["x"], row(1, 2))
    assert not put(["x", "y", "z"], two)
    assert not put(["x"], row(1, 2, float("nan"), 4))
    assert not put([""], row(1, 2, 3, 4))
    assert not put(["x"], row(1, 2, 3, 4), database="elsewhere")
    assert not put(["x"], two[:1], collection_id="00000000-0000-0000-0000-000000000000")
    assert tables(twins.ours) == before


def test_a_slice_that_stops_half_way_leaves_nothing(twins: Twins) -> None:
    """If the last record of a call is not plain, the first ones are not written either."""
    before = tables(twins.ours)
    metadatas = [{"n": 1}, {"n": 2}, {"n": 2**63}]
    batch = Batch(["x", "y", "z"], np.ones((3, DIMENSION), "<f4"), metadatas)
    assert not twins.writer.write(Operation.UPSERT, twins.info.id, DATABASE, batch) and tables(twins.ours) == before
    assert twins.put(Operation.UPSERT, twins.info, ["x"], row(1, 2, 3, 4), [{"n": 1}], None, None)
    twins.assert_same([1, 2, 3, 4])


def test_readers_are_waited_for_and_not_for_ever(twins: Twins) -> None:
    """While somebody reads, directly or through Chroma, the write is left to Chroma; afterwards it is not."""
    with twins.files:
        assert not twins.put(Operation.UPSERT, twins.info, ["b"], row(1, 2, 3, 4), None, None, None)
    with twins.chroma.client.exclusive(0.0) as is_granted:
        assert is_granted
        asked = threading.Thread(target=twins.chroma.count, args=(twins.info,))
        asked.start()
        asked.join(0.1)
        assert asked.is_alive()
    asked.join()
    assert twins.put(Operation.UPSERT, twins.info, ["c"], row(1, 2, 3, 4), None, None, None)
    twins.assert_same([1, 2, 3, 4])


def test_writes_go_through_chroma_for_a_while_after_it_had_to_be_asked(twins: Twins) -> None:
    """A query that only Chroma answers costs a new client once, not after every write."""
    assert twins.put(Operation.UPSERT, twins.info, ["b"], row(1, 2, 3, 4), None, None, None)
    before = twins.chroma.client._client
    twins.chroma.query(twins.info, row(1, 2, 3, 4), 1)
    client = twins.chroma.client._client
    assert client is not before
    for n in range(3):
        assert not twins.put(Operation.UPSERT, twins.info, [f"c{n}"], row(1, 2, 3, 4), None, None, None)
        twins.chroma.query(twins.info, row(1, 2, 3, 4), 1)
    assert twins.chroma.client._client is client
    done = [
        twins.put(Operation.UPSERT, twins.info, ["d"], row(n, 2, 3, 4), None, None, None)
        for n in range(FAST_WRITE_PAUSE + 1)
    ]
    assert not any(done[:FAST_WRITE_PAUSE]) and done[FAST_WRITE_PAUSE]
    twins.assert_same([1, 2, 3, 4])


@pytest.mark.parametrize("most", [0x2000, pytest.param(0x110000, marks=pytest.mark.long)])
def test_both_copies_of_sqlite_fold_letters_alike(tmp_path: Path, most: int) -> None:
    """A character gives the same words in the full-text index, whichever copy wrote it; the long form tries all."""
    twins = Twins(tmp_path)
    twins.put(Operation.UPSERT, twins.info, ["first"], row(1, 2, 3, 4), None, None, None)
    letters = [chr(n) for n in range(1, 0x110000) if not 0xD800 <= n < 0xE000]
    # Where letters have no case, there is little to fold.
    letters = [c for c in letters if ord(c) < most or c.lower() != c or c.upper() != c]
    texts = ["".join(f"{c}{c}{c} " for c in letters[at : at + 4096]) for at in range(0, len(letters), 4096)]
    ids = [f"t{n}" for n in range(len(texts))]
    assert twins.put(Operation.UPSERT, twins.info, ids, np.ones((len(ids), DIMENSION), "<f4"), None, texts, None)
    assert tables(twins.ours) == tables(twins.theirs)
    twins.close()


def test_a_closed_writer_writes_nothing(twins: Twins) -> None:
    """After it was closed it leaves every write to Chroma, and opens no file again."""
    before = tables(twins.ours)
    twins.writer.close()
    assert not twins.writer.write(Operation.UPSERT, twins.info.id, DATABASE, Batch(["x"], row(1, 2, 3, 4)))
    assert tables(twins.ours) == before and twins.writer._file is None


def test_no_text_is_in_the_queue(twins: Twins) -> None:
    """What fast writes leave there are ids and vectors, so nothing that is deleted or replaced later stays in it."""
    for text in ("first", "second"):
        assert twins.put(Operation.UPSERT, twins.info, ["b"], row(1, 2, 3, 4), [{"n": 7}], [text], None)
    assert twins.put(Operation.UPDATE, twins.info, ["b"], None, [{"n": 8}], ["third"], None)
    assert twins.put(Operation.DELETE, twins.info, ["b"], None)
    with closing(sqlite3.connect(twins.ours / CHROMA_DATABASE_FILE)) as db:
        assert set(db.execute("SELECT metadata FROM embeddings_queue WHERE id = 'b'")) == {("{}",)}


@pytest.mark.parametrize("is_open", [True, False])
def test_a_key_that_chroma_did_not_know_is_there_for_it(twins: Twins, is_open: bool) -> None:
    """A new key and a new type of a known one are written without Chroma, which then filters by them and adds more."""
    twins.chroma.count(twins.info)
    if not is_open:
        twins.chroma.client.release()
    metadatas = [{"n": 1, "k": "v"}, {"n": "text", "l": [1.5, 2.5]}]
    assert twins.put(Operation.UPSERT, twins.info, ["b", "c"], np.ones((2, DIMENSION), "<f4"), metadatas, None, None)
    assert twins.chroma.client.use is None
    twins.assert_same([1, 2, 3, 4])
    assert twins.chroma.get(twins.info, where='{"k": "v"}').ids == ["b"]
    assert twins.chroma.get(twins.info, where='{"n": "text"}').ids == ["c"]
    for chroma in (twins.chroma, twins.twin):
        chroma.upsert(twins.info, ["d"], row(1, 2, 3, 4), [{"other": 1}], None, None)
    twins.assert_same([1, 2, 3, 4])


def test_a_collection_without_a_record_is_left_to_chroma(twins: Twins) -> None:
    """Its first record, and a deletion and an update in it."""
    for operation, vectors in ((Operation.UPSERT, row(1, 2, 3, 4)), (Operation.UPDATE, None), (Operation.DELETE, None)):
        assert not twins.writer.write(operation, twins.other.id, DATABASE, Batch(["x"], vectors))
    assert not twins.writer.write(Operation.DELETE, twins.info.id, DATABASE, Batch([], None))
