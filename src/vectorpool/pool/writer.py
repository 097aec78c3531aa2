"""The writer of a slot: one task at a time, which runs every job that changes the user's vectorstore.

Writes that wait together become one commit (group commit). So a slow user delays no other user, and a lone write
costs one apply and one PUT. The queue is bounded in jobs and in bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from vectorpool.answers import Answer
from vectorpool.commands import Write
from vectorpool.context import RequestContext
from vectorpool.errors import DeadlineExceeded, InternalError, QueueFull, StoreUnavailable, VectorpoolError
from vectorpool.limits import Quota
from vectorpool.pool.residency import Residency
from vectorpool.pool.slot import (
    CatchUpJob,
    EndJob,
    EraseJob,
    FlushJob,
    HealJob,
    InstallJob,
    Job,
    RestoreJob,
    Slot,
    WriteJob,
)
from vectorpool.pool.states import Committing, Ready
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.parts import HYDRATE, QUEUE, STORE, Timing
from vectorpool.vectorstore.ticket import Ticket
from vectorpool.vectorstore.vectorstore import Vectorstore

logger = logging.getLogger(__name__)

# The most writes that become one commit. This bounds how long the first of them waits for the last.
MAX_GROUP = 64


class SlotWriter:
    """Queues jobs on slots and runs their writer tasks. ``committed`` is called after each group of writes."""

    def __init__(
        self,
        residency: Residency,
        committed: Callable[[str, Vectorstore, int], None],
        settings: Settings,
        sources: Sources,
    ) -> None:
        self._residency = residency
        self._committed = committed
        self._settings = settings
        self._sources = sources

    # --- Jobs ----------------------------------------------------------------------------------------

    async def write(
        self, slot: Slot, command: Write, context: RequestContext, timing: Timing, quota: Quota | None = None
    ) -> Answer:
        """Apply a command in a pinned slot, within a quota. Raises QueueFull, and what the command raises.

        At the deadline, and if the caller is cancelled, a write that still waits leaves the queue. A write that has
        begun continues, and the deadline raises OutcomeUnknown.
        """
        size = _size_of(command)
        limit, limit_bytes = self._settings.user_queue, self._settings.user_queue_bytes
        if len(slot.jobs) >= limit or (slot.jobs and slot.queued_bytes + size > limit_bytes):
            raise QueueFull(
                f"{len(slot.jobs)} writes of this user wait already (limits: {limit} writes, {limit_bytes} bytes). "
                "Send the write again later."
            )
        context.check()
        if self._settings.durability == "write-back" and slot.dirty_since_s is None:
            with context.limit():
                await self._make_room(slot)
        job = WriteJob(Ticket(command, quota), size, context.request_id, timing, self._sources.monotonic_s())
        self._enqueue(slot, job)
        try:
            with context.limit():
                return await job.done
        except DeadlineExceeded:
            if _withdraw(slot, job):
                raise
            raise context.outcome_unknown() from None
        except asyncio.CancelledError:
            _withdraw(slot, job)
            raise

    async def _make_room(self, slot: Slot) -> None:
        """Wait until a slot may hold acknowledged writes that are not committed. Raises StoreUnavailable.

        Such a slot cannot be closed while the store refuses its commit, so a quarter of the slots, at least one, is
        kept free of them: the slot that is dirty for longest is committed first.
        """
        most = max(1, self._settings.open_slots - max(1, self._settings.open_slots // 4))
        while slot.dirty_since_s is None:
            dirty = [other for other in self._residency.slots.values() if other.dirty_since_s is not None]
            if len(dirty) < most:
                # From now on it counts.
                slot.dirty_since_s = self._sources.monotonic_s()
                return
            first = min(dirty, key=lambda other: other.dirty_since_s or 0.0)
            try:
                await asyncio.shield(self.flush_later(first).done)
            except VectorpoolError as error:
                raise StoreUnavailable(
                    "As many vectorstores as may be wait for a store that does not take their commits. Nothing of this "
                    f"write was applied; send it again. ({error.code})"
                ) from error

    async def flush(self, slot: Slot) -> None:
        """Commit a pinned slot's uncommitted writes, and the writes in its queue."""
        if slot.jobs or (slot.store is not None and slot.store.is_dirty):
            await self.flush_later(slot).done

    def flush_later(self, slot: Slot) -> FlushJob:
        """Queue a commit; a failure is logged, and raised to the callers that wait for the job."""
        flush = FlushJob()
        flush.done.add_done_callback(_log_failed_flush)
        self._enqueue(slot, flush)
        return flush

    async def catch_up(self, slot: Slot) -> None:
        """Take in newer commits; callers that ask before it starts share it."""
        if slot.catch_up is None:
            slot.catch_up = CatchUpJob()
            self._enqueue(slot, slot.catch_up)
        await asyncio.shield(slot.catch_up.done)

    async def heal(self, slot: Slot) -> None:
        """Build the replica of a pinned slot again; callers that ask before it starts share it."""
        if slot.heal is None:
            slot.heal = HealJob()
            self._enqueue(slot, slot.heal)
        await asyncio.shield(slot.heal.done)

    def erase_later(self, slot: Slot) -> EraseJob:
        """Queue an erasure; a failure is raised to callers that wait for the job."""
        erase = EraseJob()
        self._enqueue(slot, erase)
        return erase

    def install_later(self, slot: Slot, directory: Path) -> InstallJob:
        """Queue the installation of indexes; a failure is raised to callers that wait for the job."""
        install = InstallJob(directory)
        self._enqueue(slot, install)
        return install

    async def restore(self, slot: Slot, seq: int) -> int:
        """Make the state of commit ``seq`` the newest; return the number of the new commit."""
        job = RestoreJob(seq)
        self._enqueue(slot, job)
        return await job.done

    async def end(self, slot: Slot, documents: int | None = None) -> int:
        """Delete the vectorstore of a pinned slot; return the number of objects deleted."""
        job = EndJob(documents)
        self._enqueue(slot, job)
        return await job.done

    # --- The task ------------------------------------------------------------------------------------

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
                    while slot.jobs:
                        _fail(_take_job(slot), error)
                    continue
                if not slot.jobs:
                    # Every write was withdrawn meanwhile.
                    return
                slot.become(Committing(store))
                try:
                    await self._serve_jobs(slot, store)
                finally:
                    slot.become(Ready(store))
        except Exception as error:
            # A defect of this program. Without this, callers of the remaining jobs would wait for ever.
            logger.exception("the writer of a vectorstore failed")
            while slot.jobs:
                _fail(_take_job(slot), error)
        finally:
            slot.writer = None
            self._residency.unpin(slot)

    async def _serve_jobs(self, slot: Slot, store: Vectorstore) -> None:
        job = _take_job(slot)
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
                case EraseJob():
                    before = store.commit_seq
                    await store.edits.erase()
                    _succeed(job.done, None)
                    self._committed(slot.user_id, store, before)
                case InstallJob():
                    before = store.commit_seq
                    _succeed(job.done, await store.edits.install(job.directory))
                    self._committed(slot.user_id, store, before)
                case RestoreJob():
                    _succeed(job.done, await store.restore(job.seq))
                case EndJob():
                    _succeed(job.done, await store.end(job.documents))
        except Exception as error:
            _fail(job, error)
        slot.dirty_since_s = (slot.dirty_since_s or self._sources.monotonic_s()) if store.is_dirty else None

    async def _serve_writes(self, slot: Slot, store: Vectorstore, first: WriteJob) -> None:
        group = [first]
        while len(group) < MAX_GROUP and slot.jobs and isinstance(slot.jobs[0], WriteJob):
            job = _take_job(slot)
            assert isinstance(job, WriteJob)
            group.append(job)
        before = store.commit_seq
        began_s, parts, busy_s = self._sources.monotonic_s(), list(store.spent.parts), store.clock.busy_s()
        seq = await store.write([job.ticket for job in group])
        spent = [after - before for after, before in zip(store.spent.parts, parts, strict=True)]
        spent[STORE] += store.clock.busy_s() - busy_s
        for job in group:
            # Writes of one commit share its time. One that waited for the hydrate before it has that too.
            waited_s = min(max(slot.hydrate_ended_s - job.queued_s, 0.0), began_s - job.queued_s)
            job.timing.add(HYDRATE, job.queued_s, job.queued_s + waited_s)
            job.timing.add(QUEUE, job.queued_s + waited_s, began_s)
            job.timing.include(spent, store.spent.since(began_s) if job.timing.steps is not None else None)
            job.timing.follow(store.clock, job.queued_s)
        for job in group:
            if job.ticket.error is not None:
                _fail(job, job.ticket.error)
            else:
                _succeed(job.done, Answer(job.ticket.body, seq))
        self._committed(slot.user_id, store, before)


