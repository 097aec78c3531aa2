"""The short path: a request is answered alike, and refused alike, on it and in the application."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool.api.callers import Callers
from vectorpool.commands import CountRecords, GetRecords, QueryRecords
from vectorpool.errors import CollectionNotFound, QueueFull
from vectorpool.identity.caller import Caller
from vectorpool.settings import Settings

PLACES = ["/users/alice/collections/notes", "/users/alice/avatars/7/collections/notes"]
QUERY = json.dumps({"embeddings": [[1, 2, 3, 4]], "n_results": 3}).encode()
# A parameter that no route knows changes nothing, except that the request passes the framework.
LONG = "?long=1"

REQUESTS = [
    ("POST", "/query", QUERY),
    ("POST", "/query", b'{"texts": ["a question"]}'),
    ("POST", "/query", b""),
    ("POST", "/query", b"{"),
    ("POST", "/query", b'{"unknown": 1}'),
    ("POST", "/query", b'{"embeddings": [[1, 1e39]]}'),
    ("POST", "/query", b'{"embeddings": [[1]], "texts": ["one too many"]}'),
    ("POST", "/query", b'{"embeddings": [[1]], "where": {"$no": 1}}'),
    ("POST", "/records/get", b"{}"),
    ("POST", "/records/get", b'{"ids": ["a"], "limit": 2}'),
    ("POST", "/records/get", b'{"include": ["distances"]}'),
    ("PUT", "/records", b'{"records": [{"id": "a", "embedding": [1, 2], "metadata": {"k": 1}}]}'),
    ("PUT", "/records", b'{"records": [{"id": "a", "document": "a text"}, {"id": "b", "embedding": [1, 2]}]}'),
    ("PUT", "/records", b'{"records": [{"id": "a", "embedding": [1]}, {"id": "a", "embedding": [2]}]}'),
    ("PUT", "/records", b'{"records": [{"id": "a"}]}'),
    ("PUT", "/records", b'{"records": []}'),
    ("PUT", "/records", b"["),
    ("PUT", "/records", b""),
    ("POST", "/records", b'{"records": [{"id": "a", "embedding": [1, 2]}]}'),
    ("POST", "/records", b'{"records": [{"id": "a", "embedding": [1e39]}]}'),
    ("PATCH", "/records", b'{"records": [{"id": "a", "document": "another"}]}'),
    ("DELETE", "/records", b'{"ids": ["a"]}'),
    ("GET", "/records", b""),
    ("GET", "/count", b""),
    ("PUT", "/query", QUERY),
    ("GET", "/query", b""),
    ("POST", "/count", b""),
    ("POST", "/query/", QUERY),
    ("POST", "/nothing", QUERY),
]


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
async def client(router: FakeRouter) -> AsyncIterator[httpx.AsyncClient]:
    async with talk(application(router, Settings(max_body_bytes=4096))) as made:
        # Made anew for each request otherwise.
        made.headers["x-request-id"] = "one-id"
        yield made


def _seen(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    return response.status_code, dict(response.headers), response.content


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_both_ways_answer_alike(
    router: FakeRouter, client: httpx.AsyncClient, place: str, method: str, path: str, body: bytes
) -> None:
    """Status, headers, body and the command that reaches the shard do not depend on the way."""
    short = await client.request(method, place + path, content=body)
    long = await client.request(method, place + path + LONG, content=body)
    assert _seen(short) == _seen(long)
    assert len(router.commands) in (0, 2)
    assert router.commands[:1] == router.commands[1:]


CHROMAS = "/api/v2/tenants/alice/databases/default_database/collections/0a1b2c3d-0000-4000-8000-000000000000"
CHROMA_REQUESTS = [
    ("POST", "/query", b'{"query_embeddings": [[1, 2]], "n_results": 3}', "application/json"),
    ("POST", "/query", b"{", "application/json"),
    ("POST", "/query", b"{}", "text/plain"),
    ("POST", "/query", b"{}", ""),
    ("POST", "/get", b'{"ids": ["a"]}', "application/json"),
    ("POST", "/add", b'{"ids": ["a"], "embeddings": [[1, 2]]}', "application/json"),
    ("POST", "/upsert", b'{"ids": ["a"], "embeddings": [[1, 2]]}', "application/json; charset=utf-8"),
    ("POST", "/upsert", b"x" * 5000, "application/json"),
    ("POST", "/query/", b"{}", "application/json"),
    ("PUT", "/query", b"{}", "application/json"),
    ("POST", "/nothing", b"{}", "application/json"),
]


@pytest.mark.parametrize(("method", "path", "body", "kind"), CHROMA_REQUESTS)
async def test_both_ways_of_chromas_protocol_answer_alike(
    router: FakeRouter, client: httpx.AsyncClient, method: str, path: str, body: bytes, kind: str
) -> None:
    """Status, headers, body and what reaches the shard do not depend on the way."""
    headers = {"Content-Type": kind}
    short = await client.request(method, CHROMAS + path, content=body, headers=headers)
    long = await client.request(method, CHROMAS + path + LONG, content=body, headers=headers)
    assert _seen(short) == _seen(long)
    assert short.status_code != 500
    assert len(router.commands) in (0, 2)
    assert router.commands[:1] == router.commands[1:]


@pytest.mark.parametrize(
    "error", [CollectionNotFound("There is none."), QueueFull("Too many."), RuntimeError("secret")]
)
async def test_failures_behind_the_router_are_answered_alike(
    router: FakeRouter, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A refusal of the shard, a full queue and a defect look the same on both ways."""

    async def fail(user_id: str, command: object, context: object) -> None:
        raise error

    monkeypatch.setattr(router, "execute", fail)
    short, long = [await client.post(PLACES[0] + "/query" + end, content=QUERY) for end in ("", LONG)]
    assert _seen(short) == _seen(long)
    assert short.status_code >= 400
    assert b"secret" not in short.content


