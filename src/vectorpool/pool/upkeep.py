"""Background work on logs: compaction after commits, and slow rounds that verify and collect.

One log at a time, and rounds at a bounded rate of bytes, so that upkeep takes little of a shard. Nothing here is
needed for safety: a log that is not compacted is only slower to hydrate, one that is not collected only larger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from vectorpool.errors import VectorpoolError
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.vectorstore.vectorstore import Vectorstore

logger = logging.getLogger(__name__)

# An instance begins its first round some time within this: many that start together must not read together.
_FIRST_ROUND_S = 600.0
# How often within the interval the users are looked through for those whose turn it is.
_LOOKS_PER_INTERVAL = 10


class Upkeep:
    """The background tasks of one pool. ``owns`` tells which users are this shard's. Belongs to one event loop."""

    def __init__(
        self, stores: StoreFactory, settings: Settings, sources: Sources, *, owns: Callable[[str], bool]
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._sources = sources
        self._owns = owns
        self._compacting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._rounds: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Semaphore(1)

    def start(self) -> None:
        """Begin the rounds, unless they are switched off."""
        if self._settings.verify_interval_s:
            self._rounds = asyncio.create_task(self._go_round())

    async def stop(self, timeout_s: float) -> None:
        """End the rounds, and wait for compactions: what their threads read should not be removed under them."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds], timeout=timeout_s)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)

    # --- After commits -------------------------------------------------------------------------------

    def committed(self, key: str, store: Vectorstore, before: int) -> None:
        """Compact later, if the commits since ``before`` may have made something due."""
        fanout = self._settings.compact_fanout
        if store.commit_seq // fanout != before // fanout and key not in self._compacting:
            self._compacting.add(key)
            task = asyncio.create_task(self._compact(key, store))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _compact(self, key: str, store: Vectorstore) -> None:
        try:
            async with self._one_at_a_time:
                await store.compact()
        except Exception as error:
            # The log is whole without it; a later commit tries again.
            logger.warning("a compaction failed: %s", error, exc_info=not isinstance(error, VectorpoolError))
        finally:
            self._compacting.discard(key)

    # --- Rounds --------------------------------------------------------------------------------------

    async def _go_round(self) -> None:
        interval_s = self._settings.verify_interval_s
        await self._sources.sleep(self._sources.random() * min(_FIRST_ROUND_S, interval_s))
        while True:
            try:
                await self._round()
            except Exception as error:
                logger.warning("a round of verification ended early: %s", error)
            await self._sources.sleep(interval_s / _LOOKS_PER_INTERVAL)

    async def _round(self) -> None:
        for user_id in await self._stores.list_users():
            if self._owns(user_id):
                await self._look_after(user_id)

    async def _look_after(self, user_id: str) -> None:
        log = self._stores.log(user_id)
        try:
            last = await log.last_verification()
            due_ms = self._settings.verify_interval_s * 1000
            if last is not None and self._sources.now_ms() - last.verified_at_ms < due_ms:
                return
            async with self._one_at_a_time:
                report = await log.verify()
                await log.collect()
        except VectorpoolError as error:
            logger.warning("a log could not be looked after: %s", error)
            return
        if not report.ok:
            logger.error(
                "a log is damaged: %d problems, newest commit %d, newest intact commit %d; see vectorpool scrub",
                len(report.problems),
                report.newest_seq,
                report.newest_intact_seq,
            )
            logger.debug("damaged: %s", user_id)
        await self._sources.sleep(report.bytes / self._settings.verify_bytes_per_s)
