"""Every operation on a vectorstore as a msgspec struct: commands are data.

One struct an operation serves the shard protocol, the re-apply after a lost commit, and the audit line.
``avatar_id`` None means the user's own collections. Embeddings travel as raw little-endian float32.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from vectorpool.settings import Consistency, Space

Metadata: TypeAlias = dict[str, Any]
Include = Literal["documents", "metadatas", "embeddings", "distances", "uris"]


class Vectors(msgspec.Struct, frozen=True, array_like=True):
    """Embeddings of one call: float32[count, dimension], little-endian, row after row."""

    dimension: int
    data: bytes
    # Who made them: an embedder's name, or None when the caller brought them.
    embedder: str | None = None
    # The positions in the command's ids that have an embedding; None means all, in order.
    rows: list[int] | None = None


class Hnsw(msgspec.Struct, frozen=True, omit_defaults=True):
    """The index of a new collection; None means the server's default."""

    space: Space | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_neighbors: int | None = None
    sync_threshold: int | None = None


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """How fresh a read must be. None means what the instance is set to.

    ``bound_ms`` belongs to bounded consistency; ``min_commit`` is the least commit that the caller accepts, which
    makes a client read its own writes on any instance. ``at`` reads a past commit instead, beside the live one.
    """

    consistency: Consistency | None = None
    bound_ms: int | None = None
    min_commit: int = 0
    at: int | None = None


class _Command(msgspec.Struct, frozen=True, tag_field="op", kw_only=True):
    pass


# --- Reads -------------------------------------------------------------------------------------------


class DescribeVectorstore(_Command, frozen=True, kw_only=True, tag="describe"):
    """What is stored. Answers answers.Vectorstore."""


class ListAvatars(_Command, frozen=True, kw_only=True, tag="list-avatars"):
    """The avatars that have collections. Answers answers.AvatarPage."""

    limit: int | None = None
    offset: int = 0


class GetAvatar(_Command, frozen=True, kw_only=True, tag="get-avatar"):
    """One avatar. Answers answers.Avatar."""

    avatar_id: str


class ListCollections(_Command, frozen=True, kw_only=True, tag="list-collections"):
    """The collections of an avatar, or the user's own. Answers answers.CollectionPage."""

    avatar_id: str | None = None
    limit: int | None = None
    offset: int = 0


class GetCollection(_Command, frozen=True, kw_only=True, tag="get-collection"):
    """One collection. Answers answers.Collection."""

    avatar_id: str | None = None
    name: str


class CountRecords(_Command, frozen=True, kw_only=True, tag="count-records"):
    """How many records a collection holds. Answers answers.Count."""

    avatar_id: str | None = None
    collection: str


class GetRecords(_Command, frozen=True, kw_only=True, tag="get-records"):
    """Records by ids or filters, in insertion order. Answers answers.RecordPage."""

    avatar_id: str | None = None
    collection: str
    ids: list[str] | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None
    limit: int | None = None
    offset: int = 0
    include: tuple[Include, ...] = ("documents", "metadatas")


class QueryRecords(_Command, frozen=True, kw_only=True, tag="query-records"):
    """The records nearest to each embedding. Answers answers.QueryResult."""

    avatar_id: str | None = None
    collection: str
    vectors: Vectors
    n_results: int = 10
    ids: list[str] | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None
    include: tuple[Include, ...] = ("documents", "metadatas", "distances")


class ListIngested(_Command, frozen=True, kw_only=True, tag="list-ingested"):
    """What the sidecar says of an avatar's documents. Answers answers.IngestedPage."""

    avatar_id: str


class ListLost(_Command, frozen=True, kw_only=True, tag="list-lost"):
    """Records that were lost when the vectorstore had to be salvaged. Answers answers.LostPage."""

    limit: int = 100
    offset: int = 0


# --- Writes ------------------------------------------------------------------------------------------


class CreateCollection(_Command, frozen=True, kw_only=True, tag="create-collection"):
    """A new collection; with ``get_or_create`` an existing one is answered as it is."""

    avatar_id: str | None = None
    name: str
    metadata: Metadata | None = None
    hnsw: Hnsw = Hnsw()
    get_or_create: bool = False


class ModifyCollection(_Command, frozen=True, kw_only=True, tag="modify-collection"):
    """A new name, or new metadata (which replaces the old). Answers answers.Collection."""

    avatar_id: str | None = None
    name: str
    new_name: str | None = None
    new_metadata: Metadata | None = None


class DeleteCollection(_Command, frozen=True, kw_only=True, tag="delete-collection"):
    """Deletes a collection with its records. Answers answers.Deleted."""

    avatar_id: str | None = None
    name: str


