"""Settings of documents, from their bytes to their vectors, and of the jobs that bring them there."""

from __future__ import annotations

from typing import Annotated

from vectorpool.settings.front import FrontSettings
from vectorpool.settings.words import ChunkStrategy, EmbedderKind, setting


class DocumentSettings(FrontSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The embedder, the cutting of documents, jobs, targets, and webhooks."""

    # Text to vectors
    embedder: Annotated[EmbedderKind, setting("The provider that embeds text")] = "onnx"
    embedder_model: Annotated[
        str | None, setting("Model name for sentence-transformers and openai; onnx has one fixed model")
    ] = None
    embedder_device: Annotated[str | None, setting("sentence-transformers' device, such as cpu or cuda")] = None
    embedder_batch: Annotated[int, setting("Texts embedded in one run of the model", ge=1, le=2048)] = 16
    embedder_threads: Annotated[int, setting("Threads of the onnx model; 0 is one per core", ge=0, le=256)] = 0
    embedder_queue: Annotated[
        int,
        setting(
            "Most texts waiting to be embedded, then 429; a quarter as many of questions, beside it; one user has at "
            "most half of either in several calls",
            ge=1,
        ),
    ] = 20_000
    openai_url: Annotated[str, setting("Base URL of an OpenAI-compatible endpoint")] = "https://api.openai.com/v1"
    openai_api_key: Annotated[str | None, setting("API key of that endpoint")] = None
    openai_timeout_s: Annotated[float, setting("Longest wait for one request to openai_url", gt=0, le=600)] = 30.0
    openai_retries: Annotated[int, setting("Further attempts of a failed request to openai_url", ge=0, le=20)] = 4

    # Documents to records
    documents_collection: Annotated[str, setting("Collection of the records made from documents")] = "documents"
    chunk_strategy: Annotated[
        ChunkStrategy, setting("How documents are cut: auto is by their kind; an avatar may choose its own")
    ] = "auto"
    chunk_tokens: Annotated[int, setting("Most tokens of one chunk", ge=16, le=8192)] = 220
    chunk_overlap_tokens: Annotated[int, setting("Most tokens repeated from the chunk before", ge=0, le=4096)] = 30
    max_document_bytes: Annotated[int, setting("Largest source document", ge=1)] = 32 * 1024**2
    extraction_processes: Annotated[
        int, setting("Most documents read at once, each in a process without rights", ge=1, le=64)
    ] = 2
    extraction_timeout_s: Annotated[
        float, setting("Longest time, and processor time, to read one document", gt=0, le=3600)
    ] = 60.0
    extraction_memory_bytes: Annotated[
        int, setting("Most memory of the process that reads one document", ge=256 * 1024**2)
    ] = 1024**3
    max_document_chunks: Annotated[int, setting("Most chunks of one document", ge=1, le=1_000_000)] = 200_000

    # Jobs
    jobs_url: Annotated[
        str,
        setting(
            "The database of jobs: a sqlite:/// file of this instance alone, by default below replica_dir, or a "
            "postgresql:// URL that all instances and workers share"
        ),
    ] = ""
    jobs_at_once: Annotated[
        int,
        setting("Jobs that a worker runs at once, one for each user; 0 runs none here, with PostgreSQL only", ge=0),
    ] = 16
    documents_at_once: Annotated[
        int, setting("Documents that a worker reads, cuts and embeds at once, in turns of users", ge=1, le=256)
    ] = 4
    user_jobs: Annotated[int, setting("Most jobs of one user that wait, then 429", ge=1)] = 1000
    jobs_retention_s: Annotated[float, setting("Time that finished jobs are kept", ge=60, le=31_536_000)] = 604_800.0
    sync_on_write: Annotated[bool, setting("PUT and DELETE of a document schedule its ingest")] = True
    sweep_interval_s: Annotated[
        float,
        setting(
            "Interval at which the documents of each user are compared with what was ingested, in the background; 0 is "
            "never",
            ge=0,
            le=31_536_000,
        ),
    ] = 21_600.0
    service_url: Annotated[
        str | None, setting("Of `vectorpool worker`: the URL of the service that commits what it makes")
    ] = None
    service_token: Annotated[
        str | None, setting("Of `vectorpool worker`: a token of that service that may touch every user")
    ] = None

    # Targets
    targets: Annotated[
        str,
        setting(
            "Other systems that a user may name in an export or import, as NAME=URL, separated by spaces; a URL may "
            "hold credentials, and is never shown"
        ),
    ] = ""
    transfers_at_once: Annotated[
        int, setting("Exports and imports that a worker runs at once, one for each user", ge=1, le=32)
    ] = 2

    export_to: Annotated[
        str, setting("Names of targets, separated by spaces, to which every user is exported, again and again")
    ] = ""
    export_kept_bytes: Annotated[
        int,
        setting(
            "Most bytes of vectorstores that a worker keeps on local disk after an export, so that the next export of "
            "the user reads only newer commits; 0 keeps none",
            ge=0,
        ),
    ] = 256 * 1024**2
    export_interval_s: Annotated[
        float, setting("Interval at which users that changed are exported to export_to", ge=1, le=31_536_000)
    ] = 3600.0
    export_users: Annotated[
        str,
        setting("Patterns of the ids of users that are exported to export_to, such as team-*, separated by spaces"),
    ] = "*"

    # Webhooks
    webhook_secret: Annotated[
        str | None,
        setting("The secret that signs webhooks: any text, or whsec_ and base64; without it they are not signed"),
    ] = None
    webhook_networks: Annotated[
        str,
        setting("Addresses or networks, separated by commas, where webhooks may go besides public addresses"),
    ] = ""
