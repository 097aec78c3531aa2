"""Limits: the number of requests under way on the instance, and what each user, and each token, may send.

A request is counted for the user of its path, or else for its caller. Questions of supervisors and operators are not
counted: they are open or behind a token of their own.
"""

from __future__ import annotations

from typing import Final

from litestar.types import HTTPScope, Message, Receive, Send

from vectorpool.allowances.allowances import Allowances, Spending, counted_as
from vectorpool.allowances.embedder import TOKEN_SPENDING
from vectorpool.api.call import CALLER_KEY
from vectorpool.api.refusals import send_refusal
from vectorpool.errors import QueueFull, RateLimited
from vectorpool.front.bodies import BODY_BOUND_KEY, BodyBound
from vectorpool.front.stages import Stage, announced_length, context_of, segments_of, state_of, user_of
from vectorpool.identity.access import is_open
from vectorpool.identity.caller import ANY_CALLER, Caller
from vectorpool.settings import Settings
from vectorpool.telemetry.families import UNDER_WAY, UNDER_WAY_LIMIT
from vectorpool.telemetry.figures import Sample

# Questions of supervisors, and of operators about the reason: the second needs a token, and is answered one at a time.
_ALWAYS: Final = (["health"], ["metrics"])
_OPERATORS: Final = (["admin"], ["metrics"])
# Refusals that wait at once.
_MAX_PAUSED: Final = 512


class LimitsStage:
    """Refuses requests beyond ``max_requests`` under way, and beyond the limits of users and tokens."""

    def __init__(self, inner: Stage, max_requests: int, allowances: Allowances | None = None) -> None:
        self._inner = inner
        self._max_requests = max_requests
        self._allowances = allowances or Allowances(Settings())
        self._under_way = 0
        self._paused = 0

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
            caller: Caller = scope["state"].get(CALLER_KEY, ANY_CALLER)
            if self._allowances.is_idle and caller.limits is None:
                await self._inner(scope, receive, send)
            else:
                await self._limited(scope, receive, send, caller)
        finally:
            self._under_way -= 1

    async def _limited(self, scope: HTTPScope, receive: Receive, send: Send, caller: Caller) -> None:
        segments = segments_of(scope)
        if is_open(segments) or segments[:1] in _OPERATORS:
            await self._inner(scope, receive, send)
            return
        allowances, context = self._allowances, context_of(scope)
        context.claimed = caller.limits
        spendings = allowances.spendings(counted_as(user_of(scope), caller.name), caller.name, caller.limits)
        if any(spending.policy for spending in spendings):
            send = _telling(send, allowances, spendings)
        try:
            allowances.enter(spendings)
        except RateLimited as error:
            await self._pause(error, spendings)
            await send_refusal(error, scope, send)
            return
        try:
            if (bound := _body_bound(spendings)) is not None:
                if (too_large := bound.refusal(announced_length(scope))) is not None:
                    await send_refusal(too_large, scope, send)
                    return
                # For a body that does not say how long it is.
                state_of(scope)[BODY_BOUND_KEY] = bound
            await self._counting_tokens(scope, receive, send, spendings, caller)
        finally:
            allowances.leave(spendings)

    async def _counting_tokens(
        self, scope: HTTPScope, receive: Receive, send: Send, spendings: list[Spending], caller: Caller
    ) -> None:
        """Pass the request on; the tokens that it embeds are counted for its token too, if the claim limits them."""
        if caller.limits is None or "embedding_tokens_per_min" not in caller.limits:
            await self._inner(scope, receive, send)
            return
        mark = TOKEN_SPENDING.set(spendings[-1])
        try:
            await self._inner(scope, receive, send)
        finally:
            # The next request of the connection may run in the same context.
            TOKEN_SPENDING.reset(mark)

    async def _pause(self, error: RateLimited, spendings: list[Spending]) -> None:
        """Wait a moment with a refusal that follows another one.

        A caller that does not wait by itself so sends a few requests a second on each connection, and not thousands.
        """
        pause_s = min(self._allowances.pause_s(spendings), error.retry_after_s or 0.0)
        if pause_s <= 0.0 or self._paused >= _MAX_PAUSED:
            return
        self._paused += 1
        try:
            await self._allowances.sleep(pause_s)
        finally:
            self._paused -= 1


def _telling(send: Send, allowances: Allowances, spendings: list[Spending]) -> Send:
    """Return a ``send`` that adds the headers of the draft to the response."""

    async def telling(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *allowances.headers(spendings)]
        await send(message)

    return telling


def _body_bound(spendings: list[Spending]) -> BodyBound | None:
    """Return the least bound on the body; None if there is none."""
    found: BodyBound | None = None
    for spending in spendings:
        limit = spending.in_force.limits.request_bytes
        if limit is not None and (found is None or limit < found.limit):
            found = BodyBound(limit, spending.in_force.sources["request_bytes"])
    return found
