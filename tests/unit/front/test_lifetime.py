"""The lifetime stage: the deadline counts from the body's last byte, and work ends with its caller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.unit.front.parts import Answering, Sent, answer, scope_of
from vectorpool.api.call import CONTEXT_KEY
from vectorpool.context import RequestContext
from vectorpool.front import lifetime
from vectorpool.front.lifetime import LifetimeStage
from vectorpool.front.stages import context_of


class Connection:
    """A ``receive`` that gives what a test puts in."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    def body(self, data: bytes, *, more: bool) -> None:
        """A part of the body arrives."""
        self._messages.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def disconnect(self) -> None:
        """The caller goes."""
        self._messages.put_nowait({"type": "http.disconnect"})

    async def __call__(self) -> Any:
        return await self._messages.get()


class Waiting:
    """An application that waits for ever, and remembers that it was cancelled."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.was_cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def test_a_request_without_a_body_starts_at_once() -> None:
    """Its last byte has arrived with its headers."""
    scope = scope_of()
    await LifetimeStage(Answering())(scope, Connection(), Sent())
    assert context_of(scope).has_started


@pytest.mark.parametrize("headers", [{"content_length": "4"}, {"transfer_encoding": "chunked"}])
async def test_the_deadline_counts_from_the_last_byte(headers: dict[str, str]) -> None:
    """While a body arrives the time limit stays whole, however long that takes."""
    connection, scope = Connection(), scope_of(method="POST", **headers)
    started = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            await receive()
            started.append(context_of(scope).has_started)
        await answer(send)

    connection.body(b"ab", more=True)
    request = asyncio.create_task(LifetimeStage(reading)(scope, connection, Sent()))
    await asyncio.sleep(3 * lifetime._LOOK_S)
    assert context_of(scope).remaining_s() == 30.0
    connection.body(b"cd", more=False)
    await request
    assert started == [False, True]


async def test_the_work_of_a_caller_that_leaves_is_cancelled() -> None:
    """The handler is cancelled, no response is sent, and the task of the server goes on."""
    connection, inner, sent = Connection(), Waiting(), Sent()

    async def serve() -> str:
        await LifetimeStage(inner)(scope_of(), connection, sent)
        await asyncio.sleep(0)
        return "goes on"

    request = asyncio.create_task(serve())
    await inner.reached.wait()
    connection.disconnect()
    assert await request == "goes on"
    assert inner.was_cancelled and sent.messages == []


async def test_a_caller_that_leaves_while_it_sends_is_noticed_too() -> None:
    """A handler that waits for the next part of a body is cancelled there."""
    connection, sent = Connection(), Sent()
    received = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while True:
            received.append(await receive())

    connection.body(b"ab", more=True)
    connection.disconnect()
    await LifetimeStage(reading)(scope_of(method="POST", content_length="4"), connection, sent)
    assert [message["body"] for message in received] == [b"ab"]
    assert sent.messages == []


async def test_a_body_that_was_kept_reaches_a_late_handler() -> None:
    """The watch takes in what the handler has not asked for, within a bound, and gives it out in order."""
    connection, sent = Connection(), Sent()
    asks = asyncio.Event()
    parts = [bytes([number]) * 40_000 for number in range(5)]

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await asks.wait()
        got = [(await receive())["body"] for _ in parts]
        assert got == parts
        await answer(send)

    scope = scope_of(method="POST", content_length="200000")
    for number, part in enumerate(parts):
        connection.body(part, more=number < len(parts) - 1)
    request = asyncio.create_task(LifetimeStage(late)(scope, connection, sent))
    await asyncio.sleep(3 * lifetime._LOOK_S)
    # Two parts exceed the bound: the others are not taken from the connection.
    assert connection._messages.qsize() == 3
    asks.set()
    await request
    assert sent.status == 200 and context_of(scope).has_started


@pytest.mark.parametrize(("method", "code"), [("GET", b"deadline-exceeded"), ("POST", b"outcome-unknown")])
async def test_what_ignores_its_deadline_is_ended(monkeypatch: pytest.MonkeyPatch, method: str, code: bytes) -> None:
    """A handler that does not answer at the deadline is cancelled a little later; what may have changed is unknown."""
    monkeypatch.setattr(lifetime, "_GRACE_S", 0.01)
    inner, sent, scope = Waiting(), Sent(), scope_of(method=method)
    scope["state"][CONTEXT_KEY] = RequestContext("an-id", timeout_s=0.02)
    await LifetimeStage(inner)(scope, Connection(), sent)
    assert inner.was_cancelled
    assert sent.status == 503 and code in sent.body


async def test_a_longer_limit_of_a_handler_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that states a longer time limit is not ended at the shorter one."""
    monkeypatch.setattr(lifetime, "_GRACE_S", 0.0)
    sent, scope = Sent(), scope_of()
    scope["state"][CONTEXT_KEY] = RequestContext("an-id", timeout_s=0.01)

    async def long(scope: Any, receive: Any, send: Any) -> None:
        context_of(scope).allow(30.0)
        await asyncio.sleep(4 * lifetime._LOOK_S)
        await answer(send)

    await LifetimeStage(long)(scope, Connection(), sent)
    assert sent.status == 200


async def test_a_cancellation_from_outside_passes() -> None:
    """The server's own cancellation is not taken for a caller's departure."""
    inner = Waiting()
    request = asyncio.create_task(LifetimeStage(inner)(scope_of(), Connection(), Sent()))
    await inner.reached.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert inner.was_cancelled