class _WriteRecords(_Command, frozen=True, kw_only=True):
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


class DeleteRecords(_Command, frozen=True, kw_only=True, tag="delete-records"):
    """Deletes records by ids or filters; ids that are not there count nothing. Answers answers.Deleted."""

    avatar_id: str | None = None
    collection: str
    ids: list[str] | None = None
    where: dict[str, Any] | None = None
    where_document: dict[str, Any] | None = None


class DeleteAvatar(_Command, frozen=True, kw_only=True, tag="delete-avatar"):
    """Deletes an avatar's collections. Its source documents stay. Answers answers.Deleted."""

    avatar_id: str


class IngestDocument(_Command, frozen=True, kw_only=True, tag="ingest-document"):
    """Replaces what one document gave: old chunks go, new ones come, the sidecar says so; one commit.

    ``recipe`` says how chunks were made of the bytes (embedder, format, chunker and its numbers), as text; the
    same ETag and recipe give the same records. The collection is created if it is not there. Answers
    answers.Written.
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


class ForgetDocument(_Command, frozen=True, kw_only=True, tag="forget-document"):
    """Deletes the chunks of a document and what the sidecar says of it. Answers answers.Deleted."""

    avatar_id: str
    path: str


# --- Operations on the slot, not on what it holds ----------------------------------------------------


class Hydrate(_Command, frozen=True, kw_only=True, tag="hydrate"):
    """Opens the vectorstore at its newest commit. Answers answers.Residency."""


class Flush(_Command, frozen=True, kw_only=True, tag="flush"):
    """Commits what is not committed yet. Answers answers.Residency."""


class Evict(_Command, frozen=True, kw_only=True, tag="evict"):
    """Commits, closes and drops the working directory. Answers answers.Residency."""


class Inspect(_Command, frozen=True, kw_only=True, tag="inspect"):
    """Where the vectorstore is, without touching it. Answers answers.Residency."""


class Restore(_Command, frozen=True, kw_only=True, tag="restore"):
    """Makes the state of an earlier commit the newest, as a new commit. Answers answers.Restored.

    Exactly one of ``commit`` and ``time_ms`` is given; a time means the newest commit that is not younger.
    """

    commit: int | None = None
    time_ms: int | None = None


class ListCommits(_Command, frozen=True, kw_only=True, tag="list-commits"):
    """The newest commits of the log, newest first. Answers answers.CommitPage."""

    limit: int = 50


class CreateBackup(_Command, frozen=True, kw_only=True, tag="create-backup"):
    """Names a commit, the newest by default, and so keeps it from collection. Answers answers.Backup."""

    name: str
    commit: int | None = None


class GetBackup(_Command, frozen=True, kw_only=True, tag="get-backup"):
    """Which commit a backup names. Answers answers.Backup."""

    name: str


class ListBackups(_Command, frozen=True, kw_only=True, tag="list-backups"):
    """Every backup, by name. Answers answers.BackupPage."""


class DeleteBackup(_Command, frozen=True, kw_only=True, tag="delete-backup"):
    """Forgets a backup's name; the commit stays until it is collected. Answers answers.Deleted."""

    name: str


class Verify(_Command, frozen=True, kw_only=True, tag="verify"):
    """Reads the whole log and checks every invariant of it. Answers answers.Verification."""


class LastVerification(_Command, frozen=True, kw_only=True, tag="last-verification"):
    """What the last verification found. Answers answers.Verification."""


class Fork(_Command, frozen=True, kw_only=True, tag="fork"):
    """Makes the state of a commit, the newest by default, another user's vectorstore. Answers answers.Forked."""

    target_user_id: str
    commit: int | None = None


class DeleteVectorstore(_Command, frozen=True, kw_only=True, tag="delete-vectorstore"):
    """Ends the log with a tombstone and deletes every other object of it. Answers answers.Deleted."""


Read: TypeAlias = (
    DescribeVectorstore
    | ListAvatars
    | GetAvatar
    | ListCollections
    | GetCollection
    | CountRecords
    | GetRecords
    | QueryRecords
    | ListIngested
    | ListLost
)
Write: TypeAlias = (
    CreateCollection
    | ModifyCollection
    | DeleteCollection
    | AddRecords
    | UpsertRecords
    | UpdateRecords
    | DeleteRecords
    | DeleteAvatar
    | IngestDocument
    | ForgetDocument
)
LogOperation: TypeAlias = (
    ListCommits | CreateBackup | GetBackup | ListBackups | DeleteBackup | Fork | Verify | LastVerification
)
Operation: TypeAlias = Hydrate | Flush | Evict | Inspect | Restore | DeleteVectorstore | LogOperation
Command: TypeAlias = Read | Write | Operation