@pytest.mark.parametrize("collection", ["a", "-notes-", "n" * 600])
async def test_bad_names_are_refused_alike(client: httpx.AsyncClient, collection: str) -> None:
    """A collection's name is checked on both ways."""
    path = f"/users/alice/collections/{collection}/count"
    short, long = await client.get(path), await client.get(path + LONG)
    assert _seen(short) == _seen(long)
    assert short.status_code == 400


async def test_a_body_beyond_the_limit_is_refused_with_and_without_a_length(client: httpx.AsyncClient) -> None:
    """The short path takes no body that is too long, and none of unknown length."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b" " * 1000

    for content in (b" " * 5000, pieces()):
        response = await client.post(PLACES[0] + "/query", content=content)
        assert response.status_code == 413
        assert response.json()["code"] == "limit-exceeded"


async def test_escapes_in_the_path_mean_what_they_mean(router: FakeRouter, client: httpx.AsyncClient) -> None:
    """An encoded user id is decoded, once, and an encoded slash refused."""
    assert (await client.get("/users/a%40b%2541/collections/notes/count")).status_code == 200
    assert router.commands[0][0] == "a@b%41"
    assert (await client.get("/users/a%2Fb/collections/notes/count")).status_code == 400
    assert len(router.commands) == 1


async def test_tokens_are_asked_for_on_the_short_way(router: FakeRouter) -> None:
    """Without a token nothing is read, and with one only what it allows."""
    app = application(router)
    app.identity.callers = Callers({hashlib.sha256(b"secret").digest(): Caller("alice", frozenset({"alice"}))})
    bearer = {"authorization": "Bearer secret"}
    async with talk(app) as client:
        assert (await client.post(PLACES[0] + "/query", content=QUERY)).status_code == 401
        assert (await client.get("/users/bob/collections/notes/count", headers=bearer)).status_code == 403
        assert router.commands == []
        assert (await client.get(PLACES[0] + "/count", headers=bearer)).status_code == 200


async def test_each_kind_of_request_goes_the_short_way(
    router: FakeRouter, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The router of the framework is not asked for queries, gets and counts."""
    monkeypatch.setattr("litestar.Litestar.__call__", None)
    for place in PLACES:
        assert (await client.post(place + "/query", content=QUERY)).status_code == 200
        assert (await client.post(place + "/records/get", content=b"{}")).status_code == 200
        assert (await client.get(place + "/count")).status_code == 200
    assert [type(command) for _, command in router.commands] == [QueryRecords, GetRecords, CountRecords] * 2


async def test_the_log_names_the_same_route(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    """A line in the log names the route's template, not ids, and does not tell the ways apart."""
    with caplog.at_level(logging.INFO, "vectorpool.http"):
        for place in PLACES:
            for end in ("", LONG):
                await client.get(f"{place}/count{end}")
                await client.post(f"{place}/query{end}", content=QUERY)
                await client.post(f"{place}/records/get{end}", content=b"{}")
    lines = [record.__dict__["fields"] for record in caplog.records if "fields" in record.__dict__]
    routes = [(fields["method"], fields["route"], fields["status"]) for fields in lines]
    assert routes[0:3] == routes[3:6]
    assert routes[6:9] == routes[9:12]
    assert len(set(routes)) == 6
