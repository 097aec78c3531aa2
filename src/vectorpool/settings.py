"""All settings of an instance; read once, in ``cli`` and ``app``, then passed down.

A setting comes from, in rising order: its default, a TOML file (``--config`` or ``VECTORPOOL_CONFIG``), the
environment (``VECTORPOOL_<NAME>``), a command-line flag (``--<name>``). The table in docs/reference/settings.md is made
from this module (``python -m vectorpool.settings``). A name ends with its unit.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from vectorpool.environment import check_working_directory, is_of_kubernetes, local_path
from vectorpool.errors import Misconfigured
from vectorpool.spelling import meant

Durability = Literal["write-through", "write-back"]
Consistency = Literal["strong", "bounded", "local"]
EmbedderKind = Literal["onnx", "sentence-transformers", "openai"]
Space = Literal["cosine", "l2", "ip"]


def _setting(text: str, **bounds: Any) -> Meta:
    return Meta(description=text, **bounds)


Positive = Meta(ge=1)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of an instance."""

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
        _setting("Processes that own pools; 0 is one per core, -1 runs one inside the front process", ge=-1, le=64),
    ] = 0

    # Callers
    tokens_file: Annotated[
        str | None,
        _setting("TOML file of the tokens and the users that each may access; without it no token is needed"),
    ] = None

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
    max_dimension: Annotated[int, _setting("Largest embedding", ge=1, le=65_536)] = 8192

    # New collections
    hnsw_space: Annotated[Space, _setting("Distance of new collections")] = "cosine"
    hnsw_ef_construction: Annotated[int, _setting("HNSW build effort of new collections", ge=1, le=10_000)] = 100
    hnsw_ef_search: Annotated[int, _setting("HNSW search effort of new collections", ge=1, le=10_000)] = 100
    hnsw_max_neighbors: Annotated[int, _setting("HNSW links of each node of new collections", ge=2, le=1024)] = 16
    hnsw_sync_threshold: Annotated[
        int,
        _setting("Additions that a new collection queues in SQLite before they are written to the HNSW files", ge=2),
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
    skip_fsync: Annotated[
        bool, _setting("Skip fsync for replicas, which are caches of the log; the store's own fsync stays")
    ] = True

    # The front
    max_requests: Annotated[
        int, _setting("Most requests under way at once on the instance, then 429", ge=1, le=1_000_000)
    ] = 4096

    max_body_bytes_under_way: Annotated[
        int,
        _setting(
            "Most bytes of bodies that arrived and are not answered yet, on the instance; one user has half of it",
            ge=1024,
        ),
    ] = 512 * 1024**2

    # Connections
    max_connections: Annotated[int, _setting("Most connections at once on the instance", ge=1, le=1_000_000)] = 4096
    max_connections_per_caller: Annotated[
        int, _setting("Most connections at once of one address (of one /64 of IPv6)", ge=1, le=1_000_000)
    ] = 1024
    trusted_proxies: Annotated[
        str,
        _setting(
            "Addresses or networks, separated by commas, whose X-Forwarded-For names the caller; others' is passed over"
        ),
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
            "A connection is closed that passes less than transfer_bytes_per_s of a body or an answer for so long",
            gt=0,
            le=3600,
        ),
    ] = 20.0
    transfer_bytes_per_s: Annotated[
        int, _setting("Least rate at which a caller sends a body and takes an answer", ge=1, le=1024**3)
    ] = 1024

    # Text to vectors
    embedder: Annotated[EmbedderKind, _setting("The provider that embeds text")] = "onnx"
    embedder_model: Annotated[
        str | None, _setting("Model name for sentence-transformers and openai; onnx has one fixed model")
    ] = None
    embedder_device: Annotated[str | None, _setting("sentence-transformers' device, such as cpu or cuda")] = None
    embedder_batch: Annotated[int, _setting("Texts embedded in one run of the model", ge=1, le=2048)] = 16
    embedder_threads: Annotated[int, _setting("Threads of the onnx model; 0 is one per core", ge=0, le=256)] = 0
    embedder_queue: Annotated[int, _setting("Most texts waiting to be embedded, then 429", ge=1)] = 20_000
    openai_url: Annotated[str, _setting("Base URL of an OpenAI-compatible endpoint")] = "https://api.openai.com/v1"
    openai_api_key: Annotated[str | None, _setting("API key of that endpoint")] = None
    openai_timeout_s: Annotated[float, _setting("Longest wait for one request to openai_url", gt=0, le=600)] = 30.0
    openai_retries: Annotated[int, _setting("Further attempts of a failed request to openai_url", ge=0, le=20)] = 4

    # Documents to records
    documents_collection: Annotated[str, _setting("Collection of the records made from documents")] = "documents"
    chunk_tokens: Annotated[int, _setting("Most tokens of one chunk", ge=16, le=8192)] = 220
    chunk_overlap_tokens: Annotated[int, _setting("Most tokens repeated from the chunk before", ge=0, le=4096)] = 30
    max_document_bytes: Annotated[int, _setting("Largest source document", ge=1)] = 32 * 1024**2

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
    retention_s: Annotated[
        float,
        _setting("Time for which past states can be restored; older ones only from backups", ge=0, le=3_153_600_000),
    ] = 604_800.0

    log_level: Annotated[Literal["debug", "info", "warning", "error"], _setting("Lowest level that is logged")] = "info"


