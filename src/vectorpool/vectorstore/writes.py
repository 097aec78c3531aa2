"""Write commands: each is checked before it touches anything, then applied, bulk writes in slices.

``Writer.write`` raises a VectorpoolError if the command is refused, and then nothing has changed. If anything
fails after the first effect it raises HalfApplied: the replica may no longer be used.

Slices: a write call of Chroma holds the interpreter lock for its whole length, so one large call would stop
every other user of the process; ``pace`` cuts them. Plain records do not go through Chroma (``direct_writes``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from vectorpool import answers
from vectorpool.commands import (
    AddRecords,
    CreateCollection,
    DeleteAvatar,
    DeleteCollection,
    DeleteRecords,
    ForgetDocument,
    Hnsw,
    IngestDocument,
    ModifyCollection,
    UpdateRecords,
    UpsertRecords,
    Vectors,
    Write,
)
from vectorpool.errors import (
    AvatarNotFound,
    CollectionExists,
    DocumentNotFound,
    InvalidEmbedding,
    InvalidRequest,
    LimitExceeded,
    RecordExists,
    RecordNotFound,
    VectorpoolError,
)
from vectorpool.names import check_collection_name, database_name
from vectorpool.settings import Settings
from vectorpool.vectorstore.bindings import is_chroma_error, translate
from vectorpool.vectorstore.chroma import Chroma, CollectionInfo, Float32
from vectorpool.vectorstore.direct_writes import UPSERT, DirectWriter
from vectorpool.vectorstore.pace import DIRECT_SLICE, TURN_S, Pace
from vectorpool.vectorstore.protocol_writes import ProtocolWriter
from vectorpool.vectorstore.reads import describe_collection
from vectorpool.vectorstore.refusals import refusal
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.vectors import as_array, check_vectors


class HalfApplied(Exception):
    """A command failed after its first effect: the replica must be built anew. ``cause`` is for the caller."""

    def __init__(self, cause: VectorpoolError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Effect(msgspec.Struct):
    """What a command changed, for the commit's summary. ``touched`` False means that nothing did."""

    touched: bool = False
    written: int = 0
    deleted: int = 0
    collections: set[str] = msgspec.field(default_factory=set)
    # The id of the collection that the command made; it stays if the command is applied again.
    made: str | None = None


