"""The memory of an instance, measured by its front: above a high mark its shards open no further vectorstore, and close
unused ones, until it is below a low mark.

The marks are apart, so that the instance does not switch with each vectorstore that it opens. What is open and used
goes on. A shard that has nothing open still opens one, or an instance whose programs alone exceed the mark would serve
no user.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Final

from vectorpool.platform.memory import MemoryView, memory_limit, used_bytes
from vectorpool.settings import Settings
from vectorpool.shard.router import Router
from vectorpool.sources import SYSTEM, Sources

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0


class MemoryWatch:
    """Measures the processes of an instance. Belongs to one event loop."""

    def __init__(
        self,
        router: Router,
        settings: Settings,
        sources: Sources = SYSTEM,
        *,
        measure: Callable[[Iterable[int]], int] = used_bytes,
    ) -> None:
        self._router = router
        self._sources = sources
        self._measure = measure
        self._limit = settings.memory_limit_bytes or memory_limit()
        high, low = settings.memory_high_percent, min(settings.memory_low_percent, settings.memory_high_percent)
        self._high = None if self._limit is None or not high else int(self._limit * high / 100)
        self._low = None if self._limit is None else int(self._limit * low / 100)
        self._is_short = False

    @property
    def is_on(self) -> bool:
        """Whether there is a mark."""
        return self._high is not None

    def view(self) -> MemoryView | None:
        """Return what the instance takes now, and its marks; None without a mark."""
        if self._limit is None or self._high is None or self._low is None:
            return None
        return MemoryView(self._limit, self._used(), self._high, self._low, self._is_short)

    async def watch(self) -> None:
        """Look at an interval, until cancelled."""
        while True:
            await self.look()
            await self._sources.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Measure, and tell the shards: each time while memory is short, since one may have been started meanwhile."""
        assert self._high is not None and self._low is not None, "there is a mark"
        used, was_short = self._used(), self._is_short
        self._is_short = used >= (self._low if was_short else self._high)
        if self._is_short != was_short:
            state = "short" if self._is_short else "enough again"
            level = logging.WARNING if self._is_short else logging.INFO
            logger.log(level, "memory is %s: %d MiB of %d MiB", state, used >> 20, (self._limit or 0) >> 20)
        if self._is_short or was_short:
            await self._router.press(is_short=self._is_short)

    def _used(self) -> int:
        return self._measure([os.getpid(), *self._router.process_ids()])
