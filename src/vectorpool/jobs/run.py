"""One run of a job: a sync, an export or an import, whose outcomes are noted while it goes on.

A run may be cut off anywhere. The next one compares bucket and registry again, finds what was committed unchanged, and
keeps what the run before it noted. So nothing is done twice but the look.

A run ends by itself if its job is not its own any more (cancelled, or taken over), and if nothing was done for
``STALLED_S``. A job under which ``MOST_DEATHS`` workers died, and none of them got further, is not run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.reports import DocumentOutcome, IngestProgress
from vectorpool.errors import (
    CommitConflict,
    InternalError,
    JobStalled,
    JobsUnavailable,
    TargetUnavailable,
    TryAgain,
    UserNotFound,
    VectorpoolError,
    WorkerDied,
)
from vectorpool.jobs.hooks import Hooks
from vectorpool.jobs.rows import Work
from vectorpool.jobs.store import MOST_DOCUMENTS, JobStore
from vectorpool.jobs.transfers import Transfers
from vectorpool.jobs.views import JobCounts, JobState
from vectorpool.notifications import Notifications
from vectorpool.sources import Sources
from vectorpool.telemetry.spans import Attributes, Tracer, stage, working_below

T = TypeVar("T")
logger = logging.getLogger(__name__)

MOST_DEATHS: Final = 5
STALLED_S: Final = 900.0
_NOTE_EVERY_S: Final = 0.5
# Outcomes that wait for a database that does not answer; further ones are counted only.
_MOST_NOTES: Final = 2 * MOST_DOCUMENTS
_DATABASE_S: Final = 300.0


class Superseded(Exception):
    """The job is not this run's any more."""


