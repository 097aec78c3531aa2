"""Every number and name that can be set; read once, in ``cli`` and ``app``, then passed down.

A setting comes from, in rising order: its default, a TOML file (``--config`` or ``VECTORPOOL_CONFIG``), the
environment (``VECTORPOOL_<NAME>``), a command-line flag (``--<name>``). The table in docs/reference/settings.md is made
from this module (``python -m vectorpool.settings``). Units stand last in a name.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from vectorpool import bounds
from vectorpool.errors import Misconfigured

Durability = Literal["write-through", "write-back"]
Consistency = Literal["strong", "bounded", "local"]
EmbedderKind = Literal["onnx", "sentence-transformers", "openai"]
Space = Literal["cosine", "l2", "ip"]


def _setting(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


Positive = Meta(ge=1)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of an instance."""

    # Where things are
    store: Annotated[
        str,
        _setting("The bucket: a directory, or a file://, s3://, gs:// or az:// URL with an optional prefix"),
    ] = ".vectorpool/store"
    replica_dir: Annotated[
        str, _setting("Where local replicas live; may be lost at any time, must belong to one instance")
    ] = ".vectorpool/replicas"
    host: Annotated[str, _setting("Address to listen on")] = "127.0.0.1"
    port: Annotated[int, _setting("Port to listen on", ge=0, le=65535)] = 8000
    shards: Annotated[
        int,
        _setting("Processes that own pools; 0 is one per core, -1 runs one inside the front process", ge=-1, le=64),
    ] = 0

    # Who may call
    tokens_file: Annotated[
        str | None,
        _setting("A TOML file that says which token may touch which users; without it no token is asked for"),
    ] = None

    # What is promised
    durability: Annotated[
        Durability,
        _setting("write-through acknowledges after the commit, write-back at once"),
    ] = "write-through"
    write_back_interval_s: Annotated[
        float,
        _setting("Under write-back, the longest time before dirty vectorstores are committed", gt=0, le=3600),
    ] = 5.0
    consistency: Annotated[
        Consistency,
        _setting("Reads ask for newer commits each time (strong), at most so often (bounded), or never (local)"),
    ] = "strong"
    consistency_bound_ms: Annotated[
        int, _setting("Under bounded consistency, how old a replica may be", ge=1, le=86_400_000)
    ] = 1000

    # Chroma's own protocol
    auto_create: Annotated[
        bool,
        _setting("Tenants need no creating, nor do default_database and avatar databases; off, exactly as with Chroma"),
    ] = True
    allow_reset: Annotated[
        bool, _setting("POST /api/v2/reset deletes the vectorstore of every user that its caller may touch")
    ] = False

    # The object store
    s3_endpoint: Annotated[
        str | None, _setting("An S3-compatible server's URL; also read from AWS_ENDPOINT_URL_S3")
    ] = None
    s3_region: Annotated[str | None, _setting("The bucket's region; found by boto3 if not given")] = None
    s3_path_style: Annotated[
        bool | None, _setting("Address buckets in the path; on by default where s3_endpoint is set")
    ] = None
    s3_access_key_id: Annotated[str | None, _setting("Explicit credentials; else boto3's chain finds them")] = None
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
            "A write looks for the commit it rests on, unless the instance saw it within this time; 0 always looks",
            ge=0,
            le=86_400,
        ),
    ] = 5.0
    store_fsync: Annotated[
        bool, _setting("On a directory as store, survive power loss too (fsync), not only killed processes")
    ] = False

    # The pool, each number for one shard
    open_slots: Annotated[int, _setting("Most vectorstores open at once, per shard", ge=1, le=100_000)] = 100
    warm_bytes: Annotated[int, _setting("Most bytes of cached log objects on local disk, per shard", ge=0)] = (
        2 * 1024**3
    )
    open_bytes: Annotated[
        int, _setting("Most bytes of open working directories, per shard (one store may exceed it)", ge=1)
    ] = 4 * 1024**3
    idle_timeout_s: Annotated[float, _setting("An unused vectorstore is evicted after this time", gt=0)] = 600.0
    slot_wait_s: Annotated[float, _setting("Longest wait for a free slot, then 503", gt=0, le=600)] = 10.0
    slot_waiters: Annotated[int, _setting("Most requests waiting for a free slot, per shard", ge=1)] = 256
    user_queue: Annotated[int, _setting("Most writes waiting for one user, then 429", ge=1)] = 256
    user_queue_bytes: Annotated[int, _setting("Most bytes of writes waiting for one user, then 429", ge=1)] = (
        256 * 1024**2
    )
    workers: Annotated[int, _setting("Threads that call Chroma, per shard", ge=1, le=256)] = 8
    write_slice_ms: Annotated[
        int, _setting("Bulk writes are cut so that one holds the interpreter about this long", ge=1, le=1000)
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
            "HNSW links a node of new collections",
            ge=int(bounds.MAX_NEIGHBORS.least),
            le=int(bounds.MAX_NEIGHBORS.most),
        ),
    ] = 16
    hnsw_sync_threshold: Annotated[
        int,
        _setting(
            "Additions a new collection queues in SQLite before they enter the HNSW files",
            ge=2,
            le=int(bounds.SYNC_THRESHOLD.most),
        ),
    ] = 1000

    # Reading
    exact_bytes: Annotated[
        int,
        _setting(
            "Vectors of a collection, in bytes, up to which a query without a filter is answered exactly and without "
            "Chroma's index; 0 always asks Chroma",
            ge=0,
        ),
    ] = 16 * 1024**2

    # The fast path
    fast_reads: Annotated[bool, _setting("Answer plain reads from Chroma's files, without a call of Chroma")] = True
    fast_writes: Annotated[bool, _setting("Make plain writes in Chroma's files, without a call of Chroma")] = True
    skip_fsync: Annotated[
        bool, _setting("Skip fsync for replicas, which are caches of the log; the store's own fsync stays")
    ] = True

    # The front
    max_requests: Annotated[
        int, _setting("Most requests under way at once on the instance, then 429", ge=1, le=1_000_000)
    ] = 4096

    # Text to vectors
    embedder: Annotated[EmbedderKind, _setting("Who embeds text")] = "onnx"
    embedder_model: Annotated[
        str | None, _setting("The model of sentence-transformers or openai; onnx has its own")
    ] = None
    embedder_device: Annotated[str | None, _setting("sentence-transformers' device, such as cpu or cuda")] = None
    embedder_batch: Annotated[int, _setting("Texts embedded in one run of the model", ge=1, le=2048)] = 16
    embedder_threads: Annotated[int, _setting("Threads of the onnx model; 0 is one per core", ge=0, le=256)] = 0
    embedder_queue: Annotated[int, _setting("Most texts waiting to be embedded, then 429", ge=1)] = 20_000
    openai_url: Annotated[str, _setting("Base URL of an OpenAI-compatible endpoint")] = "https://api.openai.com/v1"
    openai_api_key: Annotated[str | None, _setting("Its key")] = None
    openai_timeout_s: Annotated[float, _setting("Longest wait for one request to it", gt=0, le=600)] = 30.0
    openai_retries: Annotated[int, _setting("Further attempts of a failed request to it", ge=0, le=20)] = 4

    # Documents to records
    documents_collection: Annotated[str, _setting("The collection that an avatar's documents become")] = "documents"
    chunk_tokens: Annotated[int, _setting("Most tokens of one chunk", ge=16, le=8192)] = 220
    chunk_overlap_tokens: Annotated[int, _setting("Tokens repeated from the chunk before", ge=0, le=4096)] = 30
    max_document_bytes: Annotated[int, _setting("Largest source document", ge=1)] = 32 * 1024**2

    # The commit log
    compact_fanout: Annotated[
        int, _setting("So many deltas of one size are merged into one of the next", ge=2, le=64)
    ] = 8
    compact_amplification: Annotated[
        float, _setting("A hydrate reads at most about this many times the live bytes", ge=1.1, le=10)
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
    retention_s: Annotated[
        float, _setting("How long a past state can be restored; later only backups can", ge=0, le=3_153_600_000)
    ] = 604_800.0

    log_level: Annotated[Literal["debug", "info", "warning", "error"], _setting("How much is logged")] = "info"


SECRETS = frozenset({"s3_secret_access_key", "openai_api_key"})
ENV_PREFIX = "VECTORPOOL_"


class SettingInfo(msgspec.Struct, frozen=True):
    """One row of the settings table."""

    name: str
    env: str
    flag: str
    default: Any
    type: str
    description: str


def _type_name(hint: Any) -> str:
    if hasattr(hint, "__metadata__"):
        return _type_name(hint.__origin__)
    args = getattr(hint, "__args__", None)
    if args and all(isinstance(a, str) for a in args):
        return " or ".join(args)
    if args:
        return " or ".join(_type_name(a) for a in args if a is not type(None))
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}[hint.__name__]


