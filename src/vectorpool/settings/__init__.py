"""All settings of an instance; read once, in ``cli`` and ``app``, then passed down.

``vectorpool.configuration`` reads them, and describes them in a table. A name ends with its unit. One struct has all of
them, in a chain of modules: ``vectorpool.limits``, ``front``, ``documents``, and here the store, the pool and the log.
"""

from __future__ import annotations

from typing import Annotated

from vectorpool import bounds
from vectorpool.settings.documents import DocumentSettings
from vectorpool.settings.words import (
    ChunkStrategy,
    Consistency,
    Durability,
    EmbedderKind,
    RecoverInto,
    RecoverMode,
    Space,
    setting,
)

__all__ = [
    "ChunkStrategy",
    "Consistency",
    "Durability",
    "EmbedderKind",
    "RecoverInto",
    "RecoverMode",
    "Settings",
    "Space",
]


class Settings(DocumentSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of an instance."""

    # Durability and consistency
    durability: Annotated[
        Durability,
        setting("When a write is acknowledged: write-through after its commit, write-back before it"),
    ] = "write-through"
    write_back_interval_s: Annotated[
        float,
        setting("Under write-back, the longest time before dirty vectorstores are committed", gt=0, le=3600),
    ] = 5.0
    consistency: Annotated[
        Consistency,
        setting(
            "When reads ask for newer commits: always (strong), after consistency_bound_ms (bounded), never (local)"
        ),
    ] = "strong"
    consistency_bound_ms: Annotated[
        int, setting("Under bounded consistency, the greatest age of a replica", ge=1, le=86_400_000)
    ] = 1000

    # Chroma's own protocol
    auto_create: Annotated[
        bool,
        setting("Tenants, default_database and avatar databases need no create request; off: exactly as with Chroma"),
    ] = True
    older_clients: Annotated[
        bool,
        setting(
            "Show collections to Chroma's Python clients 0.5.16 to 0.6.3 as they read them; they are known by the "
            "User-Agent of their HTTP library and no content type"
        ),
    ] = True
    allow_reset: Annotated[
        bool,
        setting("Allow POST /api/v2/reset, which deletes the vectorstore of every user that its caller may access"),
    ] = False

    # The object store
    s3_endpoint: Annotated[str | None, setting("An S3-compatible server's URL; also read from AWS_ENDPOINT_URL_S3")] = (
        None
    )
    s3_region: Annotated[str | None, setting("The bucket's region; without it boto3 finds it")] = None
    s3_path_style: Annotated[
        bool | None, setting("Put the bucket's name into the path of URLs; on by default if s3_endpoint is set")
    ] = None
    s3_access_key_id: Annotated[str | None, setting("Access key; without it boto3's chain finds credentials")] = None
    s3_secret_access_key: Annotated[str | None, setting("The secret of s3_access_key_id")] = None
    store_timeout_s: Annotated[
        float, setting("Longest wait for one operation on the store, with all its attempts", gt=0, le=600)
    ] = 30.0
    store_retries: Annotated[
        int, setting("Further attempts of a failed request, with jitter, within store_timeout_s", ge=0, le=20)
    ] = 4
    parent_proof_s: Annotated[
        float,
        setting(
            "A write first checks that its parent commit is in the store, unless seen there this recently; 0: always",
            ge=0,
            le=86_400,
        ),
    ] = 5.0
    store_fsync: Annotated[
        bool, setting("With a directory as store, call fsync, so that commits survive power loss too")
    ] = False

    # The pool, each number for one shard
    open_slots: Annotated[int, setting("Most vectorstores open at once, per shard", ge=1, le=100_000)] = 100
    warm_bytes: Annotated[int, setting("Most bytes of cached log objects on local disk, per shard", ge=0)] = 2 * 1024**3
    open_bytes: Annotated[
        int, setting("Most bytes of open working directories, per shard (one store may exceed it)", ge=1)
    ] = 4 * 1024**3
    idle_timeout_s: Annotated[float, setting("Time after which an unused vectorstore is evicted", gt=0)] = 600.0
    slot_wait_s: Annotated[float, setting("Longest wait for a free slot, then 503", gt=0, le=600)] = 10.0
    slot_waiters: Annotated[int, setting("Most requests waiting for a free slot, per shard", ge=1)] = 256
    user_queue: Annotated[int, setting("Most writes waiting for one user, then 429", ge=1)] = 256
    user_queue_bytes: Annotated[int, setting("Most bytes of writes waiting for one user, then 429", ge=1)] = (
        256 * 1024**2
    )
    workers: Annotated[int, setting("Threads that call Chroma, per shard", ge=1, le=256)] = 8
    write_slice_ms: Annotated[
        int,
        setting("Bulk writes are cut into slices that hold the interpreter lock for about this time", ge=1, le=1000),
    ] = 20
    drain_s: Annotated[float, setting("Time to finish and commit after SIGTERM", gt=0, le=3600)] = 8.0

    # New collections
    hnsw_space: Annotated[Space, setting("Distance of new collections")] = "cosine"
    hnsw_ef_construction: Annotated[
        int, setting("HNSW build effort of new collections", ge=1, le=int(bounds.EF_CONSTRUCTION.most))
    ] = 100
    hnsw_ef_search: Annotated[
        int, setting("HNSW search effort of new collections", ge=1, le=int(bounds.EF_SEARCH.most))
    ] = 100
    hnsw_max_neighbors: Annotated[
        int,
        setting(
            "HNSW links of each node of new collections",
            ge=int(bounds.MAX_NEIGHBORS.least),
            le=int(bounds.MAX_NEIGHBORS.most),
        ),
    ] = 16
    hnsw_sync_threshold: Annotated[
        int,
        setting(
            "Additions that a new collection queues in SQLite before they are written to the HNSW files; at 1000, "
            "Chroma's default, they stay in the queue until an index pays",
            ge=2,
            le=int(bounds.SYNC_THRESHOLD.most),
        ),
    ] = 1000

    # Reading
    exact_bytes: Annotated[
        int,
        setting(
            "Vectors of a collection, in bytes, up to which every query is answered exactly and without Chroma's "
            "index; 0 always asks Chroma",
            ge=0,
        ),
    ] = 32 * 1024**2
    index_rows_bytes: Annotated[
        int,
        setting(
            "Most bytes of vectors kept in memory for exact queries, per shard; the least recently used are dropped, "
            "and read again",
            ge=0,
        ),
    ] = 256 * 1024**2

    # The fast path
    fast_reads: Annotated[bool, setting("Answer plain reads from Chroma's files, without a call of Chroma")] = True
    fast_writes: Annotated[bool, setting("Change records in Chroma's files, without a call of Chroma")] = True
    patch_replicas: Annotated[
        bool, setting("Take other instances' commits into open replicas in place, and undo commits that lost a race")
    ] = True
    skip_fsync: Annotated[
        bool, setting("Skip fsync for replicas, which are caches of the log; the store's own fsync stays")
    ] = True

    # The commit log
    compact_fanout: Annotated[int, setting("Number of same-size deltas merged into one", ge=2, le=64)] = 8
    compact_amplification: Annotated[
        float, setting("Most bytes that a hydrate reads, as a multiple of the live bytes", ge=1.1, le=10)
    ] = 1.5
    verify_interval_s: Annotated[
        float,
        setting(
            "Interval at which each log is verified and its garbage removed, in the background; 0 is never",
            ge=0,
            le=31_536_000,
        ),
    ] = 604_800.0
    verify_bytes_per_s: Annotated[
        int, setting("Most bytes that background verification reads a second, per shard", ge=1024)
    ] = 8 * 1024**2
    deletion_bound_s: Annotated[
        float,
        setting(
            "Most seconds after which no instance that runs holds anything of a vectorstore that another one deleted; "
            "0 is never, for one that is alone",
            ge=0,
            le=86_400,
        ),
    ] = 600.0
    retention_s: Annotated[
        float,
        setting("Time that past states and documents are kept; backups keep states longer", ge=0, le=3_153_600_000),
    ] = 604_800.0
    erase_after_s: Annotated[
        float,
        setting(
            "Time after a deletion until a commit removes what was deleted from the files, for a vectorstore of up to "
            "64 MiB that is written to; in proportion for larger ones; 0 is never",
            ge=0,
            le=31_536_000,
        ),
    ] = 3600.0

    # Health, recovery and notifications
    health_interval_s: Annotated[
        float,
        setting(
            "Interval at which the health of the users that were used since is checked, and the service by a canary; "
            "0 is never",
            ge=0,
            le=31_536_000,
        ),
    ] = 1200.0
    recover: Annotated[
        RecoverMode,
        setting(
            "A vectorstore whose newest commit is damaged: ask waits for an operator, auto recovers it, at once if "
            "that loses nothing, else after two health intervals, in which an instance with a better source may"
        ),
    ] = "ask"
    recover_into: Annotated[
        RecoverInto,
        setting(
            "Where a recovery puts the collections of its source: same is their own names, new is names of their own, "
            "beside the newest intact commit of the log"
        ),
    ] = "same"
    notifications_url: Annotated[
        str | None,
        setting("Where notifications are sent as webhooks, signed by webhook_secret; without it they are only listed"),
    ] = None
    notifications_retention_s: Annotated[
        float,
        setting("Time that acknowledged and settled notifications are kept", ge=3600, le=31_536_000),
    ] = 2_592_000.0

    audit_retention_s: Annotated[
        float, setting("Time that entries of the audit are kept, in whole days", ge=86_400, le=3_153_600_000)
    ] = 31_536_000.0
