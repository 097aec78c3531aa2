"""Write commands of the native API over the engine: collections, avatars and records.

Every handler takes the command and the effect that it fills in. Bulk writes are cut into slices by the engine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from vectorpool import answers
from vectorpool.checks import check_record_ids
from vectorpool.commands import (
    AddRecords,
    CreateCollection,
    DeleteAvatar,
    DeleteCollection,
    DeleteRecords,
    Hnsw,
    ModifyCollection,
    PipelineChoice,
    UpdateRecords,
    UpsertRecords,
    Vectors,
)
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.engine import Engine
from vectorpool.engine.rows import Batch, Float32
from vectorpool.engine.tables import Operation
from vectorpool.errors import (
    CollectionExists,
    InvalidEmbedding,
    InvalidRequest,
    RecordExists,
    RecordNotFound,
)
from vectorpool.names import check_collection_name, database_name
from vectorpool.settings import Settings
from vectorpool.vectorstore.avatars import (
    check_avatar,
    collection_of,
    collections_of,
    ensure_database,
    known_collection,
)
from vectorpool.vectorstore.effect import Effect
from vectorpool.vectorstore.filters import as_json
from vectorpool.vectorstore.metadata_keys import check_keys
from vectorpool.vectorstore.native_reads import describe_collection
from vectorpool.vectorstore.room import check_room
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.vectors import check_vectors


class NativeWriter:
    """Applies the native API's writes to one open engine and its sidecar. One thread at a time."""

    def __init__(self, engine: Engine, sidecar: Sidecar, settings: Settings) -> None:
        self.catalogue = engine.catalogue
        self.sidecar = sidecar
        self.settings = settings
        self._engine = engine
        self._records = engine.records
        self.handlers = handlers_of(self)

    # --- Collections ---------------------------------------------------------------------------------

    def _describe(self, info: CollectionInfo) -> msgspec.Struct:
        return describe_collection(self._records, self.sidecar, info)

    @handles(CreateCollection)
    def _create_collection(self, command: CreateCollection, effect: Effect) -> msgspec.Struct:
        check_collection_name(command.name)
        found = next((c for c in collections_of(self.catalogue, command.avatar_id) if c.name == command.name), None)
        if found is not None:
            if command.get_or_create:
                return self._describe(found)
            raise CollectionExists(
                f"There is a collection {command.name!r} already. Choose another name, or pass get_or_create."
            )
        made = self.make_collection(command.avatar_id, command.name, command.metadata, command.hnsw, effect)
        return self._describe(made)

    def make_collection(
        self, avatar_id: str | None, name: str, metadata: dict[str, Any] | None, hnsw: Hnsw, effect: Effect
    ) -> CollectionInfo:
        """Create a missing collection, and its database if it is missing too."""
        check_room(self.catalogue, database_name(avatar_id), self.settings, effect)
        defaults = self.settings
        chosen = {
            "space": hnsw.space or defaults.hnsw_space,
            "ef_construction": hnsw.ef_construction or defaults.hnsw_ef_construction,
            "ef_search": hnsw.ef_search or defaults.hnsw_ef_search,
            "max_neighbors": hnsw.max_neighbors or defaults.hnsw_max_neighbors,
            "sync_threshold": hnsw.sync_threshold or defaults.hnsw_sync_threshold,
        }
        if effect.admission is not None:
            effect.admission.add_collection()
        effect.touch()
        ensure_database(self.catalogue, avatar_id)
        configuration = json.dumps({"hnsw": chosen})
        info = self.catalogue.create(
            database_name(avatar_id), name, metadata=metadata or None, configuration=configuration
        )
        effect.touch(info.name)
        return info

    @handles(ModifyCollection)
    def _modify_collection(self, command: ModifyCollection, effect: Effect) -> msgspec.Struct:
        info = collection_of(self.catalogue, command.avatar_id, command.name)
        if command.new_name is not None and command.new_name != command.name:
            check_collection_name(command.new_name)
            if any(c.name == command.new_name for c in collections_of(self.catalogue, command.avatar_id)):
                raise CollectionExists(f"There is a collection {command.new_name!r} already. Choose another name.")
        if command.new_name is None and command.new_metadata is None and command.embedder is None:
            raise InvalidRequest("Nothing is to be changed. Give a new name, new metadata or an embedder.")
        effect.touch(info.name)
        if command.new_name is not None or command.new_metadata is not None:
            self.catalogue.update(info.id, name=command.new_name, metadata=command.new_metadata)
        if command.embedder is not None:
            self.sidecar.set_embedder(info.id, command.embedder)
        return self._describe(collection_of(self.catalogue, command.avatar_id, command.new_name or command.name))

    @handles(DeleteCollection)
    def _delete_collection(self, command: DeleteCollection, effect: Effect) -> msgspec.Struct:
        self._drop(collection_of(self.catalogue, command.avatar_id, command.name), effect)
        return answers.Deleted(deleted=1)

    def _drop(self, info: CollectionInfo, effect: Effect) -> None:
        records = self._engine.drop_collection(info, lambda: effect.touch(info.name))
        effect.deleted += records
        if effect.admission is not None:
            effect.admission.remove_collection(records)
        self.sidecar.forget_collection(info.id)

    @handles(DeleteAvatar)
    def _delete_avatar(self, command: DeleteAvatar, effect: Effect) -> msgspec.Struct:
        check_avatar(self.catalogue, command.avatar_id)
        collections = collections_of(self.catalogue, command.avatar_id)
        effect.touch()
        for info in collections:
            self._drop(info, effect)
        self.catalogue.delete_database(database_name(command.avatar_id))
        self.sidecar.set_pipeline(command.avatar_id, PipelineChoice())
        return answers.Deleted(deleted=len(collections))

    # --- Records -------------------------------------------------------------------------------------

    def _target(self, command: AddRecords | UpsertRecords | UpdateRecords) -> CollectionInfo:
        info = known_collection(self.catalogue, command.avatar_id, command.collection)
        assert info is not None
        self._check_ids(command.ids)
        for column in (command.documents, command.metadatas, command.uris):
            if column is not None and len(column) != len(command.ids):
                raise InvalidRequest(f"{len(command.ids)} ids came with {len(column)} values. Send one for each.")
        return info

    def _check_ids(self, ids: Sequence[str]) -> None:
        if not ids:
            raise InvalidRequest("The call names no records. Send at least one.")
        check_record_ids(ids, limit=self.settings.max_records)

    def _all_vectors(self, command: AddRecords | UpsertRecords, info: CollectionInfo) -> Float32:
        if command.vectors is None or command.vectors.rows is not None:
            raise InvalidEmbedding("Every new record needs an embedding, or a document to embed.")
        array = check_vectors(info, self.sidecar, command.vectors)
        if len(array) != len(command.ids):
            raise InvalidEmbedding(f"{len(command.ids)} ids came with {len(array)} embeddings. Send one for each.")
        return array

    @handles(AddRecords)
    def _add_records(self, command: AddRecords, effect: Effect) -> msgspec.Struct:
        info = self._target(command)
        array = self._all_vectors(command, info)
        if there := self._records.existing(info.id, info.database, command.ids):
            first = next(i for i in command.ids if i in there)
            raise RecordExists(
                f"{len(there)} of the ids are in {info.name!r} already, the first is {first[:80]!r}. "
                "Use PUT to replace records.",
                extra={"existing": sorted(there)[:10]},
            )
        return self._upsert(info, command, array, effect)

    @handles(UpsertRecords)
    def _upsert_records(self, command: UpsertRecords, effect: Effect) -> msgspec.Struct:
        info = self._target(command)
        return self._upsert(info, command, self._all_vectors(command, info), effect)

    def _upsert(
        self, info: CollectionInfo, command: AddRecords | UpsertRecords, array: Float32, effect: Effect
    ) -> msgspec.Struct:
        assert command.vectors is not None
        batch = Batch(command.ids, array, command.metadatas, command.documents, command.uris)
        self.put_records(info, batch, command.vectors, effect)
        return answers.Written(written=len(command.ids))

    def put_records(self, info: CollectionInfo, batch: Batch, vectors: Vectors, effect: Effect) -> None:
        """Upsert checked records, and store their embedder if the collection has none yet."""
        check_keys(self.catalogue, info, batch.metadatas, effect)
        if effect.admission is not None:
            effect.admission.add_records(info, batch.ids)
        effect.touch(info.name)
        self._note_embedder(info, vectors)
        self._records.put(Operation.UPSERT, info.id, info.database, batch, effect.touch)
        effect.written += len(batch.ids)

    def _note_embedder(self, info: CollectionInfo, vectors: Vectors) -> None:
        if vectors.embedder is not None and self.sidecar.embedder(info.id) is None:
            self.sidecar.set_embedder(info.id, vectors.embedder)

    @handles(UpdateRecords)
    def _update_records(self, command: UpdateRecords, effect: Effect) -> msgspec.Struct:
        info = self._target(command)
        rows: list[Any] | None = None
        if command.vectors is not None:
            array = check_vectors(info, self.sidecar, command.vectors)
            positions = range(len(command.ids)) if command.vectors.rows is None else command.vectors.rows
            if len(array) != len(positions) or any(not 0 <= p < len(command.ids) for p in positions):
                raise InvalidEmbedding("The embeddings do not match the records that they are for.")
            rows = [None] * len(command.ids)
            for position, row in zip(positions, array, strict=True):
                rows[position] = row
        there = self._records.existing(info.id, info.database, command.ids)
        if missing := [i for i in command.ids if i not in there]:
            raise RecordNotFound(
                f"{len(missing)} of the ids are not in {info.name!r}, the first is {missing[0][:80]!r}. "
                "Use PUT to add records.",
                extra={"missing": missing[:10]},
            )
        check_keys(self.catalogue, info, command.metadatas, effect)
        effect.touch(info.name)
        if command.vectors is not None:
            self._note_embedder(info, command.vectors)
        batch = Batch(command.ids, rows, command.metadatas, command.documents, command.uris)
        self._records.update(info.id, info.database, batch, effect.touch)
        effect.written += len(command.ids)
        return answers.Written(written=len(command.ids))

    @handles(DeleteRecords)
    def _delete_records(self, command: DeleteRecords, effect: Effect) -> msgspec.Struct:
        info = collection_of(self.catalogue, command.avatar_id, command.collection)
        if command.ids is None and not command.where and not command.where_document:
            raise InvalidRequest("Say what to delete: ids, where or where_document. DELETE the collection to empty it.")
        if command.ids is not None:
            self._check_ids(command.ids)
        if command.where or command.where_document:
            rows = self._records.get(
                info.id,
                info.database,
                ids=command.ids,
                where=as_json(command.where),
                where_document=as_json(command.where_document),
            )
            assert rows is not None
            found = rows.ids
        else:
            there = self._records.existing(info.id, info.database, command.ids or [])
            found = [i for i in command.ids or [] if i in there]
        self.delete_records(info, found, effect)
        return answers.Deleted(deleted=len(found))

    def delete_records(self, info: CollectionInfo, ids: Sequence[str], effect: Effect) -> None:
        """Delete records by id."""
        if effect.admission is not None:
            effect.admission.remove_records(info, ids)
        if ids:
            effect.touch(info.name)
        self._records.delete(info.id, info.database, ids, effect.touch)
        effect.deleted += len(ids)
