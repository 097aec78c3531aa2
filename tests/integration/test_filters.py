"""Filters of the fast path, beside Chroma itself: random filters over random records with values that are easy to miss.

Two small models say what each side answers, record by record. They differ in numbers only
(``tests.support.filter_models``), and those are the deliberate differences. Both sides have to answer as their model
does.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.filter_models import Compare, as_chroma, by_value, satisfies
from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.filter_rows import Segment, matching
from vectorpool.engine.filters import (
    MAX_TERMS,
    MAX_VALUES,
    TooLarge,
    has_empty_join,
    left_to_chroma,
    read_filter,
    resolved,
)
from vectorpool.engine.records import EngineOptions, Records
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import METADATA_SCOPE, Operation, segments_of
from vectorpool.names import CHROMA_DATABASE_FILE

I64 = 2**63
NUMBERS: list[int | float] = [
    *(0, 1, 2, 3, -1, -2, 2**53 - 1, 2**53, 2**53 + 1, 2**53 + 2, -(2**53) - 1, I64 - 1, -I64, I64 - 512),
    *(0.0, -0.0, 1.0, 2.0, 2.5, -1.5, 5e-324, 1e308, -1e308, 1.7976931348623157e308, 2.0**53, 2.0**53 + 2, 2.0**63),
    *(1733262915.8748221, 1733262915.874822, 1733262915.8748224, 48.137154, 0.1, 0.30000000000000004, 1e23, 1e22),
]
WORDS = ["", "a", "A", "abc", "ABC", "bcd", "é", "É", "ß", "日本語", "50%", "a_b", "\\", '"x"', "a'b", "ſ", "İı", "Ω"]
KEYS = ["a", "b", "c", "ключ", "a'b"]
OPERATORS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$not_contains"]
COUNT = 3000


class World:
    """Some collections of one directory, written by Chroma and by the fast path."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.chroma = PlainChroma(directory)
        self.records: dict[str, list[tuple[str, dict[str, Any], str | None]]] = {}
        self.infos = [self.chroma.create(name) for name in ("first", "second", "third")]
        fast = Records(
            DatabaseFile(directory, threading.Lock()),
            self.chroma.client,
            self.chroma.catalogue,
            EngineOptions(fast_reads=False),
        )
        for info in self.infos:
            for start in (0, 40, 80):
                batch = Batch(*self.columns(start))
                if start == 0:
                    self.chroma.upsert(info, batch.ids, batch.embeddings, batch.metadatas, batch.documents, None)
                else:
                    fast.put(Operation.UPSERT, info.id, info.database, batch, lambda: None)
            found = self.chroma.get(info, include=["metadatas", "documents"])
            assert found.metadatas is not None and found.documents is not None
            columns = zip(found.ids, found.metadatas, found.documents, strict=True)
            self.records[info.id] = [(i, metadata or {}, text) for i, metadata, text in columns]
        fast.close()
        self.db = sqlite3.connect(f"file:{directory / CHROMA_DATABASE_FILE}?mode=ro", uri=True)

    def close(self) -> None:
        """Close it."""
        self.db.close()
        self.chroma.close()

    def columns(self, start: int) -> tuple[list[str], Any, list[Any], list[Any]]:
        """Return ids, vectors, metadatas and documents of 40 records."""
        ids = [f"id-{n}" for n in range(start, start + 40)]
        metadatas = [{key: self.value() for key in KEYS if self.random.random() < 0.6} or None for _ in ids]
        documents = [self.text() if self.random.random() < 0.7 else None for _ in ids]
        return ids, np.ones((40, 2), "<f4"), metadatas, documents

    def number(self) -> int | float:
        """Return a number, mostly of a few, and now and then a time of a clock."""
        if self.random.random() < 0.2:
            return 1733262900 + self.random.random() * 100
        return self.random.choice(NUMBERS)

    def value(self) -> Any:
        """Return a metadata value; lists are of one type."""
        kind = self.random.random()
        if kind < 0.55:
            return self.number()
        if kind < 0.75:
            return self.random.choice(WORDS)
        if kind < 0.85:
            return self.random.random() < 0.5
        pool: list[Any] = self.random.choice([[n for n in NUMBERS if type(n) is t] for t in (int, float)] + [WORDS])
        return self.random.choices(pool, k=self.random.randint(1, 3))

    def text(self) -> str:
        """Return a text of some words."""
        return "".join(self.random.choices(WORDS, k=self.random.randint(0, 6)))

    def operand(self, info: CollectionInfo) -> Any:
        """Return a scalar, often one that a record was written with, or a float beside it."""
        stored = self.random.choice(self.records[info.id])[1]
        value = self.random.choice([*stored.values(), self.number()])
        value = self.random.choice(value) if isinstance(value, list) else value
        if isinstance(value, float) and self.random.random() < 0.2 and abs(value) < 1e300:
            return float(np.nextafter(value, self.random.choice([-np.inf, np.inf])))
        return value

    def where(self, info: CollectionInfo, depth: int = 0) -> dict[str, Any]:
        """Return a filter on metadata."""
        if depth < 3 and self.random.random() < 0.35:
            parts = [self.where(info, depth + 1) for _ in range(self.random.randint(1, 3))]
            return {self.random.choice(["$and", "$or"]): parts}
        key, operator, value = self.random.choice(KEYS), self.random.choice(OPERATORS), self.operand(info)
        if operator in ("$in", "$nin"):
            others = [v for v in (self.operand(info) for _ in range(4)) if type(v) is type(value)]
            if isinstance(value, float) and self.random.random() < 0.3:
                others.append(self.random.choice([n for n in NUMBERS if isinstance(n, int)]))
            return {key: {operator: [value, *others]}}
        if operator in ("$gt", "$gte", "$lt", "$lte") and isinstance(value, (bool, str)):
            value = self.number()
        return {key: {operator: value}}

    def where_document(self, depth: int = 0) -> dict[str, Any]:
        """Return a filter on text."""
        if depth < 2 and self.random.random() < 0.3:
            parts = [self.where_document(depth + 1) for _ in range(self.random.randint(1, 3))]
            return {self.random.choice(["$and", "$or"]): parts}
        operator = self.random.choice(["$contains", "$not_contains"])
        return {operator: "".join(self.random.choices(WORDS[1:], k=self.random.randint(1, 2)))}

    def ours(
        self, info: CollectionInfo, where: Any, where_document: Any, ids: Any = None, by_phrase: bool = False
    ) -> list[str] | None:
        """Return what the fast path finds, None for what it leaves to Chroma."""
        condition = read_filter(*(None if each is None else json.dumps(each) for each in (where, where_document)))
        if condition is None:
            return None
        segment = Segment(self.db, segments_of(self.db, info.id)[METADATA_SCOPE], True, by_phrase)
        return [record_id for _, record_id in matching(segment, condition, ids)]

    def theirs(self, info: CollectionInfo, where: Any, where_document: Any, ids: Any = None) -> list[str]:
        """Return what Chroma finds."""
        texts = [None if each is None else json.dumps(each) for each in (where, where_document)]
        return self.chroma.get(info, ids=ids, where=texts[0], where_document=texts[1]).ids


