"""The commands of the native API: avatars, collections, records, documents, and operations on the whole.

``avatar_id`` None means the user's own collections.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from vectorpool.commands.base import (
    Hnsw,
    Include,
    LogOperation,
    Metadata,
    Operation,
    PipelineChoice,
    Read,
    RecordWrite,
    Vectors,
    Write,
)

# --- Reads -------------------------------------------------------------------------------------------


class DescribeVectorstore(Read, frozen=True, kw_only=True, tag="describe"):
    """What is stored. Answers answers.Vectorstore."""


class ListAvatars(Read, frozen=True, kw_only=True, tag="list-avatars"):
    """The avatars that have collections. Answers answers.AvatarPage."""

    limit: int | None = None
    offset: int = 0


class GetAvatar(Read, frozen=True, kw_only=True, tag="get-avatar"):
    """One avatar. Answers answers.Avatar."""

    avatar_id: str


class ListCollections(Read, frozen=True, kw_only=True, tag="list-collections"):
    """The collections of an avatar, or the user's own. Answers answers.CollectionPage."""

    avatar_id: str | None = None
    limit: int | None = None
    offset: int = 0


class GetCollection(Read, frozen=True, kw_only=True, tag="get-collection"):
    """One collection. Answers answers.Collection."""

    avatar_id: str | None = None
    name: str


class CountRecords(Read, frozen=True, kw_only=True, tag="count-records"):
    """Number of records of a collection. Answers answers.Count."""

    avatar_id: str | None = None
    collection: str


class GetRecords(Read, frozen=True, kw_only=True, tag="get-records"):
    """Records by ids or filters, in insertion order. Answers answers.RecordPage."""

    avatar_id: str | None = None
    collection: str
    ids: list[str] | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None
    limit: int | None = None
    offset: int = 0
    include: tuple[Include, ...] = ("documents", "metadatas")


class QueryRecords(Read, frozen=True, kw_only=True, tag="query-records"):
    """The records nearest to each embedding. Answers answers.QueryResult."""

    avatar_id: str | None = None
    collection: str
    vectors: Vectors
    n_results: int = 10
    ids: list[str] | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None
    include: tuple[Include, ...] = ("documents", "metadatas", "distances")


class ListIngested(Read, frozen=True, kw_only=True, tag="list-ingested"):
    """What the sidecar says of an avatar's documents, by path, after ``after``. Answers answers.IngestedPage.

    ``paths`` asks for these only.
    """

    avatar_id: str
    paths: list[str] | None = None
    after: str | None = None
    limit: int | None = None


class GetPipeline(Read, frozen=True, kw_only=True, tag="get-pipeline"):
    """How an avatar's documents are cut. Answers PipelineChoice, an empty one if nothing was chosen."""

    avatar_id: str


class ListRestored(Read, frozen=True, kw_only=True, tag="list-restored"):
    """Documents whose records a restore or fork brought, and whose bytes no ingest has seen since.

    By avatar and path, after ``after`` (an avatar and a path); of one avatar, or of one path. Answers
    answers.RestoredPage.
    """

    avatar_id: str | None = None
    path: str | None = None
    after: tuple[str, str] | None = None
    limit: int = 1000


class ListLost(Read, frozen=True, kw_only=True, tag="list-lost"):
    """Records that were lost when the vectorstore had to be salvaged. Answers answers.LostPage."""

    limit: int = 100
    offset: int = 0


# --- Writes ------------------------------------------------------------------------------------------


class CreateCollection(Write, frozen=True, kw_only=True, tag="create-collection"):
    """A new collection; with ``get_or_create`` an existing one is answered as it is."""

    avatar_id: str | None = None
    name: str
    metadata: Metadata | None = None
    hnsw: Hnsw = Hnsw()
    get_or_create: bool = False


