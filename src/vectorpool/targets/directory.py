"""The local side: a plain Chroma directory of one commit, to read from, and a new one, to write to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np

from vectorpool.engine.changes import Changes
from vectorpool.engine.collection_info import CollectionInfo, of_creation
from vectorpool.engine.engine import Engine, create_empty
from vectorpool.engine.failures import translate
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.resting_vectors import RestingVectors
from vectorpool.engine.rows import Batch, Rows
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica, InvalidRequest, VectorpoolError
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.platform.trees import open_database
from vectorpool.targets.records import BATCH, Collection, Float32, Records
from vectorpool.targets.source_documents import SourceDocument, documents_of

# All statements over the source of one export, and what the target takes between them.
_EXPORT_S: Final = 24 * 3600.0


class DirectorySource:
    """A directory at rest: all of it, or what changed since a position. Raises BrokenReplica."""

    def __init__(self, directory: Path) -> None:
        self._engine = Engine(directory, EngineOptions())
        self._directory = directory
        self._vectors: dict[str, RestingVectors] = {}
        self._open = ExitStack()
        try:
            self._connect()
        except BaseException:
            self._engine.close()
            raise

    def _connect(self) -> None:
        """Open the database, which is taken to change no more."""
        self._open.close()
        self._db = self._open.enter_context(open_database(self._directory / CHROMA_DATABASE_FILE, limit_s=_EXPORT_S))
        self._changes = Changes(self._db)

    def close(self) -> None:
        """Close the directory. Idempotent."""
        self._open.close()
        self._engine.close()

    @property
    def is_touched(self) -> bool:
        """Whether Chroma was opened, which may write; the files are as they were otherwise."""
        return self._engine.chroma_use is not None or self._engine.calls_of_chroma > 0

    def collections(self) -> list[Collection]:
        """Return the collections of all databases."""
        catalogue = self._engine.catalogue
        found = [info for name in catalogue.database_names() for info in catalogue.collections(name)]
        self._vectors = {info.id: RestingVectors(self._directory, info) for info in found}
        return [_collection(info) for info in found]

    def position(self, collection: Collection) -> int:
        """Return the position of a collection's last change; 0 if it is not known."""
        return self._changes.position(collection.id)

    def count(self, collection: Collection) -> int:
        """Return the number of records."""
        return self._changes.count(collection.id)

    def may_have_deleted(self, collection: Collection, since: int) -> bool:
        """Return whether a record may have been deleted after a position, which counts would tell at more cost."""
        return self._changes.may_have_deleted(collection.id, since)

    def ids(self, collection: Collection, since: int = 0) -> list[str]:
        """Return the ids of the records that changed after a position, all for 0, in an order that does not change."""
        return self._changes.ids(collection.id, since)

    def read(self, collection: Collection, ids: Sequence[str]) -> Records:
        """Return records by id, at most a thousand."""
        resting = self._vectors.get(collection.id)
        rows = self._rows(collection, ids, ())
        vectors = None if resting is None else resting.of(self._db, rows.ids)
        if vectors is None:
            rows = self._rows(collection, ids, ("embeddings",))
            vectors = np.asarray(rows.embeddings, np.float32).reshape(len(rows.ids), -1)
            # Chroma may have been opened, and then it wrote.
            self._connect()
        return _records(rows, vectors)

    def _rows(self, collection: Collection, ids: Sequence[str], include: tuple[str, ...]) -> Rows:
        rows = self._engine.records.get(
            collection.id, collection.database, ids=ids, include=(*include, "documents", "metadatas", "uris")
        )
        assert rows is not None, "only a read at once may be put off"
        if len(rows.ids) != len(ids):
            raise BrokenReplica(f"The collection {collection.shown} names {len(ids)} records and has {len(rows.ids)}.")
        return rows

    def documents(self) -> Iterator[SourceDocument]:
        """Yield the documents that became records, by avatar and path."""
        return documents_of(self._directory)

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield all records but the first ``cursor``."""
        ids = self.ids(collection)
        for start in range(cursor, len(ids), BATCH):
            yield self.read(collection, ids[start : start + BATCH])


class DirectoryWriter:
    """A new directory, filled with collections; ``close`` leaves it ready to be adopted. Raises InvalidRequest."""

    def __init__(self, directory: Path) -> None:
        create_empty(directory)
        self._engine = Engine(directory, EngineOptions())
        self._databases = set(self._engine.catalogue.database_names())

    def close(self) -> None:
        """Close the directory."""
        self._engine.release_chroma()
        self._engine.close()

    def create(self, collection: Collection) -> Collection:
        """Create a collection, and return it with its id here."""
        catalogue = self._engine.catalogue
        try:
            if collection.database not in self._databases:
                catalogue.create_database(collection.database)
                self._databases.add(collection.database)
            made = catalogue.create(
                collection.database,
                collection.name,
                metadata=collection.metadata or None,
                configuration=json.dumps(of_creation(collection.configuration)),
            )
        except Exception as error:
            raise _told(error, collection.shown) from error
        return _collection(made)

    def put(self, collection: Collection, records: Records) -> None:
        """Add a batch of records to a collection of ``create``."""
        batch = Batch(
            records.ids,
            np.ascontiguousarray(records.vectors, np.float32),
            list(records.metadatas),
            list(records.documents),
            list(records.uris),
        )
        try:
            self._engine.records.put(
                Operation.ADD, collection.id, collection.database, batch, self._engine.catalogue.forget
            )
        except Exception as error:
            raise _told(error, collection.shown) from error


def _told(error: Exception, where: str) -> VectorpoolError:
    if isinstance(error, VectorpoolError):
        return error
    cause = translate(error)
    return InvalidRequest(f"{where} cannot be imported: {cause.detail}")


def _collection(info: CollectionInfo) -> Collection:
    return Collection(
        id=info.id,
        database=info.database,
        name=info.name,
        metadata=info.metadata or None,
        dimension=info.dimension,
        configuration=of_creation(info.configuration),
    )


def _records(rows: Rows, vectors: Float32) -> Records:
    assert rows.documents is not None
    assert rows.metadatas is not None
    assert rows.uris is not None
    return Records(rows.ids, vectors, rows.documents, rows.metadatas, rows.uris)
