"""The shard's own process: ``python -m vectorpool.shard.process FD FD FD``, started by ``client``.

It serves its pool over the inherited socket until it is told to drain or the front process is gone; then it
commits what it holds. It ignores signals: a Ctrl-C in a terminal reaches this process too, and the front handles it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from functools import partial

import uvloop

from vectorpool import logs
from vectorpool.answers import Answer
from vectorpool.commands import Command
from vectorpool.context import RequestContext
from vectorpool.engine.chroma_package import import_lean
from vectorpool.errors import InternalError, Misconfigured, VectorpoolError
from vectorpool.objects.metered import MeteredBucket
from vectorpool.objects.stores import open_bucket
from vectorpool.platform import allocator, interpreter, native_marks
from vectorpool.platform.privacy import keep_private
from vectorpool.platform.usage import usage
from vectorpool.pool.pool import Pool
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.shard.bodies import check_size, decoded
from vectorpool.shard.channel import Channel, connect
from vectorpool.shard.protocol import (
    Answered,
    Cancel,
    Drain,
    Drained,
    Execute,
    ExecuteBody,
    Failed,
    FiguresShown,
    FromShard,
    Hello,
    Part,
    Press,
    Ready,
    Settle,
    Settled,
    ShowFigures,
    ShowTasks,
    TasksShown,
    ToShard,
    View,
    Viewed,
    encode_frame,
    label_of,
    shard_of,
    to_shard_decoder,
)
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures
from vectorpool.turns import Turns

logger = logging.getLogger(__name__)


class ShardServer:
    """Serves one pool over one connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        # Tasks by the number of their message.
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pool: Pool | None = None
        self._bucket: MeteredBucket | None = None
        self._settings = Settings()
        self._figures = Figures()
        self._drained = asyncio.Event()
        self._supervisor = Supervisor(SYSTEM)
        # Bodies that are still arriving. The front bounds how many bytes of them there are.
        self._bodies: dict[int, list[bytes]] = {}
        self._turns = Turns()

    async def serve(self) -> None:
        """Serve until drained, or until the front process is gone."""
        frame = await self._channel.read()
        hello = None if frame is None else to_shard_decoder.decode(frame)
        if not isinstance(hello, Hello):
            return
        self._settings = hello.settings
        logs.configure(hello.settings, shard=label_of(hello.shard, is_isolated=hello.is_isolated))
        try:
            self._bucket = bucket = MeteredBucket(open_bucket(hello.settings), figures=self._figures)
            stores = StoreFactory(
                bucket, hello.settings, shard=hello.shard, is_isolated=hello.is_isolated, figures=self._figures
            )
            self._pool = Pool(stores, hello.settings, owns=partial(_owns, hello))
            self._figures.add_source(self._pool.samples)
            self._figures.add_source(partial(usage, _process_name(hello)))
        except (VectorpoolError, OSError) as error:
            wire = error if isinstance(error, VectorpoolError) else Misconfigured(f"The shard cannot start: {error}.")
            await self._send(Failed(0, wire.to_wire()))
            return
        self._supervisor = Supervisor(SYSTEM, shard=hello.shard)
        await self._pool.start()
        interpreter.keep_what_is_loaded()
        await self._send(Ready())
        self._supervisor.start("memory return", partial(allocator.give_back, SYSTEM))
        receiving = asyncio.create_task(self._receive_all())
        drained = asyncio.create_task(self._drained.wait())
        await asyncio.wait([receiving, drained], return_when=asyncio.FIRST_COMPLETED)
        if not self._drained.is_set():
            # The front process was killed: commit what it had acknowledged, then leave.
            await self._pool.drain(hello.settings.drain_s)
        for task in (receiving, drained):
            task.cancel()
        await self._supervisor.stop(1.0)
        await bucket.close()

    async def _receive_all(self) -> None:
        await self._channel.deliver(self._take)

    def _take(self, frame: bytes) -> bool:
        """Begin what a message asks for."""
        message: ToShard = to_shard_decoder.decode(frame)
        if isinstance(message, Part):
            self._bodies.setdefault(message.number, []).append(message.data)
        elif isinstance(message, Cancel):
            self._bodies.pop(message.number, None)
            if (cancelled := self._tasks.get(message.number)) is not None:
                cancelled.cancel()
        elif isinstance(message, Press):
            assert self._pool is not None
            self._pool.press(is_short=message.is_short)
        elif not isinstance(message, Hello):
            number = message.number
            if isinstance(message, Execute) and (reply := self._answer_at_once(message)) is not None:
                self._channel.write(encode_frame(reply))
                return True
            task = self._tasks[number] = asyncio.create_task(self._handle(message))
            task.add_done_callback(partial(self._forget, number))
        return True

    def _forget(self, number: int, _: asyncio.Task[None]) -> None:
        del self._tasks[number]

    async def _handle(self, message: Execute | ExecuteBody | View | ShowTasks | ShowFigures | Settle | Drain) -> None:
        assert self._pool is not None and self._bucket is not None
        match message:
            case Execute():
                await self._send(await self._execute(self._pool, message, message.command))
            case ExecuteBody():
                parts = [*self._bodies.pop(message.number, ()), message.data]
                await self._send(await self._execute_body(self._pool, message, parts))
            case View():
                view = self._pool.view()
                view.store = self._bucket.traffic()
                view.tasks += self._supervisor.view()
                await self._send(Viewed(message.number, view))
            case ShowTasks():
                tasks = self._pool.tasks() + self._supervisor.view()
                await self._send(TasksShown(message.number, tasks))
            case ShowFigures():
                await self._send(FiguresShown(message.number, self._figures.samples()))
            case Settle():
                await self._send(Settled(message.number, await self._pool.settle(message.budget_s)))
            case Drain():
                report = await self._pool.drain(message.budget_s)
                figures = self._figures.samples()
                await self._send(Drained(message.number, report.unfinished, report.uncommitted, figures))
                self._drained.set()

    async def _execute_body(self, pool: Pool, message: ExecuteBody, parts: list[bytes]) -> FromShard:
        try:
            command = await decoded(message.user_id, message.target, parts, self._settings, self._turns)
        except VectorpoolError as error:
            return Failed(message.number, error.to_wire())
        return await self._execute(pool, message, command)

    def _answer_at_once(self, message: Execute) -> FromShard | None:
        """Return the reply to a read for which nothing has to be waited for; None: it takes a task."""
        if self._pool is None or self._channel.is_full or self._channel.is_closing():
            return None
        context = RequestContext.arrived(message.context)
        try:
            answer = self._pool.answer_at_once(message.user_id, message.command, context)
            return None if answer is None else _answered(message, answer, context)
        except Exception as error:
            return _failed(message, error, context)

    async def _execute(self, pool: Pool, message: Execute | ExecuteBody, command: Command) -> FromShard:
        context = RequestContext.arrived(message.context)
        try:
            answer = await pool.execute(message.user_id, command, context, message.context.quota)
            return _answered(message, answer, context)
        except Exception as error:
            return _failed(message, error, context)

    async def _send(self, message: FromShard) -> None:
        if not self._channel.is_closing():
            self._channel.write(encode_frame(message))
            if self._channel.is_full:
                await self._channel.drain()


