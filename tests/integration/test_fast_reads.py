"""Fast reads, beside Chroma itself on the same open directory: random histories, field by field."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.numbers import assert_close, largest_term
from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.pace import YIELD_S
from vectorpool.engine.rows import Rows
from vectorpool.names import CHROMA_DATABASE_FILE

DIMENSION = 4
LARGEST = 100
INCLUDE = ("documents", "metadatas", "uris", "distances")
MIB = 1024**2


class Both:
    """One open directory, asked both ways."""

    def __init__(self, directory: Path, max_bytes: int = MIB) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.open()

    def open(self) -> None:
        """Open it."""
        self.chroma = PlainChroma(self.directory)
        self.fast = self.reader()

    def reader(self) -> FastReader:
        """Return another reader of the directory."""
        return FastReader(
            DatabaseFile(self.directory, threading.Lock()), self.chroma.catalogue.known_by_id, self.max_bytes
        )

    def close(self) -> None:
        """Close it."""
        self.fast.close()
        self.chroma.close()

    def create(self, name: str, space: str = "l2", threshold: int = 1000) -> CollectionInfo:
        """Create a collection."""
        hnsw = {"space": space, "sync_threshold": threshold, "batch_size": min(threshold, 100)}
        return self.chroma.create(name, hnsw)

    def query(self, info: CollectionInfo, vector: list[float], limit: int = 5) -> Rows | None:
        """Ask the fast path."""
        found = self.fast.query(info.id, "default_database", np.array([vector], "<f4"), limit, INCLUDE)
        return None if found is None else found[0]

    def count(self, info: CollectionInfo) -> int | None:
        """Ask the fast path."""
        return self.fast.count(info.id, "default_database")

    def get(self, info: CollectionInfo, **asked: Any) -> Rows | None:
        """Ask the fast path."""
        asked = {"ids": None, "limit": None, "offset": 0, "include": INCLUDE[:3], **asked}
        return self.fast.get(info.id, "default_database", **asked)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    made = Both(tmp_path)
    yield made
    made.close()


def rows(*numbers: float) -> Any:
    """Return vectors that point in directions of their own."""
    return np.array([[n, 1, n * n % 7, -n] for n in numbers], "<f4")


def assert_same(both: Both, info: CollectionInfo, probe: list[float]) -> None:
    """Compare everything that the fast path answers with what Chroma answers from the same files."""
    _assert_near(both, info, probe, both.query(info, probe, both.chroma.count(info) + 1))
    _assert_records(both, info)


def _assert_records(both: Both, info: CollectionInfo) -> None:
    count = both.chroma.count(info)
    if both.chroma.collection(info.name).dimension is None and both.count(info) is None:
        # A deletion from a collection that never had a record stays in the queue, which is a doubt.
        return
    assert both.count(info) == count
    everything = both.chroma.get(info, include=INCLUDE[:3])
    assert both.get(info) == everything
    assert both.get(info, limit=2, offset=1) == both.chroma.get(info, limit=2, offset=1, include=INCLUDE[:3])
    some = [*everything.ids[::2], "nobody"]
    assert both.get(info, ids=some) == both.chroma.get(info, ids=some, include=INCLUDE[:3])


def _assert_near(both: Both, info: CollectionInfo, probe: list[float], ours: Rows | None) -> None:
    count = both.chroma.count(info)
    if both.chroma.collection(info.name).dimension is None and ours is None:
        return
    if count:
        theirs = both.chroma.query(info, np.array([probe], "<f4"), count + 1, include=INCLUDE)[0]
        assert ours is not None and ours.distances is not None and theirs.distances is not None
        largest = largest_term(info.space, probe, LARGEST)
        assert_close(ours.distances, theirs.distances, largest)
        by_id = dict(zip(ours.ids, ours.distances, strict=True))
        assert by_id.keys() == set(theirs.ids)
        assert_close([by_id[i] for i in theirs.ids], theirs.distances, largest)
        at = {record_id: row for row, record_id in enumerate(theirs.ids)}
        for column in ("documents", "metadatas", "uris"):
            values = getattr(theirs, column)
            assert getattr(ours, column) == [values[at[record_id]] for record_id in ours.ids]
    elif ours is not None:
        assert ours.ids == []


NUMBERS = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False).map(lambda x: round(x, 3))
VECTORS = st.lists(NUMBERS, min_size=DIMENSION, max_size=DIMENSION)
IDS = st.sampled_from([f"id-{n}" for n in range(12)] + ["ключ", "a'b", " "])
VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.text(max_size=5).filter(lambda s: "\0" not in s),
    NUMBERS,
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=3),
)
METADATA = st.none() | st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, min_size=1, max_size=3)
RECORDS = st.lists(
    st.tuples(IDS, VECTORS, METADATA, st.none() | st.text("abc é", max_size=6), st.none() | st.just("file:///x")),
    min_size=1,
    max_size=5,
    unique_by=lambda record: record[0],
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["upsert", "update"]), RECORDS),
        st.tuples(st.just("delete"), st.lists(IDS, min_size=1, max_size=3, unique=True)),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("other"), RECORDS),
    ),
    max_size=12,
)


@given(
    space=st.sampled_from(["l2", "cosine", "ip"]), threshold=st.sampled_from([3, 8, 1000]), steps=STEPS, probe=VECTORS
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_chromas(
    tmp_path_factory: pytest.TempPathFactory, space: str, threshold: int, steps: Any, probe: list[float]
) -> None:
    """After every step of a random history, the direct answers are Chroma's."""
    both = Both(tmp_path_factory.mktemp("history"))
    info, other = both.create("notes", space, threshold), both.create("other", space, threshold)
    for step, value in steps:
        if step == "reopen":
            both.close()
            both.open()
        elif step == "delete":
            both.chroma.delete(info, value)
        else:
            ids, vectors, metadatas, documents, uris = map(list, zip(*value, strict=True))
            target, array = (other if step == "other" else info), np.array(vectors, "<f4")
            write = both.chroma.update if step == "update" else both.chroma.upsert
            write(target, ids, array, metadatas, documents, uris)
        assert_same(both, info, probe)
    both.close()


