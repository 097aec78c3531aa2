"""Write commands for documents: the chunks of a document become records, and a row of the sidecar lists them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vectorpool import answers
from vectorpool.checks import check_count
from vectorpool.commands import (
    DeletePipeline,
    ForgetDocument,
    Hnsw,
    IngestDocument,
    PipelineChoice,
    PutPipeline,
    SettleDocuments,
)
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.rows import Batch
from vectorpool.errors import CollectionNotFound, DocumentNotFound, InvalidRequest, UserNotFound
from vectorpool.names import check_collection_name
from vectorpool.vectorstore.avatars import collections_of, ensure_database
from vectorpool.vectorstore.effect import Effect
from vectorpool.vectorstore.metadata_keys import check_keys
from vectorpool.vectorstore.native_writes import NativeWriter
from vectorpool.vectorstore.vectors import as_array, check_vectors


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
        check_collection_name(command.collection)
        check_count("records", len(command.ids), limit=writer.settings.max_records, limit_name="max_records")
        array = as_array(command.vectors) if command.ids else None
        if (
            not len(command.ids)
            == len(command.documents)
            == len(command.metadatas)
            == (0 if array is None else len(array))
        ):
            raise InvalidRequest("A document's ids, texts, metadata and embeddings differ in number.")
        known = {info.name: info for info in collections_of(writer.catalogue, command.avatar_id)}
        info = known.get(command.collection)
        self._check_not_deleted(command, info)
        if info is not None and array is not None:
            check_vectors(info, writer.sidecar, command.vectors)
            check_keys(writer.catalogue, info, command.metadatas, effect)
        if effect.admission is not None:
            # All at once: a document that does not fit is refused before anything of it is changed.
            former = self._owner(command.avatar_id, command.path)
            effect.admission.add_document(command.avatar_id, command.path, info, command.ids, former)
        if info is None:
            info = writer.make_collection(command.avatar_id, command.collection, None, Hnsw(), effect)
        effect.touch(info.name)
        kept = set(command.ids)
        if (before := writer.sidecar.chunks(command.avatar_id, command.path)) is not None:
            collection_id, old_ids = before
            owner = next((c for c in known.values() if c.id == collection_id), None)
            if owner is not None:
                gone = [i for i in old_ids if i not in kept or owner.id != info.id]
                writer.delete_records(owner, gone, effect)
        if array is not None:
            batch = Batch(command.ids, array, list(command.metadatas), list(command.documents))
            writer.put_records(info, batch, command.vectors, effect)
        writer.sidecar.set_document(
            command.avatar_id,
            command.path,
            info.id,
            command.etag,
            command.size,
            command.recipe,
            command.ids,
            command.digest,
        )
        return answers.DocumentWritten(len(command.ids), info.id)

    def _check_not_deleted(self, command: IngestDocument, info: CollectionInfo | None) -> None:
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
        if before is None:
            raise DocumentNotFound(f"The document {command.path!r} was not ingested.")
        if command.unless_restored and writer.sidecar.is_restored(command.avatar_id, command.path):
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