class ModifyCollection(Write, frozen=True, kw_only=True, tag="modify-collection"):
    """A new name, new metadata (which replaces the old), or an embedder. Answers answers.Collection."""

    avatar_id: str | None = None
    name: str
    new_name: str | None = None
    new_metadata: Metadata | None = None
    # Records by whom the embeddings were made; it changes none of them.
    embedder: str | None = None


class DeleteCollection(Write, frozen=True, kw_only=True, tag="delete-collection"):
    """Deletes a collection with its records. Answers answers.Deleted."""

    frees: ClassVar[bool] = True

    avatar_id: str | None = None
    name: str


class _WriteRecords(RecordWrite, frozen=True, kw_only=True):
    avatar_id: str | None = None
    collection: str
    ids: list[str]
    vectors: Vectors | None = None
    documents: list[str | None] | None = None
    metadatas: list[Metadata | None] | None = None
    uris: list[str | None] | None = None


class AddRecords(_WriteRecords, frozen=True, kw_only=True, tag="add-records"):
    """Adds records; an id that is there already refuses the whole call. Answers answers.Written."""


class UpsertRecords(_WriteRecords, frozen=True, kw_only=True, tag="upsert-records"):
    """Adds records or replaces them; metadata is merged. Answers answers.Written."""


class UpdateRecords(_WriteRecords, frozen=True, kw_only=True, tag="update-records"):
    """Changes parts of records; an id that is not there refuses the whole call. Answers answers.Written."""


class DeleteRecords(RecordWrite, frozen=True, kw_only=True, tag="delete-records"):
    """Deletes records by ids or filters; ids that are not there count nothing. Answers answers.Deleted."""

    frees: ClassVar[bool] = True

    avatar_id: str | None = None
    collection: str
    ids: list[str] | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None


class DeleteAvatar(Write, frozen=True, kw_only=True, tag="delete-avatar"):
    """Deletes an avatar's collections. Its source documents stay. Answers answers.Deleted."""

    frees: ClassVar[bool] = True

    avatar_id: str


class PutPipeline(Write, frozen=True, kw_only=True, tag="put-pipeline"):
    """Chooses how an avatar's documents are cut; records change with the next ingest. Answers PipelineChoice."""

    avatar_id: str
    choice: PipelineChoice


class DeletePipeline(Write, frozen=True, kw_only=True, tag="delete-pipeline"):
    """Returns an avatar's documents to the settings of the instance. Answers answers.Deleted."""

    frees: ClassVar[bool] = True

    avatar_id: str


class IngestDocument(RecordWrite, frozen=True, kw_only=True, tag="ingest-document"):
    """Replaces what one document gave: old chunks go, new ones come, the sidecar says so; one commit.

    ``recipe`` says how chunks were made of the bytes (embedder, format, chunker and its numbers), as text; the
    same ETag and recipe give the same records. The collection is created if it is not there. Answers
    answers.DocumentWritten.

    ``seen`` is the newest commit that the sender knew when it began, and ``collection_id`` the collection that it saw
    then. If the vectorstore was deleted since, or the collection, the command is refused: what was deleted does not
    come back. None means that the sender has no such expectation.

    With ``parts`` the chunks are those that ``StageChunks`` brought under ``token``, in so many parts, and the command
    carries none itself. If one is gone, the command is refused with PartsMissing.
    """

    avatar_id: str
    collection: str
    path: str
    etag: str
    size: int
    recipe: str
    ids: list[str]
    vectors: Vectors
    documents: list[str]
    metadatas: list[Metadata]
    # The SHA-256 of the bytes.
    digest: str = ""
    seen: int | None = None
    collection_id: str | None = None
    content_type: str = ""
    # CHUNK_HASH_BYTES of each chunk's text, one after the other; empty if they are not known.
    hashes: bytes = b""
    token: str = ""
    parts: int = 0


class ForgetDocument(RecordWrite, frozen=True, kw_only=True, tag="forget-document"):
    """Deletes the chunks of a document and what the sidecar says of it. Answers answers.Deleted.

    ``unless_restored`` leaves what a restore or fork brought, and deletes nothing then.
    """

    frees: ClassVar[bool] = True

    avatar_id: str
    path: str
    unless_restored: bool = False


