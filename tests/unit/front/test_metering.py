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
from vectorpool.front.stages import context_of
from vectorpool.identity.caller import Caller
from vectorpool.sources import SYSTEM, SystemSources
from vectorpool.telemetry.families import REQUESTS, SLOW_REQUESTS
from vectorpool.telemetry.figures import Figures


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a line of a request says."""
    fields: dict[str, Any] = record.__dict__["fields"]
    return dict(fields)


async def test_a_response_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The line has method, route, status, time and id, and not the path."""
    stage = MeteringStage(Answering(), SYSTEM)
    with caplog.at_level(logging.INFO, "vectorpool.http"):
        await stage(scope_of(), nothing, Sent())
    assert stage.counts == {("GET", 200): 1}
    (record,) = caplog.records
    fields = fields_of(record)
    assert record.getMessage() == "request" and fields.pop("ms") >= 0
    mark = fields.pop("user")
    assert fields == {"method": "GET", "route": "(no route)", "status": 200, "id": "an-id"}
    assert len(mark) == 12 and mark != "42"


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
    logged = [fields_of(record)["status"] for record in caplog.records if record.getMessage() == "request"]
    assert logged == [401, 403, 429, 503, 503]
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
    assert [fields_of(record)["status"] for record in caplog.records] == [503, 200]
    assert stage.counts == {("GET", 200): 4, ("GET", 503): 3}
    with caplog.at_level(logging.DEBUG, "vectorpool.http"):
        await stage(scope_of(path), nothing, Sent())
    assert caplog.records[2].levelno == logging.DEBUG and fields_of(caplog.records[2])["status"] == 200


class Ticking(SystemSources):
    """Time that passes a second with each look."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic_s(self) -> float:
        self._now_s += 1.0
        return self._now_s


@pytest.mark.parametrize(("slow_s", "is_slow"), [(0.5, True), (1.0, False), (0.0, False)])
async def test_slow_requests_are_warnings_with_their_parts(
    slow_s: float, is_slow: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the setting the line is a warning, and the request is counted; the line has what each part took."""

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        context = context_of(scope)
        context.took([0.0, 0.0, 0.25, 0.0, 0.001, 0.0, 0.2], [], "1", 17)
        await answer(send, 200)

    figures = Figures()
    stage = MeteringStage(answering, Ticking(), figures, slow_s=slow_s)
    with caplog.at_level(logging.INFO, "vectorpool.http"):
        await stage(scope_of(), nothing, Sent())
    (record,) = caplog.records
    fields = fields_of(record)
    assert (record.levelno, record.getMessage()) == (
        (logging.WARNING, "slow request") if is_slow else (logging.INFO, "request")
    )
    assert fields["parts"] == {"hydrate": 250.0, "engine": 1.0, "store": 200.0}
    assert (fields["commit"], fields["shard"], fields["ms"]) == (17, "1", 1000.0)
    assert figures.counter(SLOW_REQUESTS, "native").value == is_slow


async def test_labels_are_bounded_whatever_callers_send() -> None:
    """Methods that nobody knows and paths that match no route are one series each, and no path is a label."""
    figures = Figures()
    stage = MeteringStage(Answering(), SYSTEM, figures)
    for number in range(50):
        await stage(scope_of(f"/../{number}\n", method=f"M{number}"), nothing, Sent())
    samples = [sample for sample in figures.samples() if sample.family == REQUESTS.name]
    assert [sample.labels for sample in samples] == [("(no route)", "other", "200", "native")]
    assert samples[0].value == 50


async def test_marks_of_a_user_are_the_same_under_one_key(caplog: pytest.LogCaptureFixture) -> None:
    """Instances with one log_key write one mark for a user; without one, each start has its own."""
    marks = []
    for key in ("a key", "a key", "another", None, None):
        caplog.clear()
        with caplog.at_level(logging.INFO, "vectorpool.http"):
            await MeteringStage(Answering(), SYSTEM, log_key=key)(scope_of("/users/42/lost"), nothing, Sent())
        marks.append(fields_of(caplog.records[0])["user"])
    assert marks[0] == marks[1] and len(set(marks)) == 4
