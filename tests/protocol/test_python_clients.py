"""Chroma's Python clients, unmodified, on both servers: results and exceptions are the same."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import chromadb
import pytest
from chromadb import Search
from chromadb.api.async_client import AsyncAdminClient
from chromadb.config import Settings

from tests.protocol.clients import ADMIN, COLLECTIONS, RECORDS, Letters, Step, plain, run
from tests.protocol.comparing import Answer, differences, ties_sorted
from tests.protocol.sides import Server, Sides

KINDS = ("sync", "async")
SCENARIOS: dict[str, list[Step]] = {"collections": COLLECTIONS, "records": RECORDS, "admin": ADMIN}


def settings_for(server: Server, implementation: str) -> Settings:
    """Return a client's settings for a server."""
    return Settings(
        chroma_api_impl=implementation,
        chroma_server_host=server.client.base_url.host,
        chroma_server_http_port=server.client.base_url.port,
        anonymized_telemetry=False,
    )


async def connected(server: Server, kind: str, tenant: str, database: str = "shelf") -> SimpleNamespace:
    """Return clients of a tenant, which is made first if it is a new one, and what steps use."""
    # A process keeps one connection pool for equal settings; each server and loop gets its own here.
    chromadb.api.client.SharedSystemClient.clear_system_cache()
    makes = chromadb.AdminClient(settings_for(server, "chromadb.api.fastapi.FastAPI"))
    if tenant != "default_tenant":
        makes.create_tenant(tenant)
        makes.create_database(database, tenant)
    host, port = server.client.base_url.host, server.client.base_url.port
    assert port is not None
    client: Any
    admin: Any = makes
    if kind == "sync":
        client = chromadb.HttpClient(host, port, tenant=tenant, database=database)
    else:
        admin = AsyncAdminClient(settings_for(server, "chromadb.api.async_fastapi.AsyncFastAPI"))
        client = await chromadb.AsyncHttpClient(host, port, tenant=tenant, database=database)
    return SimpleNamespace(client=client, admin=admin, tenant=tenant, letters=Letters(2.0), search=Search())


async def outcomes(server: Server, kind: str, scenario: str, tenant: str) -> list[Any]:
    """Run a scenario against one server."""
    state = await connected(server, kind, tenant)
    return await run(SCENARIOS[scenario], state)


def compared(steps: list[Step], reference: list[Any], ours: list[Any]) -> list[str]:
    """Return how the outcomes of a scenario differ, each difference with its step."""
    found = []
    for number, ((keep, _), theirs, own) in enumerate(zip(steps, reference, ours, strict=True)):
        answers = [Answer(0, "", frozenset(), ties_sorted(value)) for value in (theirs, own)]
        found.extend(f"{number} {keep}: {text}" for text in differences(*answers))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_scenario(sides: Sides, kind: str, scenario: str) -> None:
    """Each step of a scenario returns or raises the same on both servers."""
    tenant = f"{scenario}-{kind}"
    reference = await outcomes(sides.reference.server, kind, scenario, tenant)
    ours = await outcomes(sides.ours.server, kind, scenario, tenant)
    found = compared(SCENARIOS[scenario], reference, ours)
    assert not found, "\n".join(text[:600] for text in found)


@pytest.mark.parametrize("kind", KINDS)
async def test_client_of_a_missing_tenant(sides: Sides, kind: str) -> None:
    """A client of a tenant or database that is not there fails at its construction, in the same words."""
    told: list[list[Any]] = []
    for side in (sides.reference, sides.ours):
        base = side.server.client.base_url
        rows = []
        for tenant, database in (("nobody", "default_database"), ("default_tenant", "nothing"), ("x", "y")):
            chromadb.api.client.SharedSystemClient.clear_system_cache()
            make = chromadb.HttpClient if kind == "sync" else chromadb.AsyncHttpClient
            with pytest.raises(Exception) as raised:
                result: Any = make(base.host, base.port or 0, tenant=tenant, database=database)
                if inspect.isawaitable(result):
                    await result
            port = str(base.port)
            rows.append([type(raised.value).__name__, str(raised.value).replace(port, "<port>")])
        told.append(rows)
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", KINDS)
async def test_reset(sides: Sides, kind: str) -> None:
    """``reset`` answers True and leaves an empty default database behind, which works at once."""
    told = []
    for side in (sides.reference, sides.ours):
        state = await connected(side.server, kind, "default_tenant", "default_database")
        steps: list[Step] = [
            ("(one)", lambda s: s.client.get_or_create_collection("books", embedding_function=None)),
            ("(reset)", lambda s: s.client.reset()),
            ("(none)", lambda s: s.client.list_collections()),
            ("books", lambda s: s.client.create_collection("books", embedding_function=None)),
            ("(works)", lambda s: s.books.add(ids=["a"], embeddings=[[1, 2]])),
            ("(works)", lambda s: s.books.get()),
        ]
        told.append(plain(await run(steps, state)))
    assert told[0] == told[1]
    assert told[0][1] is True