def describe_settings() -> list[SettingInfo]:
    """Return every setting, in the order in which they are declared."""
    hints = get_type_hints(Settings, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(Settings):
        hint = hints[field.name]
        meta = next(m for m in hint.__metadata__ if m.description)
        rows.append(
            SettingInfo(
                name=field.name,
                env=ENV_PREFIX + field.name.upper(),
                flag="--" + field.name.replace("_", "-"),
                default=field.default,
                type=_type_name(hint),
                description=meta.description,
            )
        )
    return rows


def settings_table() -> str:
    """Return the table of settings, in Markdown."""
    lines = ["| environment, flag | default | what it sets |", "|---|---|---|"]
    for row in describe_settings():
        default = (
            ""
            if row.default is None
            else f"`{str(row.default).lower() if isinstance(row.default, bool) else row.default}`"
        )
        lines.append(f"| `{row.env}`<br>`{row.flag}` | {default} | {row.description} ({row.type}) |")
    return "\n".join(lines)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return {key.replace("-", "_"): value for key, value in tomllib.load(file).items()}
    except FileNotFoundError:
        raise Misconfigured(f"The configuration file {path} is not there. Create it, or leave --config out.") from None
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"The configuration file {path} is not valid TOML: {error}.") from None


def load_settings(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    config: str | Path | None = None,
) -> Settings:
    """Merge defaults, TOML file, environment and flags (None: not given) into one Settings.

    Raises Misconfigured with a sentence that names the setting and where its value came from.
    """
    environ = os.environ if environ is None else environ
    config = config or environ.get(ENV_PREFIX + "CONFIG")
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if config:
        for name, value in _read_toml(Path(config)).items():
            values[name], origin[name] = value, f"in {config}"
    known = {row.name: row for row in describe_settings()}
    for row in known.values():
        if (text := environ.get(row.env)) is not None and text != "":
            values[row.name], origin[row.name] = text, f"in the environment ({row.env})"
    for variable in environ:
        name = variable.removeprefix(ENV_PREFIX).lower()
        if variable.startswith(ENV_PREFIX) and name not in known and name != "config":
            raise Misconfigured(f"{variable} is not a setting. `vectorpool serve --help` lists them; remove it.")
    for name, value in (flags or {}).items():
        if value is not None:
            values[name], origin[name] = value, f"in the flag {known[name].flag}"
    if "s3_endpoint" not in values:
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            values["s3_endpoint"] = endpoint
    for name in values:
        if name not in known:
            raise Misconfigured(f"{name!r} {origin[name]} is not a setting. `vectorpool serve --help` lists them.")
    for name, value in values.items():
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            shown = "***" if name in SECRETS else repr(value)
            reason = str(error).partition(" - at")[0]
            raise Misconfigured(f"{name} = {shown} {origin.get(name, '')} is not valid: {reason}.") from None
    return msgspec.convert(values, Settings, strict=False)


if __name__ == "__main__":
    print(settings_table())  # noqa: T201 - this is what the module's command line is for
