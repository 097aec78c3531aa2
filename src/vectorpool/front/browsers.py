"""Browsers: what a web page may do with an instance, and what a browser may do with an answer.

Where no tokens are asked for, everyone who reaches the instance may do everything, and a browser on the same machine
reaches it on behalf of any web page that is open in it. So such an instance answers only requests that name this
machine (or a host of ``allowed_hosts``): another name that leads here is DNS rebinding. And it refuses what a page of
another site sends: a browser marks that by ``Origin`` and ``Sec-Fetch-Site``. ``insecure_open`` lifts both refusals;
with tokens neither is needed, because no page has the token. ``/health`` is always answered.

JSON that is declared as text is refused in any case: it is what a page can send without asking first. Pages of
``cors_origins`` may call the instance, and their browsers are told so.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from litestar.types import HTTPResponseStartEvent, HTTPScope, Message, Receive, Send

from vectorpool.api.refusals import is_chromas, send_refusal
from vectorpool.errors import HostRefused, UnsupportedFormat, VectorpoolError
from vectorpool.front.stages import Head, Stage, head_of
from vectorpool.settings import Settings

# A document or an answer is never a page: a browser that shows one runs nothing of it and loads nothing for it.
_SANDBOX: Final = b"default-src 'none'; frame-ancestors 'none'; sandbox"
# The page of the interface has a style of its own, and no script.
_PAGE: Final = (
    b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
SAFE_HEADERS: Final = (*_SAFE, (b"content-security-policy", _SANDBOX))
SAFE_NAMES: Final = frozenset(name for name, _ in SAFE_HEADERS)
PAGE_HEADERS: Final = (*_SAFE, (b"content-security-policy", _PAGE))

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# What a page can send to another site without asking first, and is no JSON.
_NO_JSON: Final = (b"text/plain", b"multipart/form-data")
_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_EXPOSED: Final = (
    b"X-Request-Id, X-Vectorpool-Commit, X-Vectorpool-Version, chroma-trace-id, ETag, Retry-After, Location"
)
_PREFLIGHT_AGE_S: Final = b"600"
# Hosts whose verdict is remembered. Callers send one or two; a caller that invents them makes the memory begin anew.
_MAX_VERDICTS: Final = 1000


def safe_headers(path: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that keep a browser from making a page of an answer."""
    return PAGE_HEADERS if path.rstrip("/") == "/schema" else SAFE_HEADERS


def host_of(value: str) -> str | None:
    """Return the name or the address of a ``Host`` header, in lower case and without a port; None if it is none."""
    try:
        host = urlsplit(f"//{value}").hostname
    except ValueError:
        return None
    return host.rstrip(".") if host else None


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in text.split(",") if part.strip())


