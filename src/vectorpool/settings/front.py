"""Settings of an instance as its callers and operators meet it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from vectorpool import bounds
from vectorpool.limits import LimitSettings
from vectorpool.settings.words import setting


class FrontSettings(LimitSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where it is, who may call it, what one request may be, and what it tells of itself."""

    # Locations
    store: Annotated[
        str,
        setting("The bucket: a directory, or a file://, s3://, gs:// or az:// URL with an optional prefix"),
    ] = ".vectorpool/store"
    replica_dir: Annotated[
        str, setting("Directory of the local replicas; may be lost at any time, must belong to one instance")
    ] = ".vectorpool/replicas"
    host: Annotated[str, setting("Address to listen on")] = "127.0.0.1"
    port: Annotated[int, setting("Port to listen on; also read from PORT", ge=0, le=65535)] = 8000
    address_file: Annotated[
        str | None, setting("A file that holds the service's URL while it listens, for a health check")
    ] = None
    shards: Annotated[
        int,
        setting(
            "Processes that own pools; 0 is one per core, -1 runs one inside the front process, without quarantine",
            ge=-1,
            le=64,
        ),
    ] = 0

    # Callers
    tokens_file: Annotated[
        str | None,
        setting("TOML file of the tokens and the users that each may access; without it no token is needed"),
    ] = None

    token_secret: Annotated[
        str | None,
        setting("Secret of JWT by HS256, or several as KEY-ID:SECRET, separated by spaces; the first signs"),
    ] = None
    token_secret_file: Annotated[
        str | None, setting("A file that holds token_secret, one a line; read again when it changes")
    ] = None
    token_jwks: Annotated[
        str | None,
        setting("The https:// URL, or the file, of an identity provider's keys (JWKS) for RS256, ES256 and EdDSA"),
    ] = None
    token_jwks_refresh_s: Annotated[
        float, setting("Interval at which the keys of a URL are fetched again", ge=10, le=86_400)
    ] = 300.0
    token_issuer: Annotated[str | None, setting("The iss that every JWT must have; needed with token_jwks")] = None
    token_audience: Annotated[
        str | None,
        setting("The aud that every JWT must have, or several, separated by commas; needed with token_jwks"),
    ] = None
    token_claim_users: Annotated[
        str, setting("In tokens of token_jwks, the claim that holds the users; sub for one user a token", min_length=1)
    ] = "users"
    token_claim_avatars: Annotated[
        str, setting("In tokens of token_jwks, the claim that narrows a token to avatars", min_length=1)
    ] = "avatars"
    token_claim_access: Annotated[
        str, setting("In tokens of token_jwks, the claim that holds read or write", min_length=1)
    ] = "access"
    token_claim_admin: Annotated[str, setting("In tokens of token_jwks, the claim that opens /admin", min_length=1)] = (
        "admin"
    )
    token_claim_limits: Annotated[
        str, setting("In tokens of token_jwks, the claim that holds limits", min_length=1)
    ] = "limits"
    token_claim_audience: Annotated[
        str, setting("In tokens of token_jwks, the claim that holds the audience", min_length=1)
    ] = "aud"
    admin_key: Annotated[
        str | None, setting("A token that opens /admin and no user's data; with it every request needs a token")
    ] = None
    admin_key_file: Annotated[str | None, setting("A file that holds admin_key; read again when it changes")] = None

    # Crashes
    quarantine_s: Annotated[
        float,
        setting(
            "A user in native code at two crashes within this time is quarantined, until as long without one",
            gt=0,
            le=86_400,
        ),
    ] = 600.0
    quarantine_processes: Annotated[
        int,
        setting("Users in quarantine that are served, each in a process of its own; others are refused", ge=0, le=16),
    ] = 2

    # Limits of one request
    request_timeout_s: Annotated[
        float,
        setting(
            "Time limit of a request, from the last byte of its body; ingest, restore, fork, scrub and deleting a user "
            "have their own",
            gt=0,
            le=86_400,
        ),
    ] = 30.0
    max_body_bytes: Annotated[int, setting("Largest request body", ge=1024)] = 64 * 1024**2
    max_records: Annotated[int, setting("Most records in one call", ge=1, le=1_000_000)] = 10_000
    max_queries: Annotated[int, setting("Most queries in one call", ge=1, le=10_000)] = 100
    max_results: Annotated[int, setting("Most results of one query, and largest page", ge=1, le=1_000_000)] = 10_000
    max_dimension: Annotated[int, setting("Largest embedding", ge=1, le=int(bounds.DIMENSION.most))] = 8192
    max_collections: Annotated[
        int,
        setting(
            "Most collections of one user, and most databases (avatars)",
            ge=int(bounds.COLLECTIONS.least),
            le=int(bounds.COLLECTIONS.most),
        ),
    ] = 1024

    # The front
    max_requests: Annotated[
        int, setting("Most requests under way at once on the instance, then 429", ge=1, le=1_000_000)
    ] = 4096
    max_body_bytes_under_way: Annotated[
        int, setting("Most bytes of request bodies under way on the instance; half of it for one user", ge=1024)
    ] = 512 * 1024**2

    # Browsers
    allowed_hosts: Annotated[
        str,
        setting(
            "Without tokens: hosts, separated by commas, that requests may name besides this machine's own (localhost)"
        ),
    ] = ""
    cors_origins: Annotated[
        str, setting("Origins of web pages that may call the service, separated by commas; * is every page")
    ] = ""
    insecure_open: Annotated[
        bool,
        setting(
            "Without tokens: listen on any address, and answer any host and any web page. Everyone who reaches the "
            "service may read and change everything"
        ),
    ] = False

    # Connections
    max_connections: Annotated[int, setting("Most connections at once on the instance", ge=1, le=1_000_000)] = 4096
    max_connections_per_caller: Annotated[
        int, setting("Most connections at once from one address (one /64 network of IPv6)", ge=1, le=1_000_000)
    ] = 1024
    trusted_proxies: Annotated[
        str, setting("Addresses or networks, separated by commas, whose X-Forwarded-For is trusted; no others are")
    ] = ""
    max_header_bytes: Annotated[
        int, setting("Most bytes of a request's line and headers", ge=1024, le=16 * 1024**2)
    ] = 64 * 1024
    max_headers: Annotated[int, setting("Most headers of a request", ge=16, le=10_000)] = 100
    header_timeout_s: Annotated[
        float, setting("Time for the headers of a request to arrive, from their first byte", gt=0, le=600)
    ] = 10.0
    transfer_timeout_s: Annotated[
        float,
        setting(
            "Time below transfer_bytes_per_s, in a body or an answer, after which a connection is closed",
            gt=0,
            le=3600,
        ),
    ] = 20.0
    transfer_bytes_per_s: Annotated[
        int, setting("Lowest rate at which a caller must send a body and receive an answer", ge=1, le=1024**3)
    ] = 1024

    # What it tells of itself
    log_level: Annotated[Literal["debug", "info", "warning", "error"], setting("Lowest level that is logged")] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        setting("Form of log lines; auto is console on a terminal, else json: one object a line"),
    ] = "auto"
    log_key: Annotated[
        str | None,
        setting(
            "Key of the hash that stands for a user in log lines, the same on all instances; without it each start has "
            "a key of its own"
        ),
    ] = None
    slow_request_s: Annotated[
        float, setting("Requests that take longer are logged as warnings and counted; 0 is never", ge=0, le=3600)
    ] = 1.0
    metrics_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        setting("A port that answers /metrics without a token, and nothing else; without it only the other port does"),
    ] = None
    metrics_host: Annotated[str, setting("Address of metrics_port")] = "127.0.0.1"
    traces_endpoint: Annotated[
        str | None,
        setting(
            "Where traces are sent by OTLP over HTTP, such as http://collector:4318/v1/traces; also read from "
            "OTEL_EXPORTER_OTLP_ENDPOINT. Needs vectorpool[traces]"
        ),
    ] = None
    traces_ratio: Annotated[
        float, setting("Part of the requests that are traced, by their trace id, whatever callers ask for", ge=0, le=1)
    ] = 1.0