# --- The two models ----------------------------------------------------------------------------------


def holds(metadata: dict[str, Any], where: dict[str, Any], compare: Compare) -> bool:
    """Return whether a record's metadata satisfies a filter."""
    ((name, operand),) = where.items()
    if name in ("$and", "$or"):
        return (all if name == "$and" else any)(holds(metadata, part, compare) for part in operand)
    ((operator, x),) = operand.items()
    return satisfies(metadata.get(name), operator, x, compare)


def contains(text: str | None, where: dict[str, Any]) -> bool:
    """Return whether a record's document satisfies a filter."""
    ((name, operand),) = where.items()
    if name in ("$and", "$or"):
        return (all if name == "$and" else any)(contains(text, part) for part in operand)
    return (text is not None and operand in text) == (name == "$contains")


def expected(world: World, info: CollectionInfo, where: Any, where_document: Any, compare: Compare) -> list[str]:
    """Return the ids that a model finds."""
    return [
        i
        for i, metadata, text in world.records[info.id]
        if (where is None or holds(metadata, where, compare))
        and (where_document is None or contains(text, where_document))
    ]


# --- The comparison ----------------------------------------------------------------------------------


def compare_many(directory: Path, count: int, seed: int) -> tuple[int, int]:
    """Compare ``count`` random filters; return how many differed on purpose and how many found some but not all."""
    world = World(directory, seed)
    differed = told = 0
    try:
        for _ in range(count):
            info = world.random.choice(world.infos)
            kind = world.random.random()
            where = world.where(info) if kind < 0.8 else None
            where_document = world.where_document() if kind > 0.6 else None
            asked = info, where, where_document
            ours, theirs = world.ours(*asked, by_phrase=world.random.random() < 0.5), world.theirs(*asked)
            assert ours == expected(world, *asked, by_value), (where, where_document)
            assert theirs == expected(world, *asked, as_chroma), (where, where_document)
            differed += ours != theirs
            told += 0 < len(ours) < len(world.records[info.id])
    finally:
        world.close()
    return differed, told


def test_random_filters_find_what_chroma_finds_but_for_numbers(tmp_path: Path) -> None:
    """Thousands of filters; most of them tell records apart, and some differ on purpose."""
    differed, told = compare_many(tmp_path, COUNT, 1)
    assert told > COUNT // 2
    assert 0 < differed < COUNT // 2


