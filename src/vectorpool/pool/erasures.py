"""Erasures in the background: one at a time in a pool, and none of a vectorstore that is being written to.

An erasure writes a whole vectorstore anew, which takes a second for some 64 MiB and a directory beside the open one. It
is a job of the slot's writer, so that no write runs meanwhile; reads go on.
"""

from __future__ import annotations

import asyncio
import logging

from vectorpool.errors import VectorpoolError
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.states import Ready
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import Supervisor

logger = logging.getLogger(__name__)

# The name under which erasures are counted.
ERASURE = "erasure"


class Erasures:
    """Starts the erasures that are due. Belongs to one event loop."""

    def __init__(
        self, residency: Residency, writer: SlotWriter, settings: Settings, sources: Sources, supervisor: Supervisor
    ) -> None:
        self._residency = residency
        self._writer = writer
        self._settings = settings
        self._sources = sources
        self._supervisor = supervisor
        self._current: asyncio.Future[None] | None = None

    def next_slot(self) -> Slot | None:
        """Return a slot whose erasure is due; None if there is none, or while one is under way."""
        return self._find() if self._current is None else None

    def start(self, slot: Slot) -> None:
        """Queue the erasure of a slot."""
        self._current = self._writer.erase_later(slot).done
        self._current.add_done_callback(self._end)

    def _find(self) -> Slot | None:
        now_s = self._sources.monotonic_s()
        for slot in self._residency.slots.values():
            if slot.writer is None and isinstance(slot.state, Ready):
                # Before it is evicted for being idle.
                is_idle = slot.pins == 0 and now_s - slot.last_use_s >= self._settings.idle_timeout_s / 2
                if slot.state.store.edits.is_erasure_due(is_idle=is_idle):
                    return slot
        return None

    def _end(self, done: asyncio.Future[None]) -> None:
        self._current = None
        error = None if done.cancelled() else done.exception()
        if error is not None:
            logger.warning("what was deleted from a vectorstore could not be removed from its files: %s", error)
            self._supervisor.record_failure(ERASURE, error)

    async def erase(self, slot: Slot) -> None:
        """Erase a pinned slot that is about to be closed, if that is due; a failure does not keep it from that."""
        if slot.store is not None and slot.store.edits.is_erasure_due(is_idle=True):
            try:
                await self._writer.erase_later(slot).done
            except VectorpoolError as error:
                logger.warning("a vectorstore is closed with what was deleted from it in its files: %s", error)