def _take_job(slot: Slot) -> Job:
    job = slot.jobs.popleft()
    if isinstance(job, WriteJob):
        slot.queued_bytes -= job.size
    if job is slot.catch_up:
        slot.catch_up = None
    if job is slot.heal:
        slot.heal = None
    return job


def _withdraw(slot: Slot, job: WriteJob) -> bool:
    """Take a write from the queue; return False if it has begun and so is not in the queue any more."""
    if job not in slot.jobs:
        return False
    slot.jobs.remove(job)
    slot.queued_bytes -= job.size
    return True


def _size_of(command: Write) -> int:
    vectors = getattr(command, "vectors", None)
    documents = getattr(command, "documents", None) or ()
    return (len(vectors.data) if vectors is not None else 0) + sum(len(d) for d in documents if d) + 256


def _succeed(
    done: asyncio.Future[Answer] | asyncio.Future[None] | asyncio.Future[int] | asyncio.Future[bool], value: object
) -> None:
    if not done.done():
        done.set_result(value)  # type: ignore[arg-type]


def _fail(job: Job, error: Exception) -> None:
    if not isinstance(error, VectorpoolError):
        request_id = job.request_id if isinstance(job, WriteJob) else "-"
        logger.error("a job failed unexpectedly id=%s", request_id, exc_info=error)
        error = InternalError("The operation failed for a reason of ours. The instance's log says which.")
    if not job.done.done():
        job.done.set_exception(error)


def _log_failed_flush(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        logger.warning("a vectorstore could not be committed: %s", error)
