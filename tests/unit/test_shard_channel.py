"""The channel between the front and a shard hands over whole frames, whatever the pieces they come in."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from vectorpool.shard import channel as module
from vectorpool.shard.channel import Channel, connect

MESSAGES = [b"", b"x", b"y" * 300, b"z" * 70_000, b"last"]


def frame_of(message: bytes) -> bytes:
    return len(message).to_bytes(4, "little") + message


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    ours, theirs = socket.socketpair()
    near, far = await connect(ours), await connect(theirs)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


@pytest.mark.parametrize("seed", range(20))
def test_frames_come_whole_and_in_order_from_any_pieces(seed: int) -> None:
    """Cut anywhere, also inside a length, the same messages come out; each as soon as its last byte is there."""
    dice, got = random.Random(seed), list[bytes]()
    channel = Channel()
    channel._take = lambda message: got.append(message) is None
    data = b"".join(map(frame_of, MESSAGES))
    cuts = sorted([*dice.sample(range(1, len(data)), 10), 1, 2, 3, 5])
    ends = [sum(len(frame_of(m)) for m in MESSAGES[: at + 1]) for at in range(len(MESSAGES))]
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        channel.data_received(data[start:end])
        assert len(got) == sum(whole <= end for whole in ends)
    assert got == MESSAGES


async def test_what_came_before_a_taker_is_kept_for_it() -> None:
    """``read`` returns the first message; ``deliver`` begins with those that came meanwhile."""
    async with pair() as (near, far), asyncio.timeout(30):
        for message in MESSAGES:
            far.write(frame_of(message))
        assert await near.read() == MESSAGES[0]
        while len(near._waiting) < len(MESSAGES) - 1:
            await asyncio.sleep(0.001)
        got = list[bytes]()
        await near.deliver(lambda message: got.append(message) is None and message != b"last")
        assert got == MESSAGES[1:]


async def test_the_end_of_the_other_side_ends_both_ways() -> None:
    """A reader gets None, a delivery returns, and a sender that waits gets ConnectionResetError."""
    async with pair() as (near, far), asyncio.timeout(30):
        waiting = asyncio.create_task(near.deliver(lambda message: True))
        far.close()
        await waiting
        assert await near.read() is None
        with pytest.raises(ConnectionResetError):
            await near.drain()
        assert near.is_closing()


async def test_a_message_that_cannot_be_taken_ends_the_delivery() -> None:
    """The taker's error is raised, and nothing further is taken."""
    async with pair() as (near, far), asyncio.timeout(30):
        got = list[bytes]()

        def take(message: bytes) -> bool:
            got.append(message)
            raise ValueError("no message")

        far.write(frame_of(b"a") + frame_of(b"b"))
        with pytest.raises(ValueError, match="no message"):
            await near.deliver(take)
        assert got == [b"a"]


async def test_a_frame_beyond_the_bound_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A length above the limit ends the delivery at once."""
    monkeypatch.setattr(module, "MAX_FRAME_BYTES", 100)
    async with pair() as (near, far), asyncio.timeout(30):
        far.write((101).to_bytes(4, "little") + b"x")
        await near.deliver(lambda message: True)


async def test_a_sender_waits_for_a_reader_that_does_not_read() -> None:
    """Beyond the bound of unsent bytes the channel is full, until the other side takes what there is."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    near = await connect(ours)
    try:
        async with asyncio.timeout(30):
            sent = 0
            while not near.is_full:
                near.write(b"x" * 65536)
                sent += 65536
                await asyncio.sleep(0)
            draining = asyncio.create_task(near.drain())
            await asyncio.sleep(0)
            assert not draining.done()
            loop = asyncio.get_running_loop()
            while sent:
                sent -= len(await loop.sock_recv(theirs, 1 << 20))
            await draining
            assert not near.is_full
    finally:
        near.close()
        theirs.close()
