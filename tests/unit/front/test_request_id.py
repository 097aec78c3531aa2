"""The request id stage: every response names its request, by the caller's own id if that is plain."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from tests.unit.front.parts import Answering, Sent, nothing, scope_of
from vectorpool.front.request_id import RequestIdStage
from vectorpool.front.stages import context_of
from vectorpool.sources import SystemSources


class Counting(SystemSources):
    """Makes the ids made-1, made-2 and so on."""

    made = 0

    def uuid(self) -> str:
        self.made += 1
        return f"made-{self.made}"


async def ask(*sent_ids: bytes, path: str = "/users/42/lost") -> tuple[Sent, Answering]:
    """Send a request with these values of X-Request-Id."""
    scope, sent, inner = scope_of(path), Sent(), Answering()
    scope["headers"] = [(b"x-request-id", value) for value in sent_ids]
    await RequestIdStage(inner, 30.0, Counting())(scope, nothing, sent)
    return sent, inner


@pytest.mark.parametrize("sent_id", [b"a", b"4bf92f35-77b3:4da6/a=1+2@x~y._", b"x" * 128])
async def test_a_plain_id_of_the_caller_is_kept(sent_id: bytes) -> None:
    """The context and the response have the id that the caller sent."""
    sent, inner = await ask(sent_id)
    assert sent.headers["x-request-id"] == sent_id.decode()
    assert context_of(inner.seen[0]).request_id == sent_id.decode()


@pytest.mark.parametrize("sent_ids", [(), (b"",), (b"x" * 129,), (b"a b",), (b"a\xc3\xa4",), (b'"',), (b"a", b"b")])
async def test_anything_else_is_replaced(sent_ids: tuple[bytes, ...]) -> None:
    """No id, an empty, long or odd one, and several ones: the service makes its own."""
    sent, inner = await ask(*sent_ids)
    assert sent.headers["x-request-id"] == context_of(inner.seen[0]).request_id == "made-1"


async def test_below_api_the_id_is_chromas_trace_id_too() -> None:
    """Chroma's clients read it from a header of their own; the native API does not send that."""
    sent, _ = await ask(b"a", path="/api/v2/heartbeat")
    assert sent.headers["chroma-trace-id"] == sent.headers["x-request-id"] == "a"
    assert "chroma-trace-id" not in (await ask(b"a"))[0].headers


async def test_a_defect_of_a_stage_is_answered_with_the_id(caplog: pytest.LogCaptureFixture) -> None:
    """An exception becomes a 500 that carries the id, says nothing of the cause, and is logged."""

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("secret")

    sent = Sent()
    await RequestIdStage(broken, 30.0, Counting())(scope_of(), nothing, sent)
    assert (sent.status, sent.headers["x-request-id"]) == (500, "made-1")
    assert b"internal-error" in sent.body and b"secret" not in sent.body
    assert any("made-1" in record.message and record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/users/42/collections", 200),
        ("POST", "/users/42/collections/notes/records/get", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/users/42/lost", 405),
        ("POST", "/users/42/collections", 400),
        ("GET", "/users//lost", 400),
        ("GET", "/api/v2/heartbeat", 200),
        ("HEAD", "/api/v2/heartbeat", 200),
        ("GET", "/api/v2/nothing", 404),
        ("GET", "/api/v1/heartbeat", 410),
    ],
)
async def test_every_answer_of_the_service_carries_it(method: str, path: str, status: int) -> None:
    """Whoever answers, a stage, the short path or a route: the caller's id comes back."""
    async with talk(application(FakeRouter())) as client:
        body = b"{}" if path.endswith("get") else b"{"
        response = await client.request(
            method, path, content=body if method == "POST" else None, headers={"X-Request-Id": "mine"}
        )
    assert (response.status_code, response.headers["x-request-id"]) == (status, "mine")
    assert ("chroma-trace-id" in response.headers) == path.startswith("/api")
