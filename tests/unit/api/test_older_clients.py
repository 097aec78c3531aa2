"""Who is taken for an older client of Chroma, and what it is shown."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from tests.unit.api.parts import FakeRouter, application, talk
from vectorpool.answers import Answer
from vectorpool.chroma_bodies import Target, decode_body
from vectorpool.chroma_older import todays_configuration
from vectorpool.commands import ChromaGetRecords, Command
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.settings import Settings

COLLECTION = {
    "id": "8b3f5c1e-3a9b-4d64-9a51-5d0f0ad1f001",
    "name": "notes",
    "configuration_json": {
        "hnsw": {
            "space": "cosine",
            "ef_construction": 100,
            "ef_search": 50,
            "max_neighbors": 16,
            "resize_factor": 1,
            "sync_threshold": 30,
        },
        "spann": None,
        "embedding_function": None,
    },
    "schema": {"defaults": {}, "keys": {}},
    "metadata": None,
    "dimension": 4,
    "tenant": "alice",
    "database": "default_database",
    "log_position": 0,
    "version": 0,
}
OLDER = {
    "hnsw_configuration": {
        "space": "cosine",
        "ef_construction": 100,
        "ef_search": 50,
        "M": 16,
        "resize_factor": 1.0,
        "batch_size": 30,
        "sync_threshold": 30,
        "_type": "HNSWConfigurationInternal",
    },
    "_type": "CollectionConfigurationInternal",
}
BASE = "/api/v2/tenants/alice/databases/default_database/collections"
HTTPX = "python-httpx/0.28.1"


class Showing(FakeRouter):
    """A router that has one collection, and remembers the targets of bodies."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[Target] = []

    async def execute(self, user_id: str, command: Command, context: RequestContext = BACKGROUND) -> Answer:
        body = [COLLECTION] if type(command).__name__ == "ChromaListCollections" else COLLECTION
        return Answer(json.dumps(body).encode(), 7)

    async def execute_body(
        self, user_id: str, target: Target, body: Any, context: RequestContext = BACKGROUND
    ) -> Answer:
        self.targets.append(target)
        async for _ in body:
            pass
        return Answer(json.dumps(COLLECTION).encode(), 7)


WAYS = [("GET", f"{BASE}/notes"), ("GET", f"{BASE}/by-id/{COLLECTION['id']}"), ("GET", BASE), ("POST", BASE)]


@pytest.mark.parametrize(("method", "path"), WAYS)
@pytest.mark.parametrize(
    ("agent", "is_older"),
    [
        (HTTPX, True),
        ("Chroma Python Client v0.6.9 (https://github.com/chroma-core/chroma)", True),
        ("Chroma Python Client v1.0.0 (https://github.com/chroma-core/chroma)", False),
        ("Chroma Javascript Client v3.0.0", False),
        ("curl/8.5.0", False),
    ],
)
async def test_a_collection_has_the_shape_that_the_client_reads(
    method: str, path: str, agent: str, is_older: bool
) -> None:
    """Clients before 1.0 get the configuration of their time and no schema, wherever a collection is shown."""
    async with talk(application(Showing())) as client:
        response = await client.request(method, path, headers={"user-agent": agent}, content=b'{"name": "notes"}')
    shown = response.json()
    (shown,) = shown if isinstance(shown, list) else [shown]
    expected = {**COLLECTION, "configuration_json": OLDER} if is_older else COLLECTION
    assert shown == ({k: v for k, v in expected.items() if k != "schema"} if is_older else expected)
    assert response.headers["x-vectorpool-commit"] == "7"
    if is_older:
        assert isinstance(shown["configuration_json"]["hnsw_configuration"]["resize_factor"], float)


async def test_a_request_by_hand_gets_todays_shape() -> None:
    """The HTTP library of older clients, with a content type as it sends with JSON, and with the setting off."""
    async with talk(application(Showing())) as client:
        response = await client.post(BASE, json={"name": "notes"}, headers={"user-agent": HTTPX})
        assert response.json() == COLLECTION
    async with talk(application(Showing(), Settings(older_clients=False))) as client:
        assert (await client.get(f"{BASE}/notes", headers={"user-agent": HTTPX})).json() == COLLECTION


@pytest.mark.parametrize("operation", ["get", "query", "delete"])
@pytest.mark.parametrize("agent", [HTTPX, "curl/8.5.0"])
async def test_an_older_clients_empty_filter_is_none(operation: str, agent: str) -> None:
    """Its bodies are marked for the shard, on the short path and on the other, and only then ``{}`` is no filter."""
    router = Showing()
    async with talk(application(router)) as client:
        for suffix in ("", "?x=1"):
            path = f"{BASE}/{COLLECTION['id']}/{operation}{suffix}"
            await client.post(path, content=b'{"where": {}}', headers={"user-agent": agent})
    assert [target.is_older for target in router.targets] == [agent == HTTPX] * 2


def test_an_empty_filter_of_a_later_client_stays() -> None:
    """Chroma's server refuses it by its own words, so it is passed on."""
    body = b'{"where": { }, "where_document": {"$contains": "x"}}'
    for is_older, where in ((True, None), (False, "{ }")):
        command = decode_body(Target("get", "db", COLLECTION["id"], is_older=is_older), body, Settings())
        assert isinstance(command, ChromaGetRecords)
        assert (command.where, command.where_document) == (where, '{"$contains": "x"}')


@pytest.mark.parametrize(
    ("text", "today"),
    [
        (None, None),
        ('{"hnsw": {"space": "ip"}}', '{"hnsw": {"space": "ip"}}'),
        ('{"_type": "CollectionConfigurationInternal"}', None),
        ('{"embedding_function": {"name": "\\"_type\\""}}', '{"embedding_function": {"name": "\\"_type\\""}}'),
        (
            '{"hnsw_configuration": {"space": "ip", "M": 8, "num_threads": 2, "batch_size": 9, "_type": "H"}, '
            '"_type": "CollectionConfigurationInternal"}',
            '{"hnsw":{"space":"ip","max_neighbors":8}}',
        ),
    ],
)
def test_an_older_configuration_is_taken(text: str | None, today: str | None) -> None:
    """What an older client asks of a new index is asked in today's names; what came otherwise is left as it is."""
    raw = msgspec.Raw(b"null" if text is None else text.encode())
    assert bytes(todays_configuration(raw)).decode() == ("null" if today is None else today)


@pytest.mark.parametrize(("max_records", "told"), [(10_000, 5461), (5461, 5461), (100, 100)])
async def test_preflight_never_promises_more_than_is_taken(max_records: int, told: int) -> None:
    """Clients are told the batch of Chroma's server, and a smaller one where a call may carry less."""
    async with talk(application(FakeRouter(), Settings(max_records=max_records))) as client:
        assert (await client.get("/api/v2/pre-flight-checks")).json()["max_batch_size"] == told
