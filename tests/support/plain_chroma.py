"""Chroma on a directory, without the fast path: the reference of tests, which also make directories with it."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vectorpool.engine.bindings import Client
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.records import EngineOptions, Records
from vectorpool.engine.rows import Batch, Float32, Rows
from vectorpool.names import DEFAULT_DATABASE

PLAIN = EngineOptions(fast_reads=False, fast_writes=False)


class PlainChroma:
    """One open directory; collections are those of the default database."""

    def __init__(self, directory: Path) -> None:
        self.client = Client(directory)
        self.catalogue = Catalogue(self.client)
        self._records = Records(DatabaseFile(directory, threading.Lock()), self.client, self.catalogue, PLAIN)

    def close(self) -> None:
        """Close the directory."""
        self.client.close()

    def create(self, name: str, hnsw: dict[str, Any] | None = None) -> CollectionInfo:
        """Create a collection."""
        return self.catalogue.create(
            DEFAULT_DATABASE, name, metadata=None, configuration=json.dumps({"hnsw": hnsw or {}})
        )

    def collection(self, name: str) -> CollectionInfo:
        """Return a collection as it is now."""
        return self.catalogue.get(DEFAULT_DATABASE, name)

    def delete_collection(self, name: str) -> None:
        """Delete a collection as plain Chroma does."""
        self.client.delete_collection(database=DEFAULT_DATABASE, name=name)

    def count(self, info: CollectionInfo) -> int:
        """Return the number of records."""
        return self.client.count(collection_id=info.id, database=info.database)

    def get(self, info: CollectionInfo, **asked: Any) -> Rows:
        """Return records."""
        rows = self._records.get(info.id, info.database, **asked)
        assert rows is not None
        return rows

    def query(self, info: CollectionInfo, vectors: Float32, limit: int, **asked: Any) -> list[Rows]:
        """Return the nearest records to each vector."""
        found = self._records.query(info.id, info.database, np.asarray(vectors, np.float32), limit, **asked)
        assert found is not None
        return found

    def upsert(self, info: CollectionInfo, ids: Sequence[str], vectors: Any, *columns: Any) -> None:
        """Add or replace records in one call; ``columns`` are metadatas, documents and uris."""
        self.client.upsert(collection_id=info.id, database=info.database, batch=Batch(ids, vectors, *columns))

    def update(self, info: CollectionInfo, ids: Sequence[str], vectors: Any, *columns: Any) -> None:
        """Change records in one call."""
        self.client.update(collection_id=info.id, database=info.database, batch=Batch(ids, vectors, *columns))

    def add(self, info: CollectionInfo, ids: Sequence[str], vectors: Any, *columns: Any) -> None:
        """Add records in one call."""
        self.client.add(collection_id=info.id, database=info.database, batch=Batch(ids, vectors, *columns))

    def delete(self, info: CollectionInfo, ids: Sequence[str]) -> None:
        """Delete records."""
        self.client.delete(collection_id=info.id, database=info.database, ids=ids)
