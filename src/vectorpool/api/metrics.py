"""``GET /metrics``: the figures of the instance, gathered from its processes, for Prometheus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from litestar import Controller, Response, get

from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.service import Service
from vectorpool.exposition import Exposition, expose, wants_open_metrics
from vectorpool.platform.usage import usage
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import down
from vectorpool.telemetry import families
from vectorpool.telemetry.figures import Figures, Sample, SlowSource
from vectorpool.version import __version__

# A scrape within this time of another one gets the same text, so that many scrapers cost as much as one.
FRESH_S: Final = 1.0
# Longest wait for a source of figures. Shards have their own, shorter one.
_SOURCE_S: Final = 2.0

_logger = logging.getLogger(__name__)


class Scrape:
    """Gathers and formats the figures: at most once at a time, and at most once in ``FRESH_S``.

    ``service`` is called for each look, because it may be opened later.
    """

    def __init__(self, service: Callable[[], Service | None], figures: Figures, sources: Sources = SYSTEM) -> None:
        self._service = service
        self._figures = figures
        self._sources = sources
        self._started_s = sources.now_ms() / 1000
        self._samples: list[Sample] = []
        self._texts: dict[bool, Exposition] = {}
        self._gathered_s: float | None = None
        self._one_at_a_time = asyncio.Lock()

    async def text(self, accept: str | None = None) -> Exposition:
        """Return the figures in the format that a scraper accepts."""
        open_metrics = wants_open_metrics(accept)
        async with self._one_at_a_time:
            now_s = self._sources.monotonic_s()
            if self._gathered_s is None or now_s - self._gathered_s >= FRESH_S:
                self._samples, self._texts, self._gathered_s = await self.samples(), {}, now_s
            if open_metrics not in self._texts:
                # Beside the event loop: it takes some milliseconds, and the library's import more.
                self._texts[open_metrics] = await asyncio.to_thread(expose, self._samples, open_metrics=open_metrics)
            return self._texts[open_metrics]

    async def samples(self) -> list[Sample]:
        """Return the figures of every process of the instance."""
        found = [
            Sample(families.BUILD.name, (__version__,), 1),
            Sample(families.STARTED.name, (), self._started_s),
            *usage("front"),
        ]
        service = self._service()
        if service is not None:
            sources = {
                "shards": service.router.figures,
                "tasks": lambda: _of_tasks(service),
                **self._figures.slow_sources,
            }
            # At the same time: each is bounded, and so all of them are.
            for more in await asyncio.gather(*(self._ask(name, source) for name, source in sources.items())):
                found += more
        # Last, so that a source that failed just now is counted.
        return self._figures.samples() + found

    async def _ask(self, name: str, source: SlowSource) -> list[Sample]:
        """Return what a source gives, or nothing if it fails or is too slow: the others are shown all the same."""
        try:
            async with asyncio.timeout(_SOURCE_S):
                return list(await source())
        except Exception as error:
            self._figures.counter(families.SCRAPE_FAILURES, name).add()
            _logger.warning("the figures of %s could not be read: %s", name, type(error).__name__)
            return []


async def _of_tasks(service: Service) -> list[Sample]:
    tasks = service.supervisor.view() + await service.router.tasks()
    states = dict.fromkeys(("running", "restarting", "down", "ended"), 0)
    for task in tasks:
        states[task.state] += 1
    is_ready = service.router.is_ready() and service.store.state != "refuses" and not down(tasks)
    return [
        *(Sample(families.TASKS.name, (state,), count) for state, count in states.items()),
        Sample(families.TASK_FAILURES.name, (), sum(task.failures for task in tasks)),
        Sample(families.READY.name, (), is_ready),
    ]


class Metrics(Controller):
    """For Prometheus."""

    path = "/metrics"
    tags = ("admin",)

    @get(summary="Show the figures", operation_class=documented(gives="text/plain", with_commit=False))
    async def show(self, request: Call) -> Response[Any]:
        """Show the figures of this instance as text for Prometheus, or in OpenMetrics for those who accept it.

        It needs a token with ``admin``, as ``/admin`` does.
        """
        scrape: Scrape = request.app.state.scrape
        shown = await request.context.within(scrape.text(request.headers.get("accept")))
        return Response(content=shown.body, media_type=shown.media_type)
