"""The pipeline: its order, and one context a request that reaches every shard command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar

from tests.unit.api.parts import FakeRouter, application, talk
from tests.unit.front.test_identity import BOTH, OPERATOR, OWN, guarded, templates
from vectorpool.front import pipeline

ARCHITECTURE = Path(__file__).parents[3] / "ARCHITECTURE.md"


def test_the_stages_stand_in_their_order() -> None:
    """The order of the objects is the one that the module and ARCHITECTURE state."""
    app = application(FakeRouter())
    stage, names = app._first, []
    while not isinstance(stage, Litestar):
        names.append(type(stage).__name__)
        stage = stage._inner  # type: ignore[attr-defined]
    assert names == [
        "RequestIdStage",
        "MeteringStage",
        "BrowsersStage",
        "DrainingStage",
        "BoundsStage",
        "IdentityStage",
        "LimitsStage",
        "LifetimeStage",
        "BodiesStage",
        "ShortPathStage",
        "HeadStage",
    ]
    assert stage is app.app
    # With traces, which this application has not.
    stated = [names[0], "TracingStage", *names[1:]]
    assert re.findall(r"``(\w+Stage)``", pipeline.__doc__ or "") == stated
    assert re.findall(r"^\| `(\w+Stage)` \|", ARCHITECTURE.read_text(), re.MULTILINE) == stated


@pytest.mark.parametrize(("method", "path"), templates())
async def test_every_handler_passes_its_context_on(method: str, path: str) -> None:
    """Whatever a request asks of the shards, it asks with its own id and its own deadline."""
    app, router = guarded()
    router.contexts.clear()
    filled = path.replace("{collection}", "0a1b2c3d-0000-4000-8000-000000000000")
    for user in ("{user_id}", "{tenant}"):
        filled = filled.replace(user, OWN)
    filled = filled.replace("{", "").replace("}", "")
    async with talk(app) as client:
        for body in (b"{}", b'{"ids": ["a"], "embeddings": [[1, 2]]}', b'{"name": "notes"}'):
            content = None if method in ("GET", "HEAD") else body
            token = OPERATOR if path.startswith("/admin") else BOTH
            headers = {
                "X-Request-Id": "this-one",
                "Content-Type": "application/json",
                "Authorization": f"Bearer {token.decode()}",
            }
            await client.request(method, filled, content=content, headers=headers)
    assert {context.request_id for context in router.contexts} <= {"this-one"}
    assert all(context.remaining_s() is not None for context in router.contexts)
    assert len(router.contexts) == len(router.commands)


async def test_what_is_no_request_goes_to_the_application() -> None:
    """The start and the end of the application pass the stages by."""
    events, sent = ["startup", "shutdown"], []

    async def receive() -> Any:
        return {"type": f"lifespan.{events.pop(0)}"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    app = application(FakeRouter())
    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)  # type: ignore[arg-type,typeddict-item]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert not app.metering.counts


async def test_head_is_answered_where_get_is() -> None:
    """HEAD is answered as GET is on both protocols and on health, and logged by its own name; else it is 405."""
    app = application(FakeRouter())
    answered = ("/api/v2/heartbeat", "/health/live", "/health/ready", "/schema/openapi.json", "/users/42/collections")
    async with talk(app) as client:
        for path in answered:
            assert (await client.head(path)).status_code == 200, path
        assert (await client.head("/users/42/restore")).status_code == 405
        assert (await client.head("/users/42/avatars/7/documents/none.md")).status_code == 404
    assert app.metering.counts == {("HEAD", 200): len(answered), ("HEAD", 405): 1, ("HEAD", 404): 1}
