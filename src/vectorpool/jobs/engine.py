"""The engine under the jobs: DBOS on SQLite or PostgreSQL. The only module that imports it.

A job is a workflow of one step. The step is a run of a sync, which is repeated with backoff if it fails for what may
pass; DBOS keeps who runs what, and gives the queue its partitions: one job of a user at a time, in the order in which
they came, ``jobs_at_once`` in a worker.

*Take-over.* On SQLite the file belongs to one process, which holds a lock on it: a second one would take living jobs
for dead ones. Its successor has the same executor id, so DBOS starts the jobs again. On PostgreSQL each process has an
id of its own and holds a session's advisory lock of that name. Every few seconds each tries the locks of other ids
that have running jobs; what it gets belonged to a dead process, and goes back into the queue. A process whose session
was lost takes its lock again, or ends if it cannot: then others took its jobs, and run numbers keep the two apart.

The version of the application is fixed: by default DBOS makes it of the source, and an upgrade would recover nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID

from vectorpool.errors import CommitConflict, JobsUnavailable, Misconfigured, TryAgain, VectorpoolError
from vectorpool.jobs.failures import unanswered
from vectorpool.jobs.rounds import ExportRounds
from vectorpool.jobs.run import Runner
from vectorpool.jobs.store import JobStore
from vectorpool.jobs.views import TRANSFERS, JobKind
from vectorpool.local_paths import jobs_dir
from vectorpool.platform.privacy import make_private
from vectorpool.settings import Settings
from vectorpool.sources import Sources

logger = logging.getLogger(__name__)

# Raise it only if workflows that are under way could not be run by the new code.
APPLICATION_VERSION: Final = "vectorpool-jobs-1"
QUEUE: Final = "vectorpool-jobs"
# Of their own, so that a target that is slow or away holds up no ingest.
TRANSFER_QUEUE: Final = "vectorpool-transfers"
# Rounds of exports, one at a time of all workers.
ROUND_QUEUE: Final = "vectorpool-export-rounds"
_EXECUTOR: Final = "instance"
_WORKFLOW: Final = "vectorpool-job"
_QUEUES: Final = (QUEUE, TRANSFER_QUEUE, ROUND_QUEUE)
# How often a worker asks each queue: its questions are most of what an idle worker costs.
_POLL_S: Final = {QUEUE: 0.25, TRANSFER_QUEUE: 1.0, ROUND_QUEUE: 1.0}
_ATTEMPTS: Final = 8
_ROUND_ATTEMPTS: Final = 4
_FIRST_BACKOFF_S: Final = 2.0
# Deaths of workers are counted by the store, which knows whether a run got further.
_MOST_RECOVERIES: Final = 100_000
_KEEP_EVERY_S: Final = 5.0
# A job that nothing touched for so long is looked for in the engine.
_UNTOUCHED_MS: Final = 30_000
_LOOKED_AT_ONCE: Final = 100


class _Current:
    """What the workflow runs with: DBOS knows functions, not objects, and there is one engine a process."""

    runner: Runner | None = None
    rounds: ExportRounds | None = None
    # Jobs' workflows whose function runs here.
    running: Final = set[str]()


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, TryAgain | CommitConflict)


@DBOS.step(
    name="vectorpool-run",
    retries_allowed=True,
    max_attempts=_ATTEMPTS,
    interval_seconds=_FIRST_BACKOFF_S,
    backoff_rate=2.0,
    should_retry=_is_temporary,
)
async def _run_step(job_id: str, attempt: int) -> None:
    assert _Current.runner is not None
    await _Current.runner.run(job_id, attempt)


@DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=_MOST_RECOVERIES)
async def _run_workflow(job_id: str, attempt: int) -> None:
    assert _Current.runner is not None
    _Current.running.add(f"{job_id}.{attempt}")
    try:
        await _run_step(job_id, attempt)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        causes = [*getattr(error, "errors", []), error]
        known = next((each for each in reversed(causes) if isinstance(each, VectorpoolError)), None)
        reason = known or JobsUnavailable(f"The job failed {_ATTEMPTS} times ({type(error).__name__}). Retry it later.")
        await _Current.runner.give_up(job_id, attempt, reason)
    finally:
        _Current.running.discard(f"{job_id}.{attempt}")


@DBOS.step(
    name="vectorpool-round-step",
    retries_allowed=True,
    max_attempts=_ROUND_ATTEMPTS,
    interval_seconds=_FIRST_BACKOFF_S,
    backoff_rate=2.0,
    should_retry=_is_temporary,
)
async def _round_step() -> None:
    assert _Current.rounds is not None
    done = await _Current.rounds.run()
    logger.info("a round of exports looked at %d users, and asked for %d exports", done.users, done.asked)


@DBOS.workflow(name="vectorpool-export-round", max_recovery_attempts=_MOST_RECOVERIES)
async def _round_workflow(slot: int) -> None:
    try:
        await _round_step()
    except asyncio.CancelledError:
        raise
    except Exception as error:
        logger.warning("round %d of exports failed, the next one makes up for it: %s", slot, type(error).__name__)


class Database:
    """The database of jobs: its engine, and on SQLite the lock on its file."""

    def __init__(self, settings: Settings) -> None:
        """Raise Misconfigured for a URL that cannot be meant, or a file that another process has."""
        self.url, self.is_shared = database_url(settings)
        self._lock: int | None = None
        if self.is_shared:
            self.engine = sa.create_engine(
                self.url, pool_size=8, max_overflow=8, pool_pre_ping=True, connect_args={"connect_timeout": 10}
            )
            return
        path = Path(self.url.removeprefix("sqlite:///"))
        self._lock = _locked(path)
        self.engine = _sqlite(self.url)

    def close(self) -> None:
        """Close the connections, and let the file go."""
        self.engine.dispose()
        if self._lock is not None:
            os.close(self._lock)


def database_url(settings: Settings) -> tuple[str, bool]:
    """Return the URL of the database of jobs, and whether processes share it. Raises Misconfigured."""
    text = settings.jobs_url.strip()
    if not text:
        return f"sqlite:///{(jobs_dir(Path(settings.replica_dir)) / 'jobs.sqlite3').absolute()}", False
    scheme, _, rest = text.partition("://")
    if scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        return f"postgresql+psycopg://{rest}", True
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return f"sqlite:///{Path(rest[1:]).absolute()}", False
    raise Misconfigured(
        "jobs_url is neither sqlite:///PATH nor postgresql://USER:PASSWORD@HOST/DATABASE. Give one of them, or leave "
        "it out for a file of this instance."
    )


def _locked(path: Path) -> int:
    try:
        make_private(path.parent)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Misconfigured(f"The database of jobs {path} cannot be made: {error.strerror}. Set jobs_url.") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise Misconfigured(
            f"Another process has the database of jobs {path}, and would take this one's jobs for dead ones. Give each "
            "instance a file of its own, or let them share PostgreSQL (VECTORPOOL_JOBS_URL)."
        ) from None
    return lock


def _sqlite(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        # As DBOS does to engines of its own.
        connection.isolation_level = "IMMEDIATE"
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


class Engine:
    """DBOS, launched on the running event loop. One a process."""

    def __init__(
        self,
        database: Database,
        store: JobStore,
        runner: Runner,
        settings: Settings,
        sources: Sources,
        rounds: ExportRounds,
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._sources = sources
        self._executor = sources.uuid() if database.is_shared else _EXECUTOR
        self._session: psycopg.Connection[Any] | None = None
        self._idle = set[str]()
        _Current.runner = runner
        _Current.rounds = rounds
        self._slot = -1

    async def launch(self) -> None:
        """Start; what this executor left running is started again. Raises JobsUnavailable."""
        if self._database.is_shared:
            await asyncio.to_thread(self._hold_lock)
        config: DBOSConfig = {
            "name": "vectorpool",
            "system_database_url": self._database.url,
            "system_database_engine": self._database.engine,
            "application_version": APPLICATION_VERSION,
            "executor_id": self._executor,
            "log_level": "WARNING",
            "enable_otlp": False,
            "use_listen_notify": False,
        }
        DBOS(config=config)
        try:
            # In the loop's own coroutine: then workflows run on this loop.
            DBOS.launch()
        except sa.exc.DBAPIError as error:
            raise unanswered(error) from error
        except OSError as error:
            raise JobsUnavailable(f"The database of jobs cannot be used: {error}.") from error
        if self._settings.jobs_at_once:
            at_once = {QUEUE: self._settings.jobs_at_once, TRANSFER_QUEUE: self._settings.transfers_at_once}
            poll_s = _POLL_S[ROUND_QUEUE]
            await DBOS.register_queue_async(
                ROUND_QUEUE, global_concurrency=1, polling_interval_sec=poll_s, on_conflict="always_update"
            )
            for name, most in at_once.items():
                await DBOS.register_queue_async(
                    name,
                    partition_concurrency=1,
                    worker_concurrency=most,
                    polling_interval_sec=_POLL_S[name],
                    on_conflict="always_update",
                )

    async def enqueue(self, user_id: str, job_id: str, attempt: int, kind: JobKind) -> None:
        """Put a job into its user's part of its queue; a second time for the same attempt does nothing."""
        queue = TRANSFER_QUEUE if kind in TRANSFERS else QUEUE
        with SetWorkflowID(f"{job_id}.{attempt}"), SetEnqueueOptions(queue_partition_key=user_id):
            try:
                await DBOS.enqueue_workflow_async(queue, _run_workflow, job_id, attempt)
            except sa.exc.DBAPIError as error:
                raise unanswered(error) from error

    async def cancel(self, job_id: str, attempt: int) -> None:
        """Take a job out of the queue; one that runs sees in the store that it was cancelled."""
        with contextlib.suppress(Exception):
            await DBOS.cancel_workflow_async(f"{job_id}.{attempt}")

    async def keep(self) -> None:
        """Take over, look for jobs that the engine lost, and delete old ones, until cancelled."""
        while True:
            await self._sources.sleep(_KEEP_EVERY_S * (0.5 + self._sources.random()))
            try:
                if self._database.is_shared:
                    await asyncio.to_thread(self._take_over)
                await self._take_up_lost()
                await self._begin_round()
                await self._look()
                await self._collect()
            except (VectorpoolError, sa.exc.SQLAlchemyError, psycopg.Error) as error:
                logger.warning("the database of jobs did not answer: %s", type(error).__name__)

    async def _begin_round(self) -> None:
        """Have this interval's round of exports run, by one worker, unless the one before it still waits."""
        assert _Current.rounds is not None
        slot = int(self._sources.now_ms() / (self._settings.export_interval_s * 1000))
        if not _Current.rounds.is_on or slot == self._slot:
            return
        self._slot = slot
        waiting = await DBOS.list_workflows_async(
            queue_name=ROUND_QUEUE, status="ENQUEUED", limit=1, load_input=False, load_output=False
        )
        if not waiting:
            # All workers give it the same id, and DBOS takes the first.
            with SetWorkflowID(f"export-round.{self._settings.export_interval_s:g}.{slot}"):
                await DBOS.enqueue_workflow_async(ROUND_QUEUE, _round_workflow, slot)

    # --- Take-over -----------------------------------------------------------------------------------

    def _hold_lock(self) -> None:
        """Hold this process's lock in a session of its own. Blocking; ends the process if another one has it."""
        try:
            session = psycopg.connect(
                self._database.url.replace("postgresql+psycopg://", "postgresql://", 1),
                autocommit=True,
                connect_timeout=10,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
            )
        except psycopg.Error as error:
            raise JobsUnavailable(f"The database of jobs cannot be reached: {type(error).__name__}.") from error
        if not _try_lock(session, self._executor):
            logger.error("another worker took this one's jobs over; it ends")
            os._exit(1)
        self._session = session

    def _take_over(self) -> None:
        session = self._session
        try:
            assert session is not None
            session.execute("SELECT 1")
        except psycopg.Error:
            if session is not None:
                session.close()
            self._hold_lock()
            session = self._session
        assert session is not None
        # Private, and the only way; the version of DBOS is bounded in pyproject.
        pending = [
            each
            for queue in _QUEUES
            for each in DBOS.list_workflows(status="PENDING", queue_name=queue, load_input=False, load_output=False)
        ]
        others = {each.executor_id for each in pending if each.executor_id and each.executor_id != self._executor}
        for executor in sorted(others):
            if _try_lock(session, executor):
                try:
                    recovered = DBOS._recover_pending_workflows([executor])
                    logger.warning("a worker is dead; %d of its jobs go on", len(recovered))
                finally:
                    session.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", (executor,))

    async def _take_up_lost(self) -> None:
        """Put workflows of jobs back into the queue that are this process's, and whose function does not run.

        Seen twice in a row: their end could not be written, on a full disk for example, and holds their user's place.
        """
        pending = await DBOS.list_workflows_async(
            status="PENDING", name=_WORKFLOW, queue_name=[QUEUE, TRANSFER_QUEUE], load_input=False, load_output=False
        )
        of = {each.workflow_id: each.queue_name for each in pending if each.executor_id == self._executor}
        idle = of.keys() - _Current.running
        lost, self._idle = idle & self._idle, idle - self._idle
        for workflow_id in sorted(lost):
            logger.warning("the end of a job could not be noted; it is looked at again")
            await DBOS.resume_workflow_async(workflow_id, queue_name=of[workflow_id])

    async def _look(self) -> None:
        """Enqueue jobs again that the engine does not know, or knows as ended: it was cut off between two notes."""
        before_ms = self._sources.now_ms() - _UNTOUCHED_MS
        for job_id, attempt, user_id, kind in await asyncio.to_thread(
            self._store.waiting_since, before_ms, _LOOKED_AT_ONCE
        ):
            status = await DBOS.get_workflow_status_async(f"{job_id}.{attempt}")
            if status is None:
                await self.enqueue(user_id, job_id, attempt, kind)
            elif status.status not in ("ENQUEUED", "PENDING", "DELAYED"):
                assert _Current.runner is not None
                await _Current.runner.give_up(
                    job_id, attempt, JobsUnavailable("The job was cut off, and not ended. Retry it.")
                )
            await asyncio.to_thread(self._store.touch, job_id)

    async def _collect(self) -> None:
        before_ms = self._sources.now_ms() - int(self._settings.jobs_retention_s * 1000)
        await asyncio.to_thread(self._store.collect, before_ms)
        old = await DBOS.list_workflows_async(
            completed_before=datetime.fromtimestamp(before_ms / 1000, UTC).isoformat(),
            limit=_LOOKED_AT_ONCE,
            load_input=False,
            load_output=False,
        )
        if old:
            await DBOS.delete_workflows_async([each.workflow_id for each in old])


def _try_lock(session: psycopg.Connection[Any], name: str) -> bool:
    row = session.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
    return bool(row and row[0])
