"""Write commands of Chroma's own protocol, with its semantics, over the engine.

The whole call is checked before its first slice is written. If Chroma refused a later slice, the earlier ones would
have taken effect, and the replica would have to be rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
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
    PipelineChoice,
)
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.engine import failures
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.engine import Engine
from vectorpool.engine.filters import has_empty_join
from vectorpool.engine.rows import Batch, Float32
from vectorpool.engine.tables import Operation
from vectorpool.names import DEFAULT_DATABASE, avatar_of_database
from vectorpool.settings import Settings
from vectorpool.vectorstore import protocol_answers as shapes
from vectorpool.vectorstore.effect import Effect
from vectorpool.vectorstore.metadata_keys import check_keys
from vectorpool.vectorstore.room import check_database_room, check_room
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.vectors import rows_of

_encode = msgspec.msgpack.Encoder(order="deterministic").encode

# What a creation may ask for beside the name, as Chroma took it before, for all vectorstores of a process.
_ACCEPTED: Final[set[bytes]] = set()
_MAX_ACCEPTED: Final = 256
_MAX_ACCEPTED_BYTES: Final = 16 * 1024
_NOTHING_ASKED: Final = _encode((None, None, None))

_Records = ChromaAddRecords | ChromaUpsertRecords | ChromaUpdateRecords


class ProtocolWriter:
    """Applies Chroma's writes to one open engine and its sidecar. One thread at a time.

    ``is_new`` returns whether nothing was ever stored for the user.
    """

    def __init__(
        self, user_id: str, engine: Engine, sidecar: Sidecar, settings: Settings, is_new: Callable[[], bool]
    ) -> None:
        self._tenant = user_id
        self._settings = settings
        self._engine = engine
        self._catalogue = engine.catalogue
        self._records = engine.records
        self._sidecar = sidecar
        self._is_new = is_new
        self._accepted = _ACCEPTED
        self.handlers = handlers_of(self)

    # --- Tenants and databases -----------------------------------------------------------------------

    @handles(ChromaCreateTenant)
    def _create_tenant(self, command: ChromaCreateTenant, effect: Effect) -> Any:
        if not self._is_new():
            raise failures.tenant_exists(self._tenant)
        effect.touch()
        if command.bare:
            self._catalogue.delete_database(DEFAULT_DATABASE)
        return {}

    @handles(ChromaCreateDatabase)
    def _create_database(self, command: ChromaCreateDatabase, effect: Effect) -> Any:
        if not (command.exist_ok and self._catalogue.has_database(command.database)):
            check_database_room(self._catalogue, self._settings, effect)
            self._catalogue.create_database(command.database)
            effect.touch()
        elif self._is_new():
            # The default database of a vectorstore without a write: the first request that creates it stores it.
            effect.touch()
        if not command.exist_ok:
            return {}
        return shapes.database(self._catalogue.database(command.database), self._tenant)

    @handles(ChromaDeleteDatabase)
    def _delete_database(self, command: ChromaDeleteDatabase, effect: Effect) -> Any:
        if not self._catalogue.has_database(command.database):
            raise failures.database_not_found(command.database)
        # Chroma would keep the records of the database's collections.
        for found in self._catalogue.collections(command.database):
            self._drop(found, effect)
        self._catalogue.delete_database(command.database)
        if (avatar_id := avatar_of_database(command.database)) is not None:
            self._sidecar.set_pipeline(avatar_id, PipelineChoice())
        effect.touch()
        return {}

    # --- Collections ---------------------------------------------------------------------------------

    @handles(ChromaCreateCollection)
    def _create_collection(self, command: ChromaCreateCollection, effect: Effect) -> Any:
        asked = _encode((command.metadata, command.configuration, command.schema))
        if command.get_or_create and (asked == _NOTHING_ASKED or asked in self._accepted):
            # A client asks for its collection whenever it starts. What Chroma took once, it takes again, and it changes
            # nothing of a collection that is there.
            there = self._catalogue.find(command.database, command.name)
            if there is not None:
                return shapes.collection(there, self._tenant)
        if self._catalogue.find_id(command.database, command.name) is None:
            check_room(self._catalogue, command.database, self._settings, effect)
            if effect.admission is not None:
                effect.admission.add_collection()
        made_database = command.make_database and not self._catalogue.has_database(command.database)
        if made_database:
            self._catalogue.create_database(command.database)
        try:
            before = self._catalogue.count_collections(command.database)
            found = self._catalogue.create(
                command.database,
                command.name,
                metadata=command.metadata,
                configuration=command.configuration,
                schema=command.schema,
                get_or_create=command.get_or_create,
            )
        except Exception:
            if made_database:
                # A refused call leaves nothing behind.
                self._catalogue.delete_database(command.database)
            raise
        if made_database or self._catalogue.count_collections(command.database) != before:
            effect.touch(found.name)
        self._accept(asked)
        return shapes.collection(found, self._tenant)

    def _accept(self, asked: bytes) -> None:
        if len(asked) <= _MAX_ACCEPTED_BYTES:
            if len(self._accepted) >= _MAX_ACCEPTED:
                self._accepted.clear()
            self._accepted.add(asked)

    @handles(ChromaUpdateCollection)
    def _update_collection(self, command: ChromaUpdateCollection, effect: Effect) -> Any:
        found = self._find(command)
        try:
            self._catalogue.update(
                command.collection_id,
                name=command.new_name,
                metadata=command.new_metadata,
                configuration=command.new_configuration,
            )
        except Exception as error:
            if failures.is_name_taken(error):
                raise failures.collection_exists(command.new_name) from error
            raise
        effect.touch(found.name)
        return {}

    @handles(ChromaDeleteCollection)
    def _delete_collection(self, command: ChromaDeleteCollection, effect: Effect) -> Any:
        self._drop(self._catalogue.get(command.database, command.name), effect)
        return {}

    def _drop(self, found: CollectionInfo, effect: Effect) -> None:
        records = self._engine.drop_collection(found, lambda: effect.touch(found.name))
        effect.deleted += records
        if effect.admission is not None:
            effect.admission.remove_collection(records)
        self._sidecar.forget_collection(found.id)

    # --- Records -------------------------------------------------------------------------------------

    def _find(self, command: _Records | ChromaDeleteRecords | ChromaUpdateCollection) -> CollectionInfo:
        """Return a collection by its id, whatever database the path names, unless the command is confined to it.

        Raises ChromaRefusal if there is none.
        """
        find = self._catalogue.known_by_id if command.confined else self._catalogue.known_anywhere
        found = find(command.database, command.collection_id)
        if found is None:
            raise failures.collection_not_found(command.collection_id)
        return found

    @handles(ChromaAddRecords)
    def _add_records(self, command: ChromaAddRecords, effect: Effect) -> Any:
        return self._put(command, Operation.ADD, effect)

    @handles(ChromaUpsertRecords)
    def _upsert_records(self, command: ChromaUpsertRecords, effect: Effect) -> Any:
        return self._put(command, Operation.UPSERT, effect)

    def _put(self, command: ChromaAddRecords | ChromaUpsertRecords, operation: Operation, effect: Effect) -> Any:
        found = self._find(command)
        array: Float32 = np.empty((0, 1), np.float32)
        if command.vectors is not None and command.vectors.data:
            array = rows_of(command.vectors)
        _check_columns(command, len(array))
        if len(array):
            if not np.isfinite(array).all():
                raise failures.not_finite()
            _check_dimension(found.dimension, array.shape[1])
        check_keys(self._catalogue, found, command.metadatas, effect)
        if command.ids:
            batch = _batch(command, array)
            if effect.admission is not None:
                effect.admission.add_records(found, command.ids)
            self._records.put(
                operation, command.collection_id, command.database, batch, lambda: effect.touch(found.name)
            )
        effect.written += len(command.ids)
        return {}

    @handles(ChromaUpdateRecords)
    def _update_records(self, command: ChromaUpdateRecords, effect: Effect) -> Any:
        found = self._find(command)
        rows: list[Any] | None = None
        if command.vectors is not None:
            rows = [None] * command.embeddings
            if command.vectors.data:
                _check_dimension(found.dimension, command.vectors.dimension)
                for position, row in zip(command.vectors.rows or [], rows_of(command.vectors), strict=True):
                    rows[position] = row
        _check_columns(command, len(command.ids) if rows is None else len(rows))
        check_keys(self._catalogue, found, command.metadatas, effect)
        self._records.update(
            command.collection_id, command.database, _batch(command, rows), lambda: effect.touch(found.name)
        )
        effect.written += len(command.ids)
        return {}

    @handles(ChromaDeleteRecords)
    def _delete_records(self, command: ChromaDeleteRecords, effect: Effect) -> Any:
        where, where_document = command.where, command.where_document
        key = command.collection_id, command.database
        found = self._find(command)
        name = found.name
        for field, clause in (("where", where), ("where document", where_document)):
            if has_empty_join(clause):
                raise failures.empty_join(field)
        if where is None and where_document is None and (not command.ids or command.limit is not None):
            # No record is named, or there is a limit without a filter: Chroma's own refusal is raised.
            self._records.refuse_delete(*key, command.ids, command.limit)
            return {"deleted": 0}
        ids = command.ids or []
        if where is not None or where_document is not None:
            rows = self._records.get(
                *key, ids=command.ids, where=where, where_document=where_document, limit=command.limit
            )
            assert rows is not None
            ids = rows.ids
        if effect.admission is not None:
            effect.admission.remove_records(found, ids)
        deleted = self._records.delete(*key, ids, lambda: effect.touch(name))
        effect.deleted += deleted
        return {"deleted": deleted}


def _batch(command: _Records, embeddings: Float32 | Sequence[Any] | None) -> Batch:
    return Batch(command.ids, embeddings, command.metadatas, command.documents, command.uris)


def _check_columns(command: _Records, embeddings: int) -> None:
    if not all(command.ids):
        raise failures.empty_id()
    for at, document in enumerate(command.documents or ()):
        if document is not None and "\0" in document:
            raise failures.nul_in_document(at)
    for at, metadata in enumerate(command.metadatas or ()):
        if metadata and any(not key or key.startswith(("#", "$", RESERVED_KEY_PREFIX)) for key in metadata):
            raise failures.invalid_metadata(at)
    columns = (command.documents, command.metadatas, command.uris)
    if embeddings != len(command.ids) or any(c is not None and len(c) != len(command.ids) for c in columns):
        raise failures.inconsistent_columns()


def _check_dimension(dimension: int | None, got: int) -> None:
    if dimension is not None and dimension != got:
        raise failures.other_dimension(dimension, got)
