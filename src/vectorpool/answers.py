"""What commands answer, as msgspec structs.

A shard encodes an answer as JSON once; the front process passes those bytes on. The same structs document the
native API.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from vectorpool.log_answers import Backup as Backup
from vectorpool.log_answers import BackupPage as BackupPage
from vectorpool.log_answers import Commit as Commit
from vectorpool.log_answers import CommitPage as CommitPage
from vectorpool.log_answers import Damage as Damage
from vectorpool.log_answers import Deletion as Deletion
from vectorpool.log_answers import TargetDeletion as TargetDeletion
from vectorpool.log_answers import Verification as Verification
from vectorpool.platform.memory import MemoryView

SchemaState = Literal["tested", "untested"]

# Why Chroma is open on a working directory: the fast paths are off by a setting, or for a schema that was not tested; a
# filter, or a collection of this size, is left to Chroma; as many operations waited as the sync threshold says; or
# another operation that only Chroma does.
ChromaUse = Literal["setting", "schema", "filter", "size", "threshold", "operation"]
SlotState = Literal["cold", "hydrating", "ready", "committing", "evicting", "broken"]


class Answer(msgspec.Struct, frozen=True):
    """An answer on its way out: the JSON body, ready to send, and the commit it saw (0: none yet)."""

    body: bytes
    commit: int


class Collection(msgspec.Struct, omit_defaults=False):
    """A collection and how it is indexed. ``dimension`` is null until the first record comes."""

    name: str
    id: str
    avatar_id: str | None
    metadata: dict[str, Any] | None
    dimension: int | None
    # Which embedder made the embeddings; null until text is embedded, or if callers bring their own.
    embedder: str | None
    space: str
    hnsw: dict[str, Any]
    count: int


class CollectionPage(msgspec.Struct):
    """Collections by name, and how many there are in all."""

    collections: list[Collection]
    total: int


class Avatar(msgspec.Struct):
    """An avatar of a user: how many collections, records and ingested documents it has."""

    avatar_id: str
    collections: int
    records: int
    documents: int


class Refused(msgspec.Struct, frozen=True):
    """A name that another program put into the bucket and that no request can use, fit to be shown, and why."""

    name: str
    reason: str


class AvatarPage(msgspec.Struct, omit_defaults=True):
    """Avatars by id, and how many there are in all. ``refused`` are those whose names are no avatar ids."""

    avatars: list[Avatar]
    total: int
    refused: list[Refused] = []


class Count(msgspec.Struct):
    """How many."""

    count: int


class Record(msgspec.Struct, omit_defaults=True):
    """A record; what was not asked for is left out."""

    id: str
    document: str | None = None
    metadata: dict[str, Any] | None = None
    embedding: list[float] | None = None
    uri: str | None = None


class RecordPage(msgspec.Struct):
    """Records in insertion order."""

    records: list[Record]


class Match(msgspec.Struct, omit_defaults=True):
    """A record found by a query, and its distance (smaller is nearer)."""

    id: str
    distance: float | None = None
    document: str | None = None
    metadata: dict[str, Any] | None = None
    embedding: list[float] | None = None
    uri: str | None = None


class QueryResult(msgspec.Struct, omit_defaults=True):
    """For each query, in order, its matches, nearest first.

    ``assumed_embedder`` is there if the queries were texts, and no embedder is recorded for the collection, as for one
    that was imported: its embeddings are taken to be this embedder's.
    """

    results: list[list[Match]]
    assumed_embedder: str | None = None


class Written(msgspec.Struct):
    """How many records a write carried."""

    written: int


class DocumentWritten(msgspec.Struct):
    """How many records a document became, and the id of the collection that holds them."""

    written: int
    collection_id: str


class Deleted(msgspec.Struct):
    """How many records, collections or objects were deleted."""

    deleted: int


class Ingested(msgspec.Struct):
    """A document that became records: from which bytes (``etag``, ``size``), how (``recipe``), how many chunks.

    ``digest`` is the SHA-256 of the bytes, empty if it is not known. ``restored`` says that a restore or fork brought
    the records, and that no ingest has seen the bytes since. ``content_type`` is that of the path at the time.
    """

    path: str
    collection: str
    etag: str
    size: int
    recipe: str
    chunks: int
    embedder: str | None = None
    digest: str = ""
    restored: bool = False
    content_type: str = ""


class IngestedPage(msgspec.Struct, omit_defaults=True):
    """An avatar's ingested documents, by path. ``collections`` has the ids of the avatar's collections, by name.

    ``parts`` are the paths and tokens of documents whose ingest is not complete.
    """

    documents: list[Ingested]
    collections: dict[str, str] = {}
    parts: list[tuple[str, str]] = []


class RestoredDocument(msgspec.Struct, frozen=True):
    """A document whose records a restore or fork brought: which bytes they were made of."""

    avatar_id: str
    path: str
    etag: str
    size: int
    digest: str


class RestoredPage(msgspec.Struct):
    """Such documents, by avatar and path."""

    documents: list[RestoredDocument]


class RecoveredDocuments(msgspec.Struct):
    """What became of the documents of a state that a restore or fork brought.

    ``written`` were brought back; ``present`` were at their paths already; the paths of ``different`` hold other bytes,
    which stay; the bytes of ``missing`` are not kept; ``failed`` could not be read or written.
    """

    written: int = 0
    present: int = 0
    different: int = 0
    missing: int = 0
    failed: int = 0


class Vectorstore(msgspec.Struct):
    """What is stored for a user."""

    user_id: str
    avatars: int
    collections: int
    records: int
    bytes: int
    # Documents that were ingested, of all avatars, and the bytes without the files' free pages.
    documents: int = 0
    live_bytes: int = 0
    # Records that were lost when the vectorstore had to be salvaged; GET /users/{user_id}/lost lists them.
    lost_records: int = 0


class LostRecord(msgspec.Struct):
    """A record that could not be salvaged, why, and what is left of it. ``collection`` is its name at that time."""

    avatar_id: str | None
    collection: str
    id: str
    reason: str
    time_ms: int
    document: str | None
    metadata: dict[str, Any] | None


class LostPage(msgspec.Struct):
    """Lost records by collection and id, and how many there are in all."""

    lost: list[LostRecord]
    total: int


class Restored(msgspec.Struct, omit_defaults=True):
    """The new commit, and the one whose state it brought back; what became of the documents, if it has any."""

    commit: int
    restored_from: int
    documents: RecoveredDocuments | None = None


class Forked(msgspec.Struct, omit_defaults=True):
    """The other user, and the commit of that user's log that holds the state; what became of its documents, if any."""

    user_id: str
    commit: int
    documents: RecoveredDocuments | None = None


