"""The port of ``metrics_port``: ``/metrics`` without a token, and nothing else.

It listens on the loopback address unless ``metrics_host`` names another. It has few connections, with the bounds in
time of the other port's, so a scraper that is slow or stuck holds one of them for a while and disturbs no one: callers
have their own port, and the text is made once however many ask.
"""

from __future__ import annotations

from typing import Final

import msgspec
from litestar.types import HTTPResponseBodyEvent, HTTPResponseStartEvent, HTTPScope, Receive, Send

from vectorpool.api.metrics import Scrape
from vectorpool.settings import Settings

MAX_CONNECTIONS: Final = 16
# A scraper sends no body, and few headers.
_MAX_HEADER_BYTES: Final = 16 * 1024


def bounds_of_scrapers(settings: Settings) -> Settings:
    """Return the settings for connections of this port."""
    return msgspec.structs.replace(
        settings,
        max_connections=MAX_CONNECTIONS,
        max_connections_per_caller=MAX_CONNECTIONS,
        max_header_bytes=min(settings.max_header_bytes, _MAX_HEADER_BYTES),
        trusted_proxies="",
    )


class MetricsPort:
    """The ASGI application of the port."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        status, media_type, body = 404, "text/plain", b"Only /metrics is here.\n"
        if scope["path"] == "/metrics":
            if scope["method"] in ("GET", "HEAD"):
                accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
                shown = await self._scrape.text(accept.decode("latin-1"))
                status, media_type, body = 200, shown.media_type, shown.body
            else:
                status, body = 405, b"Send GET.\n"
        headers = [
            (b"content-type", media_type.encode("ascii")),
            (b"content-length", b"%d" % len(body)),
            (b"x-content-type-options", b"nosniff"),
        ]
        start: HTTPResponseStartEvent = {"type": "http.response.start", "status": status, "headers": headers}
        if scope["method"] == "HEAD":
            body = b""
        end: HTTPResponseBodyEvent = {"type": "http.response.body", "body": body, "more_body": False}
        await send(start)
        await send(end)
