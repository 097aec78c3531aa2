"""The limits stage: no more requests under way than the setting allows, and no more of a user than its limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.tokens import Clock
from tests.unit.front.parts import Answering, Sent, answer, nothing, scope_of
from vectorpool.allowances.allowances import PAUSE_S, Allowances
from vectorpool.allowances.embedder import TOKEN_SPENDING
from vectorpool.errors import LimitExceeded
from vectorpool.front.bodies import BODY_BOUND_KEY, BodiesStage
from vectorpool.front.limits import LimitsStage
from vectorpool.identity.caller import ANY_CALLER, Caller
from vectorpool.settings import Settings


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


# --- Users --------------------------------------------------------------------------------------------


def limited(inner: Any, **limits: Any) -> LimitsStage:
    settings = Settings(**{f"limit_{name}": value for name, value in limits.items()})
    return LimitsStage(inner, 100, Allowances(settings, Clock()))


async def send(stage: LimitsStage, path: str = "/users/42/lost", caller: Caller = ANY_CALLER, **more: Any) -> Sent:
    """Send a request and return what was sent back."""
    scope, sent = scope_of(path, **more), Sent()
    scope["state"]["caller"] = caller
    await stage(scope, nothing, sent)
    return sent


async def test_a_user_beyond_its_rate_is_refused_and_told() -> None:
    """429 in the form of the path's protocol, with the wait and the draft's headers; other users go on."""
    inner = Answering()
    stage = limited(inner, requests_per_s=0.5, burst=2)
    for left in (1, 0):
        sent = await send(stage)
        assert sent.status == 200
        assert sent.headers["ratelimit-policy"] == '"requests";q=2;w=4'
        assert sent.headers["ratelimit"].startswith(f'"requests";r={left};t=')
    native = await send(stage)
    assert (native.status, native.headers["retry-after"]) == (429, "2")
    assert native.headers["ratelimit"] == '"requests";r=0;t=2'
    assert "connection" not in native.headers, "the caller is to wait, not to go elsewhere"
    problem = json.loads(native.body)
    assert (problem["code"], problem["limit_name"], problem["limit"]) == ("rate-limited", "requests_per_s", 0.5)
    chroma = await send(stage, "/api/v2/tenants/42/databases/d/collections")
    assert (chroma.status, json.loads(chroma.body)["error"]) == (429, "RateLimitError")
    assert (await send(stage, "/users/43/lost")).status == 200
    assert len(inner.seen) == 3


async def test_refusals_that_follow_each_other_wait_a_moment() -> None:
    """The first is sent at once, the next ones a tenth of a second later; a user that waited is told at once again."""
    clock = Clock()
    stage = LimitsStage(Answering(), 100, Allowances(Settings(limit_requests_per_s=0.001, limit_burst=1), clock))
    for _ in range(4):
        await send(stage)
    assert clock.slept == [PAUSE_S, PAUSE_S]
    clock.now_s += 5
    await send(stage)
    assert clock.slept == [PAUSE_S, PAUSE_S]
    soon = LimitsStage(Answering(), 100, Allowances(Settings(limit_requests_per_s=1000, limit_burst=1), clock))
    for _ in range(4):
        await send(soon)
    assert max(clock.slept[2:]) <= 0.001, "no longer than until the next request may be sent"


async def test_supervisors_and_operators_are_not_counted() -> None:
    """Open paths and /admin are answered however often they are asked."""
    stage = limited(Answering(), requests_per_s=0.001, burst=1)
    for path in ("/health/live", "/health/ready", "/api/v2/heartbeat", "/schema", "/admin/pool"):
        for _ in range(3):
            sent = await send(stage, path)
            assert sent.status == 200 and "ratelimit" not in sent.headers


async def test_an_announced_body_beyond_the_limit_is_refused_unread() -> None:
    """413 by its length, before the application sees it; one without a length is passed on with its bound."""
    inner = Answering()
    stage = limited(inner, request_bytes=10)
    refused = await send(stage, method="PUT", content_length="11")
    assert refused.status == 413 and not inner.seen
    problem = json.loads(refused.body)
    assert (problem["code"], problem["limit_name"]) == ("limit-exceeded", "request_bytes")
    assert (problem["limit"], problem["count"], problem["limit_source"]) == (10, 11, "setting")
    assert (await send(stage, method="PUT", content_length="10")).status == 200
    assert (await send(stage, method="PUT", transfer_encoding="chunked")).status == 200
    assert inner.seen[-1]["state"][BODY_BOUND_KEY].limit == 10


async def test_a_body_without_a_length_ends_at_its_bound() -> None:
    """The stage that counts bodies raises as soon as more bytes came than the user may send."""
    parts = [b"x" * 6, b"x" * 6, b"x" * 6]

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass

    stage = limited(BodiesStage(reading, Settings()), request_bytes=10)
    scope = scope_of(method="PUT", transfer_encoding="chunked")
    with pytest.raises(LimitExceeded, match="request_bytes"):
        await stage(scope, receive, Sent())
    assert len(parts) == 1, "the rest is not read"
    assert stage._inner.bytes_under_way == 0  # type: ignore[attr-defined]


async def test_a_tokens_claim_is_counted_for_its_name() -> None:
    """The claim reaches the context, and the tighter of the two limits on bodies is in force."""
    inner = Answering()
    stage = limited(inner, request_bytes=100)
    caller = Caller("app", users=None, limits={"requests_per_s": 1.0, "burst": 1, "request_bytes": 5})
    assert (await send(stage, caller=caller)).status == 200
    assert inner.seen[0]["state"]["context"].claimed == caller.limits
    refused = await send(stage, caller=caller)
    assert refused.status == 429 and b"The token" in refused.body
    assert refused.headers["ratelimit-policy"] == '"token-requests";q=1;w=1'
    wide = Caller("wide", users=None, limits={"request_bytes": 1000})
    assert (await send(stage, caller=wide, content_length="101")).status == 413
    narrow = Caller("narrow", users=None, limits={"request_bytes": 5})
    assert (await send(stage, caller=narrow, content_length="6")).status == 413


async def test_a_claim_on_texts_counts_for_its_request_only() -> None:
    """While the request runs its token's spending is found; after it there is none, also after a failure."""
    seen = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(TOKEN_SPENDING.get())
        if scope["method"] == "PUT":
            raise RuntimeError
        await answer(send)

    stage = limited(inner)
    caller = Caller("app", users=None, limits={"embedding_tokens_per_min": 10})
    await send(stage, caller=caller)
    with pytest.raises(RuntimeError):
        await send(stage, caller=caller, method="PUT")
    await send(stage)
    assert [spending is not None and spending.tokens is not None for spending in seen] == [True, True, False]
    assert TOKEN_SPENDING.get() is None


async def test_a_request_that_fails_gives_its_place_back() -> None:
    """Whatever ends a request, the user may send the next one."""

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError

    stage = limited(failing, concurrent_requests=1)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            await stage(scope_of(), nothing, Sent())
