"""A plain Chroma directory with a bit of everything, changed and read back, for tests of exports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vectorpool.engine.directory_state import DirectoryState
from vectorpool.engine.engine import Engine
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.export.directory import DirectoryBuilder, DirectorySource
from vectorpool.export.shapes import CollectionShape

# Each kind of value, and those that a database is likely to change.
METADATA: list[dict[str, Any] | None] = [
    {"text": 'ключ 🎄 \\u0000 "quoted"', "whole": 2**63 - 1, "least": -(2**63), "flag": True},
    {"float": 2.0, "large": 1e16, "huge": 1e300, "tiny": 5e-324, "clock": 1733262915.8748221, "third": 1 / 3},
    {"texts": ["a", "b"], "numbers": [1, 2], "floats": [1.0, 2.5], "flags": [True, False]},
    None,
]


class Stored(msgspec.Struct):
    """What a directory holds: for each collection its metadata and space, and its records by id."""

    collections: dict[tuple[str, str], Any]

    @property
    def count(self) -> int:
        """How many records there are."""
        return sum(len(records) for _, _, records in self.collections.values())

    @staticmethod
    @contextmanager
    def changing(directory: Path) -> Iterator[Changes]:
        """Change a directory in the block."""
        changes = Changes(directory)
        try:
            yield changes
        finally:
            changes.engine.release_chroma()
            changes.engine.close()


class Changes:
    """Writes to a directory."""

    def __init__(self, directory: Path) -> None:
        self.engine = Engine(directory, EngineOptions(), DirectoryState())

    def put(self, database: str, name: str, batch: Batch) -> None:
        info = self.engine.catalogue.get(database, name)
        self.engine.records.put(Operation.UPSERT, info.id, database, batch, lambda: None)

    def delete(self, database: str, name: str, ids: list[str]) -> None:
        info = self.engine.catalogue.get(database, name)
        self.engine.records.delete(info.id, database, ids, lambda: None)

    def drop(self, database: str, name: str) -> None:
        self.engine.drop_collection(self.engine.catalogue.get(database, name), lambda: None)
        self.engine.catalogue.forget()

    def create(self, database: str, name: str) -> None:
        self.engine.catalogue.create(database, name, metadata=None, configuration=None)


def make_stored(directory: Path) -> Path:
    """Make a directory with three collections in two databases, one of them empty, and 2,500 records in one."""
    directory.mkdir()
    builder = DirectoryBuilder(directory)
    rng = np.random.default_rng(7)
    configuration = {"hnsw": {"space": "cosine", "sync_threshold": 500}}
    notes = CollectionShape("default_database", "notes", {"source": "handbook"}, configuration)
    ids = [f"n{number}" for number in range(40)]
    texts = [None if number % 5 == 0 else f"Absatz {number} – ok" for number in range(40)]
    builder.put(
        builder.create(notes),
        notes,
        Batch(
            ids,
            rng.random((40, 3), np.float32),
            [METADATA[number % 4] for number in range(40)],
            texts,
            ["file:///a" if number % 7 == 0 else None for number in range(40)],
        ),
    )
    builder.create(CollectionShape("default_database", "empty"))
    documents = CollectionShape("avatar-7", "documents")
    made = builder.create(documents)
    ids = [f"d{number}" for number in range(2500)]
    builder.put(made, documents, Batch(ids, rng.random((2500, 4), np.float32), None, ids))
    builder.close()
    return directory


def assert_same(one: Stored, other: Stored) -> None:
    """Assert that two directories hold the same. An embedding under cosine is made a unit anew when it is written."""
    assert one.collections.keys() == other.collections.keys()
    for key, (metadata, configuration, records) in one.collections.items():
        assert (metadata, configuration) == other.collections[key][:2], key
        others = other.collections[key][2]
        assert records.keys() == others.keys(), key
        for record_id, (vector, *told) in records.items():
            theirs, *also = others[record_id]
            # As text, which tells 1 from 1.0 and from True; the order of keys means nothing.
            assert _told(told) == _told(also), (key, record_id)
            np.testing.assert_allclose(vector, theirs, rtol=1e-6, err_msg=record_id)


def _told(values: list[Any]) -> str:
    return json.dumps(values, sort_keys=True)


def read_back(directory: Path) -> Stored:
    """Return what a directory holds."""
    source = DirectorySource(directory)
    try:
        found: dict[tuple[str, str], Any] = {}
        for shape in source.collections():
            records = {}
            for batch in source.batches(shape):
                vectors = np.asarray(batch.embeddings, np.float32)
                for at, record_id in enumerate(batch.ids):
                    told = (batch.documents and batch.documents[at], batch.metadatas and batch.metadatas[at])
                    records[record_id] = (vectors[at], *told, batch.uris and batch.uris[at])
            found[shape.key] = (shape.metadata, shape.configuration, records)
        return Stored(found)
    finally:
        source.close()
