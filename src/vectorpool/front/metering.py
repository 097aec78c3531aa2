"""The request log, and the count and the time of responses by route."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable
from typing import Any, Final

from litestar.types import HTTPScope, Message, Receive, Send

from vectorpool.front import request_log
from vectorpool.front.stages import Stage, context_of, head_of
from vectorpool.sources import Sources
from vectorpool.telemetry import figures as figures_
from vectorpool.telemetry.families import PART_TIME, REQUEST_TIME, REQUESTS, SLOW_REQUESTS
from vectorpool.telemetry.figures import OTHER, Figures, Histogram
from vectorpool.telemetry.marks import UserMarks
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


class MeteringStage:
    """Counts, times and logs every response, whichever stage made it.

    Of probes, only a response whose status differs from the last one is logged above the debug level.
    """

    def __init__(
        self,
        inner: Stage,
        sources: Sources,
        figures: Figures | None = None,
        *,
        slow_s: float = 0.0,
        log_key: str | None = None,
    ) -> None:
        """``slow_s`` and ``log_key`` are those of the settings."""
        self._inner = inner
        self._slow_s = slow_s
        self._marks = UserMarks(log_key or sources.uuid())
        self._sources = sources
        self._figures = Figures() if figures is None else figures
        self._embed_time = self._figures.histogram(PART_TIME, PART_NAMES[EMBED])
        # One addition and one look-up for each response; the figures are found by name only the first time.
        self._counters: dict[tuple[str, str, int, str], figures_.Counter] = {}
        self._times: dict[tuple[str, str], Histogram] = {}
        # The last status of each probe; a first success is nothing new.
        self._probed = dict.fromkeys(_PROBES, 200)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on; then count it and log one line, which has a hash in place of the user."""
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
            elapsed_s = self._sources.monotonic_s() - started_s
            self._note(scope, status, elapsed_s)

    def _note(self, scope: HTTPScope, status: int, elapsed_s: float) -> None:
        path, context, place = scope["path"], context_of(scope), head_of(scope).place
        method = str(scope["method"]) if scope["method"] in _METHODS else OTHER
        route = scope.get("path_template") or NO_ROUTE
        protocol = "chroma" if place.is_chromas else "native"
        timing = context.timing
        if timing is not None and timing.parts[EMBED]:
            # The other parts are counted where they are spent, in the shards.
            self._embed_time.observe(timing.parts[EMBED])
        self._count(route, method, status, protocol, elapsed_s)
        is_slow = 0 < self._slow_s < elapsed_s
        if is_slow:
            self._figures.counter(SLOW_REQUESTS, protocol).add()
        level = logging.WARNING if is_slow else self._level(path, status)
        if request_log.logger.isEnabledFor(level):
            fields: dict[str, Any] = {
                "method": method,
                "route": route,
                "status": status,
                "ms": round(elapsed_s * 1000, 3),
                "id": context.request_id,
            }
            if place.user is not None:
                fields["user"] = self._marks.mark(place.user)
            if context.commit is not None:
                fields["commit"] = context.commit
            if context.shard:
                fields["shard"] = context.shard
            if timing is not None:
                fields["parts"] = timing.milliseconds()
            request_log.log(self._sources.now_ms(), level, "slow request" if is_slow else "request", fields)
        if request_log.logger.isEnabledFor(logging.DEBUG):
            request_log.logger.debug(
                "method=%s path=%r id=%s", method, scope.get("raw_path", b"")[:512], context.request_id
            )

    def _count(self, route: str, method: str, status: int, protocol: str, elapsed_s: float) -> None:
        try:
            self._counters[route, method, status, protocol].value += 1
            self._times[route, protocol].observe(elapsed_s)
        except KeyError:
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
