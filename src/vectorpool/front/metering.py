"""The request log, and the count and the time of responses by route."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from litestar.types import HTTPScope, Message, Receive, Send

from vectorpool.api.refusals import is_chromas
from vectorpool.front.stages import Stage, context_of
from vectorpool.sources import Sources
from vectorpool.telemetry import figures as figures_
from vectorpool.telemetry.families import PART_TIME, REQUEST_TIME, REQUESTS
from vectorpool.telemetry.figures import OTHER, Figures, Histogram
from vectorpool.telemetry.parts import EMBED, PART_NAMES

# What supervisors ask, each of them every few seconds, of every instance.
_PROBES: Final = frozenset(
    {"/health/live", "/health/ready", "/api/v2", "/api/v2/heartbeat", "/api/v2/healthcheck", "/api/v2/version"}
)
# In the log and the counts: the caller closed the connection before there was a response.
CALLER_LEFT: Final = 499
NO_ROUTE: Final = "(no route)"
# Any other is counted as ``OTHER``: a caller may invent methods.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_logger = logging.getLogger("vectorpool.http")


class MeteringStage:
    """Counts, times and logs every response, whichever stage made it.

    Of probes, only a response whose status differs from the last one is logged above the debug level.
    """

    def __init__(self, inner: Stage, sources: Sources, figures: Figures | None = None) -> None:
        self._inner = inner
        self._sources = sources
        self._figures = Figures() if figures is None else figures
        self._embed_time = self._figures.histogram(PART_TIME, PART_NAMES[EMBED])
        # One addition and one look-up for each response; the figures are found by name only the first time.
        self._counters: dict[tuple[str, str, int, str], figures_.Counter] = {}
        self._times: dict[tuple[str, str], Histogram] = {}
        # The last status of each probe; a first success is nothing new.
        self._probed = dict.fromkeys(_PROBES, 200)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on; then count it and log one line, without ids of users."""
        started_s = self._sources.monotonic_s()
        status = CALLER_LEFT

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._inner(scope, receive, watched)
        except Exception:
            status = 500
            raise
        finally:
            method = scope["method"]
            elapsed_s = self._sources.monotonic_s() - started_s
            elapsed_ms = elapsed_s * 1000
            route = scope.get("path_template") or NO_ROUTE
            timing = context_of(scope).timing
            if timing is not None and timing.parts[EMBED]:
                # The other parts are counted where they are spent, in the shards.
                self._embed_time.observe(timing.parts[EMBED])
            self._count(route, method, status, "chroma" if is_chromas(scope["path"]) else "native", elapsed_s)
            _logger.log(
                self._level(scope["path"], status),
                "method=%s route=%s status=%d ms=%.1f id=%s",
                method,
                route,
                status,
                elapsed_ms,
                context_of(scope).request_id,
            )
            if _logger.isEnabledFor(logging.DEBUG):
                _logger.debug("method=%s path=%r", method, scope.get("raw_path", b"")[:512])

    def _count(self, route: str, method: str, status: int, protocol: str, elapsed_s: float) -> None:
        try:
            self._counters[route, method, status, protocol].value += 1
            self._times[route, protocol].observe(elapsed_s)
        except KeyError:
            if method not in _METHODS:
                method = OTHER
            counter = self._figures.counter(REQUESTS, route, method, str(status), protocol)
            self._counters[route, method, status, protocol] = counter
            self._times[route, protocol] = self._figures.histogram(REQUEST_TIME, route, protocol)
            counter.add()
            self._times[route, protocol].observe(elapsed_s)

    @property
    def counts(self) -> dict[tuple[str, int], int]:
        """The number of responses by method and status."""
        found: Counter[tuple[str, int]] = Counter()
        for (_, method, status, _), counter in self._counters.items():
            found[method, status] += int(counter.value)
        return found

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
