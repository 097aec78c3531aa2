"""All settings of an instance; read once, in ``cli`` and ``app``, then passed down.

``vectorpool.configuration`` reads them, and describes them in a table. A name ends with its unit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from vectorpool import bounds
from vectorpool.limits import LimitSettings

Durability = Literal["write-through", "write-back"]
Consistency = Literal["strong", "bounded", "local"]
EmbedderKind = Literal["onnx", "sentence-transformers", "openai"]
Space = Literal["cosine", "l2", "ip"]
ChunkStrategy = Literal["auto", "tokens", "sentences", "markdown", "rows", "code", "none"]


def _setting(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


Positive = Meta(ge=1)


class Settings(LimitSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of an instance. Those of limits are in ``limits``."""

    # Locations
    store: Annotated[
        str,
        _setting("The bucket: a directory, or a file://, s3://, gs:// or az:// URL with an optional prefix"),
    ] = ".vectorpool/store"
    replica_dir: Annotated[
        str, _setting("Directory of the local replicas; may be lost at any time, must belong to one instance")
    ] = ".vectorpool/replicas"
    host: Annotated[str, _setting("Address to listen on")] = "127.0.0.1"
    port: Annotated[int, _setting("Port to listen on; also read from PORT", ge=0, le=65535)] = 8000
    address_file: Annotated[
        str | None, _setting("A file that holds the service's URL while it listens, for a health check")
    ] = None
    shards: Annotated[
        int,
        _setting(
            "Processes that own pools; 0 is one per core, -1 runs one inside the front process, without quarantine",
            ge=-1,
            le=64,
        ),
    ] = 0

    # Callers
    tokens_file: Annotated[
        str | None,
        _setting("TOML file of the tokens and the users that each may access; without it no token is needed"),
    ] = None

    token_secret: Annotated[
        str | None,
        _setting("Secret of JWT by HS256, or several as KEY-ID:SECRET, separated by spaces; the first signs"),
    ] = None
    token_secret_file: Annotated[
        str | None, _setting("A file that holds token_secret, one a line; read again when it changes")
    ] = None
    token_jwks: Annotated[
        str | None,
        _setting("The https:// URL, or the file, of an identity provider's keys (JWKS) for RS256, ES256 and EdDSA"),
    ] = None
    token_jwks_refresh_s: Annotated[
        float, _setting("Interval at which the keys of a URL are fetched again", ge=10, le=86_400)
    ] = 300.0
    token_issuer: Annotated[str | None, _setting("The iss that every JWT must have; needed with token_jwks")] = None
    token_audience: Annotated[
        str | None,
        _setting("The aud that every JWT must have, or several, separated by commas; needed with token_jwks"),
    ] = None
    token_claim_users: Annotated[
        str, _setting("In tokens of token_jwks, the claim that holds the users; sub for one user a token", min_length=1)
    ] = "users"
    token_claim_avatars: Annotated[
        str, _setting("In tokens of token_jwks, the claim that narrows a token to avatars", min_length=1)
    ] = "avatars"
    token_claim_access: Annotated[
        str, _setting("In tokens of token_jwks, the claim that holds read or write", min_length=1)
    ] = "access"
    token_claim_admin: Annotated[
        str, _setting("In tokens of token_jwks, the claim that opens /admin", min_length=1)
    ] = "admin"
    token_claim_limits: Annotated[
        str, _setting("In tokens of token_jwks, the claim that holds limits", min_length=1)
    ] = "limits"
    token_claim_audience: Annotated[
        str, _setting("In tokens of token_jwks, the claim that holds the audience", min_length=1)
    ] = "aud"
    admin_key: Annotated[
        str | None, _setting("A token that opens /admin and no user's data; with it every request needs a token")
    ] = None
    admin_key_file: Annotated[str | None, _setting("A file that holds admin_key; read again when it changes")] = None

    # Crashes
    quarantine_s: Annotated[
        float,
        _setting(
            "A user in native code at two crashes within this time is quarantined, until as long without one",
            gt=0,
            le=86_400,
        ),
    ] = 600.0
    quarantine_processes: Annotated[
        int,
        _setting("Users in quarantine that are served, each in a process of its own; others are refused", ge=0, le=16),
    ] = 2

    # Durability and consistency
    durability: Annotated[
        Durability,
        _setting("When a write is acknowledged: write-through after its commit, write-back before it"),
    ] = "write-through"
    write_back_interval_s: Annotated[
        float,
        _setting("Under write-back, the longest time before dirty vectorstores are committed", gt=0, le=3600),
    ] = 5.0
    consistency: Annotated[
        Consistency,
        _setting(
            "When reads ask for newer commits: always (strong), after consistency_bound_ms (bounded), never (local)"
        ),
    ] = "strong"
    consistency_bound_ms: Annotated[
        int, _setting("Under bounded consistency, the greatest age of a replica", ge=1, le=86_400_000)
    ] = 1000

    # Chroma's own protocol
    auto_create: Annotated[
        bool,
        _setting("Tenants, default_database and avatar databases need no create request; off: exactly as with Chroma"),
    ] = True
    older_clients: Annotated[
        bool,
        _setting(
            "Show collections to Chroma's Python clients 0.5.16 to 0.6.3 as they read them; they are known by the "
            "User-Agent of their HTTP library and no content type"
        ),
    ] = True
    allow_reset: Annotated[
        bool,
        _setting("Allow POST /api/v2/reset, which deletes the vectorstore of every user that its caller may access"),
    ] = False

    # The object store
    s3_endpoint: Annotated[
        str | None, _setting("An S3-compatible server's URL; also read from AWS_ENDPOINT_URL_S3")
    ] = None
    s3_region: Annotated[str | None, _setting("The bucket's region; without it boto3 finds it")] = None
    s3_path_style: Annotated[
        bool | None, _setting("Put the bucket's name into the path of URLs; on by default if s3_endpoint is set")
    ] = None
    s3_access_key_id: Annotated[str | None, _setting("Access key; without it boto3's chain finds credentials")] = None
    s3_secret_access_key: Annotated[str | None, _setting("The secret of s3_access_key_id")] = None
    store_timeout_s: Annotated[
        float, _setting("Longest wait for one operation on the store, with all its attempts", gt=0, le=600)
    ] = 30.0
    store_retries: Annotated[
        int, _setting("Further attempts of a failed request, with jitter, within store_timeout_s", ge=0, le=20)
    ] = 4
    parent_proof_s: Annotated[
        float,
        _setting(
            "A write first checks that its parent commit is in the store, unless seen there this recently; 0: always",
            ge=0,
            le=86_400,
        ),
    ] = 5.0
    store_fsync: Annotated[
        bool, _setting("With a directory as store, call fsync, so that commits survive power loss too")
    ] = False

    # The pool, each number for one shard
    open_slots: Annotated[int, _setting("Most vectorstores open at once, per shard", ge=1, le=100_000)] = 100
    warm_bytes: Annotated[int, _setting("Most bytes of cached log objects on local disk, per shard", ge=0)] = (
        2 * 1024**3
    )
    open_bytes: Annotated[
        int, _setting("Most bytes of open working directories, per shard (one store may exceed it)", ge=1)
    ] = 4 * 1024**3
    idle_timeout_s: Annotated[float, _setting("Time after which an unused vectorstore is evicted", gt=0)] = 600.0
    slot_wait_s: Annotated[float, _setting("Longest wait for a free slot, then 503", gt=0, le=600)] = 10.0
    slot_waiters: Annotated[int, _setting("Most requests waiting for a free slot, per shard", ge=1)] = 256
    user_queue: Annotated[int, _setting("Most writes waiting for one user, then 429", ge=1)] = 256
    user_queue_bytes: Annotated[int, _setting("Most bytes of writes waiting for one user, then 429", ge=1)] = (
        256 * 1024**2
    )
    workers: Annotated[int, _setting("Threads that call Chroma, per shard", ge=1, le=256)] = 8
    write_slice_ms: Annotated[
        int,
        _setting("Bulk writes are cut into slices that hold the interpreter lock for about this time", ge=1, le=1000),
    ] = 20
    drain_s: Annotated[float, _setting("Time to finish and commit after SIGTERM", gt=0, le=3600)] = 8.0

    # Limits of one request
    request_timeout_s: Annotated[
        float,
        _setting(
            "Time limit of a request, from the last byte of its body; ingest, restore, fork, scrub and deleting a user "
            "have their own",
            gt=0,
            le=86_400,
        ),
    ] = 30.0
    max_body_bytes: Annotated[int, _setting("Largest request body", ge=1024)] = 64 * 1024**2
    max_records: Annotated[int, _setting("Most records in one call", ge=1, le=1_000_000)] = 10_000
    max_queries: Annotated[int, _setting("Most queries in one call", ge=1, le=10_000)] = 100
    max_results: Annotated[int, _setting("Most results of one query, and largest page", ge=1, le=1_000_000)] = 10_000
    max_dimension: Annotated[int, _setting("Largest embedding", ge=1, le=int(bounds.DIMENSION.most))] = 8192
    max_collections: Annotated[
        int,
        _setting(
            "Most collections of one user, and most databases (avatars)",
            ge=int(bounds.COLLECTIONS.least),
            le=int(bounds.COLLECTIONS.most),
        ),
    ] = 1024

    # New collections
    hnsw_space: Annotated[Space, _setting("Distance of new collections")] = "cosine"
    hnsw_ef_construction: Annotated[
        int, _setting("HNSW build effort of new collections", ge=1, le=int(bounds.EF_CONSTRUCTION.most))
    ] = 100
    hnsw_ef_search: Annotated[
        int, _setting("HNSW search effort of new collections", ge=1, le=int(bounds.EF_SEARCH.most))
    ] = 100
    hnsw_max_neighbors: Annotated[
        int,
        _setting(
            "HNSW links of each node of new collections",
            ge=int(bounds.MAX_NEIGHBORS.least),
            le=int(bounds.MAX_NEIGHBORS.most),
        ),
    ] = 16
    hnsw_sync_threshold: Annotated[
        int,
        _setting(
            "Additions that a new collection queues in SQLite before they are written to the HNSW files",
            ge=2,
            le=int(bounds.SYNC_THRESHOLD.most),
        ),
    ] = 1000

    # Reading
    exact_bytes: Annotated[
        int,
        _setting(
            "Vectors of a collection, in bytes, up to which every query is answered exactly and without Chroma's "
            "index; 0 always asks Chroma",
            ge=0,
        ),
    ] = 16 * 1024**2
    index_rows_bytes: Annotated[
        int,
        _setting(
            "Most bytes of vectors kept in memory for exact queries, per shard; the least recently used are dropped, "
            "and read again",
            ge=0,
        ),
    ] = 256 * 1024**2

    # The fast path
    fast_reads: Annotated[bool, _setting("Answer plain reads from Chroma's files, without a call of Chroma")] = True
    fast_writes: Annotated[bool, _setting("Make plain writes in Chroma's files, without a call of Chroma")] = True
    patch_replicas: Annotated[
        bool, _setting("Take other instances' commits into open replicas in place, and undo commits that lost a race")
    ] = True
    skip_fsync: Annotated[
        bool, _setting("Skip fsync for replicas, which are caches of the log; the store's own fsync stays")
    ] = True

    # The front
    max_requests: Annotated[
        int, _setting("Most requests under way at once on the instance, then 429", ge=1, le=1_000_000)
    ] = 4096
    max_body_bytes_under_way: Annotated[
        int, _setting("Most bytes of request bodies under way on the instance; half of it for one user", ge=1024)
    ] = 512 * 1024**2

    # Browsers
    allowed_hosts: Annotated[
        str,
        _setting(
            "Without tokens: hosts, separated by commas, that requests may name besides this machine's own (localhost)"
        ),
    ] = ""
    cors_origins: Annotated[
        str, _setting("Origins of web pages that may call the service, separated by commas; * is every page")
    ] = ""
    insecure_open: Annotated[
        bool,
        _setting(
            "Without tokens: listen on any address, and answer any host and any web page. Everyone who reaches the "
            "service may read and change everything"
        ),
    ] = False

    # Connections
    max_connections: Annotated[int, _setting("Most connections at once on the instance", ge=1, le=1_000_000)] = 4096
    max_connections_per_caller: Annotated[
        int, _setting("Most connections at once from one address (one /64 network of IPv6)", ge=1, le=1_000_000)
    ] = 1024
    trusted_proxies: Annotated[
        str, _setting("Addresses or networks, separated by commas, whose X-Forwarded-For is trusted; no others are")
    ] = ""
    max_header_bytes: Annotated[
        int, _setting("Most bytes of a request's line and headers", ge=1024, le=16 * 1024**2)
    ] = 64 * 1024
    max_headers: Annotated[int, _setting("Most headers of a request", ge=16, le=10_000)] = 100
    header_timeout_s: Annotated[
        float, _setting("Time for the headers of a request to arrive, from their first byte", gt=0, le=600)
    ] = 10.0
    transfer_timeout_s: Annotated[
        float,
        _setting(
            "Time below transfer_bytes_per_s, in a body or an answer, after which a connection is closed",
            gt=0,
            le=3600,
        ),
    ] = 20.0
    transfer_bytes_per_s: Annotated[
        int, _setting("Lowest rate at which a caller must send a body and receive an answer", ge=1, le=1024**3)
    ] = 1024

    # Text to vectors
    embedder: Annotated[EmbedderKind, _setting("The provider that embeds text")] = "onnx"
    embedder_model: Annotated[
        str | None, _setting("Model name for sentence-transformers and openai; onnx has one fixed model")
    ] = None
    embedder_device: Annotated[str | None, _setting("sentence-transformers' device, such as cpu or cuda")] = None
    embedder_batch: Annotated[int, _setting("Texts embedded in one run of the model", ge=1, le=2048)] = 16
    embedder_threads: Annotated[int, _setting("Threads of the onnx model; 0 is one per core", ge=0, le=256)] = 0
    embedder_queue: Annotated[
        int,
        _setting(
            "Most texts waiting to be embedded, then 429; a quarter as many of questions, beside it; one user has at "
            "most half of either in several calls",
            ge=1,
        ),
    ] = 20_000
    openai_url: Annotated[str, _setting("Base URL of an OpenAI-compatible endpoint")] = "https://api.openai.com/v1"
    openai_api_key: Annotated[str | None, _setting("API key of that endpoint")] = None
    openai_timeout_s: Annotated[float, _setting("Longest wait for one request to openai_url", gt=0, le=600)] = 30.0
    openai_retries: Annotated[int, _setting("Further attempts of a failed request to openai_url", ge=0, le=20)] = 4

    # Documents to records
    documents_collection: Annotated[str, _setting("Collection of the records made from documents")] = "documents"
    chunk_strategy: Annotated[
        ChunkStrategy, _setting("How documents are cut: auto is by their kind; an avatar may choose its own")
    ] = "auto"
    chunk_tokens: Annotated[int, _setting("Most tokens of one chunk", ge=16, le=8192)] = 220
    chunk_overlap_tokens: Annotated[int, _setting("Most tokens repeated from the chunk before", ge=0, le=4096)] = 30
    max_document_bytes: Annotated[int, _setting("Largest source document", ge=1)] = 32 * 1024**2
    extraction_processes: Annotated[
        int, _setting("Most documents read at once, each in a process without rights", ge=1, le=64)
    ] = 2
    extraction_timeout_s: Annotated[
        float, _setting("Longest time, and processor time, to read one document", gt=0, le=3600)
    ] = 60.0
    extraction_memory_bytes: Annotated[
        int, _setting("Most memory of the process that reads one document", ge=256 * 1024**2)
    ] = 1024**3
    max_document_chunks: Annotated[int, _setting("Most chunks of one document", ge=1, le=1_000_000)] = 200_000

    # Jobs
    jobs_url: Annotated[
        str,
        _setting(
            "The database of jobs: a sqlite:/// file of this instance alone, by default below replica_dir, or a "
            "postgresql:// URL that all instances and workers share"
        ),
    ] = ""
    jobs_at_once: Annotated[
        int,
        _setting("Jobs that a worker runs at once, one for each user; 0 runs none here, with PostgreSQL only", ge=0),
    ] = 16
    documents_at_once: Annotated[
        int, _setting("Documents that a worker reads, cuts and embeds at once, in turns of users", ge=1, le=256)
    ] = 4
    user_jobs: Annotated[int, _setting("Most jobs of one user that wait, then 429", ge=1)] = 1000
    jobs_retention_s: Annotated[float, _setting("Time that finished jobs are kept", ge=60, le=31_536_000)] = 604_800.0
    sync_on_write: Annotated[bool, _setting("PUT and DELETE of a document schedule its ingest")] = True
    service_url: Annotated[
        str | None, _setting("Of `vectorpool worker`: the URL of the service that commits what it makes")
    ] = None
    service_token: Annotated[
        str | None, _setting("Of `vectorpool worker`: a token of that service that may touch every user")
    ] = None

    # The commit log
    compact_fanout: Annotated[int, _setting("Number of same-size deltas merged into one", ge=2, le=64)] = 8
    compact_amplification: Annotated[
        float, _setting("Most bytes that a hydrate reads, as a multiple of the live bytes", ge=1.1, le=10)
    ] = 1.5
    verify_interval_s: Annotated[
        float,
        _setting(
            "Interval at which each log is verified and its garbage removed, in the background; 0 is never",
            ge=0,
            le=31_536_000,
        ),
    ] = 604_800.0
    verify_bytes_per_s: Annotated[
        int, _setting("Most bytes that background verification reads a second, per shard", ge=1024)
    ] = 8 * 1024**2
    deletion_bound_s: Annotated[
        float,
        _setting(
            "Most seconds after which no instance that runs holds anything of a vectorstore that another one deleted; "
            "0 is never, for one that is alone",
            ge=0,
            le=86_400,
        ),
    ] = 600.0
    retention_s: Annotated[
        float,
        _setting("Time that past states and documents are kept; backups keep states longer", ge=0, le=3_153_600_000),
    ] = 604_800.0
    erase_after_s: Annotated[
        float,
        _setting(
            "Time after a deletion until a commit removes what was deleted from the files, for a vectorstore of up to "
            "64 MiB that is written to; in proportion for larger ones; 0 is never",
            ge=0,
            le=31_536_000,
        ),
    ] = 3600.0

    audit_retention_s: Annotated[
        float, _setting("Time that entries of the audit are kept, in whole days", ge=86_400, le=3_153_600_000)
    ] = 31_536_000.0

    # What it tells of itself
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _setting("Lowest level that is logged")] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        _setting("Form of log lines; auto is console on a terminal, else json: one object a line"),
    ] = "auto"
    log_key: Annotated[
        str | None,
        _setting(
            "Key of the hash that stands for a user in log lines, the same on all instances; without it each start has "
            "a key of its own"
        ),
    ] = None
    slow_request_s: Annotated[
        float, _setting("Requests that take longer are logged as warnings and counted; 0 is never", ge=0, le=3600)
    ] = 1.0
    metrics_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        _setting("A port that answers /metrics without a token, and nothing else; without it only the other port does"),
    ] = None
    metrics_host: Annotated[str, _setting("Address of metrics_port")] = "127.0.0.1"
    traces_endpoint: Annotated[
        str | None,
        _setting(
            "Where traces are sent by OTLP over HTTP, such as http://collector:4318/v1/traces; also read from "
            "OTEL_EXPORTER_OTLP_ENDPOINT. Needs vectorpool[traces]"
        ),
    ] = None
    traces_ratio: Annotated[
        float, _setting("Part of the requests that are traced, by their trace id, whatever callers ask for", ge=0, le=1)
    ] = 1.0