class Residency(msgspec.Struct):
    """Where a user's vectorstore is on this instance.

    ``bytes`` is the size of the open working directory, ``warm_bytes`` of the cached log objects;
    ``dirty`` says that acknowledged writes wait for a commit (write-back only). ``uses`` counts requests since it was
    opened; ``kept_open_until_ms`` is when an operator's wish to keep it open ends.
    """

    user_id: str
    state: SlotState
    commit: int
    bytes: int
    warm_bytes: int
    last_use_ms: int
    dirty: bool
    shard: int = 0
    detail: str | None = None
    # A past commit, open read-only beside the live vectorstore; null for the live one.
    at: int | None = None
    # Whether the fast paths were tested on the schema of the open directory; null if none is open.
    schema: SchemaState | None = None
    uses: int = 0
    kept_open_until_ms: int | None = None
    # Why Chroma is open on the directory; null if it is not, and most users never need it.
    chroma: ChromaUse | None = None


class StoreTraffic(msgspec.Struct):
    """What an instance's shards have asked of the object store since they started, retries not counted.

    ``requests`` counts by kind. A request that ``failed`` was refused or had no answer; that a key is missing, or
    taken, is an answer. Bytes are those of objects, as they are stored.
    """

    requests: dict[str, int] = {}
    failed: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class TaskView(msgspec.Struct, frozen=True):
    """A background task: how often it was started and failed, and whether it runs.

    ``state`` is ``running``, ``restarting`` (it failed and waits), ``down`` (it failed many times in a row) or
    ``ended``. ``last_error`` is the type of the last failure. ``shard`` is None for a task of the front.
    ``next_run_ms`` is when a task that rests goes on; None while it works, and for one that does not rest.
    """

    name: str
    state: str
    is_essential: bool
    starts: int
    failures: int
    failures_in_a_row: int
    last_error: str | None = None
    last_failure_ms: int | None = None
    shard: int | None = None
    next_run_ms: int | None = None


class QuarantineView(msgspec.Struct):
    """A user in quarantine: its crashes, the seconds that are left, and the process that serves it, if one does."""

    user_id: str
    crashes: int
    seconds_left: float
    process_id: int | None


class PoolView(msgspec.Struct):
    """Every slot of an instance, most recently used first, the pool's bounds, its traffic with the store, its tasks."""

    slots: list[Residency]
    open_slots: int
    open_slots_limit: int
    local_bytes: int
    local_bytes_limit: int
    waiting: int
    store: StoreTraffic = msgspec.field(default_factory=StoreTraffic)
    tasks: list[TaskView] = msgspec.field(default_factory=list)
    quarantined: list[QuarantineView] = msgspec.field(default_factory=list)
    memory: MemoryView | None = None