class Writer:
    """Applies write commands to one open Chroma directory and its sidecar. One thread at a time."""

    def __init__(
        self,
        user_id: str,
        chroma: Chroma,
        direct: DirectWriter,
        sidecar: Sidecar,
        settings: Settings,
        is_new: Callable[[], bool],
    ) -> None:
        self.is_new = is_new
        self._chroma = chroma
        self._direct = direct
        self._sidecar = sidecar
        self._settings = settings
        self._pace = Pace(settings.write_slice_ms)
        self._effect = Effect()
        self._protocol = ProtocolWriter(user_id, chroma, direct, sidecar, self).handlers
        self._apply: dict[type, Callable[[Any], Any]] = {
            CreateCollection: self._create_collection,
            ModifyCollection: self._modify_collection,
            DeleteCollection: self._delete_collection,
            AddRecords: self._add_records,
            UpsertRecords: self._upsert_records,
            UpdateRecords: self._update_records,
            DeleteRecords: self._delete_records,
            DeleteAvatar: self._delete_avatar,
            IngestDocument: self._ingest_document,
            ForgetDocument: self._forget_document,
            **self._protocol,
        }

    def write(self, command: Write) -> tuple[Any, Effect]:
        """Apply one command; return its answer, fit for JSON, and its effect. Raises VectorpoolError or HalfApplied."""
        self._effect = Effect()
        try:
            answer = self._apply[type(command)](command)
        except BaseException as error:
            if not is_chroma_error(error):
                raise
            cause = refusal(error) if type(command) in self._protocol else translate(error)
            if self._effect.touched or cause.code == "broken-replica":
                raise HalfApplied(cause) from error
            raise cause from error
        return answer, self._effect

    # --- What changed --------------------------------------------------------------------------------

    def touch(self, collection: str | None = None) -> None:
        """Note that something changed, of which collection."""
        self._effect.touched = True
        if collection is not None:
            self._effect.collections.add(collection)

    def _touch(self, info: CollectionInfo | None = None) -> None:
        self.touch(None if info is None else info.name)

    def count(self, *, written: int = 0, deleted: int = 0) -> None:
        """Note how many records were written or deleted."""
        self._effect.written += written
        self._effect.deleted += deleted

    def slices(self, count: int) -> Iterator[slice]:
        """Cut a bulk write into calls of about the same time."""
        return self._pace.slices(count)

    def put(self, count: int, directly: Callable[[slice], bool], through_chroma: Callable[[slice], None]) -> None:
        """Write records slice by slice, round Chroma where ``directly`` says that it did, else through it."""
        for start in range(0, count, DIRECT_SLICE):
            part = slice(start, min(start + DIRECT_SLICE, count))
            if not directly(part):
                for inner in self._pace.slices(part.stop - start):
                    through_chroma(slice(start + inner.start, start + inner.stop))
                    self.touch()
            self.touch()
            if part.stop < count:
                time.sleep(TURN_S)

    # --- Collections ---------------------------------------------------------------------------------

    def _create_collection(self, command: CreateCollection) -> msgspec.Struct:
        check_collection_name(command.name)
        for info in self._chroma.collections(command.avatar_id):
            if info.name == command.name:
                if command.get_or_create:
                    return describe_collection(self._chroma, self._sidecar, info)
                raise CollectionExists(
                    f"There is a collection {command.name!r} already. Choose another name, or pass get_or_create."
                )
        return describe_collection(
            self._chroma, self._sidecar, self._make(command.avatar_id, command.name, command.metadata, command.hnsw)
        )

    def _make(self, avatar_id: str | None, name: str, metadata: dict[str, Any] | None, hnsw: Hnsw) -> CollectionInfo:
        defaults = self._settings
        chosen = {
            "space": hnsw.space or defaults.hnsw_space,
            "ef_construction": hnsw.ef_construction or defaults.hnsw_ef_construction,
            "ef_search": hnsw.ef_search or defaults.hnsw_ef_search,
            "max_neighbors": hnsw.max_neighbors or defaults.hnsw_max_neighbors,
            "sync_threshold": hnsw.sync_threshold or defaults.hnsw_sync_threshold,
        }
        self._touch()
        self._chroma.ensure_database(avatar_id)
        info = self._chroma.create_collection(avatar_id, name, metadata, chosen)
        self._touch(info)
        return info

    def _modify_collection(self, command: ModifyCollection) -> msgspec.Struct:
        info = self._chroma.collection(command.avatar_id, command.name)
        if command.new_name is not None and command.new_name != command.name:
            check_collection_name(command.new_name)
            if any(c.name == command.new_name for c in self._chroma.collections(command.avatar_id)):
                raise CollectionExists(f"There is a collection {command.new_name!r} already. Choose another name.")
        if command.new_name is None and command.new_metadata is None:
            raise InvalidRequest("Nothing is to be changed. Give a new name or new metadata.")
        self._touch(info)
        self._chroma.modify_collection(info.id, command.new_name, command.new_metadata)
        changed = self._chroma.collection(command.avatar_id, command.new_name or command.name)
        return describe_collection(self._chroma, self._sidecar, changed)

    def _delete_collection(self, command: DeleteCollection) -> msgspec.Struct:
        self._drop(self._chroma.collection(command.avatar_id, command.name))
        return answers.Deleted(deleted=1)

    def _drop(self, info: CollectionInfo) -> None:
        self._effect.deleted += self._chroma.count(info)
        self._touch(info)
        listed = self._chroma.listed(info.id, database_name(info.avatar_id))
        for part in self._pace.slices(len(listed)):
            self._chroma.delete(info, listed[part])
        self._chroma.delete_collection(info.avatar_id, info.name)
        self._sidecar.forget_collection(info.id)
        time.sleep(TURN_S)

    def _delete_avatar(self, command: DeleteAvatar) -> msgspec.Struct:
        if command.avatar_id not in self._chroma.avatars():
            raise AvatarNotFound(f"The user has no avatar {command.avatar_id!r}. List the avatars to see which.")
        collections = self._chroma.collections(command.avatar_id)
        self._touch()
        for info in collections:
            self._drop(info)
        self._chroma.delete_database(command.avatar_id)
        return answers.Deleted(deleted=len(collections))

    # --- Records -------------------------------------------------------------------------------------

    def _target(self, command: AddRecords | UpsertRecords | UpdateRecords) -> CollectionInfo:
        info = self._chroma.known_collection(command.avatar_id, command.collection)
        check_ids(command.ids, self._settings.max_records)
        for column in (command.documents, command.metadatas, command.uris):
            if column is not None and len(column) != len(command.ids):
                raise InvalidRequest(f"{len(command.ids)} ids came with {len(column)} values. Send one for each.")
        return info

    def _all_vectors(self, command: AddRecords | UpsertRecords, info: CollectionInfo) -> Float32:
        if command.vectors is None or command.vectors.rows is not None:
            raise InvalidEmbedding("Every new record needs an embedding, or a document to embed.")
        array = check_vectors(info, self._sidecar, command.vectors)
        if len(array) != len(command.ids):
            raise InvalidEmbedding(f"{len(command.ids)} ids came with {len(array)} embeddings. Send one for each.")
        return array

    def _add_records(self, command: AddRecords) -> msgspec.Struct:
        info = self._target(command)
        array = self._all_vectors(command, info)
        if there := self._existing(info, command.ids):
            first = next(i for i in command.ids if i in there)
            raise RecordExists(
                f"{len(there)} of the ids are in {info.name!r} already, the first is {first[:80]!r}. "
                "Use PUT to replace records.",
                extra={"existing": sorted(there)[:10]},
            )
        return self._put(info, command, array)

    def _upsert_records(self, command: UpsertRecords) -> msgspec.Struct:
        info = self._target(command)
        return self._put(info, command, self._all_vectors(command, info))

    def _put(self, info: CollectionInfo, command: AddRecords | UpsertRecords, array: Float32) -> msgspec.Struct:
        assert command.vectors is not None
        self._touch(info)
        self._remember_embedder(info, command.vectors)
        self._upsert(info, command.ids, array, command.metadatas, command.documents, command.uris)
        self._effect.written += len(command.ids)
        return answers.Written(written=len(command.ids))

    def _upsert(
        self,
        info: CollectionInfo,
        ids: list[str],
        array: Float32,
        metadatas: list[dict[str, Any] | None] | None,
        documents: list[str | None] | None,
        uris: list[str | None] | None,
    ) -> None:
        place = info.id, database_name(info.avatar_id)

        def columns(part: slice) -> tuple[Any, Any, Any]:
            return (
                metadatas[part] if metadatas else None,
                documents[part] if documents else None,
                uris[part] if uris else None,
            )

        self.put(
            len(ids),
            lambda part: self._direct.put(UPSERT, place, ids[part], array[part], *columns(part)),
            lambda part: self._chroma.upsert(info, ids[part], array[part], *columns(part)),
        )

    def _remember_embedder(self, info: CollectionInfo, vectors: Vectors) -> None:
        if vectors.embedder is not None and self._sidecar.embedder(info.id) is None:
            self._sidecar.set_embedder(info.id, vectors.embedder)

    def _update_records(self, command: UpdateRecords) -> msgspec.Struct:
        info = self._target(command)
        rows: list[Any] | None = None
        if command.vectors is not None:
            array = check_vectors(info, self._sidecar, command.vectors)
            positions = range(len(command.ids)) if command.vectors.rows is None else command.vectors.rows
            if len(array) != len(positions) or any(not 0 <= p < len(command.ids) for p in positions):
                raise InvalidEmbedding("The embeddings do not match the records that they are for.")
            rows = [None] * len(command.ids)
            for position, row in zip(positions, array, strict=True):
                rows[position] = row
        there = self._existing(info, command.ids)
        if missing := [i for i in command.ids if i not in there]:
            raise RecordNotFound(
                f"{len(missing)} of the ids are not in {info.name!r}, the first is {missing[0][:80]!r}. "
                "Use PUT to add records.",
                extra={"missing": missing[:10]},
            )
        self._touch(info)
        if command.vectors is not None:
            self._remember_embedder(info, command.vectors)
        for part in self._pace.slices(len(command.ids)):
            self._chroma.update(
                info,
                command.ids[part],
                rows[part] if rows else None,
                command.metadatas[part] if command.metadatas else None,
                command.documents[part] if command.documents else None,
                command.uris[part] if command.uris else None,
            )
        self._effect.written += len(command.ids)
        return answers.Written(written=len(command.ids))

    def _existing(self, info: CollectionInfo, ids: list[str]) -> set[str]:
        found: set[str] = set()
        # SQLite takes a bounded number of variables in one statement.
        for start in range(0, len(ids), 1000):
            found.update(self._chroma.get(info, ids=ids[start : start + 1000]).ids)
        return found

    def _delete_records(self, command: DeleteRecords) -> msgspec.Struct:
        info = self._chroma.collection(command.avatar_id, command.collection)
        if command.ids is None and not command.where and not command.where_document:
            raise InvalidRequest("Say what to delete: ids, where or where_document. DELETE the collection to empty it.")
        if command.ids is not None:
            check_ids(command.ids, self._settings.max_records)
        if command.where or command.where_document:
            found = self._chroma.get(
                info, ids=command.ids, where=command.where, where_document=command.where_document
            ).ids
        else:
            there = self._existing(info, command.ids or [])
            found = [i for i in command.ids or [] if i in there]
        self._delete_ids(info, found)
        return answers.Deleted(deleted=len(found))

    def _delete_ids(self, info: CollectionInfo, ids: list[str]) -> None:
        if ids:
            self._touch(info)
        for part in self._pace.slices(len(ids)):
            self._chroma.delete(info, ids[part])
        self._effect.deleted += len(ids)

    # --- Documents -----------------------------------------------------------------------------------

    def _ingest_document(self, command: IngestDocument) -> msgspec.Struct:
        check_collection_name(command.collection)
        if command.ids:
            check_ids(command.ids, self._settings.max_records)
        array = as_array(command.vectors) if command.ids else None
        if (
            not len(command.ids)
            == len(command.documents)
            == len(command.metadatas)
            == (0 if array is None else len(array))
        ):
            raise InvalidRequest("A document's ids, texts, metadata and embeddings differ in number.")
        known = {info.name: info for info in self._chroma.collections(command.avatar_id)}
        info = known.get(command.collection)
        if info is not None and array is not None:
            check_vectors(info, self._sidecar, command.vectors)
        if info is None:
            info = self._make(command.avatar_id, command.collection, None, Hnsw())
        self._touch(info)
        kept = set(command.ids)
        if (before := self._sidecar.chunks(command.avatar_id, command.path)) is not None:
            collection_id, old_ids = before
            owner = next((c for c in known.values() if c.id == collection_id), None)
            if owner is not None:
                self._delete_ids(owner, [i for i in old_ids if i not in kept or owner.id != info.id])
        if array is not None:
            self._remember_embedder(info, command.vectors)
            self._upsert(info, command.ids, array, list(command.metadatas), list(command.documents), None)
        self._sidecar.set_document(
            command.avatar_id, command.path, info.id, command.etag, command.size, command.recipe, command.ids
        )
        self._effect.written += len(command.ids)
        return answers.Written(written=len(command.ids))

    def _forget_document(self, command: ForgetDocument) -> msgspec.Struct:
        before = self._sidecar.chunks(command.avatar_id, command.path)
        if before is None:
            raise DocumentNotFound(f"The document {command.path!r} was not ingested.")
        collection_id, ids = before
        owner = next((c for c in self._chroma.collections(command.avatar_id) if c.id == collection_id), None)
        self._touch(owner)
        if owner is not None:
            self._delete_ids(owner, ids)
        self._sidecar.forget_document(command.avatar_id, command.path)
        return answers.Deleted(deleted=len(ids))


def check_ids(ids: list[str], max_records: int) -> None:
    """Refuse no ids, too many, and an id that comes twice."""
    if not ids:
        raise InvalidRequest("The call names no records. Send at least one.")
    if len(ids) > max_records:
        raise LimitExceeded(
            f"{len(ids)} records in one call; the limit is {max_records}. Send them in several calls.",
            extra={"limit": max_records, "count": len(ids)},
        )
    seen: set[str] = set()
    for record_id in ids:
        if record_id in seen:
            raise InvalidRequest(f"The id {record_id[:80]!r} comes twice in one call. Send each id once.")
        seen.add(record_id)