class Runner:
    """Runs jobs of one worker. ``ingestor`` is asked for when the first one begins: it may have to load a model."""

    def __init__(
        self,
        store: JobStore,
        ingestor: Callable[[], Awaitable[Ingestor]],
        hooks: Hooks,
        notifications: Notifications,
        sources: Sources,
        transfers: Transfers,
        tracer: Tracer | None = None,
    ) -> None:
        self._store = store
        self._transfers = transfers
        self._hooks = hooks
        self._notifications = notifications
        self._ingestor = ingestor
        self._sources = sources
        self._tracer = tracer

    async def run(self, job_id: str, attempt: int) -> None:
        """Run a job to its end. Raises what may pass later: the engine starts another run then, after a while."""
        work = await self._persist(lambda: self._store.begin(job_id, attempt))
        if work is None:
            return
        if self._tracer is None:
            await self._run(work)
            return
        began_s = self._sources.monotonic_s()
        is_first = work.run == 1
        since_s = self._queued_s(work, began_s) if is_first else began_s
        span = self._tracer.start(since_s, work.traceparent, kind="job")
        if span is None:
            await self._run(work)
            return
        if is_first and (queue := self._tracer.start(since_s, span.traceparent, kind="queue")) is not None:
            queue.end("queue", began_s, {})
        state = "paused"
        try:
            with working_below(span):
                state = await self._run(work)
        finally:
            attributes: Attributes = {
                "vectorpool.job_id": job_id,
                "vectorpool.job_state": state,
                "vectorpool.run": work.run,
            }
            is_error = state in ("paused", "failed")
            span.end(f"job {work.kind}", self._sources.monotonic_s(), attributes, is_error=is_error)

    def _queued_s(self, work: Work, now_s: float) -> float:
        """Return when a job came into the queue, in monotonic seconds: no later than now, whatever clocks say."""
        return now_s - max(self._sources.now_ms() - work.created_ms, 0) / 1000

    async def _run(self, work: Work) -> str:
        """Return how the run ended."""
        if work.deaths >= MOST_DEATHS:
            at = (
                f"the last one at {work.path!r}. Look at that document"
                if work.transfer is None
                else f"of the target {work.transfer.target}. Look at their logs and memory"
            )
            died = WorkerDied(f"{work.deaths} workers died while they worked on the job, {at}, then retry the job.")
            await self._finish(work, _Notes(work), "failed", died)
            return "failed"
        notes = _Notes(work)
        try:
            if work.transfer is None:
                commit = await self._watched(work, notes, self._sync(work, notes, await self._ingestor()))
                await self._tell(work, notes)
            else:
                moving = self._transfers.run(work, work.transfer, notes.moved)
                commit = await self._watched(work, notes, moving)
        except Superseded:
            return "superseded"
        except (TryAgain, CommitConflict) as error:
            if work.kind == "forget" and isinstance(error, TargetUnavailable):
                # Rounds ask again, as long as it takes; the user's other jobs do not wait.
                await self._finish(work, notes, "failed", error)
                return "failed"
            await self._note(work, notes, is_pausing=True)
            raise
        except VectorpoolError as error:
            await self._finish(work, notes, "failed", error)
            return "failed"
        except Exception:
            logger.exception("a job failed unexpectedly")
            await self._finish(
                work, notes, "failed", InternalError("The job failed for a reason of ours; see the log.")
            )
            return "failed"
        await self._finish(work, notes, "done", commit=commit)
        return "done"

    async def give_up(self, job_id: str, attempt: int, error: VectorpoolError) -> None:
        """End a job that failed as often as it may."""
        work = await self._persist(lambda: self._store.begin(job_id, attempt))
        if work is not None:
            await self._finish(work, _Notes(work), "failed", error)

    async def _sync(self, work: Work, notes: _Notes, ingestor: Ingestor) -> int:
        return await ingestor.sync(
            work.user_id,
            work.avatar_id,
            work.paths,
            notes.done,
            force=work.force,
            choice=work.choice,
            fresh=frozenset(path for path, outcome in work.done.items() if outcome.status == "ingested"),
            progress=notes.progress,
            check=self._hooks.check_of(work.job_id, work.options),
        )

    async def _watched(self, work: Work, notes: _Notes, running: Coroutine[Any, Any, int]) -> int:
        """Return the commit of what runs, and store its notes meanwhile. Raises Superseded, JobStalled."""
        task = asyncio.create_task(running)
        try:
            changed, changed_s = notes.changes, self._sources.monotonic_s()
            while not task.done():
                await asyncio.wait([task], timeout=_NOTE_EVERY_S)
                if notes.changes != changed:
                    changed, changed_s = notes.changes, self._sources.monotonic_s()
                elif self._sources.monotonic_s() - changed_s > STALLED_S:
                    raise JobStalled(f"Nothing was done for {STALLED_S:.0f} seconds, the last at {notes.path!r}.")
                if not task.done():
                    await self._note(work, notes)
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _tell(self, work: Work, notes: _Notes) -> None:
        """Tell others of the documents that have records. Raises WebhookUndelivered."""
        if work.options is None or work.options.webhook_url is None or work.paths is None:
            return
        await self._note(work, notes)
        paths = [path for path in work.paths if path not in notes.without_records]
        of = (work.user_id, work.avatar_id)
        with stage("webhook"):
            await self._hooks.tell(work.job_id, work.attempt, work.number, of, paths, work.options)

    async def _note(self, work: Work, notes: _Notes, *, is_pausing: bool = False) -> None:
        """Store what was done since. A database that does not answer is asked again with the next note."""
        outcomes, notes.waiting = notes.waiting, []
        with contextlib.suppress(JobsUnavailable):
            try:
                is_ours = await asyncio.to_thread(
                    self._store.note,
                    work.job_id,
                    work.run,
                    outcomes,
                    notes.counts,
                    notes.path,
                    is_pausing=is_pausing,
                    transfer=work.transfer,
                )
            except JobsUnavailable:
                notes.waiting = (outcomes + notes.waiting)[:_MOST_NOTES]
                raise
            if not is_ours and not is_pausing:
                raise Superseded

    async def _finish(
        self, work: Work, notes: _Notes, state: JobState, error: VectorpoolError | None = None, *, commit: int = 0
    ) -> None:
        def finish() -> bool:
            if notes.waiting or notes.changes or work.transfer is not None:
                self._store.note(work.job_id, work.run, notes.waiting, notes.counts, None, transfer=work.transfer)
                notes.waiting = []
            if state == "done" and work.kind in ("export", "forget") and work.transfer is not None:
                held = -commit if work.kind == "forget" else commit
                self._store.exports.note(work.transfer.target, work.user_id, held)
            code, reason = (None, None) if error is None else (error.code, error.detail)
            return self._store.finish(work.job_id, work.run, state, commit=commit, code=code, reason=reason)

        is_ours = await self._persist(finish)
        if is_ours and error is not None:
            if work.kind in ("export", "forget") and work.transfer is not None:
                await self._tell_failed_export(work.user_id, work.transfer.target, error)
                return
            await self._notifications.tell(
                "job-dead",
                user_id=work.user_id,
                subject=work.job_id,
                reason=error.detail,
                remedy="Look at GET /users/{user_id}/jobs/{job_id}; retry the job when the reason is gone.",
                detail={"job_id": work.job_id, "avatar_id": work.avatar_id, "code": error.code},
            )
        elif is_ours and work.kind in ("export", "forget") and work.transfer is not None:
            await self._notifications.settle("export-failed", user_id=work.user_id, subject=work.transfer.target)
        elif is_ours and work.run > 1:
            # An earlier run may have failed for good, and the job was retried.
            await self._notifications.settle("job-dead", user_id=work.user_id, subject=work.job_id)

    async def _tell_failed_export(self, user_id: str, target: str, error: VectorpoolError) -> None:
        """Tell that a target does not get a user's vectors, unless there are none to export."""
        if isinstance(error, UserNotFound):
            await self._notifications.settle("export-failed", user_id=user_id, subject=target)
            return
        await self._notifications.tell(
            "export-failed",
            user_id=user_id,
            subject=target,
            reason=error.detail,
            remedy="Do what the reason asks for; POST /users/{user_id}/jobs/{job_id}/retry tries again at once.",
            detail={"target": target, "code": error.code},
        )

    async def _persist(self, attempt: Callable[[], T]) -> T:
        """Return what a blocking call of the store returns; repeat it while the database does not answer, for long."""
        until_s = self._sources.monotonic_s() + _DATABASE_S
        while True:
            try:
                return await asyncio.to_thread(attempt)
            except JobsUnavailable:
                if self._sources.monotonic_s() > until_s:
                    raise
                await self._sources.sleep(0.5 + self._sources.random())


