"""Limits of the instance: the number of requests under way at once."""

from __future__ import annotations

from typing import Final

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.refusals import send_refusal
from vectorpool.errors import QueueFull
from vectorpool.front.stages import Stage, segments_of
from vectorpool.telemetry.families import UNDER_WAY, UNDER_WAY_LIMIT
from vectorpool.telemetry.figures import Sample

# Questions of supervisors, and of operators about the reason: the second needs a token, and is answered one at a time.
_ALWAYS: Final = (["health"], ["metrics"])


class LimitsStage:
    """Refuses requests beyond ``max_requests`` under way. Questions of supervisors are always answered."""

    def __init__(self, inner: Stage, max_requests: int) -> None:
        self._inner = inner
        self._max_requests = max_requests
        self._under_way = 0

    def samples(self) -> list[Sample]:
        """Return the figures of the requests under way."""
        return [
            Sample(UNDER_WAY.name, (), self._under_way),
            Sample(UNDER_WAY_LIMIT.name, (), self._max_requests),
        ]

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if self._under_way >= self._max_requests and segments_of(scope)[:1] not in _ALWAYS:
            refusal = QueueFull(
                f"{self._max_requests} requests are under way on this instance (max_requests). Send the request again "
                "later."
            )
            await send_refusal(refusal, scope, send)
            return
        self._under_way += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            self._under_way -= 1
