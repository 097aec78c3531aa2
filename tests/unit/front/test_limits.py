"""The limits stage: no more requests under way than the setting allows."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.front.parts import Sent, answer, nothing, scope_of
from vectorpool.front.limits import LimitsStage


async def test_requests_beyond_the_limit_are_refused() -> None:
    """Two may be under way; the third is 429, supervisors are answered, and an ended request makes room."""
    go_on = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != "/health/live":
            await go_on.wait()
        await answer(send)

    stage = LimitsStage(slow, max_requests=2)
    under_way = [asyncio.create_task(stage(scope_of(), nothing, Sent())) for _ in range(2)]
    await asyncio.sleep(0)
    refused, live, later = Sent(), Sent(), Sent()
    await stage(scope_of(), nothing, refused)
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert b"queue-full" in refused.body
    await stage(scope_of("/health/live"), nothing, live)
    assert live.status == 200
    go_on.set()
    await asyncio.gather(*under_way)
    await stage(scope_of(), nothing, later)
    assert later.status == 200
