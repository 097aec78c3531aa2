"""The context of a request: its deadline on one clock, and its way to another process."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from vectorpool.commands import ReadOptions
from vectorpool.context import AS_SET, BACKGROUND, CarriedContext, RequestContext
from vectorpool.errors import DeadlineExceeded, OutcomeUnknown
from vectorpool.sources import SystemSources


class Clock(SystemSources):
    """A clock that a test sets."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


def test_the_deadline_counts_from_the_start() -> None:
    """Before the start the limit is whole; a second start changes nothing; no time is never negative."""
    clock = Clock()
    context = RequestContext("a", timeout_s=30.0, sources=clock)
    clock.now_s += 5
    assert context.remaining_s() == 30.0
    context.start()
    clock.now_s += 10
    context.start()
    assert context.remaining_s() == 20.0
    context.check()
    clock.now_s += 100
    assert context.remaining_s() == 0.0
    with pytest.raises(DeadlineExceeded):
        context.check()


def test_an_operation_states_a_longer_limit() -> None:
    """It counts from the same start; a shorter limit changes nothing, and no limit stays none."""
    context = RequestContext("a", timeout_s=30.0, sources=Clock())
    context.allow(600.0)
    context.start()
    assert context.remaining_s() == 600.0
    context.allow(1.0)
    assert context.remaining_s() == 600.0
    BACKGROUND.allow(1.0)
    assert BACKGROUND.remaining_s() is None


def test_it_crosses_to_another_clock() -> None:
    """The frame carries the time that remains, which counts on the clock of the shard."""
    clock, other = Clock(), Clock()
    other.now_s = 5_000.0
    context = RequestContext("a", caller="alice", read=ReadOptions("local"), timeout_s=30.0, sources=clock)
    context.start()
    clock.now_s += 12
    frame = msgspec.msgpack.encode(context.carried())
    arrived = RequestContext.arrived(msgspec.msgpack.decode(frame, type=CarriedContext), other)
    assert (arrived.request_id, arrived.caller, arrived.read) == ("a", "alice", ReadOptions("local"))
    assert arrived.remaining_s() == pytest.approx(18.0)
    without = RequestContext.arrived(BACKGROUND.carried(), other)
    assert (without.remaining_s(), without.read) == (None, AS_SET)


async def test_work_is_cancelled_at_the_deadline() -> None:
    """A read changed nothing, the outcome of a change is unknown; a time-out of the work itself passes."""
    ended = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def times_out() -> None:
        raise TimeoutError

    context = RequestContext("a", timeout_s=0.01)
    context.start()
    with pytest.raises(DeadlineExceeded):
        await context.within(endless())
    with pytest.raises(OutcomeUnknown):
        await context.within(endless(), changes=True)
    assert ended == [True, True]
    with pytest.raises(TimeoutError):
        await BACKGROUND.within(times_out())
