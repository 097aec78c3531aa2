"""Writes of Chroma's own protocol, with its semantics, applied in slices like every bulk write (see ``writes``).

What the whole of a call must satisfy is checked before its first slice: a slice that Chroma refuses after another
one took effect would cost the replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from vectorpool.checks import RESERVED_KEY_PREFIX
from vectorpool.commands import (
    ChromaAddRecords,
    ChromaCreateCollection,
    ChromaCreateDatabase,
    ChromaCreateTenant,
    ChromaDeleteCollection,
    ChromaDeleteDatabase,
    ChromaDeleteRecords,
    ChromaUpdateCollection,
    ChromaUpdateRecords,
    ChromaUpsertRecords,
)
from vectorpool.errors import ChromaRefusal
from vectorpool.names import DEFAULT_DATABASE, DEFAULT_TENANT
from vectorpool.vectorstore import protocol_answers as shapes
from vectorpool.vectorstore.chroma import Chroma, Float32
from vectorpool.vectorstore.direct_writes import UPSERT, DirectWriter
from vectorpool.vectorstore.flat_index import ADD
from vectorpool.vectorstore.sidecar import Sidecar

_Records = ChromaAddRecords | ChromaUpsertRecords | ChromaUpdateRecords


class Applying(Protocol):
    """What a write command's handler may use of the writer that applies it."""

    def touch(self, collection: str | None = None) -> None:
        """Note that something changed, of which collection."""

    def slices(self, count: int) -> Iterator[slice]:
        """Cut a bulk write into calls."""

    def put(self, count: int, directly: Callable[[slice], bool], through_chroma: Callable[[slice], None]) -> None:
        """Write records slice by slice, round Chroma where that may be."""

    def count(self, *, written: int = 0, deleted: int = 0) -> None:
        """Note how many records were written or deleted."""

    def is_new(self) -> bool:
        """Whether nothing was ever stored for the user."""


