"""The waiting room: bounded, first come first served, and it loses no turn."""

from __future__ import annotations

import asyncio

import pytest

from vectorpool.errors import PoolBusy
from vectorpool.pool.waiting_room import WaitingRoom


async def test_turns_come_in_the_order_of_arrival() -> None:
    """Three who wait are called in the order in which they came."""
    room = WaitingRoom(limit=3)
    served: list[int] = []

    async def wait(number: int) -> None:
        await room.enter(5)
        served.append(number)

    tasks = [asyncio.create_task(wait(n)) for n in range(3)]
    await asyncio.sleep(0)
    for _ in tasks:
        room.call_next()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2]


async def test_a_full_room_refuses_at_once() -> None:
    """The one too many is refused with PoolBusy, which carries a Retry-After."""
    room = WaitingRoom(limit=1)
    first = asyncio.create_task(room.enter(5))
    await asyncio.sleep(0)
    with pytest.raises(PoolBusy) as refusal:
        await room.enter(5)
    assert refusal.value.retry_after_s
    room.call_next()
    await first


async def test_whoever_waits_too_long_is_refused_and_leaves() -> None:
    """After the longest wait the place in the queue is free again."""
    room = WaitingRoom(limit=1)
    with pytest.raises(PoolBusy):
        await room.enter(0.01)
    assert len(room) == 0


async def test_a_turn_given_to_one_who_is_cancelled_goes_to_the_next() -> None:
    """Cancelling whoever was just called passes the turn on."""
    room = WaitingRoom(limit=2)
    first = asyncio.create_task(room.enter(5))
    second = asyncio.create_task(room.enter(5))
    await asyncio.sleep(0)
    room.call_next()
    first.cancel()
    async with asyncio.timeout(1):
        await second
    assert first.cancelled()
