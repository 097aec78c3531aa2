"""The worker's own process: ``python -m vectorpool.jobs.process FD``, started by ``client``; or ``vectorpool worker``.

It answers the front's requests about jobs and runs jobs. It ends with the front: what it ran is taken up by the next
one. It ends at once and not by steps, because a job that is cancelled would be noted as cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import uvloop

from vectorpool import logs
from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.turns import FairTurns
from vectorpool.embedding import open_embedder
from vectorpool.errors import InternalError, JobNotFound, Misconfigured, VectorpoolError
from vectorpool.extraction.workshop import Workshop
from vectorpool.jobs.engine import Database, Engine
from vectorpool.jobs.hooks import Hooks
from vectorpool.jobs.protocol import (
    CancelJob,
    CountJobs,
    Done,
    Enqueue,
    FindJobs,
    FromWorker,
    ListJobs,
    Ping,
    Refused,
    Request,
    RetryJob,
    ShowJob,
    WorkerHello,
    WorkerReady,
    encode_frame,
    read_frame,
    to_worker_decoder,
)
from vectorpool.jobs.rounds import ExportRounds
from vectorpool.jobs.run import Runner
from vectorpool.jobs.service import ServiceRouter
from vectorpool.jobs.store import JobStore
from vectorpool.jobs.transfers import Transfers
from vectorpool.jobs.views import FINISHED, Job, JobKind, JobPage, Transfer
from vectorpool.notifications import Notifications
from vectorpool.objects.stores import open_bucket
from vectorpool.platform import allocator
from vectorpool.platform.privacy import keep_private
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures
from vectorpool.traces import open_tracer

logger = logging.getLogger(__name__)

# Bulk embedding gives way to the front and the shards of the same machine.
_NICENESS: Final = 5
_LARGE_AT_ONCE: Final = 2
_LOOK_S: Final = 0.25


class Worker:
    """The parts of a worker."""

    def __init__(self, settings: Settings, url: str, key: str | None) -> None:
        """Raise Misconfigured for settings that cannot be meant."""
        self._settings = settings
        self._database = Database(settings)
        self.store = JobStore(
            self._database.engine, SYSTEM, user_jobs=settings.user_jobs, is_shared=self._database.is_shared
        )
        if not settings.jobs_at_once and not self._database.is_shared:
            raise Misconfigured(
                "jobs_at_once is 0, and no other process can run the jobs of this instance's own file. Raise it, or "
                "share PostgreSQL (VECTORPOOL_JOBS_URL)."
            )
        self._router = ServiceRouter(url, key)
        self._bucket = open_bucket(settings)
        self._workshop = Workshop(settings)
        self._opening: asyncio.Task[Ingestor] | None = None
        hooks = Hooks(self._router, settings, SYSTEM)
        notifications = Notifications(self._bucket, settings)
        # The figures of a worker are not scraped.
        self._tracer = open_tracer(settings, Figures())
        transfers = Transfers(self._bucket, self._router, settings)
        runner = Runner(self.store, self._ingestor, hooks, notifications, SYSTEM, transfers, self._tracer)
        rounds = ExportRounds(
            self._bucket,
            self.store.exports,
            notifications,
            settings,
            SYSTEM,
            self._ask_transfer,
            self._waiting_exports,
            transfers.drop,
        )
        self._deleted = rounds.deleted
        self.engine = Engine(self._database, self.store, runner, settings, SYSTEM, rounds)
        self._supervisor = Supervisor(SYSTEM)

    async def start(self) -> None:
        """Begin to run jobs. Raises JobsUnavailable."""
        await asyncio.to_thread(self.store.create)
        await self.engine.launch()
        self._supervisor.start("job upkeep", self.engine.keep)
        self._supervisor.start("deletions at targets", self._deleted.keep)
        self._supervisor.start("memory return", partial(allocator.give_back, SYSTEM))

    async def _ingestor(self) -> Ingestor:
        """Return what syncs; the model is loaded for the first job, and not before."""
        if self._opening is None or (self._opening.done() and self._opening.exception() is not None):
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Ingestor:
        embedder = open_embedder(self._settings, SYSTEM, is_bulk=True)
        await embedder.start()
        library = DocumentLibrary(self._bucket, self._settings)
        turns = FairTurns(self._settings.documents_at_once, _LARGE_AT_ONCE)
        return Ingestor(library, embedder, self._router, self._settings, SYSTEM, turns, self._workshop)

    async def close(self) -> None:
        """Send what is left of traces, within their bounded time; jobs that run are left to another process."""
        if self._tracer is not None:
            await self._tracer.close()

    async def _ask_transfer(self, kind: JobKind, user_id: str, target: str) -> bool:
        job, is_new = await asyncio.to_thread(self.store.add, user_id, "", kind, None, False, transfer=Transfer(target))
        if is_new:
            await self.engine.enqueue(user_id, job.job_id, job.attempt, job.kind)
        return is_new

    async def _waiting_exports(self) -> int:
        return await asyncio.to_thread(self.store.waiting_exports)

    # --- Requests ------------------------------------------------------------------------------------

    async def answer(self, request: Request) -> bytes:
        """Return the JSON of a request's answer. Raises VectorpoolError."""
        match request:
            case Ping():
                return b"{}"
            case Enqueue():
                return await self._enqueue(request)
            case ShowJob():
                return await self._show(request)
            case CountJobs():
                return msgspec.json.encode(await asyncio.to_thread(self.store.count))
            case FindJobs():
                found = await asyncio.to_thread(self.store.find, request.user_id, request.avatar_id, request.numbers)
                return msgspec.json.encode(JobPage(found))
            case ListJobs():
                page = await asyncio.to_thread(
                    self.store.page, request.user_id, request.avatars, request.state, request.limit, request.after
                )
                return msgspec.json.encode(page)
            case CancelJob():
                job, was_open = await asyncio.to_thread(self.store.cancel, request.user_id, request.job_id)
                if was_open:
                    await self.engine.cancel(job.job_id, job.attempt)
                return msgspec.json.encode(job)
            case RetryJob():
                job = await asyncio.to_thread(self.store.retry, request.user_id, request.job_id, request.traceparent)
                await self.engine.enqueue(request.user_id, job.job_id, job.attempt, job.kind)
                return msgspec.json.encode(job)

    async def _enqueue(self, request: Enqueue) -> bytes:
        job, is_new = await asyncio.to_thread(
            self.store.add,
            request.user_id,
            request.avatar_id,
            request.kind,
            request.paths,
            request.force,
            request.choice,
            request.options,
            is_numbered=request.is_numbered,
            traceparent=request.traceparent,
            transfer=request.transfer,
        )
        if is_new:
            await self.engine.enqueue(request.user_id, job.job_id, job.attempt, job.kind)
        return msgspec.json.encode(job)

    async def _show(self, request: ShowJob) -> bytes:
        until_s = SYSTEM.monotonic_s() + request.wait_s
        while True:
            job: Job = await asyncio.to_thread(self.store.show, request.user_id, request.job_id, 0, "")
            changed = request.version is None or job.version != request.version
            if job.state in FINISHED or (changed and not request.only_finished) or SYSTEM.monotonic_s() >= until_s:
                break
            await asyncio.sleep(_LOOK_S)
        if request.limit:
            job = await asyncio.to_thread(
                self.store.show, request.user_id, request.job_id, request.limit, request.after
            )
        return msgspec.json.encode(job)


