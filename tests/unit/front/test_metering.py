"""The metering stage: one line and one count for each response, whoever made it."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from tests.unit.front.parts import Answering, Sent, answer, nothing, scope_of
from vectorpool.answers import Answer
from vectorpool.api.callers import Callers
from vectorpool.context import RequestContext
from vectorpool.errors import PoolBusy, QueueFull
from vectorpool.front.metering import MeteringStage
from vectorpool.identity.caller import Caller
from vectorpool.sources import SYSTEM


async def test_a_response_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The line has method, route, status, time and id, and not the path."""
    stage = MeteringStage(Answering(), SYSTEM)
    with caplog.at_level(logging.INFO, "vectorpool.http"):
        await stage(scope_of(), nothing, Sent())
    assert stage.counts == {("GET", 200): 1}
    (line,) = caplog.messages
    assert line.startswith("method=GET route=(no route) status=200 ms=") and line.endswith(" id=an-id")
    assert "42" not in line.split(" ms=")[0]


async def test_a_caller_that_left_is_counted() -> None:
    """A request that ends without a response counts as 499."""

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        pass

    stage = MeteringStage(silent, SYSTEM)
    await stage(scope_of(), nothing, Sent())
    assert stage.counts == {("GET", 499): 1}
    assert stage.summary() == "499: 1"


async def test_a_defect_is_counted() -> None:
    """An exception that passes counts as 500."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    stage = MeteringStage(broken, SYSTEM)
    with pytest.raises(ZeroDivisionError):
        await stage(scope_of(), nothing, Sent())
    assert stage.counts == {("GET", 500): 1}


class Refusing(FakeRouter):
    """A router that refuses by the user's name."""

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
        raise {"busy": PoolBusy("Wait."), "full": QueueFull("Wait.")}[user_id]


async def test_refusals_of_every_stage_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """401, 403, 429 and 503 are counted and logged, those of stages and those of handlers alike."""
    app = application(Refusing())
    secret = hashlib.sha256(b"secret").digest()
    app.identity.callers = Callers({secret: Caller("one", frozenset({"busy", "full"}))})
    bearer = {"authorization": "Bearer secret"}
    async with talk(app) as client:
        with caplog.at_level(logging.INFO, "vectorpool.http"):
            await client.get("/users/busy/collections")
            await client.get("/users/other/collections", headers=bearer)
            await client.get("/users/full/collections", headers=bearer)
            await client.get("/users/busy/collections", headers=bearer)
            await app.draining.leave(0.0)
            await client.get("/users/busy/collections", headers=bearer)
    assert app.metering.counts == {("GET", 401): 1, ("GET", 403): 1, ("GET", 429): 1, ("GET", 503): 2}
    logged = [line.split("status=")[1][:3] for line in caplog.messages if line.startswith("method=")]
    assert logged == ["401", "403", "429", "503", "503"]
    assert app.metering.summary() == "401: 1, 403: 1, 429: 1, 503: 2"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/api/v2/heartbeat", "/api/v2/healthcheck"])
async def test_probes_do_not_fill_the_log(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A probe is logged at INFO when its answer changes, and else at DEBUG; it is counted all the same."""
    statuses = [200, 200, 503, 503, 503, 200, 200]
    coming = iter([*statuses, 200])

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, next(coming))

    stage = MeteringStage(answering, SYSTEM)
    with caplog.at_level(logging.INFO, "vectorpool.http"):
        for _ in statuses:
            await stage(scope_of(path), nothing, Sent())
    assert [line.split("status=")[1][:3] for line in caplog.messages] == ["503", "200"]
    assert stage.counts == {("GET", 200): 4, ("GET", 503): 3}
    with caplog.at_level(logging.DEBUG, "vectorpool.http"):
        await stage(scope_of(path), nothing, Sent())
    assert "status=200" in "".join(caplog.messages[2:])
