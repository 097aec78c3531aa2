"""The front's side of its worker: starts the process, sends requests, starts it again when it dies or hangs.

Nothing here imports DBOS, and the process is started after the service listens: a start costs the front nothing. While
the worker starts, requests wait a bounded time. Syncs that a put or a deletion schedules are gathered and sent in the
background; one that is lost is made up for by the next sync of its avatar.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from vectorpool.errors import JobsNotInstalled, JobsUnavailable, Misconfigured, QueueFull, VectorpoolError
from vectorpool.jobs.installed import NOT_INSTALLED, PACKAGE, are_jobs_installed
from vectorpool.jobs.protocol import (
    CountJobs,
    Done,
    Enqueue,
    Ping,
    Refused,
    Request,
    WorkerHello,
    WorkerReady,
    encode_frame,
    from_worker_decoder,
    read_frame,
)
from vectorpool.jobs.views import JobsByState, Transfer
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.supervision import Supervisor
from vectorpool.targets.named import named_targets
from vectorpool.telemetry.families import JOBS
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.spans import CURRENT

logger = logging.getLogger(__name__)

MAX_UNDER_WAY: Final = 2048
_START_S: Final = 60.0
# How long a request waits for a worker that is being started, and for its answer.
_READY_S: Final = 25.0
_ANSWER_S: Final = 30.0
_PING_EVERY_S: Final = 10.0
_HANGS_AFTER_S: Final = 60.0
# Avatars whose syncs wait to be sent, and the paths of one; more paths become a sync of the whole avatar.
_MOST_SCHEDULED: Final = 10_000
_MOST_PATHS: Final = 500
_GATHER_S: Final = 0.2


class _Scheduled(msgspec.Struct):
    """Documents to sync, None for the whole avatar, and the span of the first request that wanted it."""

    paths: set[str] | None
    traceparent: str


class Jobs:
    """The jobs of an instance. ``url`` is where its service listens."""

    def __init__(self, settings: Settings, url: Callable[[], str], sources: Sources = SYSTEM) -> None:
        self._settings = settings
        self._url = url
        self._sources = sources
        # Of this start alone: the worker gets it over the inherited socket, and no one else does.
        self.key = secrets.token_urlsafe(32)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._under_way: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._ready = asyncio.Event()
        self.are_installed = are_jobs_installed()
        self._refusal: VectorpoolError | None = None if self.are_installed else JobsNotInstalled(NOT_INSTALLED)
        self._stopping = False
        self._scheduled: dict[tuple[str, str], _Scheduled] = {}
        self._forgotten: dict[str, None] = {}
        self._has_scheduled = asyncio.Event()

    def url(self) -> str:
        """Return the URL at which the instance listens."""
        return self._url()

    @property
    def process_id(self) -> int | None:
        """The process id of the worker, for operators and tests."""
        return None if self._process is None else self._process.pid

    def start(self, supervisor: Supervisor) -> None:
        """Start the worker in the background, if it is installed."""
        if not self.are_installed:
            logger.warning("there are no jobs on this instance: the package %s is not installed", PACKAGE)
            return
        supervisor.start("jobs worker", self._watch)
        supervisor.start("scheduled syncs", self._send_scheduled)

    async def stop(self) -> None:
        """End the worker. What it runs is taken up by the next one."""
        self._stopping = True
        self._lose()
        await self._end_process()

    # --- Requests ------------------------------------------------------------------------------------

    def number(self) -> int:
        """Return the number of a new request."""
        self._number += 1
        return self._number

    async def request(self, request: Request, *, answer_s: float = _ANSWER_S) -> bytes:
        """Return the JSON that answers a request. Raises VectorpoolError, JobsUnavailable without a worker."""
        if self._refusal is not None:
            raise self._refusal
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise QueueFull(f"{MAX_UNDER_WAY} requests about jobs are under way. Send it again later.")
        try:
            async with asyncio.timeout(_READY_S):
                await self._ready.wait()
        except TimeoutError:
            raise JobsUnavailable("The worker of this instance is being started. Send the request again.") from None
        assert self._writer is not None
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._under_way[request.number] = reply
        try:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._writer.write(encode_frame(request))
            async with asyncio.timeout(answer_s):
                return await reply
        except TimeoutError:
            raise JobsUnavailable(
                "The worker of this instance did not answer in time. Send the request again."
            ) from None
        finally:
            self._under_way.pop(request.number, None)

    def schedule(self, user_id: str, avatar_id: str, path: str | None) -> None:
        """Have a document synced soon, or a whole avatar; never waits and never fails. Without jobs nothing is."""
        if not self.are_installed:
            return
        key = (user_id, avatar_id)
        if key not in self._scheduled and len(self._scheduled) >= _MOST_SCHEDULED:
            return
        wanted = self._scheduled.setdefault(key, _Scheduled(set(), CURRENT.get()))
        if path is None or (wanted.paths is not None and len(wanted.paths) >= _MOST_PATHS):
            wanted.paths = None
        elif wanted.paths is not None:
            wanted.paths.add(path)
        self._has_scheduled.set()

    def forget(self, user_id: str) -> None:
        """Have what targets hold of a deleted user deleted soon; never waits and never fails."""
        if len(self._forgotten) < _MOST_SCHEDULED:
            self._forgotten[user_id] = None
            self._has_scheduled.set()

    async def count(self) -> JobsByState:
        """Return how many jobs the worker's database has, by state. Raises VectorpoolError."""
        return msgspec.json.decode(await self.request(CountJobs(self.number())), type=JobsByState)

    async def waiting(self) -> int:
        """Return how many jobs wait. Raises VectorpoolError."""
        return (await self.count()).queued

    async def samples(self) -> list[Sample]:
        """Return the gauge of jobs by state; nothing while the worker is being started."""
        if not self._ready.is_set():
            return []
        counts = msgspec.structs.asdict(await self.count())
        return [Sample(JOBS.name, (state,), count) for state, count in counts.items()]

    async def sync(self, user_id: str, avatar_id: str, paths: list[str] | None) -> None:
        """Have a sync noted by the worker: documents of an avatar, or all of it. Raises VectorpoolError."""
        await self.request(Enqueue(self.number(), user_id, avatar_id, "sync", paths))

    async def _send_scheduled(self) -> None:
        while True:
            await self._has_scheduled.wait()
            # Many puts become one job.
            await self._sources.sleep(_GATHER_S)
            self._has_scheduled.clear()
            gathered, self._scheduled = self._scheduled, {}
            forgotten, self._forgotten = self._forgotten, {}
            for user_id in forgotten:
                await self._send_forgotten(user_id)
            for (user_id, avatar_id), wanted in gathered.items():
                named = None if wanted.paths is None else sorted(wanted.paths)
                asked = Enqueue(self.number(), user_id, avatar_id, "sync", named, traceparent=wanted.traceparent)
                try:
                    await self.request(asked)
                except VectorpoolError as error:
                    logger.warning(
                        "a sync could not be scheduled, the next one of the avatar makes up for it: %s", error.detail
                    )

    async def _send_forgotten(self, user_id: str) -> None:
        try:
            for name in named_targets(self._settings):
                asked = Enqueue(self.number(), user_id, "", "forget", transfer=Transfer(name))
                await self.request(asked)
        except VectorpoolError as error:
            logger.warning(
                "a deletion at the targets could not be scheduled, the next round makes up for it: %s", error.detail
            )

    # --- The process ---------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while not self._stopping:
            reader = await self._launch()
            if reader is None:
                return
            pinging = asyncio.create_task(self._ping())
            try:
                await self._receive(reader)
            finally:
                pinging.cancel()
                self._lose()
            await self._end_process()
            if not self._stopping:
                raise JobsUnavailable("The worker died; it is started again.")

    async def _launch(self) -> asyncio.StreamReader | None:
        await self._end_process()
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "vectorpool.jobs.process",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                env=dict(os.environ),
                stdin=asyncio.subprocess.DEVNULL,
            )
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
        writer.write(encode_frame(WorkerHello(self._settings, self._url(), self.key)))
        try:
            async with asyncio.timeout(_START_S):
                frame = await read_frame(reader)
        except TimeoutError:
            frame = None
        message = None if frame is None else from_worker_decoder.decode(frame)
        if isinstance(message, WorkerReady):
            self._writer = writer
            self._refusal = None
            self._ready.set()
            return reader
        writer.close()
        await self._end_process()
        if self._stopping:
            return None
        error = (
            VectorpoolError.from_wire(message.error)
            if isinstance(message, Refused)
            else JobsUnavailable("The worker did not start. Its output says why.")
        )
        if isinstance(error, Misconfigured):
            # Starting again does not help; requests about jobs are told, and all others are served.
            logger.error("there are no jobs on this instance: %s", error.detail)
            self._refusal = JobsUnavailable(f"This instance has no jobs. {error.detail}")
            return None
        raise error

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        while (frame := await read_frame(reader)) is not None:
            try:
                message = from_worker_decoder.decode(frame)
            except msgspec.DecodeError:
                logger.exception("the worker sent what is no message; it is started again")
                return
            if isinstance(message, WorkerReady):
                continue
            reply = self._under_way.get(message.number)
            if reply is None or reply.done():
                continue
            if isinstance(message, Done):
                reply.set_result(message.body)
            else:
                reply.set_exception(VectorpoolError.from_wire(message.error))

    async def _ping(self) -> None:
        """Kill a worker that hangs: its end is noticed, and the next one takes up its jobs."""
        while True:
            await asyncio.sleep(_PING_EVERY_S)
            try:
                await self.request(Ping(self.number()), answer_s=_HANGS_AFTER_S)
            except VectorpoolError:
                if self._process is not None and not self._stopping:
                    logger.error("the worker does not answer; it is killed and started again")
                    with contextlib.suppress(ProcessLookupError):
                        self._process.kill()
                return

    def _lose(self) -> None:
        self._ready.clear()
        for reply in self._under_way.values():
            if not reply.done():
                reply.set_exception(JobsUnavailable("The worker of this instance died. Send the request again."))
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            async with asyncio.timeout(3.0):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