@pytest.mark.long
@pytest.mark.timeout(24 * 3600)
def test_a_million_random_filters(tmp_path: Path) -> None:
    """The same with many worlds; VECTORPOOL_TEST_FILTERS says how many filters."""
    total, each = int(os.environ.get("VECTORPOOL_TEST_FILTERS", 1_000_000)), 10_000
    first = int(os.environ.get("VECTORPOOL_TEST_SEED", 1000))
    for number in range(-(-total // each)):
        directory = tmp_path / str(number)
        directory.mkdir()
        differed, told = compare_many(directory, min(each, total - number * each), first + number)
        print(f"seed {first + number}: {differed} differed on purpose, {told} told records apart", flush=True)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, 7)
    yield made
    made.close()


def test_large_filters_find_what_small_ones_find(world: World) -> None:
    """Many values, branches, ids and characters pass SQLite's limits, which Chroma does not."""
    info = world.infos[0]
    wanted = world.ours(info, {"a": {"$in": [1, 2]}}, None)
    assert wanted
    assert world.ours(info, {"a": {"$in": [*range(10**9, 10**9 + 40_000), 1, 2]}}, None) == wanted
    assert world.ours(info, {"$or": [{"a": n} for n in (*range(10**9, 10**9 + 1500), 1, 2)]}, None) == wanted
    assert world.ours(info, {"a": {"$in": [1, 2]}}, None, [f"id-{n}" for n in range(40_000)]) == wanted
    assert world.ours(info, None, {"$contains": "a" * 60_000}, by_phrase=True) == []
    assert world.ours(info, None, {"$not_contains": "a" * 60_000}) == [i for i, _, _ in world.records[info.id]]


@pytest.mark.parametrize(
    ("where", "what", "limit"),
    [
        ({"a": {"$in": list(range(MAX_VALUES + 1))}}, "values", MAX_VALUES),
        ({"$or": [{"a": 1}] * (MAX_TERMS + 1)}, "conditions", MAX_TERMS),
    ],
)
def test_larger_filters_are_refused_with_the_number(where: Any, what: str, limit: int) -> None:
    """The error carries what is too many, how many were counted, and the limit."""
    with pytest.raises(TooLarge) as refused:
        read_filter(json.dumps(where), None)
    assert refused.value.args == (what, limit + 1, limit)


@pytest.mark.parametrize(
    ("where", "where_document"),
    [
        *(
            (json.dumps(each), None)
            for each in ({}, {"$and": []}, {"$or": []}, {"a": 1, "b": 1}, {"a": {}}, {"#id": 1})
        ),
        *((json.dumps({"a": each}), None) for each in ({"$in": []}, {"$in": [1, 2.5]}, {"$gt": "x"}, {"$gt": True})),
        *((json.dumps({"a": each}), None) for each in (None, [1], 2**63, {"$contains": 2**63}, {"$regex": "x"})),
        *((each, None) for each in ("", "[", '{"a": NaN}', '{"a": 1e999}', '"text"', '{"a": "\\ud800"}')),
        *(
            (None, json.dumps(each))
            for each in ({}, {"$and": []}, {"$contains": 1}, {"$regex": 1}, {"$and": [{"$nope": "x"}]})
        ),
    ],
)
def test_what_chroma_decides_is_left_to_it(where: str | None, where_document: str | None) -> None:
    """Refusals are Chroma's."""
    assert read_filter(where, where_document) is None


def test_conditions_that_chroma_evaluates_are_named(world: World) -> None:
    """Regular expressions and empty text, wherever they stand; with their ids the rest is evaluated here."""
    where = {"$or": [{"a": 2.5}, {"#document": {"$regex": "b|c"}}, {"#document": {"$not_regex": "é"}}]}
    condition = read_filter(json.dumps(where), json.dumps({"$contains": ""}))
    assert condition is not None
    clauses = left_to_chroma(condition)
    assert [json.loads(each.where_document or "") for each in clauses] == [
        {"$regex": "b|c"},
        {"$not_regex": "é"},
        {"$contains": ""},
    ]
    found = resolved(condition, {clauses[0]: ("id-3",), clauses[1]: ("id-3", "id-4"), clauses[2]: ("id-4", "gone")})
    segment = Segment(world.db, segments_of(world.db, world.infos[0].id)[METADATA_SCOPE], True)
    assert [record_id for _, record_id in matching(segment, found)] == ["id-4"]
    assert left_to_chroma(found) == []


def test_a_float_is_found_by_its_own_value(world: World) -> None:
    """The floats that were sent, and those that Chroma stores for them, are equal to what is asked; no other is."""
    info = world.infos[1]
    found = 0
    for record_id, metadata, _ in world.records[info.id]:
        for key, value in metadata.items():
            if isinstance(value, float):
                found += 1
                assert record_id in (world.ours(info, {key: value}, None) or [])
                assert record_id not in (world.ours(info, {key: {"$gt": value}}, None) or [])
    assert found > 20


@pytest.mark.parametrize(
    ("clause", "is_empty"),
    [
        *((each, True) for each in ({"$and": []}, {"$or": []}, {"$and": [{"a": 1}, {"$or": [{"$and": []}]}]})),
        *((each, False) for each in ({}, {"a": 1}, {"$and": [{"a": {"$in": []}}]}, {"$contains": "x"}, [], None)),
    ],
)
def test_a_join_of_nothing_is_seen_at_any_depth(clause: Any, is_empty: bool) -> None:
    """Deletions refuse such a filter."""
    assert has_empty_join(json.dumps(clause)) is is_empty