def test_a_query_finds_what_the_index_files_alone_hold(both: Both) -> None:
    """Vectors that the queue has lost to the HNSW files are found, the replaced and deleted ones of them are not."""
    info = both.create("notes", threshold=3)
    for first in range(0, 30, 3):
        both.chroma.upsert(
            info, [f"r{n}" for n in range(first, first + 3)], rows(first, first + 1, first + 2), None, None, None
        )
    both.chroma.delete(info, ["r7", "r8"])
    both.chroma.upsert(info, ["r9"], rows(90), None, None, None)
    found = both.query(info, rows(7)[0].tolist(), 28)
    assert found is not None and len(found.ids) == 28
    assert {"r7", "r8"}.isdisjoint(found.ids) and found.ids[-1] == "r9"


def test_what_is_not_plain_is_left_to_chroma(both: Both) -> None:
    """Another dimension, an unknown collection or database, no ids: the direct reads say nothing."""
    info = both.create("notes")
    both.chroma.upsert(info, ["a"], rows(1), None, None, None)
    assert both.query(info, rows(1)[0].tolist()) is not None
    assert both.query(info, [1.0, 2.0]) is None
    with_embeddings = both.fast.query(info.id, "default_database", rows(1), 1, ("embeddings",))
    assert with_embeddings is not None and with_embeddings[0].embeddings == rows(1).tolist()
    assert both.fast.query(info.id, "elsewhere", rows(1), 1, INCLUDE) is None
    assert both.fast.count("00000000-0000-0000-0000-000000000000", "default_database") is None
    assert both.get(info, ids=[]) is None
    many = both.get(info, ids=["a", *(str(n) for n in range(40_000))])
    assert many is not None and many.ids == ["a"]
    assert both.get(info, offset=2**70) is None


def test_a_deleted_collection_is_not_remembered(both: Both) -> None:
    """What was answered from a collection is not answered once it is gone, nor from another of its name."""
    info = both.create("notes")
    both.chroma.upsert(info, ["a"], rows(1), None, None, None)
    assert both.query(info, rows(1)[0].tolist()) is not None
    both.chroma.delete_collection("notes")
    assert both.query(info, rows(1)[0].tolist()) is None and both.count(info) is None
    again = both.create("notes")
    assert both.count(again) == 0 and both.count(info) is None