class ProtocolWriter:
    """Applies Chroma's writes to one open Chroma directory and its sidecar. One thread at a time."""

    def __init__(
        self, user_id: str, chroma: Chroma, direct: DirectWriter, sidecar: Sidecar, applying: Applying
    ) -> None:
        self._tenant = user_id
        self._chroma = chroma
        self._direct = direct
        self._sidecar = sidecar
        self._applying = applying
        self.handlers: dict[type, Callable[[Any], Any]] = {
            ChromaCreateTenant: self._create_tenant,
            ChromaCreateDatabase: self._create_database,
            ChromaDeleteDatabase: self._delete_database,
            ChromaCreateCollection: self._create_collection,
            ChromaUpdateCollection: self._update_collection,
            ChromaDeleteCollection: self._delete_collection,
            ChromaAddRecords: self._add_records,
            ChromaUpsertRecords: self._upsert_records,
            ChromaUpdateRecords: self._update_records,
            ChromaDeleteRecords: self._delete_records,
        }

    # --- Tenants and databases -----------------------------------------------------------------------

    def _create_tenant(self, command: ChromaCreateTenant) -> Any:
        if not self._applying.is_new():
            raise ChromaRefusal(f"Tenant [{self._tenant}] already exists", status=409)
        self._applying.touch()
        if command.bare:
            self._chroma.rust.delete_database(DEFAULT_DATABASE, DEFAULT_TENANT)
        return {}

    def _has_database(self, name: str) -> bool:
        return any(each.name == name for each in self._chroma.rust.list_databases(None, 0, DEFAULT_TENANT))

    def _create_database(self, command: ChromaCreateDatabase) -> Any:
        if not (command.exist_ok and self._has_database(command.database)):
            self._chroma.rust.create_database(command.database, DEFAULT_TENANT)
            self._applying.touch()
        elif self._applying.is_new():
            # The default database of a vectorstore that nobody has written yet: a first touch stores it.
            self._applying.touch()
        if not command.exist_ok:
            return {}
        return shapes.database(self._chroma.rust.get_database(command.database, DEFAULT_TENANT), self._tenant)

    def _delete_database(self, command: ChromaDeleteDatabase) -> Any:
        if not self._has_database(command.database):
            raise ChromaRefusal(f"Database [{command.database}] not found", status=404)
        # Chroma would leave the records of its collections behind.
        for found in self._chroma.rust.list_collections(None, 0, DEFAULT_TENANT, command.database):
            self._drop(found, command.database)
        self._chroma.rust.delete_database(command.database, DEFAULT_TENANT)
        self._applying.touch()
        return {}

    # --- Collections ---------------------------------------------------------------------------------

    def _create_collection(self, command: ChromaCreateCollection) -> Any:
        made_database = command.make_database and not self._has_database(command.database)
        if made_database:
            self._chroma.rust.create_database(command.database, DEFAULT_TENANT)
        before = self._chroma.rust.count_collections(DEFAULT_TENANT, command.database)
        try:
            found = self._chroma.rust.create_collection(
                command.name,
                command.configuration,
                command.schema,
                command.metadata,
                command.get_or_create,
                DEFAULT_TENANT,
                command.database,
            )
        except BaseException:
            if made_database:
                # A refused call leaves nothing behind.
                self._chroma.rust.delete_database(command.database, DEFAULT_TENANT)
            raise
        if made_database or self._chroma.rust.count_collections(DEFAULT_TENANT, command.database) != before:
            self._applying.touch(found.name)
        return shapes.collection(found, self._tenant, command.database)

    def _update_collection(self, command: ChromaUpdateCollection) -> Any:
        found = self._find(command)
        try:
            self._chroma.rust.update_collection(
                command.collection_id, command.new_name, command.new_metadata, command.new_configuration
            )
        except Exception as error:
            if "UNIQUE constraint failed" in str(error):
                # Chroma's server answers 500 with its database's words.
                raise ChromaRefusal(f"Collection [{command.new_name}] already exists", status=409) from error
            raise
        self._applying.touch(found.name)
        return {}

    def _delete_collection(self, command: ChromaDeleteCollection) -> Any:
        self._drop(self._chroma.rust.get_collection(command.name, DEFAULT_TENANT, command.database), command.database)
        return {}

    def _drop(self, found: Any, database: str) -> None:
        self._applying.count(deleted=self._chroma.rust.count(str(found.id), DEFAULT_TENANT, database))
        self._applying.touch(found.name)
        listed = self._chroma.listed(str(found.id), database)
        for part in self._applying.slices(len(listed)):
            self._chroma.rust.delete(str(found.id), listed[part], None, None, None, DEFAULT_TENANT, database)
        self._chroma.rust.delete_collection(found.name, DEFAULT_TENANT, database)
        self._sidecar.forget_collection(str(found.id))

    # --- Records -------------------------------------------------------------------------------------

    def _add_records(self, command: ChromaAddRecords) -> Any:
        def add(part: slice, array: Float32) -> None:
            self._chroma.rust.add(
                command.ids[part],
                command.collection_id,
                array,
                *_columns(command, part),
                DEFAULT_TENANT,
                command.database,
            )

        return self._put(command, ADD, add)

    def _upsert_records(self, command: ChromaUpsertRecords) -> Any:
        def upsert(part: slice, array: Float32) -> None:
            self._chroma.rust.upsert(
                command.collection_id,
                command.ids[part],
                array,
                *_columns(command, part),
                DEFAULT_TENANT,
                command.database,
            )

        return self._put(command, UPSERT, upsert)

    def _put(
        self, command: ChromaAddRecords | ChromaUpsertRecords, kind: int, call: Callable[[slice, Float32], None]
    ) -> Any:
        found = self._find(command)
        array = np.empty((0, 1), np.float32)
        if command.vectors is not None and command.vectors.data:
            array = np.frombuffer(command.vectors.data, "<f4").reshape(-1, command.vectors.dimension)
        _check_columns(command, len(array))
        if len(array):
            if not np.isfinite(array).all():
                raise ChromaRefusal(
                    "Validation error: embeddings: Embeddings must not contain NaN or Infinity values", status=400
                )
            _check_dimension(found.dimension, array.shape[1])
        place = command.collection_id, command.database
        if command.ids:
            self._applying.put(
                len(command.ids),
                lambda part: self._direct.put(kind, place, command.ids[part], array[part], *_columns(command, part)),
                lambda part: call(part, array[part]),
            )
            self._applying.touch(found.name)
        self._applying.count(written=len(command.ids))
        return {}

    def _update_records(self, command: ChromaUpdateRecords) -> Any:
        found = self._find(command)
        rows: list[Any] | None = None
        if command.vectors is not None:
            rows = [None] * command.embeddings
            if command.vectors.data:
                _check_dimension(found.dimension, command.vectors.dimension)
                array = np.frombuffer(command.vectors.data, "<f4").reshape(-1, command.vectors.dimension)
                for position, row in zip(command.vectors.rows or [], array, strict=True):
                    rows[position] = row
        _check_columns(command, len(command.ids) if rows is None else len(rows))

        def update(part: slice) -> None:
            self._chroma.rust.update(
                command.collection_id,
                command.ids[part],
                rows[part] if rows is not None else None,
                *_columns(command, part),
                DEFAULT_TENANT,
                command.database,
            )

        for part in self._applying.slices(len(command.ids)):
            update(part)
            self._applying.touch(found.name)
        self._applying.count(written=len(command.ids))
        return {}

    def _find(self, command: _Records | ChromaDeleteRecords | ChromaUpdateCollection) -> Any:
        """Return a collection by its id, whatever database the path names, as Chroma's server does.

        Raises what the bindings raise if there is none.
        """

        def databases() -> Iterator[str]:
            yield command.database
            yield from (each.name for each in self._chroma.rust.list_databases(None, 0, DEFAULT_TENANT))

        for name in databases():
            try:
                return self._chroma.collection_by_id(command.collection_id, name)
            except Exception as error:
                if type(error).__name__ != "NotFoundError":
                    raise
        raise ChromaRefusal(f"Collection [{command.collection_id}] does not exist.", status=404)

    def _delete_records(self, command: ChromaDeleteRecords) -> Any:
        rust, where, where_document = self._chroma.rust, command.where, command.where_document
        name = self._find(command).name
        if where is None and where_document is None and (not command.ids or command.limit is not None):
            # Nothing is named, or a limit without a filter: Chroma says what it says.
            rust.delete(command.collection_id, command.ids, None, None, command.limit, DEFAULT_TENANT, command.database)
            return {"deleted": 0}
        ids = command.ids or []
        if where is not None or where_document is not None:
            ids = rust.get(
                command.collection_id,
                command.ids,
                where,
                command.limit,
                0,
                where_document,
                [],
                DEFAULT_TENANT,
                command.database,
            ).ids
        deleted = 0
        for part in self._applying.slices(len(ids)):
            deleted += rust.delete(command.collection_id, ids[part], None, None, None, DEFAULT_TENANT, command.database)
            self._applying.touch(name)
        self._applying.count(deleted=deleted)
        return {"deleted": deleted}


def _columns(command: _Records, part: slice) -> tuple[Any, Any, Any]:
    return (
        command.metadatas[part] if command.metadatas is not None else None,
        command.documents[part] if command.documents is not None else None,
        command.uris[part] if command.uris is not None else None,
    )


def _check_columns(command: _Records, embeddings: int) -> None:
    if not all(command.ids):
        raise ChromaRefusal("Empty ID, ID must have at least one character", status=400)
    for at, metadata in enumerate(command.metadatas or ()):
        if metadata and any(not key or key.startswith(("#", "$", RESERVED_KEY_PREFIX)) for key in metadata):
            raise ChromaRefusal(f"Validation error: metadatas: Invalid metadata at index {at}", status=400)
    columns = (command.documents, command.metadatas, command.uris)
    if embeddings != len(command.ids) or any(c is not None and len(c) != len(command.ids) for c in columns):
        raise ChromaRefusal("Inconsistent number of IDs, embeddings, documents, URIs and metadatas", status=400)


def _check_dimension(dimension: int | None, got: int) -> None:
    if dimension is not None and dimension != got:
        raise ChromaRefusal(f"Collection expecting embedding with dimension of {dimension}, got {got}", status=400)
