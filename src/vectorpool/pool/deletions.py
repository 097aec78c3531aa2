"""Deletions by other instances: within a bound, nothing of a deleted vectorstore is left in this shard's directories.

An instance that deletes a vectorstore leaves a mark in the bucket (``commitlog.deletions``). Each shard lists the
recent marks a few times within ``deletion_bound_s``, one request each time, and none while it holds nothing. It drops
the cached log objects of a marked user, and brings an open working directory up to date, which empties it.

A mark is looked at again for some time after it was seen: a hydrate that began before the deletion may end after the
first look. When the shard looked last is stored beside the cached objects. So a restart looks at what was deleted
meanwhile, and drops everything if it cannot know.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from vectorpool.commitlog import deletions
from vectorpool.commitlog.deletions import Mark, segment_digest
from vectorpool.errors import VectorpoolError
from vectorpool.local_paths import local_segment, scratch_dir
from vectorpool.names import parse_slot_key
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.states import Committing, Ready
from vectorpool.pool.stores import StoreFactory
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import Supervisor, rest

logger = logging.getLogger(__name__)

_SWEEPS: Final = "deletion sweeps"
# Looks within the bound: one may fail, and one more is for a hydrate that was under way at the one before.
_LOOKS: Final = 4
# How far the clocks of instances may differ, and how long a hydrate may take.
_OVERLAP_MS: Final = 15 * 60 * 1000
# How often old marks are removed from the bucket, in the mean.
_TRIM_S: Final = 24 * 3600.0


class DeletionSweep:
    """The sweeps of one pool. Belongs to one event loop."""

    def __init__(
        self,
        stores: StoreFactory,
        residency: Residency,
        writer: SlotWriter,
        settings: Settings,
        sources: Sources,
        supervisor: Supervisor,
    ) -> None:
        self._stores = stores
        self._residency = residency
        self._writer = writer
        self._settings = settings
        self._sources = sources
        self._supervisor = supervisor
        self._looked_ms = 0

    async def start(self) -> None:
        """Drop what may have been deleted too long ago to be known, and begin the sweeps; the first one is at once."""
        if not self._settings.deletion_bound_s:
            return
        now_ms = self._sources.now_ms()
        looked_ms = await asyncio.to_thread(_read_time, self._stores.swept_file)
        if looked_ms is None or not 0 <= now_ms - looked_ms <= deletions.LOOK_WITHIN_MS:
            await asyncio.to_thread(self._stores.warm.drop_all)
            looked_ms = now_ms
        self._looked_ms = looked_ms
        await asyncio.to_thread(self._stores.remove_orphans, scratch_dir(Path(self._settings.replica_dir)))
        self._supervisor.start(_SWEEPS, self._go)

    async def stop(self, timeout_s: float) -> None:
        """End the sweeps."""
        await self._supervisor.stop(timeout_s, [_SWEEPS])

    async def _go(self) -> None:
        interval_s = self._settings.deletion_bound_s / _LOOKS
        while True:
            try:
                await self.sweep()
                if self._sources.random() < interval_s / _TRIM_S:
                    await deletions.remove_old_marks(self._stores.bucket, self._sources.now_ms())
            except VectorpoolError as error:
                logger.warning("deletions by other instances could not be looked for: %s", error)
            # At most the interval, so that the bound holds; not all instances at the same time.
            await rest(self._sources, interval_s * (0.75 + 0.25 * self._sources.random()))

    async def sweep(self) -> None:
        """Look once. Raises StoreUnavailable."""
        began_ms = self._sources.now_ms()
        segments = await asyncio.to_thread(self._stores.warm.segments)
        if segments or self._residency.slots:
            if began_ms - self._looked_ms > deletions.LOOK_WITHIN_MS:
                # It slept, or the store did not answer, for weeks: the oldest marks are gone.
                await asyncio.to_thread(self._stores.warm.drop_all)
            marks = await deletions.marks_since(self._stores.bucket, self._looked_ms - _OVERLAP_MS)
            if marks:
                await self._apply(marks, segments)
        self._looked_ms = began_ms
        await asyncio.to_thread(_write_time, self._stores.swept_file, began_ms)

    async def _apply(self, marks: list[Mark], segments: list[str]) -> None:
        newest: dict[str, int] = {}
        for mark in marks:
            newest[mark.digest] = max(mark.seq, newest.get(mark.digest, 0))
        # Open ones first: building one anew may fetch objects.
        for slot in list(self._residency.slots.values()):
            seq = newest.get(segment_digest(local_segment(parse_slot_key(slot.user_id)[0])))
            if seq is not None:
                try:
                    await self._close(slot, seq)
                except VectorpoolError as error:
                    logger.warning("a deleted vectorstore could not be closed yet: %s", error)
        for segment in segments:
            if (seq := newest.get(segment_digest(segment))) is not None:
                await asyncio.to_thread(self._stores.warm.drop_deleted, segment, seq)

    async def _close(self, slot: Slot, seq: int) -> None:
        """Take the files of a deleted vectorstore from an open slot, also while it is in use."""
        _, at = parse_slot_key(slot.user_id)
        if not isinstance(slot.state, Ready | Committing):
            return
        store = slot.state.store
        pinned = self._residency.pin(slot.user_id)
        try:
            if at is None:
                if store.commit_seq < seq and not store.is_absent:
                    await self._writer.catch_up(pinned)
            elif at < seq:
                # Its next read builds it again, finds no such commit, and says so.
                await store.discard()
        finally:
            self._residency.unpin(pinned)
        if at is not None and slot.pins == 0 and isinstance(slot.state, Ready):
            await asyncio.shield(self._residency.start_eviction(slot, "asked"))


def _read_time(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _write_time(file: Path, time_ms: int) -> None:
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_text(str(time_ms))
        partial.replace(file)
    except OSError as error:
        # Then the next start drops what is cached.
        logger.warning("the time of the last look for deletions is not kept: %s", error)