SECRETS = frozenset({"s3_secret_access_key", "openai_api_key"})
ENV_PREFIX = "VECTORPOOL_"
# Settings that are paths of this machine; ``store`` is one too, unless it is a URL.
_PATHS = ("replica_dir", "tokens_file", "address_file")


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
        for name, value in _read_toml(Path(local_path("config", str(config)))).items():
            values[name], origin[name] = value, f"in {config}"
    known = {row.name: row for row in describe_settings()}
    for name, variable, text in _variables(environ, known):
        values[name], origin[name] = text, f"in the environment ({variable})"
    for name, value in (flags or {}).items():
        if value is not None:
            values[name], origin[name] = value, f"in the flag {known[name].flag}"
    if "s3_endpoint" not in values:
        endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            values["s3_endpoint"] = endpoint
    for name in values:
        if name not in known:
            raise Misconfigured(
                f"{name!r} {origin[name]} is not a setting.{meant(name, known)} `vectorpool serve --help` lists them."
            )
    for name, value in values.items():
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            shown = "***" if name in SECRETS else value
            raise Misconfigured(
                f"{name} = {shown} {origin.get(name, '')} has quotes around it. An env file keeps them: leave them out."
            )
        try:
            msgspec.convert({name: value}, Settings, strict=False)
        except msgspec.ValidationError as error:
            shown = "***" if name in SECRETS else repr(value)
            reason = str(error).partition(" - at")[0]
            raise Misconfigured(f"{name} = {shown} {origin.get(name, '')} is not valid: {reason}.") from None
    return _with_paths(msgspec.convert(values, Settings, strict=False))


def _variables(environ: Mapping[str, str], known: Mapping[str, SettingInfo]) -> Iterator[tuple[str, str, str]]:
    """Yield (setting, variable, text) of the environment, the stronger variable later.

    Raises Misconfigured for a variable with our prefix that is no setting.
    """
    own = {
        variable: text
        for variable, text in environ.items()
        if variable.startswith(ENV_PREFIX) and not is_of_kubernetes(variable, text)
    }
    settings = {row.env: row.name for row in known.values()}
    for variable in own:
        if variable not in settings and variable != ENV_PREFIX + "CONFIG":
            raise Misconfigured(
                f"{variable} is not a setting.{meant(variable, settings)} `vectorpool serve --help` lists them; "
                "remove it."
            )
    # Platforms that start one container a request tell it by this variable where they send the requests.
    if text := environ.get("PORT"):
        yield "port", "PORT", text
    for variable, text in own.items():
        if variable in settings and text != "":
            yield settings[variable], variable, text


def _with_paths(settings: Settings) -> Settings:
    """Return the settings with ``~`` expanded in their paths; raise Misconfigured for what cannot be a path."""
    paths = {name: path for name in _PATHS if (path := getattr(settings, name))}
    if "://" not in settings.store:
        paths["store"] = settings.store.strip()
    changed = {name: local_path(name, path) for name, path in paths.items()}
    for name, path in changed.items():
        check_working_directory(name, path)
    return msgspec.structs.replace(settings, **changed)


if __name__ == "__main__":
    print(settings_table())  # noqa: T201 - this is what the module's command line is for
