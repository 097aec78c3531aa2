"""A plain Chroma directory, as the source of an export and as what an import builds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from vectorpool.engine.directory_state import DirectoryState
from vectorpool.engine.engine import Engine, create_empty
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica, TargetRefused
from vectorpool.export.shapes import BATCH, CollectionShape
from vectorpool.names import DEFAULT_DATABASE

# What chooses how a collection's index is made; Chroma fills in the rest.
_CHOSEN = ("space", "ef_construction", "ef_search", "max_neighbors", "sync_threshold", "batch_size")


class DirectorySource:
    """The collections of a directory, which nothing else may use meanwhile. Reading may change its files."""

    def __init__(self, directory: Path) -> None:
        self._engine = Engine(directory, EngineOptions())

    def collections(self) -> list[CollectionShape]:
        """Return the collections of all databases."""
        catalogue = self._engine.catalogue
        return [
            CollectionShape(
                info.database,
                info.name,
                info.metadata,
                {"hnsw": {name: value for name, value in info.hnsw.items() if name in _CHOSEN}},
                info.dimension,
                info.id,
            )
            for database in catalogue.database_names()
            for info in catalogue.collections(database)
        ]

    def batches(self, shape: CollectionShape) -> Iterator[Batch]:
        """Yield a collection's records in the order of their insertion. Raises BrokenReplica if some cannot be read."""
        records = self._engine.records
        listed = records.get(shape.source_id, shape.database)
        assert listed is not None, "only a read that must be quick has no answer"
        for start in range(0, len(listed.ids), BATCH):
            ids = listed.ids[start : start + BATCH]
            include = ("embeddings", "documents", "metadatas", "uris")
            rows = records.get(shape.source_id, shape.database, ids=ids, include=include)
            assert rows is not None
            if len(rows.ids) != len(ids) or rows.embeddings is None or any(each is None for each in rows.embeddings):
                raise BrokenReplica(f"Records of collection {shape.name} cannot be read. Scrub the log of the user.")
            yield Batch(rows.ids, np.asarray(rows.embeddings, np.float32), rows.metadatas, rows.documents, rows.uris)

    def close(self) -> None:
        """Close the directory. Idempotent."""
        self._engine.close()


class DirectoryBuilder:
    """Makes a directory of collections and records: empty at first, and complete when it is closed."""

    def __init__(self, directory: Path) -> None:
        create_empty(directory)
        self._engine = Engine(directory, EngineOptions(), DirectoryState())

    def create(self, shape: CollectionShape) -> str:
        """Create a collection; return its id. Raises TargetRefused if Chroma does not take it."""
        catalogue = self._engine.catalogue
        if shape.database != DEFAULT_DATABASE and not catalogue.has_database(shape.database):
            catalogue.create_database(shape.database)
        configuration = msgspec.json.encode(shape.configuration).decode() if shape.configuration else None
        try:
            made = catalogue.create(
                shape.database, shape.name, metadata=shape.metadata or None, configuration=configuration
            )
        except Exception as error:
            raise TargetRefused(f"Chroma refuses collection {shape.name} of {shape.database}: {error}.") from error
        return made.id

    def put(self, collection_id: str, shape: CollectionShape, batch: Batch) -> None:
        """Add records. Raises TargetRefused if Chroma does not take them."""
        try:
            self._engine.records.put(Operation.UPSERT, collection_id, shape.database, batch, lambda: None)
        except Exception as error:
            raise TargetRefused(f"Chroma refuses records of {shape.name}: {error}.") from error

    def close(self) -> None:
        """Close the files, so that the directory can be moved. Idempotent."""
        self._engine.release_chroma()
        self._engine.close()
