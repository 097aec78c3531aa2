"""The bodies stage: one budget of bytes for the instance, and a share for each user."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.front.parts import Answering, Sent, answer, nothing, scope_of
from vectorpool.errors import QueueFull
from vectorpool.front.bodies import BodiesStage
from vectorpool.settings import Settings

SETTINGS = Settings(max_body_bytes=4000, max_body_bytes_under_way=10_000)


class Holding:
    """An application that reads its body, and holds it until it may answer."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.holding = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        self.holding += 1
        await self.go_on.wait()
        await answer(send)


def body_of(*sizes: int) -> Any:
    """Return a ``receive`` that gives a body in parts of these sizes."""
    parts = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    parts[-1]["more_body"] = False

    async def receive() -> Any:
        return parts.pop(0)

    return receive


def post(user: str = "42", length: int | None = None) -> Any:
    """Return the scope of a POST about a user; without a length it comes in chunks."""
    headers = {"transfer_encoding": "chunked"} if length is None else {"content_length": str(length)}
    return scope_of(f"/users/{user}/ingest", "POST", **headers)


async def test_a_user_has_half_and_others_the_rest() -> None:
    """Two users hold half each; then a third is refused by the length alone, without a byte of it being read."""
    inner = Holding()
    stage = BodiesStage(inner, SETTINGS)
    running = [
        asyncio.create_task(stage(post(user, size), body_of(size), Sent()))
        for user, size in (("a", 3000), ("a", 2000), ("b", 4000), ("b", 900))
    ]
    while inner.holding < 4:
        await asyncio.sleep(0)
    assert stage.bytes_under_way == 9900
    for user, size, why in (("a", 1, "this user's"), ("c", 101, "on this instance")):
        sent = Sent()
        await stage(post(user, size), _unread, sent)
        assert (sent.status, sent.headers["retry-after"]) == (429, "1")
        assert json.loads(sent.body)["code"] == "queue-full" and why in json.loads(sent.body)["detail"]
    inner.go_on.set()
    await asyncio.gather(*running)
    assert stage.bytes_under_way == 0
    sent = Sent()
    await stage(post("a", 4000), body_of(4000), sent)
    assert sent.status == 200


async def _unread() -> Any:
    raise AssertionError("the body was read")


async def test_a_body_without_a_length_is_counted_while_it_arrives() -> None:
    """It ends with QueueFull at the handler as soon as it exceeds the share, and what it took is free again."""
    inner = Holding()
    stage = BodiesStage(inner, SETTINGS)
    with pytest.raises(QueueFull, match="this user's"):
        await stage(post(), body_of(*[1000] * 8), Sent())
    assert stage.bytes_under_way == 0
    assert inner.holding == 0


async def test_a_refusal_in_chromas_form() -> None:
    """Below /api the refusal is a RateLimitError, and the share is that of the path's tenant."""
    inner = Holding()
    stage = BodiesStage(inner, SETTINGS)
    path = "/api/v2/tenants/42/databases/default_database/collections/x/add"
    running = asyncio.create_task(stage(scope_of(path, "POST", content_length="4000"), body_of(4000), Sent()))
    while not inner.holding:
        await asyncio.sleep(0)
    sent = Sent()
    await stage(scope_of(path, "POST", content_length="3000"), _unread, sent)
    assert (sent.status, json.loads(sent.body)["error"]) == (429, "RateLimitError")
    sent = Sent()
    await stage(post("42", 3000), _unread, sent)
    assert sent.status == 429
    inner.go_on.set()
    await running


async def test_requests_without_a_body_pass() -> None:
    """They are not counted, whatever is under way."""
    inner, sent = Answering(), Sent()
    await BodiesStage(inner, SETTINGS)(scope_of(), nothing, sent)
    assert sent.status == 200 and len(inner.seen) == 1


async def test_one_body_always_has_room() -> None:
    """A budget below max_body_bytes still takes one body of that size."""
    stage, sent = BodiesStage(Answering(), Settings(max_body_bytes=4000, max_body_bytes_under_way=1024)), Sent()
    await stage(post("42", 4000), body_of(4000), sent)
    assert sent.status == 200
