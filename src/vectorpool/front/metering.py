"""The request log, and the count of responses by method and status."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable
from typing import Final

from litestar.types import HTTPScope, Message, Receive, Send

from vectorpool.front import request_log
from vectorpool.front.stages import Stage, context_of
from vectorpool.sources import Sources

# What supervisors ask, each of them every few seconds, of every instance.
_PROBES: Final = frozenset(
    {"/health/live", "/health/ready", "/api/v2", "/api/v2/heartbeat", "/api/v2/healthcheck", "/api/v2/version"}
)
# In the log and the counts: the caller closed the connection before there was a response.
CALLER_LEFT: Final = 499


class MeteringStage:
    """Counts and logs every response, whichever stage made it. ``counts`` holds them by (method, status).

    Of probes, only a response whose status differs from the last one is logged above the debug level.
    """

    def __init__(self, inner: Stage, sources: Sources) -> None:
        self._inner = inner
        self._sources = sources
        self.counts: Counter[tuple[str, int]] = Counter()
        # The last status of each probe; a first success is nothing new.
        self._probed = dict.fromkeys(_PROBES, 200)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on; then count it and log one line, without ids of users."""
        started_s = self._sources.monotonic_s()
        status = CALLER_LEFT

        def watched(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._inner(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            method = scope["method"]
            self.counts[method, status] += 1
            elapsed_ms = (self._sources.monotonic_s() - started_s) * 1000
            route = scope.get("path_template") or "(no route)"
            request_log.log(
                self._sources.now_ms(),
                self._level(scope["path"], status),
                "method=%s route=%s status=%d ms=%.1f id=%s",
                method,
                route,
                status,
                elapsed_ms,
                context_of(scope).request_id,
            )
            if request_log.logger.isEnabledFor(logging.DEBUG):
                request_log.logger.debug("method=%s path=%r", method, scope.get("raw_path", b"")[:512])

    def _level(self, path: str, status: int) -> int:
        if path not in self._probed:
            return logging.INFO
        is_news, self._probed[path] = self._probed[path] != status, status
        return logging.INFO if is_news else logging.DEBUG

    def summary(self) -> str:
        """Return the number of responses for each status, for the log."""
        by_status: Counter[int] = Counter()
        for (_, status), count in self.counts.items():
            by_status[status] += count
        return ", ".join(f"{status}: {count}" for status, count in sorted(by_status.items())) or "none"
