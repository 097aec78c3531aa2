"""The front's side of one shard: starts its process, sends requests, starts it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

from vectorpool.answers import Answer, PoolView, TaskView
from vectorpool.chroma_bodies import READS, Target
from vectorpool.commands import Command
from vectorpool.context import RequestContext
from vectorpool.errors import (
    UNDECODABLE,
    QueueFull,
    ShardUnavailable,
    VectorpoolError,
)
from vectorpool.limits import Quota
from vectorpool.platform.native_marks import Marks
from vectorpool.settings import Settings
from vectorpool.shard import launch
from vectorpool.shard.channel import Channel
from vectorpool.shard.counts import ShardCounts
from vectorpool.shard.protocol import (
    Answered,
    Cancel,
    Drain,
    Drained,
    Execute,
    ExecuteBody,
    Failed,
    FiguresShown,
    Hello,
    Part,
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
    from_shard_decoder,
    label_of,
)
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.ledger import Ledger

logger = logging.getLogger(__name__)

# Most requests under way to one shard; the front refuses further ones.
MAX_UNDER_WAY = 4096
# Most bytes of bodies in the shard that are not whole or not answered yet.
MAX_PASSING_BYTES = 1 << 29
_PART_BYTES = 256 * 1024
START_S = 60.0
# How long after the deadline the shard may say what became of a change.
_VERDICT_S = 1.0
# Longest wait for the watch of a shard to end, once it is cancelled.
_STOP_WATCH_S = 5.0
_RESTART_PAUSE_S = (0.05, 0.2, 1.0, 5.0)

Reply: TypeAlias = Answered | Failed | Viewed | TasksShown | FiguresShown | Settled | Drained


class ShardClient:
    """One shard. ``start`` returns when it serves; a shard that dies is started again until ``stop``."""

    def __init__(
        self,
        shard: int,
        shards: int,
        settings: Settings,
        supervisor: Supervisor,
        crashed: Callable[[set[str]], None],
        *,
        is_isolated: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        self.shard = shard
        self._shards = shards
        self._crashed = crashed
        self.is_isolated = is_isolated
        self._marks: Marks | None = None
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._under_way: dict[int, tuple[asyncio.Future[Reply], bool]] = {}
        self._number = 0
        self._passing_bytes = 0
        self._fresh: Channel | None = None  # of a new process, until its replies are watched
        self._supervisor = supervisor
        self._name = f"{'isolated shard' if is_isolated else 'shard'} {shard}"
        label = label_of(shard, is_isolated=is_isolated)
        self._counts = ShardCounts(label, Ledger() if ledger is None else ledger)
        self._watch_name = f"watch of {self._name}"
        self._process_name = f"process of {self._name}"
        self._ready = asyncio.Event()
        self.is_stopping = False
        self.is_draining = False  # for the next process: no request is sent meanwhile
        self.starts = self.deaths = 0
        self.ready_since_ms: int | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the shard serves at the moment."""
        return self._ready.is_set()

    @property
    def process_id(self) -> int | None:
        """The process id of the shard, for operators and tests."""
        return None if self._process is None else self._process.pid

    @property
    def requests(self) -> int:
        """How many requests are under way."""
        return len(self._under_way)

    async def start(self) -> None:
        """Start the process; return when it serves. Raises Misconfigured with what it says is wrong."""
        self._fresh = await self._launch()
        self._supervisor.start(self._watch_name, self._watch, is_essential=not self.is_isolated)

    async def execute(self, user_id: str, command: Command, context: RequestContext, quota: Quota | None) -> Answer:
        """Send one command and return its answer. Raises VectorpoolError.

        If the caller is cancelled, or at the deadline, the shard is told to stop.
        """
        carried = context.carried(quota)
        reply = await self._request(
            lambda number: Execute(number, user_id, command, carried),
            is_change=command.is_change,
            context=context,
            remaining_s=carried.remaining_s,
        )
        return self._counts.answer(reply, context)

    async def execute_body(
        self, user_id: str, target: Target, body: AsyncIterator[bytes], context: RequestContext, quota: Quota | None
    ) -> Answer:
        """Pass a body on while it arrives, and return its answer. Raises VectorpoolError, and what ``body`` raises."""
        number, channel = self._take_number(), self._channel
        held, passed, complete = bytearray(), 0, False
        try:
            async for data in body:
                held += data
                if len(held) >= _PART_BYTES:
                    self._take_room(len(held))
                    passed += len(held)
                    await self.tell(Part(number, bytes(held)), channel)
                    held.clear()
            if passed and self._channel is not channel:
                raise ShardUnavailable("The user's shard died before it had the whole body. Send the request again.")
            complete, carried = True, context.carried(quota)
            reply = await self._request(
                lambda _: ExecuteBody(number, user_id, target, bytes(held), carried),
                is_change=target.operation not in READS,
                context=context,
                remaining_s=carried.remaining_s,
                number=number,
            )
        finally:
            self._passing_bytes -= passed
            if passed and not complete:
                await self.tell(Cancel(number), channel)
        return self._counts.answer(reply, context)

    async def tell(self, message: ToShard, channel: Channel | None = None) -> None:
        """Send a message that has no reply, to the shard or to that of ``channel``. If it is gone, do nothing."""
        channel = channel or self._channel
        if channel is not None and channel is self._channel and not channel.is_closing():
            # A closed transport raises RuntimeError under uvloop.
            with contextlib.suppress(ConnectionError, RuntimeError):
                channel.write(encode_frame(message))
                await channel.drain()

    def _take_room(self, more: int) -> None:
        if self._passing_bytes + more > MAX_PASSING_BYTES:
            raise QueueFull(f"{MAX_PASSING_BYTES} bytes of bodies are on their way already. Send the request later.")
        self._passing_bytes += more

    async def view(self) -> PoolView:
        """Return the shard's slots."""
        reply = await self._request(View)
        assert isinstance(reply, Viewed)
        return reply.view

    async def tasks(self, timeout_s: float) -> list[TaskView]:
        """Return the state of the shard's background tasks. Raises TimeoutError, ShardUnavailable."""
        async with asyncio.timeout(timeout_s):
            reply = await self._request(ShowTasks)
        assert isinstance(reply, TasksShown)
        return reply.tasks

    async def figures(self, timeout_s: float) -> list[Sample]:
        """Return the shard's gauges, and note its counters; a shard that does not answer in time is silent."""
        counts, reply = self._counts, None
        run, under_way = counts.run, len(self._under_way)
        with contextlib.suppress(VectorpoolError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                reply = await self._request(ShowFigures)
        gauges = counts.take(run, reply.samples) if isinstance(reply, FiguresShown) else []
        return counts.seen(is_up=self.is_ready, is_silent=reply is None, under_way=under_way) + gauges

    async def settle(self, budget_s: float) -> int:
        """Have the shard commit what is acknowledged; return how many vectorstores are left. Raises TimeoutError."""
        try:
            async with asyncio.timeout(budget_s * 2):
                reply = await self._request(lambda number: Settle(number, budget_s))
        except ShardUnavailable:
            # It is being started again, and holds nothing.
            return 0
        assert isinstance(reply, Settled)
        return reply.uncommitted

    @property
    def is_idle(self) -> bool:
        """Whether every request that was sent is answered."""
        return all(reply.done() for reply, _ in self._under_way.values())

    async def drain(self, budget_s: float) -> Drained | None:
        """Have the shard finish, commit and end; return its report, or None if it gave none in time."""
        with contextlib.suppress(VectorpoolError, TimeoutError):
            async with asyncio.timeout(budget_s + 1.0):
                reply = await self._request(lambda number: Drain(number, budget_s))
            assert isinstance(reply, Drained)
            self._counts.take(self._counts.run, reply.samples)
            return reply
        return None

    def kill(self) -> None:
        """End the process at once, if there is one."""
        launch.kill(self._process)

    async def stop(self, budget_s: float) -> Drained | None:
        """Drain the shard and end its process; return its report, or None if it gave none in time."""
        self.is_stopping = True
        report = await self.drain(budget_s) if self._ready.is_set() else None
        await self._supervisor.stop(_STOP_WATCH_S, [self._watch_name])
        if self._channel is not None:
            self._channel.close()
        await self._end_process()
        self._drop_marks()
        self._supervisor.forget([self._watch_name, self._process_name])
        return report

    # --- Inside --------------------------------------------------------------------------------------

    def _take_number(self) -> int:
        self._number += 1
        return self._number

    async def _request(
        self,
        make: Callable[[int], ToShard],
        *,
        is_change: bool = False,
        context: RequestContext | None = None,
        remaining_s: float | None = None,
        number: int | None = None,
    ) -> Reply:
        channel = self._channel
        if channel is None or not self._ready.is_set() or channel.is_closing():
            raise ShardUnavailable("The user's shard is being started again. Send the request again.")
        if self.is_draining and context is not None:
            raise ShardUnavailable("The user's shard is being restarted by an operator. Send the request again.")
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise QueueFull(f"{MAX_UNDER_WAY} requests are under way to the user's shard. Send it again later.")
        if number is None:
            number = self._take_number()
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Reply] = loop.create_future()
        timer: asyncio.TimerHandle | None = None
        self._under_way[number] = (reply, is_change)
        if context is not None and remaining_s is not None:
            # Only the shard knows whether a change had begun at the deadline: it gets some time to say so.
            timer = loop.call_later(remaining_s + _VERDICT_S * is_change, self._expire, number, context)
        try:
            channel.write(encode_frame(make(number)))
            if channel.is_full:
                await channel.drain()
            return await reply
        except ConnectionError:
            return await reply  # the watch notices the same, and fails the reply
        except asyncio.CancelledError:
            self._send_cancel(channel, number)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._under_way.pop(number, None)

    def _expire(self, number: int, context: RequestContext) -> None:
        """Answer a request whose time is over, and tell the shard to stop."""
        reply, is_change = self._under_way[number]
        if not reply.done():
            reply.set_exception(context.outcome_unknown() if is_change else context.deadline_exceeded())
            if self._channel is not None:
                self._send_cancel(self._channel, number)

    def _send_cancel(self, channel: Channel, number: int) -> None:
        if channel is self._channel and not channel.is_closing():
            # A closed transport raises RuntimeError under uvloop.
            with contextlib.suppress(ConnectionError, RuntimeError):
                channel.write(encode_frame(Cancel(number)))

    async def _launch(self) -> Channel:
        self._drop_marks()
        self._marks = Marks()
        self._process, channel = await launch.start_process(self._marks)
        hello = Hello(self.shard, self._shards, self._settings, self.is_isolated)
        message = await launch.greet(channel, hello, START_S)
        if not isinstance(message, Ready):
            channel.close()
            await self._end_process()
            if isinstance(message, Failed):
                raise VectorpoolError.from_wire(message.error)
            raise ShardUnavailable(f"Shard {self.shard} did not start. Its output says why.")
        self._channel = channel
        self.is_draining, self.starts, self.ready_since_ms = False, self.starts + 1, SYSTEM.now_ms()
        self._counts.begin()
        self._ready.set()
        self._supervisor.record(self._process_name, None)
        return channel

    async def _watch(self) -> None:
        """Receive replies. When the shard dies, fail the requests under way and start it again."""
        while not self.is_stopping:
            channel = self._fresh or await self._relaunch()
            try:
                await channel.deliver(self._take_reply)
            finally:
                # Also after an unexpected error: nothing would read the replies until the watch runs again.
                self._fresh = None
                self._lose_callers()
            await self._end_process()
            if self.is_draining:
                logger.info("%s is being restarted by an operator", self._name)
            elif not self.is_stopping:
                self.deaths += 1
                # Before the shard is started again: a user that this puts into quarantine does not come back to it.
                self._counts.note_death()
                self._crashed(set() if self._marks is None else self._marks.suspects())
                self._supervisor.record_failure(self._process_name, ShardUnavailable("The shard died."))
                logger.error("%s died, it is being started again", self._name)

    def _lose_callers(self) -> None:
        self._ready.clear()
        self._fail_under_way()
        if self._channel is not None:
            self._channel.close()

    async def _relaunch(self) -> Channel:
        await self._end_process()
        failures = 0
        while True:
            await asyncio.sleep(_RESTART_PAUSE_S[min(failures, len(_RESTART_PAUSE_S) - 1)])
            try:
                self._fresh = await self._launch()
            except (VectorpoolError, OSError) as error:
                failures += 1
                self._supervisor.record_failure(self._process_name, error)
                logger.error("%s cannot be started: %s", self._name, error)
            else:
                return self._fresh

    def _take_reply(self, frame: bytes) -> bool:
        """Give a reply to the request that waits for it; return whether the shard speaks sense."""
        try:
            message = from_shard_decoder.decode(frame)
        except UNDECODABLE:
            logger.exception("shard %d sent what is no message; it is started again", self.shard)
            return False
        if not isinstance(message, Ready) and (asked := self._under_way.get(message.number)) is not None:
            reply = asked[0]
            if not reply.done():
                reply.set_result(message)
        return True

    def _fail_under_way(self) -> None:
        for reply, is_change in self._under_way.values():
            if reply.done():
                continue
            reply.set_exception(launch.lost(is_change=is_change, is_stopping=self.is_stopping))

    def _drop_marks(self) -> None:
        marks, self._marks = self._marks, None
        if marks is not None:
            marks.close()

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        await launch.end(process)
