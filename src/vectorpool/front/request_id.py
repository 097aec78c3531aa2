"""The request id: it names a request in the log, in the response's headers and in the shard.

A caller's own ``X-Request-Id`` is kept if it is plain, so that one id follows a request through several services.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from typing import Final

from litestar.types import HTTPScope, Message, Receive, Send

from vectorpool.api.call import CONTEXT_KEY
from vectorpool.api.refusals import send_refusal
from vectorpool.context import RequestContext
from vectorpool.errors import InternalError
from vectorpool.front.browsers import SAFE_NAMES, safe_headers
from vectorpool.front.stages import Head, Stage, head_of
from vectorpool.sources import Sources

REQUEST_ID_HEADER: Final = "X-Request-Id"
# Chroma's clients put the value of this header into their exceptions.
CHROMA_HEADER: Final = "chroma-trace-id"

_NAME: Final = REQUEST_ID_HEADER.lower().encode()
_CHROMA_NAME: Final = CHROMA_HEADER.encode()
# Safe in a log line, in a header and in a URL.
_PLAIN: Final = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")

_logger = logging.getLogger("vectorpool.http")


class RequestIdStage:
    """Makes the request's context with its id, and marks the response with the id.

    A defect of a later stage becomes a response here, so that every response carries the id. Every response also gets
    the headers that keep a browser from making a page of it.
    """

    def __init__(self, inner: Stage, timeout_s: float, sources: Sources) -> None:
        self._inner = inner
        self._timeout_s = timeout_s
        self._sources = sources

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on with its context."""
        head = head_of(scope)
        request_id = _sent_id(head) or self._sources.uuid()
        context = RequestContext(request_id, timeout_s=self._timeout_s, sources=self._sources)
        scope["state"][CONTEXT_KEY] = context
        has_started = False

        def marked(message: Message) -> Awaitable[None]:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                path, said, value = scope["path"], message["headers"], request_id.encode()
                safe = safe_headers(path)
                if not SAFE_NAMES.isdisjoint(names := dict(said)):
                    safe = tuple(header for header in safe if header[0] not in names)
                chromas = ((_CHROMA_NAME, value),) if head.place.is_chromas else ()
                message["headers"] = [*said, (_NAME, value), *chromas, *safe]
            return send(message)

        try:
            await self._inner(scope, receive, marked)
        except Exception:
            _logger.exception("a stage failed unexpectedly id=%s", request_id)
            if has_started:
                raise
            detail = "The request failed through a defect of ours, not of yours. The log of the service says more."
            await send_refusal(InternalError(detail), scope, marked)


def _sent_id(head: Head) -> str | None:
    """Return the id that the caller sent, or None if it sent none, several, or one that is not plain."""
    value = head.fields.get(_NAME)
    if value is None or head.has_several(_NAME) or not _PLAIN.fullmatch(value):
        return None
    return value.decode("ascii")
