"""Write commands for documents: the chunks of a document become records, and a row of the sidecar lists them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from vectorpool import answers
from vectorpool.bounds import CHUNK_HASH_BYTES
from vectorpool.checks import check_count
from vectorpool.commands import (
    DeletePipeline,
    DiscardParts,
    ForgetDocument,
    Hnsw,
    IngestDocument,
    PipelineChoice,
    PutPipeline,
    SettleDocuments,
    StageChunks,
)
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.rows import Batch
from vectorpool.errors import CollectionNotFound, DocumentNotFound, InvalidRequest, PartsMissing, UserNotFound
from vectorpool.names import check_collection_name
from vectorpool.vectorstore.avatars import collections_of, ensure_database
from vectorpool.vectorstore.document_parts import Part
from vectorpool.vectorstore.effect import Effect
from vectorpool.vectorstore.metadata_keys import check_keys
from vectorpool.vectorstore.native_writes import NativeWriter
from vectorpool.vectorstore.vectors import as_array, check_vectors

# Parts of one document; each carries up to max_records chunks.
_MOST_PARTS: Final = 1000


class _Parts:
    """The chunks of a document, read a part at a time, as often as asked for."""

    def __init__(self, source: Part | Callable[[], Iterator[Part]]) -> None:
        self._source = source

    def read(self) -> Iterator[Part]:
        return iter([self._source]) if isinstance(self._source, Part) else self._source()

    def chunks(self) -> tuple[list[str], bytes]:
        """Return the ids and the hashes of all chunks."""
        ids, hashes = list[str](), bytearray()
        for part in self.read():
            ids += part.ids
            hashes += part.hashes
        return ids, bytes(hashes)


def _carried(command: IngestDocument | StageChunks) -> Part:
    return Part(command.ids, command.hashes, command.vectors, command.documents, command.metadatas)


class DocumentWriter:
    """Applies the writes for documents, by the writer of records.

    ``tombstone`` returns the commit that deleted the vectorstore, if nothing was written since, or else 0.
    """

    def __init__(self, writer: NativeWriter, tombstone: Callable[[], int]) -> None:
        self._writer = writer
        self._tombstone = tombstone
        self.handlers = handlers_of(self)

    @handles(IngestDocument)
    def _ingest_document(self, command: IngestDocument, effect: Effect) -> msgspec.Struct:
        writer = self._writer
        self._check(command)
        info = self._collection(command)
        parts = self._parts_of(command, info)
        # Before the first change, so that what does not fit is refused and the replica stays.
        self._check_fit(info, next(parts.read(), None), effect)
        ids, hashes = parts.chunks()
        if effect.admission is not None:
            # All at once: a document that does not fit is refused before anything of it is changed.
            former = self._owner(command.avatar_id, command.path)
            effect.admission.add_document(command.avatar_id, command.path, info, ids, former)
        if info is None:
            info = writer.make_collection(command.avatar_id, command.collection, None, Hnsw(), effect)
        effect.touch(info.name)
        self._delete_former(command, info, set(ids), effect)
        for part in parts.read():
            if part.ids:
                batch = Batch(part.ids, as_array(part.vectors), list(part.metadatas), list(part.documents))
                writer.put_records(info, batch, part.vectors, effect)
        writer.sidecar.parts.discard(command.avatar_id, command.path)
        writer.sidecar.set_document(
            command.avatar_id,
            command.path,
            info.id,
            command.etag,
            command.size,
            command.recipe,
            ids,
            command.digest,
            content_type=command.content_type,
            hashes=hashes,
        )
        return answers.DocumentWritten(len(ids), info.id)

    @handles(StageChunks)
    def _stage_chunks(self, command: StageChunks, effect: Effect) -> msgspec.Struct:
        writer = self._writer
        self._check(command)
        check_count("parts", command.number + 1, limit=_MOST_PARTS, limit_name="parts of a document")
        info = self._collection(command)
        part = _carried(command)
        self._check_fit(info, part, effect)
        if info is None:
            info = writer.make_collection(command.avatar_id, command.collection, None, Hnsw(), effect)
        # The collection's records do not change: no reader sees the part yet.
        effect.touch()
        key = (command.avatar_id, command.path, command.token)
        writer.sidecar.parts.put(key, command.number, info.id, part)
        return answers.DocumentWritten(len(command.ids), info.id)

    @handles(DiscardParts)
    def _discard_parts(self, command: DiscardParts, effect: Effect) -> msgspec.Struct:
        parts = self._writer.sidecar.parts
        deleted = sum(parts.discard(command.avatar_id, each.path, each.token) for each in command.parts)
        if deleted:
            effect.touch()
        return answers.Deleted(deleted)

    def _check(self, command: IngestDocument | StageChunks) -> None:
        check_collection_name(command.collection)
        limit = self._writer.settings.max_records
        check_count("records", len(command.ids), limit=limit, limit_name="max_records")
        count = len(as_array(command.vectors)) if command.ids else 0
        if not len(command.ids) == len(command.documents) == len(command.metadatas) == count:
            raise InvalidRequest("A document's ids, texts, metadata and embeddings differ in number.")
        if len(command.hashes) not in (0, len(command.ids) * CHUNK_HASH_BYTES):
            raise InvalidRequest(f"A document's hashes are not {CHUNK_HASH_BYTES} bytes for each of its ids.")

    def _collection(self, command: IngestDocument | StageChunks) -> CollectionInfo | None:
        """Return the collection of a document, None if it is not there yet; refuse what was deleted meanwhile."""
        known = collections_of(self._writer.catalogue, command.avatar_id)
        info = next((info for info in known if info.name == command.collection), None)
        self._check_not_deleted(command, info)
        return info

    def _check_fit(self, info: CollectionInfo | None, part: Part | None, effect: Effect) -> None:
        if info is not None and part is not None and part.ids:
            check_vectors(info, self._writer.sidecar, part.vectors)
            check_keys(self._writer.catalogue, info, part.metadatas, effect)

    def _parts_of(self, command: IngestDocument, info: CollectionInfo | None) -> _Parts:
        """Return the chunks that a command carries or names. Raises PartsMissing."""
        if not command.parts:
            return _Parts(_carried(command))
        kept = self._writer.sidecar.parts
        there = [] if info is None else kept.numbers(command.avatar_id, command.path, command.token, info.id)
        if command.ids or there != list(range(command.parts)):
            raise PartsMissing(
                f"Of the {command.parts} parts of the document {command.path!r}, {len(there)} are there. Send it again "
                "from its first part."
            )
        return _Parts(lambda: kept.read(command.avatar_id, command.path, command.token))

    def _delete_former(self, command: IngestDocument, info: CollectionInfo, kept: set[str], effect: Effect) -> None:
        """Delete the records that the document had and has no more."""
        before = self._writer.sidecar.chunks(command.avatar_id, command.path)
        if before is None:
            return
        collection_id, old_ids = before
        known = collections_of(self._writer.catalogue, command.avatar_id)
        owner = next((c for c in known if c.id == collection_id), None)
        if owner is not None:
            self._writer.delete_records(owner, [i for i in old_ids if i not in kept or owner.id != info.id], effect)

    def _check_not_deleted(self, command: IngestDocument | StageChunks, info: CollectionInfo | None) -> None:
        """Refuse a document whose vectorstore or collection was deleted after its ingest began."""
        again = "The ingest ends here. Start another one if the documents should be ingested again."
        if command.seen is not None and self._tombstone() > command.seen:
            raise UserNotFound(f"The user's vectorstore was deleted while documents were ingested. {again}")
        if command.collection_id is not None and (info is None or info.id != command.collection_id):
            raise CollectionNotFound(
                f"The collection {command.collection!r} was deleted or renamed while documents were ingested. {again}"
            )

    @handles(PutPipeline)
    def _put_pipeline(self, command: PutPipeline, effect: Effect) -> msgspec.Struct:
        writer = self._writer
        if writer.sidecar.pipeline(command.avatar_id) != command.choice:
            effect.touch()
            ensure_database(writer.catalogue, command.avatar_id)
            writer.sidecar.set_pipeline(command.avatar_id, command.choice)
        return command.choice

    @handles(DeletePipeline)
    def _delete_pipeline(self, command: DeletePipeline, effect: Effect) -> msgspec.Struct:
        sidecar = self._writer.sidecar
        if sidecar.pipeline(command.avatar_id) == PipelineChoice():
            return answers.Deleted(deleted=0)
        effect.touch()
        sidecar.set_pipeline(command.avatar_id, PipelineChoice())
        return answers.Deleted(deleted=1)

    def _owner(self, avatar_id: str, path: str) -> CollectionInfo | None:
        """Return the collection that holds the records of a document, if both are there."""
        before = self._writer.sidecar.chunks(avatar_id, path)
        known = [] if before is None else collections_of(self._writer.catalogue, avatar_id)
        return next((info for info in known if before is not None and info.id == before[0]), None)

    @handles(ForgetDocument)
    def _forget_document(self, command: ForgetDocument, effect: Effect) -> msgspec.Struct:
        writer = self._writer
        before = writer.sidecar.chunks(command.avatar_id, command.path)
        if command.unless_restored and writer.sidecar.is_restored(command.avatar_id, command.path):
            return answers.Deleted(deleted=0)
        if writer.sidecar.parts.discard(command.avatar_id, command.path):
            effect.touch()
        elif before is None:
            raise DocumentNotFound(f"The document {command.path!r} was not ingested.")
        if before is None:
            return answers.Deleted(deleted=0)
        ids = before[1]
        owner = self._owner(command.avatar_id, command.path)
        effect.touch(None if owner is None else owner.name)
        if effect.admission is not None:
            effect.admission.remove_document(command.avatar_id, command.path)
        if owner is not None:
            writer.delete_records(owner, ids, effect)
        writer.sidecar.forget_document(command.avatar_id, command.path)
        return answers.Deleted(deleted=len(ids))

    @handles(SettleDocuments)
    def _settle_documents(self, command: SettleDocuments, effect: Effect) -> msgspec.Struct:
        writer, settled = self._writer, 0
        for document in command.settled:
            if writer.sidecar.settle_document(command.avatar_id, document.path, document.digest, document.etag):
                effect.touch()
                settled += 1
        return answers.Written(written=settled)