def _answered(message: Execute | ExecuteBody, answer: Answer, context: RequestContext) -> FromShard:
    check_size(answer)
    timing = context.timed()
    return Answered(message.number, answer.body, answer.commit, timing.parts, timing.steps or [])


def _failed(message: Execute | ExecuteBody, error: Exception, context: RequestContext) -> FromShard:
    if isinstance(error, VectorpoolError):
        timing = context.timed()
        return Failed(message.number, error.to_wire(), timing.parts, timing.steps or [])
    logger.error("a command failed unexpectedly id=%s", message.context.request_id, exc_info=error)
    defect = InternalError("The command failed for a reason of ours. The instance's log says which.")
    return Failed(message.number, defect.to_wire())


def _owns(hello: Hello, user_id: str) -> bool:
    """Return whether upkeep of a user's log is this shard's: that of the user's hash, also during a quarantine."""
    return not hello.is_isolated and shard_of(user_id, hello.shards) == hello.shard


def _process_name(hello: Hello) -> str:
    label = label_of(hello.shard, is_isolated=hello.is_isolated)
    return label if hello.is_isolated else f"shard-{label}"


async def _main(descriptor: int) -> None:
    connection = socket.socket(fileno=descriptor)
    channel = await connect(connection)
    await ShardServer(channel).serve()
    channel.close()


def main() -> None:
    """Serve the socket of the first descriptor in the arguments; the others take marks of native calls and faults."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    allocator.limit_arenas()
    interpreter.switch_often()
    keep_private()
    native_marks.install(int(sys.argv[2]), int(sys.argv[3]))
    import_lean()
    # As the front does: a frame, a task, a hop to a thread and back all cost less there.
    uvloop.run(_main(int(sys.argv[1])))
    # Chroma's threads have nothing left to do, and joining them at interpreter exit takes time.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
