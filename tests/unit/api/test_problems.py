from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from litestar import get
from litestar.params import FromQuery

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool.answers import Answer
from vectorpool.api.problems import PROBLEM_BASE, as_error, problem_body, problem_headers
from vectorpool.context import RequestContext
from vectorpool.errors import (
    CollectionNotFound,
    InternalError,
    InvalidRequest,
    PoolBusy,
    RecordExists,
    StoreUnavailable,
    VectorpoolError,
)


def test_a_problem_has_the_members_of_rfc_9457_and_the_errors_own() -> None:
    """Type, title, status, detail and instance, a code for programs, and what the error adds."""
    error = RecordExists("One of the ids is there already. Use PUT.", extra={"existing": ["a"]})
    assert json.loads(problem_body(error, "/users/42")) == {
        "type": "https://vectorpool.dev/problems/record-exists",
        "title": "A record of this id is there already",
        "status": 409,
        "detail": "One of the ids is there already. Use PUT.",
        "instance": "/users/42",
        "code": "record-exists",
        "existing": ["a"],
    }


def test_extra_members_cannot_replace_the_fixed_ones() -> None:
    """An error's extra of the name of a fixed member is left out."""
    body = json.loads(problem_body(InvalidRequest("No.", extra={"status": 200, "type": "x"}), "/"))
    assert (body["status"], body["type"]) == (400, PROBLEM_BASE + "invalid-request")


def test_a_problem_can_always_be_encoded() -> None:
    """Half surrogates in a path or a message, and paths of megabytes, end in a short and valid body."""
    body = json.loads(problem_body(InvalidRequest("a \ud800 b", extra={"id": "\udfff"}), "/\ud800" + "x" * 3_000_000))
    assert body["detail"] == "a ? b" and body["id"] == "?"
    assert len(body["instance"]) < 300


@pytest.mark.parametrize(("error", "header"), [(PoolBusy("Wait."), "1"), (StoreUnavailable("Wait."), "2")])
def test_what_may_pass_later_says_when(error: VectorpoolError, header: str) -> None:
    """Retry-After is whole seconds, rounded up."""
    assert problem_headers(error)["Retry-After"] == header
    assert problem_headers(PoolBusy("Wait.", retry_after_s=0.2))["Retry-After"] == "1"
    assert "Retry-After" not in problem_headers(InvalidRequest("No."))


def test_the_commit_goes_with_the_problem_where_it_is_known() -> None:
    """An error that knows which commit it saw carries it as answers do."""
    assert problem_headers(CollectionNotFound("No.", extra={"commit": 7}))["X-Vectorpool-Commit"] == "7"


def test_what_was_not_raised_on_purpose_is_an_internal_error() -> None:
    """The message of an unexpected exception, which may hold anything, is not shown."""
    error = as_error(KeyError("the password is hunter2"))
    assert type(error) is InternalError
    assert "hunter2" not in error.detail


class Breaking(FakeRouter):
    """A router with a defect."""

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
        raise ZeroDivisionError("secret of user 43")


async def test_a_defect_is_a_500_that_leaks_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The client sees a code, the log sees the traceback, and the next request is served."""
    async with talk(application(Breaking())) as client:
        with caplog.at_level(logging.INFO, "vectorpool"):
            response = await client.get("/users/42/collections")
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "internal-error"
        assert "secret" not in response.text and "Zero" not in response.text
        assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)
        assert (await client.get("/health/live")).status_code == 200


class Busy(FakeRouter):
    """A router whose pool is full."""

    async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
        raise PoolBusy("Every slot is in use. Send the request again.", retry_after_s=2.5)


async def test_a_full_pool_is_a_503_with_retry_after() -> None:
    """A shard's refusal reaches the client with its status, code and waiting time."""
    async with talk(application(Busy())) as client:
        response = await client.get("/users/42/collections")
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "pool-busy", "3")


async def test_not_ready_is_a_503() -> None:
    """Before the shards run, and while they drain, the instance lives but is not ready."""
    router = FakeRouter()
    router.ready = False
    async with talk(application(router)) as client:
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "starting"})
        assert (await client.get("/health/live")).status_code == 200


async def test_a_client_that_leaves_cancels_nothing_else() -> None:
    """A request that is cancelled does not disturb the one after it."""

    class Slow(FakeRouter):
        async def execute(self, user_id: str, command: Any, context: RequestContext) -> Answer:
            if user_id == "slow":
                await asyncio.Event().wait()
            return await super().execute(user_id, command, context)

    async with talk(application(Slow())) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.get("/users/slow/collections")
        assert (await client.get("/users/42/collections")).status_code == 200


async def test_litestars_own_refusals_are_problems() -> None:
    """What the framework refuses has the same shape as what we refuse."""
    app = application(FakeRouter())

    @get("/teapot")
    async def teapot(limit: FromQuery[int]) -> str:
        return str(limit)

    app.app.register(teapot)
    async with talk(app) as client:
        for path, code in (
            ("/teapot", "invalid-request"),
            ("/teapot?limit=x", "invalid-request"),
            ("/no", "not-found"),
        ):
            response: httpx.Response = await client.get(path)
            assert response.headers["content-type"] == "application/problem+json"
            assert response.json()["code"] == code
            assert "limit" in response.json()["detail"] or code == "not-found"
