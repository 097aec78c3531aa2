"""Background work on logs: compaction after commits, and slow rounds that verify logs and remove garbage.

One log at a time, and rounds at a bounded rate of bytes, so that upkeep takes little of a shard. Nothing here is
needed for safety: a log that is not compacted is only slower to hydrate, one that keeps its garbage only larger. With
the garbage of a log go the kept documents whose time is over.

Instances share the rounds without speaking to each other. Each walks the users whose turn has come in an order of its
own, at times of its own, and looks at ``verified.json`` before it reads a log, so that the first instance does the
work. There is no claim: two do the same work only if they begin a log within the time that its verification takes,
which costs less than a claim for every log would. When a log is due again is remembered (``turns``): an instance
asks once an interval about each user, and once more after it started.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import ScrubReport
from vectorpool.errors import UserNotFound, VectorpoolError
from vectorpool.pool.schedule import Schedule
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import Supervisor
from vectorpool.vectorstore.vectorstore import Vectorstore

logger = logging.getLogger(__name__)

_ROUNDS = "verification rounds"
_COMPACTION = "compaction"
# An instance begins its first round some time within this: many that start together must not read together.
_FIRST_ROUND_S = 600.0
# How often within the interval the users are listed, for new ones and for those whose turn it is; in the mean.
_LOOKS_PER_INTERVAL = 10
# So many users are gone through in memory before others have a turn of the event loop.
_USERS_AT_ONCE = 1000
# A call of remove_garbage deletes a thousand objects; more calls than this wait for the log's next turn.
_REMOVALS = 10


class Upkeep:
    """The background tasks of one pool. ``owns`` tells which users are this shard's. Belongs to one event loop."""

    def __init__(
        self,
        stores: StoreFactory,
        settings: Settings,
        sources: Sources,
        supervisor: Supervisor,
        *,
        owns: Callable[[str], bool],
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._sources = sources
        self._owns = owns
        self._compacting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor = supervisor
        self._one_at_a_time = asyncio.Semaphore(1)
        self._schedule = Schedule()

    def start(self) -> None:
        """Begin the rounds, unless they are switched off."""
        if self._settings.verify_interval_s:
            self._supervisor.start(_ROUNDS, self._go_round)

    async def stop(self, timeout_s: float) -> None:
        """End the rounds, and wait for compactions: what their threads read should not be removed under them."""
        await self._supervisor.stop(timeout_s, [_ROUNDS])
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)

    # --- After commits -------------------------------------------------------------------------------

    def committed(self, key: str, store: Vectorstore, before: int) -> None:
        """Compact later, if commits were made since ``before``: the log knows whether anything is due."""
        # Not only every so many commits: one that crosses the sync threshold is as large as the whole index.
        if store.commit_seq != before and key not in self._compacting:
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
            self._supervisor.record(_COMPACTION, error)
        else:
            self._supervisor.record(_COMPACTION, None)
        finally:
            self._compacting.discard(key)

    # --- Rounds --------------------------------------------------------------------------------------

    async def _go_round(self) -> None:
        interval_s = self._settings.verify_interval_s
        await self._sources.sleep(self._sources.random() * min(_FIRST_ROUND_S, interval_s))
        while True:
            try:
                await self._round()
            except VectorpoolError as error:
                # The store did not answer, for example. Any other failure is the supervisor's.
                logger.warning("a round of verification ended early: %s", error)
            # Instances that started together drift apart, so that they do not come to the same few logs at once.
            await self._sources.sleep(interval_s / _LOOKS_PER_INTERVAL * (0.5 + self._sources.random()))

    async def _round(self) -> None:
        users = await self._users_that_are_due()
        while users:
            # In an order of its own, or instances would verify the same logs at the same time.
            at = int(self._sources.random() * len(users))
            users[at], users[-1] = users[-1], users[at]
            await self._look_after(users.pop())

    async def _users_that_are_due(self) -> list[str]:
        """Return this shard's users whose turn has come, as far as is known here."""
        listed, mine = await self._stores.list_users(), list[str]()
        for at in range(0, len(listed), _USERS_AT_ONCE):
            mine += [user_id for user_id in listed[at : at + _USERS_AT_ONCE] if self._owns(user_id)]
            await self._sources.sleep(0)
        self._schedule.make_room(len(mine))
        now_s, come = self._sources.now_ms() / 1000, list[str]()
        for at in range(0, len(mine), _USERS_AT_ONCE):
            come += [user_id for user_id in mine[at : at + _USERS_AT_ONCE] if self._schedule.is_due(user_id, now_s)]
            await self._sources.sleep(0)
        return come

    async def _look_after(self, user_id: str) -> None:
        log = self._stores.log(user_id)
        interval_ms = int(self._settings.verify_interval_s * 1000)
        try:
            last = await log.last_verification()
            if last is not None and self._sources.now_ms() - last.verified_at_ms < interval_ms:
                self._schedule.remember(user_id, (last.verified_at_ms + interval_ms) / 1000)
                return
            async with self._one_at_a_time:
                report = await log.verify()
        except UserNotFound:
            # Documents without a vectorstore, for example: there may be a log an interval later.
            await self._remove_expired_documents(user_id)
            self._schedule.remember(user_id, (self._sources.now_ms() + interval_ms) / 1000)
            return
        except VectorpoolError as error:
            logger.warning("a log could not be verified: %s", error)
            return
        self._schedule.remember(user_id, (report.verified_at_ms + interval_ms) / 1000)
        self._tell(user_id, report)
        await self._remove_garbage(log)
        await self._remove_expired_documents(user_id)
        await self._sources.sleep(report.bytes / self._settings.verify_bytes_per_s)

    @staticmethod
    def _tell(user_id: str, report: ScrubReport) -> None:
        if not report.ok:
            logger.error(
                "a log is damaged: %d problems, newest commit %d, newest intact commit %d; see vectorpool scrub",
                len(report.problems),
                report.newest_seq,
                report.newest_intact_seq,
            )
            logger.debug("damaged: %s", user_id)

    async def _remove_garbage(self, log: CommitLog) -> None:
        """Remove garbage from a log until nothing is left to do, or nothing more can be done now."""
        try:
            for _ in range(_REMOVALS):
                async with self._one_at_a_time:
                    done = await log.remove_garbage()
                if done.complete or not (done.deleted_objects or done.buried):
                    return
        except VectorpoolError as error:
            logger.warning("the garbage of a log could not be removed: %s", error)

    async def _remove_expired_documents(self, user_id: str) -> None:
        """Delete kept bytes of documents whose time is over, until nothing is left to do, or for now."""
        try:
            for _ in range(_REMOVALS):
                async with self._one_at_a_time:
                    done = await self._stores.remove_expired_documents(user_id)
                if done.complete:
                    return
        except VectorpoolError as error:
            logger.warning("kept documents could not be deleted: %s", error)
