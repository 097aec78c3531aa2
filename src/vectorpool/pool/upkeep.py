"""Background work on logs: compaction after commits, and slow rounds that verify logs and remove garbage.

One log at a time, and rounds at a bounded rate of bytes, so that upkeep takes little of a shard. Nothing here is
needed for safety: a log that is not compacted is only slower to hydrate, one that keeps its garbage only larger. A
round also deletes the expired bytes of replaced and deleted documents.

Instances share the rounds without communication. Each visits the users that are due in a random order, at random times,
and reads ``verified.json`` before it reads a log, so that the first instance does the work. Logs are not claimed: two
instances verify the same log only if both begin within the time that its verification takes, which costs less than a
claim for every log. The ``schedule`` holds when each log is due again: an instance asks the store about each user once
an interval, and once more after it started.
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
from vectorpool.supervision import Supervisor, rest
from vectorpool.telemetry.families import (
    COMPACTION_BYTES,
    COMPACTIONS,
    VERIFICATION_AGE,
    VERIFICATION_INTERVAL,
    VERIFICATION_WAITING,
    VERIFICATIONS,
)
from vectorpool.telemetry.figures import Sample
from vectorpool.vectorstore.vectorstore import Vectorstore

logger = logging.getLogger(__name__)

_ROUNDS = "verification rounds"
_COMPACTION = "compaction"
# An instance begins its first round at a random time within this, so that instances that start together spread.
_FIRST_ROUND_S = 600.0
# The mean number of times within the interval that users are listed, to find new users and users that are due.
_LOOKS_PER_INTERVAL = 10
# Number of users examined in memory before the event loop runs other tasks.
_USERS_AT_ONCE = 1000
# One call of remove_garbage deletes up to a thousand objects. After this many calls, the rest waits for the next round.
_REMOVALS = 10


class Upkeep:
    """The background tasks of one pool. ``owns`` returns whether a user is this shard's. Belongs to one event loop."""

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
        self._figures = stores.figures
        # Of the last look at all users: those that are due and not visited yet, and when the others were verified, at
        # the earliest.
        self._due: list[str] = []
        self._oldest_ms: float | None = None

    def start(self) -> None:
        """Begin the rounds, unless they are switched off."""
        if self._settings.verify_interval_s:
            self._supervisor.start(_ROUNDS, self._go_round)

    async def stop(self, timeout_s: float) -> None:
        """End the rounds, and wait at most ``timeout_s`` seconds for compactions, whose threads still read files."""
        await self._supervisor.stop(timeout_s, [_ROUNDS])
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)

    # --- After commits -------------------------------------------------------------------------------

    def committed(self, key: str, store: Vectorstore, before: int) -> None:
        """Compact in the background if commits were made since commit ``before`` and the log's plan asks for it."""
        # After every commit, not at intervals: one that crosses the sync threshold is as large as the whole index.
        if store.commit_seq != before and key not in self._compacting:
            self._compacting.add(key)
            task = asyncio.create_task(self._compact(key, store))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _compact(self, key: str, store: Vectorstore) -> None:
        try:
            async with self._one_at_a_time:
                done = await store.compact()
        except Exception as error:
            self._figures.counter(COMPACTIONS, "failed").add()
            # The log is complete without it; a later commit tries again.
            logger.warning("a compaction failed: %s", error, exc_info=not isinstance(error, VectorpoolError))
            self._supervisor.record(_COMPACTION, error)
        else:
            if done.written:
                self._figures.counter(COMPACTIONS, "ok").add()
                self._figures.counter(COMPACTION_BYTES).add(done.bytes)
            self._supervisor.record(_COMPACTION, None)
        finally:
            self._compacting.discard(key)

    # --- Rounds --------------------------------------------------------------------------------------

    async def _go_round(self) -> None:
        interval_s = self._settings.verify_interval_s
        await rest(self._sources, self._sources.random() * min(_FIRST_ROUND_S, interval_s))
        while True:
            try:
                await self._round()
            except VectorpoolError as error:
                # The store did not answer, for example. The supervisor handles any other failure.
                logger.warning("a round of verification ended early: %s", error)
            # By the random factor, instances that started together drift apart and rarely verify the same log at once.
            await rest(self._sources, interval_s / _LOOKS_PER_INTERVAL * (0.5 + self._sources.random()))

    async def _round(self) -> None:
        users = self._due = await self._users_that_are_due()
        while users:
            # In a random order, or instances would verify the same logs at the same time.
            at = int(self._sources.random() * len(users))
            users[at], users[-1] = users[-1], users[at]
            await self._verify(users.pop())

    async def _users_that_are_due(self) -> list[str]:
        """Return this shard's users that are due by this instance's schedule."""
        listed, mine = await self._stores.list_users(), list[str]()
        for at in range(0, len(listed), _USERS_AT_ONCE):
            mine += [user_id for user_id in listed[at : at + _USERS_AT_ONCE] if self._owns(user_id)]
            await self._sources.sleep(0)
        self._schedule.make_room(len(mine))
        now_s, come, oldest_s = self._sources.now_ms() / 1000, list[str](), None
        for at in range(0, len(mine), _USERS_AT_ONCE):
            for user_id in mine[at : at + _USERS_AT_ONCE]:
                due_s = self._schedule.due_s(user_id)
                if due_s is None or due_s <= now_s:
                    come.append(user_id)
                if due_s is not None:
                    oldest_s = due_s if oldest_s is None else min(oldest_s, due_s)
            await self._sources.sleep(0)
        self._oldest_ms = None if oldest_s is None else (oldest_s - self._settings.verify_interval_s) * 1000
        return come

    def samples(self, label: str) -> list[Sample]:
        """Return the gauges of the verification, under the name of the shard."""
        found = [Sample(VERIFICATION_WAITING.name, (label,), len(self._due))]
        if self._oldest_ms is not None:
            age_s = max(self._sources.now_ms() - self._oldest_ms, 0.0) / 1000
            found.append(Sample(VERIFICATION_AGE.name, (label,), age_s))
        return found

    async def _verify(self, user_id: str) -> None:
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
            # Documents without a vectorstore, for example: a log may exist one interval later.
            await self._remove_expired_documents(user_id)
            self._schedule.remember(user_id, (self._sources.now_ms() + interval_ms) / 1000)
            return
        except VectorpoolError as error:
            logger.warning("a log could not be verified: %s", error)
            self._figures.counter(VERIFICATIONS, "failed").add()
            return
        self._figures.counter(VERIFICATIONS, "ok" if report.ok else "damaged").add()
        if last is not None:
            age_s = (self._sources.now_ms() - last.verified_at_ms) / 1000
            self._figures.histogram(VERIFICATION_INTERVAL).observe(max(age_s, 0.0))
        self._schedule.remember(user_id, (report.verified_at_ms + interval_ms) / 1000)
        self._log_damage(user_id, report)
        if report.ended:
            await self._finish_end(log)
        await self._remove_garbage(log)
        await self._remove_expired_documents(user_id)
        await self._sources.sleep(report.bytes / self._settings.verify_bytes_per_s)

    @staticmethod
    def _log_damage(user_id: str, report: ScrubReport) -> None:
        if not report.ok:
            logger.error(
                "a log is damaged: %d problems, newest commit %d, newest intact commit %d; see vectorpool scrub",
                len(report.problems),
                report.newest_seq,
                report.newest_intact_seq,
            )
            logger.debug("damaged: %s", user_id)

    async def _finish_end(self, log: CommitLog) -> None:
        """Finish the deletion of a vectorstore, if it was cut short."""
        try:
            if left := await log.finish_end():
                logger.info("a deletion that was cut short is finished: %d objects", left)
        except VectorpoolError as error:
            logger.warning("a deletion that was cut short could not be finished: %s", error)

    async def _remove_garbage(self, log: CommitLog) -> None:
        """Remove garbage from a log until none is left, or no more can be removed now."""
        try:
            for _ in range(_REMOVALS):
                async with self._one_at_a_time:
                    done = await log.remove_garbage()
                if done.complete or not (done.deleted_objects or done.buried):
                    return
        except VectorpoolError as error:
            logger.warning("the garbage of a log could not be removed: %s", error)

    async def _remove_expired_documents(self, user_id: str) -> None:
        """Delete expired kept bytes of a user's documents, in a bounded number of calls."""
        try:
            for _ in range(_REMOVALS):
                async with self._one_at_a_time:
                    done = await self._stores.remove_expired_documents(user_id)
                if done.complete:
                    return
        except VectorpoolError as error:
            logger.warning("kept documents could not be deleted: %s", error)
