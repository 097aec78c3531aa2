"""The pool of one shard: it answers commands from the vectorstores that are open, and opens those that are not.

Reads lease a slot and run side by side. Everything that changes a vectorstore is a job for its slot's writer
task, which takes all writes that wait and makes one commit of them (group commit). So a slow user delays
nobody else, and a lone write costs one apply and one PUT.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from vectorpool import answers
from vectorpool.answers import Answer
from vectorpool.commands import (
    Command,
    DeleteVectorstore,
    Evict,
    Flush,
    Hydrate,
    Inspect,
    Operation,
    Read,
    Reading,
    Write,
)
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import (
    BrokenReplica,
    CommitNotReached,
    Damaged,
    Draining,
    InternalError,
    PoolBusy,
    QueueFull,
    VectorpoolError,
)
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import CatchUpJob, EndJob, FlushJob, HealJob, Job, Slot, WriteJob
from vectorpool.pool.states import Broken, Committing, Ready, state_name
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.vectorstore.vectorstore import ReplicaClosed, Ticket, Vectorstore

logger = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

# Writes of one user that become one commit. Bounds how long the first of them waits for the last.
MAX_GROUP = 64
_TICK_S = 0.5


_AS_SET = Reading()


class DrainReport(msgspec.Struct):
    """What could not be finished or committed when a pool was drained."""

    unfinished: int = 0
    uncommitted: list[str] = []


class Pool:
    """See the module. Belongs to one event loop; ``start`` before use, ``drain`` at the end."""

    def __init__(self, stores: StoreFactory, settings: Settings, sources: Sources = SYSTEM) -> None:
        self._stores = stores
        self._settings = settings
        self._sources = sources
        self._residency = Residency(stores.make, settings, sources)
        self._requests: set[asyncio.Task[Answer]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._compactions: set[asyncio.Task[None]] = set()
        self._compacting: set[str] = set()
        self._one_compaction = asyncio.Semaphore(1)
        self._draining = False

    @property
    def _warm(self) -> WarmTier:
        return self._stores.warm

    async def start(self) -> None:
        """Begin the periodic work: idle time-outs and, under write-back, commits."""
        self._ticker = asyncio.create_task(self._tick())

    # --- Commands ------------------------------------------------------------------------------------

    async def execute(self, user_id: str, command: Command, reading: Reading | None = None) -> Answer:
        """Answer one command; ``reading`` says how fresh a read must be. Raises VectorpoolError.

        The work goes on if the caller is cancelled: a thread in Chroma cannot be stopped, and what it uses
        must stay pinned until it ends.
        """
        if self._draining:
            raise Draining("The instance is shutting down. Send the request to another one.")
        task = asyncio.create_task(self._execute(user_id, command, reading or _AS_SET))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        return await asyncio.shield(task)

    async def _execute(self, user_id: str, command: Command, reading: Reading) -> Answer:
        if isinstance(command, Read):
            return await self._read(user_id, command, reading)
        if isinstance(command, Write):
            return await self._write(user_id, command)
        return await self._operate(user_id, command)

    async def _read(self, user_id: str, command: Read, reading: Reading) -> Answer:
        async with self._residency.lease(user_id, create=False) as (slot, store):
            for last in (False, False, True):
                if not await store.is_fresh_enough(reading):
                    await self._catch_up(slot)
                if store.commit_seq < reading.min_commit:
                    raise _not_reached(store.commit_seq, reading.min_commit)
                try:
                    return await store.read(command)
                except ReplicaClosed:
                    await self._catch_up(slot)
                except BrokenReplica:
                    if last:
                        raise
                    heal = HealJob()
                    self._enqueue(slot, heal)
                    await heal.done
        raise BrokenReplica("The vectorstore could not be opened for the read. Send the request again.")

    async def _write(self, user_id: str, command: Write) -> Answer:
        size = _size_of(command)
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        slot = self._residency.pin(user_id)
        try:
            self._check_queue(slot, size)
            self._enqueue(slot, WriteJob(Ticket(command), size, done))
            return await done
        finally:
            self._residency.unpin(slot)

    async def _operate(self, user_id: str, command: Operation) -> Answer:
        match command:
            case Hydrate():
                async with self._residency.lease(user_id, create=False) as (slot, store):
                    if not await store.is_fresh_enough(_AS_SET):
                        await self._catch_up(slot)
            case Flush():
                await self._flush(user_id)
            case Evict():
                await self._evict(user_id)
            case Inspect():
                pass
            case DeleteVectorstore():
                return await self._delete(user_id)
        residency = self.residency(user_id)
        return Answer(_encode(residency), residency.commit)

    async def _flush(self, user_id: str) -> None:
        slot = self._residency.pin(user_id)
        try:
            if slot.jobs or (slot.store is not None and slot.store.is_dirty):
                flush = FlushJob()
                self._enqueue(slot, flush)
                await flush.done
        finally:
            self._residency.unpin(slot)

    async def _evict(self, user_id: str) -> None:
        deadline_s = self._sources.monotonic_s() + self._settings.slot_wait_s
        await self._flush(user_id)
        slot = self._residency.pin(user_id)
        try:
            while slot.store is not None and not await self._residency.evict(slot):
                if self._sources.monotonic_s() >= deadline_s:
                    raise PoolBusy("The vectorstore is in use all the time, it was not evicted. Try again later.")
                await self._sources.sleep(0.02)
        finally:
            self._residency.unpin(slot)

    async def _delete(self, user_id: str) -> Answer:
        slot = self._residency.pin(user_id)
        try:
            deleted = await self._end(slot)
        finally:
            self._residency.unpin(slot)
        return Answer(_encode(answers.Deleted(deleted=deleted)), 0)

    async def _end(self, slot: Slot) -> int:
        try:
            # A user that does not exist is told so, and gets no tombstone.
            await self._residency.open(slot, create=False)
        except Damaged:
            # What cannot be opened can still be deleted.
            return await self._stores.make(slot.user_id).end()
        end = EndJob()
        self._enqueue(slot, end)
        return await end.done

    async def _catch_up(self, slot: Slot) -> None:
        if slot.catch_up is None:
            slot.catch_up = CatchUpJob()
            self._enqueue(slot, slot.catch_up)
        await asyncio.shield(slot.catch_up.done)

    # --- The writer task of a slot -------------------------------------------------------------------

    def _check_queue(self, slot: Slot, size: int) -> None:
        limit, limit_bytes = self._settings.user_queue, self._settings.user_queue_bytes
        if len(slot.jobs) >= limit or (slot.jobs and slot.queued_bytes + size > limit_bytes):
            raise QueueFull(
                f"{len(slot.jobs)} writes of this user wait already (limits: {limit} writes, {limit_bytes} bytes). "
                "Send the write again later."
            )

    def _enqueue(self, slot: Slot, job: Job) -> None:
        slot.jobs.append(job)
        if isinstance(job, WriteJob):
            slot.queued_bytes += job.size
        if slot.writer is None:
            self._residency.pin(slot.user_id)
            slot.writer = asyncio.create_task(self._serve_slot(slot))

    async def _serve_slot(self, slot: Slot) -> None:
        try:
            while slot.jobs:
                try:
                    store = await self._residency.open(slot, create=True)
                except Exception as error:
                    self._refuse_jobs(slot, error)
                    continue
                slot.become(Committing(store))
                try:
                    await self._serve_jobs(slot, store)
                finally:
                    slot.become(Ready(store))
        finally:
            slot.writer = None
            self._residency.unpin(slot)

    def _refuse_jobs(self, slot: Slot, error: Exception) -> None:
        while slot.jobs:
            _fail(self._take_job(slot), error)

    def _take_job(self, slot: Slot) -> Job:
        job = slot.jobs.popleft()
        if isinstance(job, WriteJob):
            slot.queued_bytes -= job.size
        if job is slot.catch_up:
            slot.catch_up = None
        return job

    async def _serve_jobs(self, slot: Slot, store: Vectorstore) -> None:
        job = self._take_job(slot)
        try:
            match job:
                case WriteJob():
                    await self._serve_writes(slot, store, job)
                case FlushJob():
                    await store.commit()
                    _succeed(job.done, None)
                case CatchUpJob():
                    await store.catch_up()
                    _succeed(job.done, None)
                case HealJob():
                    await store.heal()
                    _succeed(job.done, None)
                case EndJob():
                    deleted = await store.end()
                    self._warm.drop(slot.user_id)
                    _succeed(job.done, deleted)
        except Exception as error:
            _fail(job, error)
        slot.dirty_since_s = (slot.dirty_since_s or self._sources.monotonic_s()) if store.is_dirty else None

    async def _serve_writes(self, slot: Slot, store: Vectorstore, first: WriteJob) -> None:
        group = [first]
        while len(group) < MAX_GROUP and slot.jobs and isinstance(slot.jobs[0], WriteJob):
            job = self._take_job(slot)
            assert isinstance(job, WriteJob)
            group.append(job)
        before = store.commit_seq
        seq = await store.write([job.ticket for job in group])
        for job in group:
            if job.ticket.error is not None:
                _fail(job, job.ticket.error)
            else:
                _succeed(job.done, Answer(job.ticket.body, seq))
        if seq // self._settings.compact_fanout != before // self._settings.compact_fanout:
            self._compact_later(slot.user_id, store)

    # --- Background ----------------------------------------------------------------------------------

    def _compact_later(self, user_id: str, store: Vectorstore) -> None:
        if user_id not in self._compacting:
            self._compacting.add(user_id)
            task = asyncio.create_task(self._compact(user_id, store))
            self._compactions.add(task)
            task.add_done_callback(self._compactions.discard)

    async def _compact(self, user_id: str, store: Vectorstore) -> None:
        try:
            async with self._one_compaction:
                await store.compact()
        except Exception:
            # The log is whole without it; the next commit tries again.
            logger.warning("a compaction failed", exc_info=True)
        finally:
            self._compacting.discard(user_id)

    async def _tick(self) -> None:
        while True:
            await self._sources.sleep(_TICK_S)
            self._residency.evict_older_than(self._settings.idle_timeout_s)
            if self._settings.durability == "write-back":
                self._flush_overdue()

    def _flush_overdue(self) -> None:
        now_s = self._sources.monotonic_s()
        for slot in list(self._residency.slots.values()):
            since_s = slot.dirty_since_s
            if since_s is None or slot.writer is not None or now_s - since_s < self._settings.write_back_interval_s:
                continue
            flush = FlushJob()
            flush.done.add_done_callback(_log_failed_flush)
            slot.dirty_since_s = now_s
            self._enqueue(slot, flush)

    # --- Figures and the end -------------------------------------------------------------------------

    def residency(self, user_id: str) -> answers.Residency:
        """Return where a user's vectorstore is, without touching it."""
        slot = self._residency.slots.get(user_id)
        warm_bytes = self._warm.user_bytes(user_id)
        if slot is None:
            return answers.Residency(user_id, "cold", 0, 0, warm_bytes, 0, False)
        store = slot.store
        return answers.Residency(
            user_id=user_id,
            state=state_name(slot.state),
            commit=0 if store is None else store.commit_seq,
            bytes=0 if store is None else store.size_bytes(),
            warm_bytes=warm_bytes,
            last_use_ms=slot.last_use_ms,
            dirty=store is not None and store.is_dirty,
            detail=slot.state.error.detail if isinstance(slot.state, Broken) else None,
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
        )

    async def drain(self, budget_s: float) -> DrainReport:
        """Take no new work, finish what is under way, commit what is dirty, close; within the budget."""
        self._draining = True
        report = DrainReport()
        deadline_s = self._sources.monotonic_s() + budget_s
        if self._ticker is not None:
            self._ticker.cancel()
        if self._requests:
            # Half of the time at most for work under way: the other half belongs to what is acknowledged.
            _, pending = await asyncio.wait(set(self._requests), timeout=budget_s / 2)
            report.unfinished = len(pending)
        dirty = [s for s in self._residency.slots.values() if s.store is not None and s.store.is_dirty]
        dirty.sort(key=lambda slot: slot.last_use_s, reverse=True)
        flushes: list[tuple[Slot, FlushJob]] = []
        for slot in dirty:
            flush = FlushJob()
            flush.done.add_done_callback(_log_failed_flush)
            self._enqueue(slot, flush)
            flushes.append((slot, flush))
        if flushes:
            left_s = max(deadline_s - self._sources.monotonic_s(), 0.1)
            await asyncio.wait([flush.done for _, flush in flushes], timeout=left_s)
        for slot, _ in flushes:
            if slot.store is not None and slot.store.is_dirty:
                report.uncommitted.append(slot.user_id)
        if self._compactions:
            # Harmless to lose, but what its threads read should not be removed under them.
            await asyncio.wait(set(self._compactions), timeout=max(deadline_s - self._sources.monotonic_s(), 0.1))
        await self._close_all()
        return report

    async def _close_all(self) -> None:
        await self._residency.settle_evictions()
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


def _size_of(command: Write) -> int:
    vectors = getattr(command, "vectors", None)
    documents = getattr(command, "documents", None) or ()
    return (len(vectors.data) if vectors is not None else 0) + sum(len(d) for d in documents if d) + 256


def _succeed(done: asyncio.Future[Answer] | asyncio.Future[None] | asyncio.Future[int], value: object) -> None:
    if not done.done():
        done.set_result(value)  # type: ignore[arg-type]


def _fail(job: Job, error: Exception) -> None:
    if not isinstance(error, VectorpoolError):
        logger.error("a job failed unexpectedly", exc_info=error)
        error = InternalError("The operation failed for a reason of ours. The instance's log says which.")
    if not job.done.done():
        job.done.set_exception(error)


def _log_failed_flush(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.warning("a vectorstore could not be committed: %s", error)