class _Gateway:
    """Serves the front over the inherited socket."""

    def __init__(self, worker: Worker, writer: asyncio.StreamWriter) -> None:
        self._worker = worker
        self._writer = writer
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answer until the front is gone."""
        while (frame := await read_frame(reader)) is not None:
            message = to_worker_decoder.decode(frame)
            if isinstance(message, WorkerHello):
                continue
            self._tasks.add(task := asyncio.create_task(self._answer(message)))
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: Request) -> None:
        try:
            reply: FromWorker = Done(request.number, await self._worker.answer(request))
        except VectorpoolError as error:
            if not isinstance(error, JobNotFound):
                logger.warning("a request about jobs failed: %s", error.code)
            reply = Refused(request.number, error.to_wire())
        except Exception:
            logger.exception("a request about jobs failed unexpectedly")
            defect = InternalError("The request failed for a reason of ours. The instance's log says which.")
            reply = Refused(request.number, defect.to_wire())
        await send(self._writer, reply)


async def send(writer: asyncio.StreamWriter, message: FromWorker) -> None:
    """Send a message to the front."""
    if not writer.is_closing():
        with contextlib.suppress(ConnectionError, RuntimeError):
            writer.write(encode_frame(message))
            await writer.drain()


async def _supervised(descriptor: int) -> None:
    connection = socket.socket(fileno=descriptor)
    reader, writer = await asyncio.open_connection(sock=connection, limit=1 << 20)
    frame = await read_frame(reader)
    hello = None if frame is None else to_worker_decoder.decode(frame)
    if not isinstance(hello, WorkerHello):
        return
    log(hello.settings)
    try:
        worker = Worker(hello.settings, hello.url, hello.key)
        await worker.start()
    except (VectorpoolError, OSError) as error:
        wire = error if isinstance(error, VectorpoolError) else Misconfigured(f"The worker cannot start: {error}.")
        await send(writer, Refused(0, wire.to_wire()))
        return
    # Only now: what waits for jobs waits for the start too.
    os.nice(_NICENESS)
    await send(writer, WorkerReady())
    await _Gateway(worker, writer).serve(reader)
    await worker.close()


def log(settings: Settings) -> None:
    """Log as the front does; libraries below it only what is wrong."""
    logs.configure(settings)
    for name in ("httpx", "dbos", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def _alone(settings: Settings, ready: Callable[[], Any]) -> None:
    assert settings.service_url is not None
    worker = Worker(settings, settings.service_url, settings.service_token)
    await worker.start()
    ready()
    leaving = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, leaving.set)
    await leaving.wait()
    await worker.close()
    _end()


def serve_alone(settings: Settings, ready: Callable[[], Any]) -> None:
    """Run jobs of a shared database until SIGTERM, SIGINT or SIGQUIT. Raises VectorpoolError before that."""
    log(settings)
    allocator.limit_arenas()
    uvloop.run(_alone(settings, ready))


def _end() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    # No step is cancelled: what was under way goes on in another process.
    os._exit(0)


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    allocator.limit_arenas()
    keep_private()

    async def run() -> None:
        await _supervised(int(sys.argv[1]))
        _end()

    uvloop.run(run())


if __name__ == "__main__":
    main()