def test_vectors_beyond_the_bound_are_left_to_chroma(tmp_path: Path) -> None:
    """A collection that grows beyond the bytes is not searched directly any more, and is still counted."""
    both = Both(tmp_path, max_bytes=10 * DIMENSION * 4)
    info = both.create("notes", threshold=6)
    both.chroma.upsert(info, [f"r{n}" for n in range(10)], rows(*range(10)), None, None, None)
    assert both.query(info, rows(3)[0].tolist()) is not None
    both.chroma.upsert(info, ["one more"], rows(11), None, None, None)
    assert both.query(info, rows(3)[0].tolist()) is None
    assert both.count(info) == 11
    both.close()


def test_a_journal_beside_the_file_is_a_doubt(both: Both) -> None:
    """While a transaction is writing, nothing is answered; afterwards it is."""
    info = both.create("notes")
    both.chroma.upsert(info, ["a"], rows(1), None, None, None)
    journal = both.directory / (CHROMA_DATABASE_FILE + "-journal")
    journal.write_bytes(b"")
    assert both.count(info) is None and both.query(info, rows(1)[0].tolist()) is None
    journal.unlink()
    assert both.count(info) == 1 and both.query(info, rows(1)[0].tolist()) is not None


def test_a_file_that_changes_during_a_read_is_a_doubt(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read while the file was written is no answer: Chroma is asked for a get, and a query is read again."""
    info = both.create("notes", threshold=3)
    both.chroma.upsert(info, ["a"], rows(1), None, None, None)
    assert both.count(info) == 1
    plain, said = both.fast._rows, []

    def write_meanwhile(*arguments: Any) -> Rows:
        if not said:
            said.append(True)
            both.chroma.upsert(info, ["b", "c", "d"], rows(2, 3, 4), None, None, None)
        return plain(*arguments)

    monkeypatch.setattr(both.fast, "_rows", write_meanwhile)
    assert both.get(info) is None
    assert said
    said.clear()
    found = both.query(info, rows(1)[0].tolist(), 10)
    assert said and found is not None and set(found.ids) == {"a", "b", "c", "d"}
    assert_same(both, info, rows(1)[0].tolist())


def test_a_damaged_index_is_left_to_chroma(both: Both) -> None:
    """Files that do not have a vector for every record are not answered from."""
    info = both.create("notes", threshold=3)
    both.chroma.upsert(info, ["a", "b", "c", "d"], rows(1, 2, 3, 4), None, None, None)
    labels = next(both.directory.glob("*/index_metadata.pickle"))
    labels.write_bytes(b"no pickle")
    both.fast.close()
    both.fast = both.reader()
    assert both.query(info, rows(1)[0].tolist()) is None
    assert both.count(info) == 4


def test_threads_may_ask_while_one_writes(both: Both) -> None:
    """Readers in threads see only whole states while a writer goes on: as many matches as a count before or after."""
    info = both.create("notes", threshold=20)
    both.chroma.upsert(info, ["first"], rows(1), None, None, None)
    wrong: list[str] = []
    answered = 0
    done = threading.Event()

    def read() -> None:
        nonlocal answered
        while not done.is_set():
            before = both.count(info)
            found = both.query(info, rows(2)[0].tolist(), 1000)
            after = both.count(info)
            if None in (before, after) or found is None:
                continue
            answered += 1
            if not before <= len(found.ids) <= after:  # type: ignore[operator]
                wrong.append(f"{before} {len(found.ids)} {after}")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(600):
        both.chroma.upsert(info, [f"r{n}"], rows(n), None, None, None)
        # A write holds the interpreter lock. As between the slices of a bulk write, other threads run before the next.
        time.sleep(YIELD_S)
        if n >= 120 and answered > 10:
            break
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong and answered
    assert_same(both, info, rows(1)[0].tolist())


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_gives_the_descriptors_back(both: Both) -> None:
    """No descriptor of a closed reader stays, and it answers nothing any more."""
    info = both.create("notes")
    both.chroma.upsert(info, ["a"], rows(1), None, None, None)
    before = _open_files()
    for _ in range(5):
        fast = both.reader()
        assert fast.count(info.id, "default_database") == 1
        fast.close()
        fast.close()
        assert fast.count(info.id, "default_database") is None
    assert _open_files() == before
