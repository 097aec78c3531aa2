"""The record of jobs: what callers are shown, in two tables beside those of DBOS.

DBOS decides which process runs what and when; this record says what was asked for and what came of it. Each start of a
job takes the next ``run`` number, and one that writes with an older one is told that it runs the job no more: so a
process that was thought dead, or a job that was cancelled, stops at its next note. All functions block.

*Bounds.* ``user_jobs`` waiting jobs a user; ``MOST_DOCUMENTS`` outcomes of a job, and as many failed ones beside them;
finished jobs are deleted after ``jobs_retention_s``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from vectorpool.commands import PipelineChoice
from vectorpool.documents.reports import DocumentOutcome
from vectorpool.errors import JobNotFound, JobUnfinished, LimitExceeded, QueueFull
from vectorpool.jobs.exported import ExportRecord
from vectorpool.jobs.failures import unanswered
from vectorpool.jobs.rows import Work, anew, encoded, job_of, transfer_of, work_of
from vectorpool.jobs.tables import documents as _documents
from vectorpool.jobs.tables import jobs as _jobs
from vectorpool.jobs.tables import migrate
from vectorpool.jobs.views import (
    FINISHED,
    Job,
    JobCounts,
    JobKind,
    JobOptions,
    JobPage,
    JobsByState,
    JobState,
    Transfer,
)
from vectorpool.sources import Sources

MOST_DOCUMENTS: Final = 10_000
# Paths of one job; a sync of more is one of the whole avatar.
_MOST_PATHS: Final = 500
_DELETED_AT_ONCE: Final = 200


class JobStore:
    """The tables over one engine. Raises JobsUnavailable if the database does not answer."""

    def __init__(self, engine: sa.Engine, sources: Sources, *, user_jobs: int, is_shared: bool) -> None:
        self._engine = engine
        self._sources = sources
        self._user_jobs = user_jobs
        self._is_shared = is_shared
        self.exports = ExportRecord(self._begin, sources)

    def create(self) -> None:
        """Create the tables, or bring those of an earlier version up to this one. Raises Misconfigured."""
        with self._begin() as db:
            if self._is_shared:
                # Workers that start together.
                db.execute(sa.text("SELECT pg_advisory_xact_lock(7682341905)"))
            migrate(db)

    @contextmanager
    def _begin(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as db:
                if not self._is_shared:
                    # The driver begins only before the first change, and what was read before may have changed then.
                    db.exec_driver_sql("BEGIN IMMEDIATE")
                yield db
        except sa.exc.DBAPIError as error:
            raise unanswered(error) from error

    # --- Callers -------------------------------------------------------------------------------------

    def add(
        self,
        user_id: str,
        avatar_id: str,
        kind: JobKind,
        paths: Sequence[str] | None,
        force: bool,
        choice: PipelineChoice | None = None,
        options: JobOptions | None = None,
        *,
        is_numbered: bool = False,
        traceparent: str = "",
        transfer: Transfer | None = None,
    ) -> tuple[Job, bool]:
        """Return a new job, or the waiting one that a sync or export joins, and whether it is new. Raises QueueFull."""
        with self._begin() as db:
            if (
                kind in ("export", "forget")
                and (row := self._waiting_transfer(db, user_id, kind, transfer)) is not None
            ):
                return job_of(row), False
            if kind == "sync" and (row := self._waiting(db, user_id, avatar_id)) is not None:
                known = msgspec.json.decode(row.paths, type=list[str] | None)
                joined = None if known is None or paths is None else sorted({*known, *paths})
                if joined is not None and len(joined) > _MOST_PATHS:
                    joined = None
                self._update(db, row.id, paths=encoded(joined), traceparent=row.traceparent or traceparent)
                return job_of(self._row(db, user_id, row.id)), False
            of_user = sa.select(sa.func.count()).where(_jobs.c.user_id == user_id, _jobs.c.state == "queued")
            if db.execute(of_user).scalar_one() >= self._user_jobs:
                raise QueueFull(
                    f"{self._user_jobs} jobs of the user are waiting (user_jobs). Wait for them, or cancel some."
                )
            now_ms = self._sources.now_ms()
            job_id = f"{now_ms:013d}-{self._sources.uuid()[:12]}"
            db.execute(
                sa.insert(_jobs).values(
                    id=job_id,
                    user_id=user_id,
                    avatar_id=avatar_id,
                    kind=kind,
                    state="queued",
                    paths=encoded(None if paths is None else list(paths)),
                    force=force,
                    choice=encoded(choice),
                    attempt=1,
                    run=0,
                    deaths=0,
                    created_ms=now_ms,
                    touched_ms=now_ms,
                    counts=encoded(JobCounts()),
                    commit=0,
                    version=1,
                    options=encoded(options),
                    number=self._number(db, user_id, now_ms) if is_numbered else None,
                    traceparent=traceparent,
                    transfer=encoded(transfer),
                )
            )
            return job_of(self._row(db, user_id, job_id)), True

    @staticmethod
    def _number(db: sa.Connection, user_id: str, now_ms: int) -> int:
        """Return a number that no job of the user has; of the time, so that it is new after the tables were lost."""
        latest = db.execute(sa.select(sa.func.max(_jobs.c.number)).where(_jobs.c.user_id == user_id)).scalar()
        return max(now_ms * 1000, (latest or 0) + 1)

    def find(self, user_id: str, avatar_id: str, numbers: Sequence[int]) -> list[Job]:
        """Return the jobs of an avatar that have these numbers, without their documents."""
        wanted = sa.select(_jobs).where(
            _jobs.c.user_id == user_id, _jobs.c.avatar_id == avatar_id, _jobs.c.number.in_(list(numbers))
        )
        with self._begin() as db:
            return [job_of(row) for row in db.execute(wanted).all()]

    def _waiting(self, db: sa.Connection, user_id: str, avatar_id: str) -> Any:
        found = sa.select(_jobs).where(
            _jobs.c.user_id == user_id,
            _jobs.c.avatar_id == avatar_id,
            _jobs.c.kind == "sync",
            _jobs.c.state == "queued",
        )
        # With SQLite every transaction here is alone.
        return db.execute(found.order_by(_jobs.c.id.desc()).limit(1).with_for_update()).first()

    @staticmethod
    def _waiting_transfer(db: sa.Connection, user_id: str, kind: JobKind, transfer: Transfer | None) -> Any:
        found = sa.select(_jobs).where(_jobs.c.user_id == user_id, _jobs.c.kind == kind, _jobs.c.state == "queued")
        for row in db.execute(found.order_by(_jobs.c.id)).all():
            there = transfer_of(row)
            if there is not None and transfer is not None and there.asks_for(transfer):
                return row
        return None

    def show(self, user_id: str, job_id: str, limit: int, after: str) -> Job:
        """Return a job with at most ``limit`` of its documents. Raises JobNotFound."""
        with self._begin() as db:
            job = job_of(self._row(db, user_id, job_id))
            if not limit:
                return job
            rows = db.execute(
                sa.select(_documents.c.path, _documents.c.outcome)
                .where(_documents.c.job_id == job_id, _documents.c.path > after)
                .order_by(_documents.c.path)
                .limit(limit + 1)
            ).all()
        job.documents = [msgspec.json.decode(row.outcome, type=DocumentOutcome) for row in rows[:limit]]
        job.next_after = rows[limit - 1].path if len(rows) > limit else None
        return job

    def page(
        self, user_id: str, avatars: Sequence[str] | None, state: JobState | None, limit: int, after: str
    ) -> JobPage:
        """Return a user's jobs, newest first."""
        wanted = sa.select(_jobs).where(_jobs.c.user_id == user_id)
        if avatars is not None:
            wanted = wanted.where(_jobs.c.avatar_id.in_(avatars))
        if state is not None:
            wanted = wanted.where(_jobs.c.state == state)
        if after:
            wanted = wanted.where(_jobs.c.id < after)
        with self._begin() as db:
            rows = db.execute(wanted.order_by(_jobs.c.id.desc()).limit(limit + 1)).all()
        return JobPage([job_of(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None)

    def cancel(self, user_id: str, job_id: str) -> tuple[Job, bool]:
        """End a job that is not finished; return it, and whether it was so."""
        with self._begin() as db:
            row = self._row(db, user_id, job_id, lock=True)
            if row.state in FINISHED:
                return job_of(row), False
            self._update(db, job_id, state="cancelled", finished_ms=self._sources.now_ms())
            return job_of(self._row(db, user_id, job_id)), True

    def retry(self, user_id: str, job_id: str, traceparent: str = "") -> Job:
        """Take what failed of a finished job again: the failed documents, or all if the job itself ended early.

        Raises JobUnfinished, LimitExceeded if nothing failed.
        """
        with self._begin() as db:
            row = self._row(db, user_id, job_id, lock=True)
            if row.state not in FINISHED:
                raise JobUnfinished(f"The job is {row.state}. Wait until it is finished, or cancel it.")
            paths = row.paths
            if row.state == "done":
                failed = (_documents.c.job_id == job_id) & (_documents.c.status == "failed")
                named = [r.path for r in db.execute(sa.select(_documents.c.path).where(failed)).all()]
                if not named:
                    raise LimitExceeded("No document of the job failed, so there is nothing to take again.")
                paths = encoded(sorted(named))
            db.execute(sa.delete(_documents).where(_documents.c.job_id == job_id))
            self._update(
                db,
                job_id,
                state="queued",
                paths=paths,
                attempt=row.attempt + 1,
                deaths=0,
                finished_ms=None,
                code=None,
                reason=None,
                path=None,
                counts=encoded(JobCounts()),
                traceparent=traceparent,
                transfer=encoded(anew(transfer_of(row))),
            )
            return job_of(self._row(db, user_id, job_id))

    def waiting_exports(self) -> int:
        """Return how many exports, and deletions at targets, of all users wait."""
        kinds = _jobs.c.kind.in_(("export", "forget"))
        of_kind = sa.select(sa.func.count()).where(kinds, _jobs.c.state == "queued")
        with self._begin() as db:
            return int(db.execute(of_kind).scalar_one())

    def count(self) -> JobsByState:
        """Return how many jobs there are in each state."""
        with self._begin() as db:
            rows = db.execute(sa.select(_jobs.c.state, sa.func.count()).group_by(_jobs.c.state)).all()
        return msgspec.convert({row[0]: row[1] for row in rows}, JobsByState)

    # --- Workers -------------------------------------------------------------------------------------

    def begin(self, job_id: str, attempt: int) -> Work | None:
        """Begin a run of a job; return its work, or None if there is nothing to run: it was cancelled, for example."""
        with self._begin() as db:
            row = db.execute(sa.select(_jobs).where(_jobs.c.id == job_id).with_for_update()).first()
            if row is None or row.attempt != attempt or row.state in FINISHED:
                return None
            stored = db.execute(
                sa.select(_documents.c.path, _documents.c.outcome).where(_documents.c.job_id == job_id)
            ).all()
            deaths = row.deaths + (row.state == "running")
            started_ms = row.started_ms if row.state == "running" else self._sources.now_ms()
            self._update(db, job_id, state="running", run=row.run + 1, deaths=deaths, started_ms=started_ms)
        return work_of(row, row.run + 1, deaths, started_ms or 0, stored)

    def note(
        self,
        job_id: str,
        run: int,
        outcomes: Sequence[DocumentOutcome],
        counts: JobCounts,
        path: str | None,
        *,
        is_pausing: bool = False,
        transfer: Transfer | None = None,
    ) -> bool:
        """Note what was done; return whether the job is still this run's.

        ``is_pausing``: the run ends, to be followed by another one, and its end is no death. ``transfer``: how far an
        export or import is.
        """
        with self._begin() as db:
            values: dict[str, Any] = {"counts": encoded(counts), "path": path}
            if transfer is not None:
                values["transfer"] = encoded(transfer)
            if is_pausing:
                values["deaths"] = _jobs.c.deaths - 1
            elif outcomes:
                values["deaths"] = 0
            if not self._update(db, job_id, run=run, **values):
                return False
            if outcomes:
                latest = {outcome.path: outcome for outcome in outcomes}
                named = sa.and_(_documents.c.job_id == job_id, _documents.c.path.in_(list(latest)))
                db.execute(sa.delete(_documents).where(named))
                rows = [
                    {"job_id": job_id, "path": path, "status": each.status, "outcome": msgspec.json.encode(each)}
                    for path, each in latest.items()
                ]
                db.execute(sa.insert(_documents), rows)
        return True

    def finish(
        self, job_id: str, run: int, state: JobState, *, commit: int, code: str | None, reason: str | None
    ) -> bool:
        """End a run with its job; return whether the job was still this run's."""
        with self._begin() as db:
            now_ms = self._sources.now_ms()
            ended = {"state": state, "finished_ms": now_ms, "code": code, "reason": reason, "path": None}
            if commit:
                ended["commit"] = commit
            return self._update(db, job_id, run=run, **ended)

    def waiting_since(self, before_ms: int, limit: int) -> list[tuple[str, int, str, JobKind]]:
        """Return (id, attempt, user, kind) of queued and running jobs that nothing touched since."""
        with self._begin() as db:
            rows = db.execute(
                sa.select(_jobs.c.id, _jobs.c.attempt, _jobs.c.user_id, _jobs.c.kind)
                .where(_jobs.c.state.in_(("queued", "running")), _jobs.c.touched_ms < before_ms)
                .order_by(_jobs.c.touched_ms)
                .limit(limit)
            ).all()
        return [(row.id, row.attempt, row.user_id, row.kind) for row in rows]

    def touch(self, job_id: str) -> None:
        """Note that a job was looked at."""
        with self._begin() as db:
            db.execute(sa.update(_jobs).where(_jobs.c.id == job_id).values(touched_ms=self._sources.now_ms()))

    def collect(self, before_ms: int) -> int:
        """Delete jobs that were finished before; return how many, a bounded number."""
        with self._begin() as db:
            ids = [
                row.id
                for row in db.execute(
                    sa.select(_jobs.c.id)
                    .where(_jobs.c.state.in_(tuple(FINISHED)), _jobs.c.finished_ms < before_ms)
                    .limit(_DELETED_AT_ONCE)
                ).all()
            ]
            if ids:
                db.execute(sa.delete(_documents).where(_documents.c.job_id.in_(ids)))
                db.execute(sa.delete(_jobs).where(_jobs.c.id.in_(ids)))
        return len(ids)

    # --- Rows ----------------------------------------------------------------------------------------

    def _row(self, db: sa.Connection, user_id: str, job_id: str, *, lock: bool = False) -> Any:
        found = sa.select(_jobs).where(_jobs.c.id == job_id, _jobs.c.user_id == user_id)
        row = db.execute(found.with_for_update() if lock else found).first()
        if row is None:
            more = (
                ""
                if self._is_shared
                else " This instance keeps its jobs in a file of its own: if another one took the job, ask that one, "
                "or let all of them share PostgreSQL (VECTORPOOL_JOBS_URL)."
            )
            raise JobNotFound(f"The user has no job of this id, or it was finished long ago.{more}")
        return row

    def _update(self, db: sa.Connection, job_id: str, *, run: int | None = None, **values: Any) -> bool:
        """Change a job; with ``run`` and no new state it must be that run's, and running."""
        changed = sa.update(_jobs).where(_jobs.c.id == job_id)
        if values.get("state") == "running":
            values["run"] = run
        elif run is not None:
            changed = changed.where(_jobs.c.run == run, _jobs.c.state == "running")
        values |= {"touched_ms": self._sources.now_ms(), "version": _jobs.c.version + 1}
        return db.execute(changed.values(**values)).rowcount > 0
