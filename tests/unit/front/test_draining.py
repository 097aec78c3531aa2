"""The draining stage: new requests are refused, those under way end first."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.front.parts import Answering, Sent, answer, nothing, scope_of
from vectorpool.front.draining import DrainingStage


async def test_after_leaving_only_the_questions_of_supervisors_are_answered() -> None:
    """A new request is 503 with Retry-After, in the path's own form; whether it lives and is ready is answered."""
    inner = Answering()
    stage = DrainingStage(inner)
    assert await stage.leave(1.0) == 0
    for path, shape in (("/users/42", b"draining"), ("/admin/pool", b"draining"), ("/api/v2", b"ChromaError")):
        sent = Sent()
        await stage(scope_of(path), nothing, sent)
        assert (sent.status, sent.headers["retry-after"], sent.headers["connection"]) == (503, "1", "close")
        assert shape in sent.body
    assert inner.seen == []
    for path in ("/health/live", "/health/ready", "/admin/ready"):
        sent = Sent()
        await stage(scope_of(path), nothing, sent)
        assert sent.status == 200
    assert await stage.leave(1.0) == 0


async def test_requests_under_way_end_first() -> None:
    """Leaving waits for them, and says how many had no time."""
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        await answer(send)

    stage, sent = DrainingStage(slow), Sent()
    request = asyncio.create_task(stage(scope_of(), nothing, sent))
    await asyncio.sleep(0)
    assert await stage.leave(0.0) == 1
    leaving = asyncio.create_task(stage.leave(30.0))
    await asyncio.sleep(0)
    assert not leaving.done()
    go_on.set()
    assert await leaving == 0
    await request
    assert sent.status == 200
