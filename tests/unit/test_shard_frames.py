"""Deadlines and cancellations between the front and a shard, frame by frame, without processes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from vectorpool.answers import Answer
from vectorpool.chroma_bodies import Target
from vectorpool.commands import CountRecords, CreateBackup, ReadOptions
from vectorpool.context import RequestContext
from vectorpool.errors import DeadlineExceeded, OutcomeUnknown
from vectorpool.settings import Settings
from vectorpool.shard import client as client_module
from vectorpool.shard.channel import Channel, connect
from vectorpool.shard.client import ShardClient
from vectorpool.shard.process import ShardServer
from vectorpool.shard.protocol import (
    Answered,
    Cancel,
    Execute,
    ExecuteBody,
    Part,
    encode_frame,
    to_shard_decoder,
)
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor

COUNT = CountRecords(collection="notes")
BACKUP = CreateBackup(name="monday")
TARGET = Target("add", "default_database", "0a1b2c3d-0000-4000-8000-000000000000")


def context_of(timeout_s: float = 30.0) -> RequestContext:
    context = RequestContext("an-id", caller="alice", read=ReadOptions("local"), timeout_s=timeout_s)
    context.start()
    return context


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[ShardClient, Channel]]:
    """Yield a client that believes in a shard, and the shard's end of its connection."""
    ours, theirs = socket.socketpair()
    channel, far = await connect(ours), await connect(theirs)
    made = ShardClient(0, 1, Settings(), Supervisor(SYSTEM), lambda users: None)
    made._channel = channel
    made._ready.set()
    receiving = asyncio.create_task(channel.deliver(made._take_reply))
    try:
        yield made, far
    finally:
        far.close()
        await receiving
        channel.close()


async def received(far: Channel) -> Any:
    """Return the next message that the shard gets."""
    frame = await far.read()
    assert frame is not None
    return to_shard_decoder.decode(frame)


async def test_the_context_crosses_with_the_command() -> None:
    """Id, caller, read options and the time that remains are in the frame; the answer comes back."""
    async with connected() as (client, far):
        asked = asyncio.create_task(client.execute("42", COUNT, context_of(), None))
        message = await received(far)
        assert isinstance(message, Execute)
        assert (message.context.request_id, message.context.caller) == ("an-id", "alice")
        assert message.context.read == ReadOptions("local")
        assert message.context.remaining_s == pytest.approx(30.0, abs=5.0)
        far.write(encode_frame(Answered(message.number, b"{}", 3)))
        assert await asked == Answer(b"{}", 3)


@pytest.mark.parametrize(("command", "error"), [(COUNT, DeadlineExceeded), (BACKUP, OutcomeUnknown)])
async def test_a_silent_shard_is_left_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch, command: Any, error: type[Exception]
) -> None:
    """A read ends without a change, a change with an unknown outcome; the shard is told to stop."""
    monkeypatch.setattr(client_module, "_VERDICT_S", 0.05)
    async with connected() as (client, far):
        with pytest.raises(error):
            await client.execute("42", command, context_of(0.05), None)
        message = await received(far)
        assert await received(far) == Cancel(message.number)
        assert client._under_way == {}


async def test_the_shards_verdict_about_a_change_counts() -> None:
    """A change waits a little longer than its deadline for the shard, which alone knows whether it had begun."""
    async with connected() as (client, far):
        asked = asyncio.create_task(client.execute("42", BACKUP, context_of(0.05), None))
        message = await received(far)
        await asyncio.sleep(0.1)
        assert not asked.done()
        far.write(encode_frame(Answered(message.number, b"{}", 3)))
        assert await asked == Answer(b"{}", 3)


async def test_a_cancelled_request_sends_a_cancel_frame() -> None:
    """The caller of a request is gone: the shard is told, also about a body that has not arrived whole."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * client_module._PART_BYTES
        await asyncio.Event().wait()

    async with connected() as (client, far):
        asked = asyncio.create_task(client.execute("42", COUNT, context_of(), None))
        message = await received(far)
        asked.cancel()
        assert await received(far) == Cancel(message.number)
        sending = asyncio.create_task(client.execute_body("42", TARGET, endless(), context_of(), None))
        part = await received(far)
        assert isinstance(part, Part)
        sending.cancel()
        assert await received(far) == Cancel(part.number)
        await asyncio.wait([asked, sending])
        assert client._passing_bytes == 0


class SlowPool:
    """A pool whose commands wait until they are cancelled."""

    def __init__(self) -> None:
        self.contexts: list[RequestContext] = []
        self.cancelled = asyncio.Event()

    def answer_at_once(self, user_id: str, command: Any, context: RequestContext) -> Answer | None:
        return None

    async def execute(self, user_id: str, command: Any, context: RequestContext, quota: Any) -> Answer:
        self.contexts.append(context)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError


async def test_a_shard_stops_what_is_cancelled() -> None:
    """A cancel frame ends the task of its number, and forgets the parts of a body that came alone."""
    ours, theirs = socket.socketpair()
    front, channel = await connect(ours), await connect(theirs)
    server, pool = ShardServer(channel), SlowPool()
    server._pool, server._bucket = pool, object()  # type: ignore[assignment]
    serving = asyncio.create_task(server._receive_all())
    body = json.dumps({"ids": ["a"], "embeddings": [[1.0]]}).encode()
    front.write(encode_frame(Part(1, b"abandoned")))
    front.write(encode_frame(ExecuteBody(2, "42", TARGET, body, context_of().carried())))
    async with asyncio.timeout(30):
        while not pool.contexts:
            await asyncio.sleep(0.001)
        assert pool.contexts[0].request_id == "an-id"
        assert set(server._tasks) == {2} and set(server._bodies) == {1}
        for number in (1, 2, 3):
            front.write(encode_frame(Cancel(number)))
        await pool.cancelled.wait()
        while server._tasks or server._bodies:
            await asyncio.sleep(0.001)
    front.close()
    await serving
    channel.close()
