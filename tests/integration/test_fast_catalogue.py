"""The catalogue from the tables is Chroma's own, answer by answer, in every kind of collection that Chroma makes."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile, Doubt
from vectorpool.engine.fast_catalogue import FastCatalogue
from vectorpool.names import CHROMA_DATABASE_FILE, DEFAULT_DATABASE

DATABASES = ("zebra", DEFAULT_DATABASE, "avatar-7", "empty")
KNOWN = {"type": "known", "name": "default", "config": {"model": "x", "n": 1}}
CONFIGURATIONS: list[dict[str, Any] | None] = [
    None,
    {"hnsw": {}},
    {"hnsw": {"space": "cosine", "ef_construction": 50, "ef_search": 20, "max_neighbors": 8, "sync_threshold": 100}},
    {"hnsw": {"space": "ip", "resize_factor": 1.7, "batch_size": 7, "num_threads": 1}},
    {"hnsw": {}, "embedding_function": KNOWN},
    {"hnsw": {}, "embedding_function": {"type": "legacy"}},
    {"hnsw": {}, "embedding_function": {"type": "unknown"}},
]
METADATAS: list[dict[str, Any] | None] = [
    None,
    {"text": "x", "whole": 1, "half": 2.5, "flag": True, "no": False, "zero": 0, "nothing": 0.0, "empty": ""},
    {"hnsw:space": "ip", "hnsw:sync_threshold": 50, "hnsw:M": 9},
]


@pytest.fixture
def chroma(tmp_path: Path) -> Iterator[PlainChroma]:
    """A directory with collections of every kind, some with records, in several databases."""
    opened = PlainChroma(tmp_path)
    for database in DATABASES:
        if database != DEFAULT_DATABASE:
            opened.catalogue.create_database(database)
    for at, configuration in enumerate(CONFIGURATIONS):
        for number, metadata in enumerate(METADATAS):
            name = f"c-{at}-{number}"
            # Chroma refuses parameters of the index both ways.
            with suppress(Exception):
                text = None if configuration is None else json.dumps(configuration)
                made = opened.catalogue.create(DATABASES[at % 3], name, metadata=metadata, configuration=text)
                if number == 1:
                    values = [{"a": 1, "b": "x", "c": 1.5, "d": True, "list": ["x", "y"]}]
                    opened.upsert(made, ["r"], np.ones((1, 3), np.float32), values, ["text"], None)
                if at == 1:
                    change = json.dumps({"hnsw": {"ef_search": 33, "sync_threshold": 77}})
                    opened.catalogue.update(made.id, name=f"{name}-new", metadata={"new": 1}, configuration=change)
    yield opened
    opened.close()


@pytest.fixture
def fast(chroma: PlainChroma, tmp_path: Path) -> Iterator[FastCatalogue]:
    """The catalogue from the tables of the same directory."""
    source = DatabaseFile(tmp_path, threading.RLock())
    yield FastCatalogue(source)
    source.close()


def test_every_answer_is_chromas(chroma: PlainChroma, fast: FastCatalogue) -> None:
    """Databases, lists, pages, counts and collections are equal; one of a kind without a rule is left to Chroma."""
    theirs = chroma.catalogue
    told = left = 0
    for database in (*DATABASES, "missing"):
        infos = theirs.collections(database)
        assert fast.count_collections(database) == theirs.count_collections(database) == len(infos)
        for info in infos:
            try:
                found = fast.by_name(database, info.name)
            except Doubt:
                left += 1
                assert info.configuration["embedding_function"] not in (None, KNOWN)
                continue
            told += 1
            assert found == fast.by_id(database, info.id) == info
            assert fast.by_id("missing", info.id) is None
        if all(info.configuration["embedding_function"] in (None, KNOWN) for info in infos):
            for limit, offset in ((None, 0), (2, 1), (0, 0), (5, 100)):
                assert fast.collections(database, limit, offset) == theirs.collections(
                    database, limit=limit, offset=offset
                )
    for limit, offset in ((None, 0), (2, 1), (0, 2)):
        assert fast.databases(limit, offset) == theirs.databases(limit=limit, offset=offset)
    assert told > 10 and left > 0


def test_what_is_not_there_needs_no_chroma(fast: FastCatalogue) -> None:
    """A missing collection is told as missing; an id that is none is left to Chroma, which refuses it."""
    assert fast.by_name(DEFAULT_DATABASE, "missing") is None
    assert fast.by_id(DEFAULT_DATABASE, "00000000-0000-0000-0000-000000000000") is None
    for name in ("x", "", "ABCDEF00-0000-0000-0000-000000000000"):
        with pytest.raises(Doubt):
            fast.by_id(DEFAULT_DATABASE, name)


@pytest.mark.parametrize(
    "change",
    [
        "schema_str = NULL",
        "schema_str = '{'",
        "schema_str = '{}'",
        "config_json_str = '{\"hnsw\": {}}'",
    ],
)
def test_a_row_of_another_shape_is_left_to_chroma(chroma: PlainChroma, tmp_path: Path, change: str) -> None:
    """A collection of an older version, or one that was damaged, is never told from the tables."""
    chroma.close()
    with closing(sqlite3.connect(tmp_path / CHROMA_DATABASE_FILE)) as db, db:
        assert db.execute(f"UPDATE collections SET {change} WHERE name = 'c-0-0'").rowcount == 1
    source = DatabaseFile(tmp_path, threading.RLock())
    with pytest.raises(Doubt):
        FastCatalogue(source).by_name(DATABASES[0], "c-0-0")
    source.close()


def test_a_file_that_is_being_written_is_left_to_chroma(chroma: PlainChroma, tmp_path: Path) -> None:
    """While a transaction's journal is there, nothing is told."""
    source = DatabaseFile(tmp_path, threading.RLock())
    fast = FastCatalogue(source)
    assert fast.databases(None, 0)
    journal = tmp_path / f"{CHROMA_DATABASE_FILE}-journal"
    journal.touch()
    with pytest.raises(Doubt):
        fast.databases(None, 0)
    journal.unlink()
    assert fast.databases(None, 0)
    source.close()
    with pytest.raises(Doubt):
        fast.databases(None, 0)


def test_the_catalogue_asks_chroma_only_in_doubt(chroma: PlainChroma, tmp_path: Path) -> None:
    """With the tables, no question opens Chroma but one that they do not answer."""
    made: CollectionInfo = chroma.catalogue.get(DATABASES[0], "c-0-0")
    chroma.client.release()
    source = DatabaseFile(tmp_path, threading.RLock())
    catalogue = Catalogue(chroma.client, FastCatalogue(source))
    assert catalogue.get(DATABASES[0], "c-0-0") == catalogue.get_by_id(DATABASES[0], made.id) == made
    assert catalogue.known_anywhere("missing", made.id) == made
    assert catalogue.find_id(DATABASES[0], "missing") is None
    assert catalogue.database("avatar-7").name == "avatar-7"
    assert sorted(catalogue.database_names()) == sorted(DATABASES)
    assert chroma.client.use is None
    with pytest.raises(Exception, match="does not exist"):
        catalogue.get(DEFAULT_DATABASE, "missing")
    assert chroma.client.use == "operation"
    source.close()