class _Notes:
    """What a run did and has not stored yet, and its counts, which go on from those of the run before."""

    def __init__(self, work: Work) -> None:
        self.waiting: list[DocumentOutcome] = []
        self.counts = JobCounts()
        self.path = work.path
        self.changes = 0
        self._before = dict(work.done)
        self._stored = len(work.done)
        self._stored_failed = 0
        self.without_records: set[str] = set()
        for outcome in work.done.values():
            self._count(outcome)

    def _count(self, outcome: DocumentOutcome) -> None:
        counts = self.counts
        setattr(counts, outcome.status, getattr(counts, outcome.status) + 1)
        counts.chunks += outcome.chunks if outcome.status == "ingested" else 0
        counts.tokens += outcome.tokens
        counts.total = max(counts.total, counts.done)

    def done(self, outcome: DocumentOutcome) -> None:
        """Take an outcome of the sync."""
        self.changes += 1
        if outcome.status in ("failed", "removed", "missing"):
            self.without_records.add(outcome.path)
        before = self._before.pop(outcome.path, None)
        if before is not None:
            if outcome.status == "unchanged":
                # The run before it committed the document, and this one found it so.
                return
            setattr(self.counts, before.status, getattr(self.counts, before.status) - 1)
        self._count(outcome)
        failed = outcome.status == "failed"
        if before is not None or self._stored < MOST_DOCUMENTS:
            self._stored += before is None
            self.waiting.append(outcome)
        elif failed and self._stored_failed < MOST_DOCUMENTS:
            self._stored_failed += 1
            self.waiting.append(outcome)

    def moved(self) -> None:
        """Note that an export or import got further; from any thread."""
        self.changes += 1

    def progress(self, progress: IngestProgress) -> None:
        """Take the progress of the sync."""
        self.changes += 1
        self.path = progress.path
        self.counts.total = max(self.counts.total, progress.documents_total)