class BrowsersStage:
    """Refuses foreign hosts and pages of other sites where no tokens are asked for; answers the pages that may call."""

    def __init__(self, inner: Stage, settings: Settings, has_tokens: Callable[[], bool]) -> None:
        self._inner = inner
        self._has_tokens = has_tokens
        self._is_open = settings.insecure_open
        self._hosts = _listed(settings.allowed_hosts)
        self._origins = _listed(settings.cors_origins)
        self._verdicts: dict[bytes, bool] = {}

    def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on, answer it, or refuse it."""
        head = head_of(scope)
        origin = head.fields.get(b"origin", b"")
        if origin and self._is_welcome(origin):
            if scope["method"] == "OPTIONS" and head.fields.get(b"access-control-request-method"):
                return self._answer_preflight(scope, origin, send)
            send = _open_to(self._named(origin), send)
        elif not self._is_open and not self._has_tokens() and (refusal := self._refusal(head, origin)) is not None:
            return send_refusal(refusal, scope, send)
        kind = head.fields.get(b"content-type")
        # JSON that says so, in its usual spelling, needs no further look.
        if (
            kind != b"application/json"
            and kind
            and scope["method"] in _WITH_BODY
            and (refusal := _wrong_kind(scope, head, kind)) is not None
        ):
            return send_refusal(refusal, scope, send)
        return self._inner(scope, receive, send)

    # --- Refusals ------------------------------------------------------------------------------------

    def _refusal(self, head: Head, origin: bytes) -> VectorpoolError | None:
        family = head.place.family
        if family == "health":
            return None
        host = head.fields.get(b"host")
        if host is not None and (head.has_several(b"host") or not self._is_ours(host)):
            return HostRefused(
                "Without tokens the service answers only requests whose Host is this machine (localhost, 127.0.0.1). "
                "Ask for it by that name, list the host in allowed_hosts, or use tokens."
            )
        if origin and not _is_same(origin, host or b""):
            return HostRefused(
                "Without tokens the service answers no web page of another origin. List the page's origin in "
                "cors_origins, or use tokens."
            )
        site = head.fields.get(b"sec-fetch-site")
        if site in (b"cross-site", b"same-site") and not origin and family != "schema":
            return HostRefused(
                "Without tokens the service answers nothing that a page of another site asks for. List the page's "
                "origin in cors_origins, or use tokens."
            )
        return None

    def _is_ours(self, value: bytes) -> bool:
        verdict = self._verdicts.get(value)
        if verdict is None:
            host = host_of(value.decode("latin-1"))
            verdict = host is not None and (is_loopback(host) or host in self._hosts)
            if len(self._verdicts) >= _MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[value] = verdict
        return verdict

    # --- Pages that may call -------------------------------------------------------------------------

    def _is_welcome(self, origin: bytes) -> bool:
        return bool(self._origins) and ("*" in self._origins or origin.decode("latin-1").lower() in self._origins)

    def _named(self, origin: bytes) -> bytes:
        return b"*" if "*" in self._origins else origin

    async def _answer_preflight(self, scope: HTTPScope, origin: bytes, send: Send) -> None:
        await send(self._preflight(scope, origin))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _preflight(self, scope: HTTPScope, origin: bytes) -> HTTPResponseStartEvent:
        headers = [
            (b"access-control-allow-origin", self._named(origin)),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", _PREFLIGHT_AGE_S),
            (b"vary", b"Origin, Access-Control-Request-Headers"),
        ]
        for name, value in scope["headers"]:
            if name == b"access-control-request-headers":
                headers.append((b"access-control-allow-headers", value))
            elif name == b"access-control-request-private-network":
                headers.append((b"access-control-allow-private-network", b"true"))
        return {"type": "http.response.start", "status": 204, "headers": headers}


def _is_same(origin: bytes, host: bytes) -> bool:
    """Return whether a page came from the host that it calls."""
    scheme, _, rest = origin.partition(b"://")
    return scheme in (b"http", b"https") and bool(rest) and rest.lower() == host.lower()


def _open_to(origin: bytes, send: Send) -> Send:
    def opened(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            more = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", _EXPOSED)]
            # A page of a listed origin may use the answer although it is of another.
            kept = [header for header in message["headers"] if header[0].lower() != b"cross-origin-resource-policy"]
            message["headers"] = [*kept, *more, (b"vary", b"Origin")]
        return send(message)

    return opened


def _wrong_kind(scope: HTTPScope, head: Head, content_type: bytes) -> VectorpoolError | None:
    """Return the refusal of a body that is declared as text where JSON is meant; Chroma's routes have their own."""
    if not content_type.strip().lower().startswith(_NO_JSON) or is_chromas(scope["path"]):
        return None
    match head.segments:
        case ["users", _, "avatars", _, "documents", *_]:
            return None
        case ["users", _, "avatars", _, "embed"] | ["vectorflow", *_]:
            # Forms. Without tokens, a page of another site is refused by its origin.
            return None
        case ["admin", "events", *_]:
            # SNS sends its JSON as text.
            return None
    return UnsupportedFormat(
        "The body is declared as text, and this path takes JSON. Send Content-Type: application/json.",
    )