class DocumentBytes(msgspec.Struct, frozen=True, array_like=True):
    """The bytes at a document's path: their SHA-256, and the ETag of the object that holds them."""

    path: str
    digest: str
    etag: str


class SettleDocuments(RecordWrite, frozen=True, kw_only=True, tag="settle-documents"):
    """Notes which documents are at their paths with the bytes that their records were made of.

    Rows of other bytes are passed over. Answers answers.Written: how many rows changed.
    """

    frees: ClassVar[bool] = True

    avatar_id: str
    settled: list[DocumentBytes]


# --- Operations on the slot, not on what it holds ----------------------------------------------------


class Hydrate(Operation, frozen=True, kw_only=True, tag="hydrate"):
    """Opens the vectorstore at its newest commit. Answers answers.Residency."""


class Flush(Operation, frozen=True, kw_only=True, tag="flush"):
    """Commits what is not committed yet. Answers answers.Residency."""


class Evict(Operation, frozen=True, kw_only=True, tag="evict"):
    """Commits, closes and drops the working directory. Answers answers.Residency."""


class Inspect(Operation, frozen=True, kw_only=True, tag="inspect"):
    """The residency of the vectorstore, without a use of it. Answers answers.Residency."""


class Restore(Operation, frozen=True, kw_only=True, tag="restore"):
    """Makes the state of an earlier commit the newest, as a new commit. Answers answers.Restored.

    Exactly one of ``commit``, ``time_ms`` and ``backup`` is given; a time means the newest commit that is not younger.
    """

    is_change: ClassVar[bool] = True

    commit: int | None = None
    time_ms: int | None = None
    backup: str | None = None


class ListCommits(LogOperation, frozen=True, kw_only=True, tag="list-commits"):
    """The newest commits of the log, newest first. Answers answers.CommitPage."""

    limit: int = 50


class CreateBackup(LogOperation, frozen=True, kw_only=True, tag="create-backup"):
    """Names a commit, by default the newest, so that it does not become garbage. Answers answers.Backup."""

    is_change: ClassVar[bool] = True

    name: str
    commit: int | None = None


class GetBackup(LogOperation, frozen=True, kw_only=True, tag="get-backup"):
    """The commit that a backup names. Answers answers.Backup."""

    name: str


class ListBackups(LogOperation, frozen=True, kw_only=True, tag="list-backups"):
    """Every backup, by name. Answers answers.BackupPage."""


class DeleteBackup(LogOperation, frozen=True, kw_only=True, tag="delete-backup"):
    """Deletes a backup's name; the commit stays until it is garbage. Answers answers.Deleted."""

    is_change: ClassVar[bool] = True

    name: str


class Verify(LogOperation, frozen=True, kw_only=True, tag="verify"):
    """Reads the whole log and checks every invariant of it. Answers answers.Verification."""


class LastVerification(LogOperation, frozen=True, kw_only=True, tag="last-verification"):
    """What the last verification found. Answers answers.Verification."""


class LastDeletion(LogOperation, frozen=True, kw_only=True, tag="last-deletion"):
    """The receipt of the last deletion of the vectorstore. Answers answers.Deletion."""


class Fork(LogOperation, frozen=True, kw_only=True, tag="fork"):
    """Copies the state of a commit, by default the newest, to another user. Answers answers.Forked."""

    is_change: ClassVar[bool] = True

    target_user_id: str
    commit: int | None = None


class DeleteVectorstore(Operation, frozen=True, kw_only=True, tag="delete-vectorstore"):
    """Ends the log with a tombstone and deletes every other object of it. Answers answers.Deleted.

    ``documents`` is how many source documents the caller deleted before, or None if they stay. If there were some, or
    with ``seal``, the tombstone is written also where there is no log: else an ingest under way would begin one.
    """

    is_change: ClassVar[bool] = True

    documents: int | None = None
    seal: bool = False
