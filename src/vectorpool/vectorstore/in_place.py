"""Taking in other instances' commits without building the replica anew: patches, and undos of lost races.

Only a pristine replica is patched, and only commits of tracked writers are undone (``engine.directory_state``).
Whatever stands in the way is no error: the caller builds the replica anew. A change that fails half-way leaves a
directory that no reader may see, so it is dropped before the lock is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Final

from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.next_commits import Unpatchable
from vectorpool.commitlog.outcomes import PendingCommit
from vectorpool.engine.directory_state import NotPristine
from vectorpool.errors import CorruptObject
from vectorpool.platform.threads import run_to_end
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.vectorstore.freshness import Freshness
from vectorpool.vectorstore.read_write_lock import ReadWriteLock
from vectorpool.vectorstore.replica import Replica

logger = logging.getLogger(__name__)

# How long after another instance's commit its next one is expected.
RIVALS_S: Final = 60.0


class InPlace:
    """Changes of one vectorstore's replica in place. For one task at a time, the slot's writer.

    ``drop`` closes the replica and removes its directory; it is called with the lock held.
    """

    def __init__(
        self,
        log: CommitLog,
        lock: ReadWriteLock,
        workers: Executor,
        settings: Settings,
        sources: Sources,
        drop: Callable[[], Awaitable[None]],
    ) -> None:
        self._log = log
        self._lock = lock
        self._workers = workers
        self._settings = settings
        self._sources = sources
        self._drop = drop
        self._rivals_s: float | None = None

    @property
    def has_rivals(self) -> bool:
        """Whether another instance committed lately, so that it pays to ask before a write, and to prepare an undo."""
        seen_s = self._rivals_s
        return self._settings.patch_replicas and seen_s is not None and self._sources.monotonic_s() - seen_s <= RIVALS_S

    def note_rivals(self) -> None:
        """Note that another instance committed."""
        self._rivals_s = self._sources.monotonic_s()

    def prepares(self, replica: Replica | None) -> bool:
        """Have a replica prepare an undo before its next write, if others commit too; return whether it can follow."""
        if replica is None:
            return False
        replica.may_lose = self.has_rivals
        return replica.may_lose and replica.state.is_pristine

    async def follow(self, replica: Replica | None, freshness: Freshness) -> bool:
        """Take all newer commits into a pristine replica, and confirm that it was at the newest one.

        Return False if it has to be built anew, or asked for. Raises StoreUnavailable.
        """
        if replica is None or not self._settings.patch_replicas or not replica.state.is_pristine:
            return False
        asked_s = self._sources.monotonic_s()
        commits = await self._log.following(replica.position)
        if commits == []:
            freshness.note_newest(asked_s)
            return True
        self.note_rivals()
        if commits is None:
            return False
        try:
            patch = await run_to_end(self._workers, replica.plan, commits)
        except (Unpatchable, CorruptObject) as error:
            logger.info("commits of another instance are not taken in by a patch: %s", error)
            return False
        if not await self._change(replica.patch, patch):
            return False
        # The last question was asked after that time, and found the number free.
        freshness.confirm(asked_s)
        return True

    async def undo(self, replica: Replica | None, lost: PendingCommit) -> bool:
        """Take back what a commit that lost its number wrote; return False if the replica has to be built anew."""
        self.note_rivals()
        if replica is None or not self._settings.patch_replicas:
            return False
        return await self._change(replica.undo, lost.image)

    async def _change(self, change: Callable[..., None], *arguments: object) -> bool:
        async with self._lock.exclusive():
            try:
                await run_to_end(self._workers, change, *arguments)
            except NotPristine:
                return False
            except BaseException as error:
                await self._drop()
                if isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception):
                    raise
                logger.warning("a replica could not be changed in place, it is built anew: %s", error)
                return False
        return True
