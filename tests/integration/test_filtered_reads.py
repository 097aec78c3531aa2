"""Filtered reads of the fast path on one open directory: exact, whatever they include and however many they ask."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.failures import translate
from vectorpool.engine.filters import MAX_VALUES
from vectorpool.engine.records import EngineOptions, Records
from vectorpool.engine.rows import Batch, Rows
from vectorpool.engine.tables import Operation
from vectorpool.errors import LimitExceeded

DIMENSION = 3
SPACES = ("l2", "cosine", "ip")
INCLUDE = ("documents", "metadatas", "uris", "embeddings", "distances")


class Directory:
    """One open directory; ``records`` has both fast paths, ``chroma`` none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self, **options: Any) -> None:
        """Open it."""
        self.chroma = PlainChroma(self.path)
        self.records = Records(
            DatabaseFile(self.path, threading.Lock()),
            self.chroma.client,
            self.chroma.catalogue,
            EngineOptions(**options),
        )
        reader = self.records._reader
        assert reader is not None
        self.reader = reader

    def close(self) -> None:
        """Close it."""
        self.records.close()
        self.chroma.close()

    def fill(self, space: str, threshold: int, count: int) -> tuple[CollectionInfo, Any]:
        """Return a collection whose records drift: each is replaced several times, in turns by both write paths."""
        hnsw = {"space": space, "sync_threshold": threshold, "batch_size": min(threshold, 100)}
        info = self.chroma.create("notes", hnsw)
        random = np.random.default_rng(5)
        vectors = random.normal(size=(count, DIMENSION)).astype("<f4")
        for turn in range(4):
            vectors += random.normal(scale=0.05, size=vectors.shape).astype("<f4")
            for start in range(0, count, 40):
                part = slice(start, start + 40)
                ids = [f"r{n}" for n in range(count)[part]]
                metadatas = [{"n": n % 10, "x": n / 7} for n in range(count)[part]]
                batch = Batch(ids, vectors[part], metadatas, [f"text {i}" for i in ids], None)
                if (start // 40 + turn) % 3:
                    self.records.put(Operation.UPSERT, info.id, info.database, batch, lambda: None)
                else:
                    self.chroma.upsert(info, ids, batch.embeddings, metadatas, batch.documents, None)
        return info, vectors

    def query(self, info: CollectionInfo, vectors: Any, limit: int, **asked: Any) -> list[Rows]:
        """Ask the fast path, which has to answer."""
        counted = []
        plain = self.chroma.client.query
        self.chroma.client.query = lambda **_: counted.append(True)  # type: ignore[method-assign,assignment]
        try:
            found = self.records.query(info.id, info.database, vectors, limit, **asked)
        finally:
            self.chroma.client.query = plain  # type: ignore[method-assign]
        assert found is not None and not counted
        return found


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    made = Directory(tmp_path)
    yield made
    made.close()


def distances_to(space: str, vectors: Any, query: Any) -> Any:
    """Return the exact distances of float32[n, d] to float32[d]."""
    long, to = vectors.astype(np.float64), query.astype(np.float64)
    if space == "l2":
        return ((long - to) ** 2).sum(axis=1)
    if space == "ip":
        return 1 - long @ to
    return 1 - long @ to / np.linalg.norm(long, axis=1) / np.linalg.norm(to)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("threshold", [100, 10_000])
def test_every_record_is_found_by_its_own_vector(directory: Directory, space: str, threshold: int) -> None:
    """All queries in one call, with embeddings and a filter, warm and reopened, below and above the sync threshold."""
    info, vectors = directory.fill(space, threshold, 600)
    for _ in range(2):
        where = json.dumps({"n": {"$in": [3, 4]}})
        wanted = [n for n in range(600) if n % 10 in (3, 4)]
        found = directory.query(info, vectors[wanted], 2, where=where, include=INCLUDE)
        assert len(found) == len(wanted)
        for n, rows in zip(wanted, found, strict=True):
            assert rows.distances is not None and rows.embeddings is not None
            exact = np.sort(distances_to(space, vectors[wanted], vectors[n]))[:2]
            np.testing.assert_allclose(rows.distances, exact, rtol=1e-4, atol=2e-6)
            assert space == "ip" or rows.ids[0] == f"r{n}"
            if space != "ip":
                np.testing.assert_allclose(rows.embeddings[0], vectors[n], rtol=1e-5, atol=1e-6)
        everything = directory.query(info, vectors[:1], 5000, include=INCLUDE)[0]
        assert set(everything.ids) == {f"r{n}" for n in range(600)}
        directory.close()
        directory.open()


def test_gets_and_queries_are_chromas_but_for_order(directory: Directory) -> None:
    """Filters, ids, limits and offsets, columns: what Chroma gets, field by field."""
    info, vectors = directory.fill("cosine", 100, 200)
    ids = [f"r{n}" for n in range(0, 200, 3)]
    for asked in (
        {"where": json.dumps({"n": {"$gt": 6}})},
        {"where": json.dumps({"n": {"$ne": 6}}), "limit": 7, "offset": 5},
        {"where": json.dumps({"n": 1}), "where_document": json.dumps({"$contains": "r1"})},
        {"where_document": json.dumps({"$not_contains": "r1"}), "ids": [*ids, "missing"]},
        {"where": json.dumps({"n": 100})},
        {"ids": ids, "limit": 3},
        {"limit": 4, "offset": 199},
    ):
        include = ("documents", "metadatas", "uris", "embeddings")
        ours = directory.records.get(info.id, info.database, include=include, **asked)  # type: ignore[arg-type]
        theirs = directory.chroma.get(info, include=include, **asked)
        assert ours is not None and ours.embeddings is not None and theirs.embeddings is not None
        for column in ("ids", "documents", "metadatas", "uris"):
            assert getattr(ours, column) == getattr(theirs, column)
        np.testing.assert_allclose(ours.embeddings, theirs.embeddings, rtol=1e-5, atol=1e-6)
    restricted = directory.query(info, vectors[:3], 500, ids=ids, where=json.dumps({"n": {"$lt": 5}}))
    assert all(set(rows.ids) == {i for i in ids if int(i[1:]) % 10 < 5} for rows in restricted)


def test_a_vector_whose_square_overflows_empties_no_answer(directory: Directory) -> None:
    """Every record is in the answer, in the order of the exact distances, and no distance is missing."""
    info = directory.chroma.create("notes")
    vectors = np.array([[3.4e38, 0, 0], [1, 2, 3], [-3.4e38, 1, 1]], "<f4")
    directory.chroma.upsert(info, ["far", "near", "opposite"], vectors, None, None, None)
    rows = directory.query(info, vectors[1:2], 3, include=("distances",))[0]
    assert rows.ids[0] == "near" and set(rows.ids) == {"far", "near", "opposite"}
    rows = directory.query(info, vectors[:1], 3, include=("distances",))[0]
    assert rows.ids == ["far", "near", "opposite"]
    assert rows.distances is not None and np.isfinite(rows.distances).all()


def test_a_filter_that_is_too_large_is_refused_with_its_limit(directory: Directory) -> None:
    """The refusal names the number of values and the limit."""
    info = directory.chroma.create("notes")
    where = json.dumps({"a": {"$in": list(range(MAX_VALUES + 1))}})
    with pytest.raises(LimitExceeded) as refused:
        directory.records.get(info.id, info.database, where=where)
    assert refused.value.extra["limit"] == MAX_VALUES


def test_queries_with_regular_expressions_are_exact_too(directory: Directory) -> None:
    """Chroma finds the records by text, and the fast path compares their vectors, and numbers by value."""
    info, vectors = directory.fill("l2", 100, 200)
    where = json.dumps({"$and": [{"n": {"$gte": 2.5}}, {"#document": {"$regex": "r[0-9]{2}$"}}]})
    wanted = [n for n in range(10, 100) if n % 10 >= 3]
    for rows, n in zip(directory.query(info, vectors[wanted], 500, where=where), wanted, strict=True):
        assert rows.ids[0] == f"r{n}" and set(rows.ids) == {f"r{n}" for n in wanted}
    for where_document in ({"$regex": "r1."}, {"$not_regex": "r1."}, {"$contains": ""}, {"$not_contains": ""}):
        text = json.dumps(where_document)
        theirs = set(directory.chroma.get(info, where_document=text).ids)
        assert set(directory.query(info, vectors[:1], 500, where_document=text)[0].ids) == theirs
        got = directory.records.get(info.id, info.database, where_document=text)
        assert got is not None and set(got.ids) == theirs


def test_queries_with_filters_that_chroma_judges_are_exact_too(directory: Directory) -> None:
    """A key that Chroma reserves: it says which records there are, and their vectors are compared here."""
    info, vectors = directory.fill("l2", 100, 200)
    where = json.dumps({"#id": {"$nin": ["r1"]}})
    assert len(directory.chroma.get(info, where=where).ids) == 200
    for n, rows in enumerate(directory.query(info, vectors, 1, where=where, include=("embeddings",))):
        assert rows.ids == [f"r{n}"]
    with pytest.raises(Exception, match="Invalid where clause"):
        directory.records.query(info.id, info.database, vectors[:1], 1, where=json.dumps({"n": {"$gt": "x"}}))


def test_a_query_among_ids_of_which_one_is_missing(directory: Directory) -> None:
    """With a filter it is exact among those that are there; without one Chroma refuses it."""
    info, vectors = directory.fill("l2", 100, 100)
    ids = ["r1", "missing", "r2", "r13"]
    where = json.dumps({"n": {"$in": [2, 3]}})
    assert set(directory.query(info, vectors[:1], 9, ids=ids, where=where)[0].ids) == {"r2", "r13"}
    with pytest.raises(Exception, match="Error finding id"):
        directory.records.query(info.id, info.database, vectors[:1], 9, ids=ids)
    found = directory.query(info, vectors[1:2], 9, ids=[i for i in ids if i != "missing"])[0].ids
    assert found[0] == "r1" and set(found) == {"r1", "r2", "r13"}


def test_queries_are_exact_while_others_write(directory: Directory) -> None:
    """Records that stay are found by their own vectors, with and without a filter, in the middle of writes."""
    info, vectors = directory.fill("l2", 100, 200)
    done, failed = threading.Event(), list[BaseException]()

    def write() -> None:
        try:
            random = np.random.default_rng(9)
            for turn in range(40):
                rows = random.normal(size=(20, DIMENSION)).astype("<f4")
                ids = [f"r{n}" for n in range(20)]
                batch = Batch(ids, rows, [{"n": turn % 10} for _ in ids], [f"text {i}" for i in ids], None)
                if turn % 3:
                    directory.records.put(Operation.UPSERT, info.id, info.database, batch, lambda: None)
                else:
                    directory.chroma.upsert(info, ids, rows, batch.metadatas, batch.documents, None)
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    turns = 0
    while not done.is_set() or turns < 2:
        turns += 1
        for where in (None, json.dumps({"n": {"$in": [3.0, 4]}})):
            wanted = [n for n in range(20, 200) if where is None or n % 10 in (3, 4)]
            found = directory.records.query(info.id, info.database, vectors[wanted], 1, where=where)
            assert found is not None and [rows.ids for rows in found] == [[f"r{n}"] for n in wanted]
    thread.join()
    assert not failed


def test_a_collection_that_shrinks_is_exact_again(directory: Directory) -> None:
    """As soon as its records take no more than they may, while its files still hold all of them."""
    info, vectors = directory.fill("l2", 100, 600)
    directory.close()
    directory.open(exact_bytes=100 * DIMENSION * 4)
    assert directory.reader.query(info.id, info.database, vectors[:1], 1, ()) is None
    directory.chroma.delete(info, [f"r{n}" for n in range(501)])
    for _ in range(2):
        for n, rows in zip(range(501, 600), directory.query(info, vectors[501:], 1), strict=True):
            assert rows.ids == [f"r{n}"]
        directory.close()
        directory.open(exact_bytes=100 * DIMENSION * 4)


def test_a_long_queue_is_taken_in(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    """More operations than are read at a time."""
    monkeypatch.setattr("vectorpool.engine.collection_views._TAIL", 7)
    info, vectors = directory.fill("l2", 10_000, 100)
    for n, rows in enumerate(directory.query(info, vectors, 1)):
        assert rows.ids == [f"r{n}"]


def test_numbers_are_compared_by_value_above_the_bytes_that_are_exact(directory: Directory) -> None:
    """The filter is evaluated here, and Chroma's index finds the nearest of its records."""
    info, vectors = directory.fill("l2", 100, 200)
    directory.close()
    directory.open(exact_bytes=0)
    for where, wanted in (
        ({"n": {"$gte": 2.5}}, {f"r{n}" for n in range(200) if n % 10 >= 3}),
        ({"x": 3 / 7}, {"r3"}),
        ({"n": 2.5}, set()),
        ({"n": {"$in": [*range(10**9, 10**9 + 34_000), 1]}}, {f"r{n}" for n in range(1, 200, 10)}),
    ):
        found = directory.records.query(info.id, info.database, vectors[:2], 200, where=json.dumps(where))
        assert found is not None and [set(rows.ids) for rows in found] == [wanted, wanted], where


def test_large_answers_of_chroma_are_put_together(tmp_path: Path) -> None:
    """What one SQL statement cannot name: four queries with 10,000 results each, and 33,000 records."""
    chroma = PlainChroma(tmp_path)
    info = chroma.create("notes", {"space": "l2", "sync_threshold": 50_000, "batch_size": 50_000})
    vectors = np.random.default_rng(3).normal(size=(33_000, 2)).astype("<f4")
    fast = Records(
        DatabaseFile(tmp_path, threading.Lock()), chroma.client, chroma.catalogue, EngineOptions(fast_reads=False)
    )
    ids = [f"r{n}" for n in range(len(vectors))]
    fast.put(Operation.ADD, info.id, info.database, Batch(ids, vectors, None, ids, None), lambda: None)
    for n, rows in enumerate(chroma.query(info, vectors[:4], 10_000, include=("documents", "distances"))):
        assert len(rows.ids) == 10_000 and rows.documents == rows.ids and rows.ids[0] == f"r{n}"
    got = chroma.get(info, include=("documents", "embeddings"))
    assert got.ids == ids and got.documents == ids and got.embeddings is not None and len(got.embeddings) == len(ids)
    assert chroma.get(info, include=("documents",), limit=32_900, offset=50).ids == ids[50:32_950]
    with pytest.raises(Exception, match="too many SQL variables") as refused:
        chroma.get(info, ids=ids)
    assert translate(refused.value).extra["limit"] == 32_000  # type: ignore[arg-type]
    fast.close()
    chroma.close()


def test_text_is_found_alike_by_scan_and_by_trigrams(directory: Directory) -> None:
    """Above some thousand records the trigram index is asked first; it folds case, the comparison does not."""
    info = directory.chroma.create("notes")
    texts = [f"{word} {n}" for n in range(700) for word in ("Straße", "STRASSE", "ſtraße", "İstanbul")]
    ids = [str(n) for n in range(len(texts))]
    for part in (slice(0, 1400), slice(1400, 2800)):
        batch = np.ones((1400, DIMENSION), "<f4")
        directory.chroma.upsert(info, ids[part], batch, None, texts[part], None)
    assert directory.records.count(info.id, info.database) == 2800
    for needle in ("Straße", "straße", "STRASSE 1", "İst", "ist", "e 69", '"', "ß"):
        found = directory.records.get(info.id, info.database, where_document=json.dumps({"$contains": needle}))
        assert found is not None
        assert found.ids == [i for i, text in zip(ids, texts, strict=True) if needle in text]
    assert sqlite3.sqlite_version_info >= (3, 34), "the trigram index came with this version"
