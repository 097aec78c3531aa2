"""The pool of one shard: it answers commands from open vectorstores, and opens closed ones.

Reads lease a slot and run side by side. Everything that changes a vectorstore is a job for its slot's writer task
(``writer``). ``residency`` decides which slots are open, and ``upkeep`` runs the background work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from vectorpool import answers
from vectorpool.answers import Answer
from vectorpool.commands import (
    Command,
    Read,
    ReadOptions,
    Write,
)
from vectorpool.commitlog.warm import WarmTier
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.errors import (
    BrokenReplica,
    CommitNotReached,
    Draining,
    InvalidRequest,
    UserNotFound,
)
from vectorpool.limits import Quota
from vectorpool.names import parse_slot_key, slot_key
from vectorpool.platform import allocator
from vectorpool.pool.deletions import DeletionSweep
from vectorpool.pool.erasures import ERASURE, Erasures
from vectorpool.pool.index_builds import INDEX_BUILD, IndexBuilds
from vectorpool.pool.occupancy import occupancy
from vectorpool.pool.operations import Operations
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.states import Broken, Committing, Ready, state_name
from vectorpool.pool.stores import StoreFactory
from vectorpool.pool.upkeep import Upkeep
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import Supervisor, rest
from vectorpool.telemetry import families
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.parts import ENGINE, FRESHNESS, HYDRATE, PART_NAMES, STORE, Timing
from vectorpool.vectorstore.replica import ReplicaClosed

logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

_TICK_S = 0.5
_TICK = "pool tick"


class DrainReport(msgspec.Struct):
    """The requests that did not finish and the vectorstores that were not committed when a pool was drained."""

    unfinished: int = 0
    uncommitted: list[str] = []


class Pool:
    """See the module. Belongs to one event loop; ``start`` before use, ``drain`` at the end."""

    def __init__(
        self,
        stores: StoreFactory,
        settings: Settings,
        sources: Sources = SYSTEM,
        *,
        owns: Callable[[str], bool] = lambda user_id: True,
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._sources = sources
        self._residency = Residency(stores.make, settings, sources, stores.figures)
        self._part_times = [stores.figures.histogram(families.PART_TIME, name) for name in PART_NAMES]
        self._requests: set[asyncio.Task[Any]] = set()
        self._supervisor = Supervisor(sources, shard=stores.shard)
        self._upkeep = Upkeep(stores, settings, sources, self._supervisor, owns=owns)
        self._writer = SlotWriter(self._residency, self._upkeep.committed, settings, sources)
        self._erasures = Erasures(self._residency, self._writer, settings, sources, self._supervisor)
        self._index_builds = IndexBuilds(stores, self._residency, self._writer, settings, sources, self._supervisor)
        self._operations = Operations(
            stores, self._residency, self._writer, self._erasures, settings, sources, self.residency
        )
        self._deletions = DeletionSweep(stores, self._residency, self._writer, settings, sources, self._supervisor)
        self._draining = False

    @property
    def _warm(self) -> WarmTier:
        return self._stores.warm

    async def start(self) -> None:
        """Begin the periodic work: idle time-outs and, under write-back, commits."""
        self._supervisor.start(_TICK, self._tick, is_essential=True)
        self._upkeep.start()
        await self._deletions.start()

    # --- Commands ------------------------------------------------------------------------------------

    async def execute(
        self, user_id: str, command: Command, context: RequestContext = BACKGROUND, quota: Quota | None = None
    ) -> Answer:
        """Answer one command. Raises VectorpoolError; DeadlineExceeded or OutcomeUnknown at the context's deadline.

        A write that would have more stored than ``quota`` allows raises QuotaExceeded.

        If the caller's task is cancelled, a read stops, and a write that has not begun leaves the queue. A write, an
        operation that changes the log and a hydrate run to their end once they have begun.
        """
        if self._draining:
            raise Draining("The instance is shutting down. Send the request to another one.")
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        timing = Timing(is_traced=bool(context.traceparent))
        try:
            return await self._execute(user_id, command, context, timing, quota)
        finally:
            self._requests.discard(task)
            self._note(timing, context)

    def answer_at_once(self, user_id: str, command: Command, context: RequestContext) -> Answer | None:
        """Answer a read of an open vectorstore for which nothing has to be waited for; None: ask ``execute``.

        Raises VectorpoolError. No task runs meanwhile, so the slot needs no pin, and the read cannot be cancelled.
        """
        options, slot = context.read, self._residency.slots.get(user_id)
        if slot is None or self._draining or options.at is not None or not isinstance(command, Read):
            return None
        if not isinstance(slot.state, Ready | Committing) or not slot.may_be_quick:
            return None
        store, timing = slot.state.store, Timing(is_traced=bool(context.traceparent))
        arrived_s = began_s = self._sources.monotonic_s()
        busy_s = store.clock.busy_s()
        if not store.is_known_fresh(options, arrived_s):
            return None
        timing.add(FRESHNESS, began_s, began_s := self._sources.monotonic_s())
        timing.parts[STORE] += store.clock.busy_s() - busy_s
        try:
            answer = store.read_at_once(command)
            slot.note_quick(answer is not None)
            if answer is None:
                return None
        except (ReplicaClosed, BrokenReplica):
            # ``execute`` opens it, or builds it anew.
            return None
        timing.add(ENGINE, began_s, self._sources.monotonic_s())
        timing.follow(store.clock, arrived_s)
        self._residency.touch(slot)
        self._note(timing, context)
        return answer

    def _note(self, timing: Timing, context: RequestContext) -> None:
        """Count what a command took, and tell its request."""
        context.shard = self._stores.label
        for part, seconds in enumerate(timing.parts):
            if seconds:
                self._part_times[part].observe(seconds)
        if context.timing is None:
            context.timing = timing
        else:
            context.timing.include(timing.parts, timing.steps)

    async def _execute(
        self, user_id: str, command: Command, context: RequestContext, timing: Timing, quota: Quota | None
    ) -> Answer:
        if isinstance(command, Read):
            with context.limit():
                return await self._read(user_id, command, context.read, timing)
        if context.read.at is not None:
            raise InvalidRequest("A past commit can only be read. Restore it first, or leave `at` out.")
        if isinstance(command, Write):
            return await self._write(user_id, command, context, timing, quota)
        if command.is_change:
            # The operation may not stop half-way, so it has a task of its own.
            work = asyncio.create_task(self._operations.execute(user_id, command))
            self._requests.add(work)
            work.add_done_callback(self._end_change)
            return await context.within(asyncio.shield(work), changes=True)
        with context.limit():
            return await self._operations.execute(user_id, command)

    def _end_change(self, work: asyncio.Task[Any]) -> None:
        self._requests.discard(work)
        if not work.cancelled() and (error := work.exception()) is not None:
            # The caller gets the error too, unless it was cancelled.
            logger.debug("an operation failed: %s", error)

    async def _read(self, user_id: str, command: Read, options: ReadOptions, timing: Timing) -> Answer:
        clock = self._sources.monotonic_s
        arrived_s = began_s = clock()
        slot = self._residency.pin(slot_key(user_id, options.at))
        try:
            is_cold = slot.store is None
            store = await self._residency.open(slot, create=False)
            if is_cold:
                self._residency.count_wait(slot, timing, arrived_s)
                began_s = clock()
            for last in (False, False, True):
                busy_s = store.clock.busy_s()
                is_fresh = await store.is_fresh_enough(options, arrived_s)
                timing.add(FRESHNESS, began_s, began_s := clock())
                if not is_fresh:
                    await self._writer.catch_up(slot)
                    timing.add(HYDRATE, began_s, began_s := clock())
                timing.parts[STORE] += store.clock.busy_s() - busy_s
                # A write that failed meanwhile may have closed the replica; then the read below raises ReplicaClosed.
                if options.at is None and 0 < store.commit_seq < options.min_commit:
                    raise _not_reached(store.commit_seq, options.min_commit)
                try:
                    return await store.read(command)
                except UserNotFound as error:
                    error.extra.setdefault("commit", store.commit_seq)
                    raise
                except ReplicaClosed:
                    await self._writer.catch_up(slot)
                except BrokenReplica:
                    if last:
                        raise
                    await self._writer.heal(slot)
                finally:
                    # With the new replica that took the place of one that could not answer.
                    timing.add(ENGINE, began_s, began_s := clock())
                    timing.follow(store.clock, arrived_s)
        finally:
            self._residency.unpin(slot)
        raise BrokenReplica("The vectorstore could not be opened for the read. Send the request again.")

    async def _write(
        self, user_id: str, command: Write, context: RequestContext, timing: Timing, quota: Quota | None
    ) -> Answer:
        slot = self._residency.pin(user_id)
        try:
            return await self._writer.write(slot, command, context, timing, quota)
        finally:
            self._residency.unpin(slot)

    # --- Background ----------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await rest(self._sources, _TICK_S)
            self._residency.keeping.look()
            for slot in self._residency.evictable(self._settings.idle_timeout_s):
                self._guarded("eviction of an idle vectorstore", partial(self._residency.start_eviction, slot))
            if self._settings.durability == "write-back":
                for slot in self._overdue():
                    self._guarded("periodic commit", partial(self._commit_overdue, slot))
            if (due := self._erasures.next_slot()) is not None:
                self._guarded(ERASURE, partial(self._erasures.start, due))
            if (due := self._index_builds.next_slot()) is not None:
                self._guarded(INDEX_BUILD, partial(self._index_builds.start, due))

    def press(self, *, is_short: bool) -> None:
        """Open no further vectorstore while the instance is short of memory, and close some that are not used."""
        self._residency.is_short_of_memory = is_short
        if is_short:
            for slot in self._residency.least_used_part():
                self._guarded("eviction for want of memory", partial(self._residency.start_eviction, slot))
            # What the last ones took goes back to the system at once.
            self._guarded("return of memory", partial(asyncio.get_running_loop().run_in_executor, None, allocator.trim))

    def _guarded(self, what: str, action: Callable[[], object]) -> None:
        """Run an action for one slot; a failure is counted, and the other slots' actions still run."""
        try:
            action()
        except Exception as error:
            logger.exception("the %s could not be started", what)
            self._supervisor.record(what, error)
        else:
            self._supervisor.record(what, None)

    def _overdue(self) -> list[Slot]:
        """Return the slots whose acknowledged writes have waited for the interval."""
        before_s = self._sources.monotonic_s() - self._settings.write_back_interval_s
        return [
            slot
            for slot in self._residency.slots.values()
            if slot.writer is None and slot.dirty_since_s is not None and slot.dirty_since_s <= before_s
        ]

    def _commit_overdue(self, slot: Slot) -> None:
        slot.dirty_since_s = self._sources.monotonic_s()
        self._writer.flush_later(slot)

    # --- Figures and the end -------------------------------------------------------------------------

    def residency(self, key: str) -> answers.Residency:
        """Return the residency of a user's vectorstore, without opening it."""
        user_id, at = parse_slot_key(key)
        slot = self._residency.slots.get(key)
        warm_bytes = self._warm.user_bytes(user_id)
        if slot is None:
            return answers.Residency(user_id, "cold", 0, 0, warm_bytes, 0, False, self._stores.shard)
        store = slot.store
        schema, chroma = (None, None) if store is None else store.engine_state()
        return answers.Residency(
            user_id=user_id,
            state=state_name(slot.state),
            commit=0 if store is None else store.commit_seq,
            bytes=0 if store is None else store.size_bytes(),
            warm_bytes=warm_bytes,
            last_use_ms=slot.last_use_ms,
            dirty=store is not None and store.is_dirty,
            shard=self._stores.shard,
            detail=slot.state.error.detail if isinstance(slot.state, Broken) else None,
            at=at,
            schema=schema,
            chroma=chroma,
            uses=slot.uses,
            kept_open_until_ms=self._residency.keeping.until_ms(key),
        )

    def view(self) -> answers.PoolView:
        """Return every slot, most recently used first, and the bounds."""
        slots = sorted(self._residency.slots.values(), key=lambda slot: slot.last_use_s, reverse=True)
        return answers.PoolView(
            slots=[self.residency(slot.user_id) for slot in slots],
            open_slots=self._residency.open_slots,
            open_slots_limit=self._settings.open_slots,
            local_bytes=self._residency.open_bytes() + self._warm.total_bytes,
            local_bytes_limit=self._settings.open_bytes + self._settings.warm_bytes,
            waiting=self._residency.waiting,
            tasks=self.tasks(),
        )

    def samples(self) -> list[Sample]:
        """Return the gauges of the pool."""
        found = occupancy(self._residency, self._warm, self._settings, self._stores.label)
        return found + self._upkeep.samples(self._stores.label)

    def tasks(self) -> list[answers.TaskView]:
        """Return the state of the background tasks."""
        return self._supervisor.view()

    async def settle(self, budget_s: float) -> int:
        """Commit what is acknowledged and not committed; return how many vectorstores hold some after the budget."""
        dirty = [s for s in self._residency.slots.values() if s.store is not None and s.store.is_dirty]
        flushes = [self._writer.flush_later(slot).done for slot in dirty]
        if flushes:
            await asyncio.wait(flushes, timeout=budget_s)
        return sum(slot.store is not None and slot.store.is_dirty for slot in dirty)

    async def drain(self, budget_s: float) -> DrainReport:
        """Refuse new work, finish work under way, commit dirty vectorstores and close, within ``budget_s`` seconds."""
        self._draining = True
        report = DrainReport()
        deadline_s = self._sources.monotonic_s() + budget_s
        await self._supervisor.stop(budget_s / 4, [_TICK])
        await self._index_builds.stop(budget_s / 4)
        if self._requests:
            # Work under way gets at most half of the time; the other half is for committing acknowledged writes.
            _, pending = await asyncio.wait(set(self._requests), timeout=budget_s / 2)
            report.unfinished = len(pending)
        dirty = [s for s in self._residency.slots.values() if s.store is not None and s.store.is_dirty]
        dirty.sort(key=lambda slot: slot.last_use_s, reverse=True)
        flushes = [(slot, self._writer.flush_later(slot)) for slot in dirty]
        if flushes:
            left_s = max(deadline_s - self._sources.monotonic_s(), 0.1)
            await asyncio.wait([flush.done for _, flush in flushes], timeout=left_s)
        for slot, _ in flushes:
            if slot.store is not None and slot.store.is_dirty:
                report.uncommitted.append(slot.user_id)
        # A write that has begun continues without its caller, and ends before its vectorstore is closed.
        if writers := [slot.writer for slot in self._residency.slots.values() if slot.writer is not None]:
            await asyncio.wait(writers, timeout=max(deadline_s - self._sources.monotonic_s(), 0.1))
        await self._deletions.stop(max(deadline_s - self._sources.monotonic_s(), 0.1))
        await self._upkeep.stop(max(deadline_s - self._sources.monotonic_s(), 0.1))
        await self._close_all()
        return report

    async def _close_all(self) -> None:
        await self._residency.end_background()
        for slot in list(self._residency.slots.values()):
            if isinstance(slot.state, Ready) and slot.writer is None:
                await slot.state.store.discard()
        self._stores.close()


def _not_reached(seq: int, least: int) -> CommitNotReached:
    return CommitNotReached(
        f"The vectorstore is at commit {seq}; the request accepts {least} or later. Name a commit that a response "
        "carried, or leave the least commit out.",
        extra={"commit": seq},
    )
