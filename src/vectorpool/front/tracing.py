"""Tracing: a span for each request that is traced, with what the shard and the store took for it.

This stage is there only if traces are on. A caller's ``traceparent`` makes its request a part of the caller's trace;
one that is not of W3C's form, and several of them, are passed over.
"""

from __future__ import annotations

from typing import Any, Final

from litestar.types import HTTPScope, Message, Receive, Send

from vectorpool.front.metering import NO_ROUTE
from vectorpool.front.stages import Stage, context_of
from vectorpool.sources import Sources
from vectorpool.telemetry.spans import CURRENT, Span, Tracer

_NAME: Final = b"traceparent"
# A header of W3C's form is 55 bytes long.
_LENGTH: Final = 55


class TracingStage:
    """Begins a span, names it to all that works for the request, and ends it with the response."""

    def __init__(self, inner: Stage, tracer: Tracer, sources: Sources) -> None:
        self._inner = inner
        self._tracer = tracer
        self._sources = sources

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        span = self._tracer.start(self._sources.monotonic_s(), _sent_parent(scope))
        if span is None:
            await self._inner(scope, receive, send)
            return
        context = context_of(scope)
        context.traceparent = span.traceparent
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = CURRENT.set(span.traceparent)
        try:
            await self._inner(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            CURRENT.reset(token)
            self._end(span, scope, status)

    def _end(self, span: Span, scope: HTTPScope, status: int) -> None:
        context = context_of(scope)
        route = scope.get("path_template") or NO_ROUTE
        attributes: dict[str, Any] = {
            "http.request.method": str(scope["method"]),
            "http.route": route,
            "vectorpool.request_id": context.request_id,
        }
        if status:
            attributes["http.response.status_code"] = status
        if context.commit is not None:
            attributes["vectorpool.commit"] = context.commit
        if context.shard:
            attributes["vectorpool.shard"] = context.shard
        steps = (context.timing.steps if context.timing is not None else None) or ()
        name = f"{scope['method']} {route}"
        span.end(name, self._sources.monotonic_s(), attributes, steps, is_error=status >= 500)


def _sent_parent(scope: HTTPScope) -> str:
    found = [value for name, value in scope["headers"] if name == _NAME]
    return found[0].decode("latin-1") if len(found) == 1 and len(found[0]) == _LENGTH else ""
