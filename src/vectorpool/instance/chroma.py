"""Clients of Chroma's own package whose requests go to the instance in this process.

Chroma's HTTP client takes no transport of the caller's, so its one session is exchanged after it is made and before it
is used. The names that this depends on are private; chromadb's version is pinned, and the tests use both clients.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from chromadb.api import AsyncServerAPI, ServerAPI
from chromadb.api.async_client import AsyncAdminClient, AsyncClient
from chromadb.api.async_fastapi import AsyncFastAPI
from chromadb.api.client import AdminClient, Client
from chromadb.api.fastapi import FastAPI
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings as ChromaSettings
from chromadb.config import System

from vectorpool.instance.runner import Call, Reply, Runner
from vectorpool.names import database_name
from vectorpool.sources import SYSTEM


class Transport(httpx.BaseTransport):
    """Carries httpx requests to the instance."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        return _response(self._runner.submit(_call(request, request.read())).result())


class AsyncTransport(httpx.AsyncBaseTransport):
    """The same for asyncio."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        return _response(await asyncio.wrap_future(self._runner.submit(_call(request, await request.aread()))))


def _call(request: httpx.Request, body: bytes) -> Call:
    headers = tuple((name.lower(), value) for name, value in request.headers.raw)
    return Call(request.method, request.url.raw_path.decode("ascii"), body, headers)


def _response(reply: Reply) -> httpx.Response:
    return httpx.Response(reply.status, headers=reply.headers, content=reply.body)


def open_client(runner: Runner, user_id: str, avatar_id: str | None, database: str | None) -> Client:
    """Return Chroma's client. Raises Chroma's errors if the user or the database is refused."""
    system = _system("chromadb.api.fastapi.FastAPI")
    api = system.instance(ServerAPI)  # type: ignore[type-abstract]
    assert isinstance(api, FastAPI)
    session, api._session = api._session, httpx.Client(transport=Transport(runner), headers=api._session.headers)
    session.close()
    client, admin = Client.__new__(Client), AdminClient.__new__(AdminClient)
    _join(system, client, admin)
    client.tenant, client.database = user_id, _database(avatar_id, database)
    client._server = admin._server = api
    client._admin_client = admin
    client._validate_tenant_database(tenant=client.tenant, database=client.database)
    return client


async def open_async_client(runner: Runner, user_id: str, avatar_id: str | None, database: str | None) -> AsyncClient:
    """Return Chroma's client for asyncio. Raises Chroma's errors if the user or the database is refused."""
    system = _system("chromadb.api.async_fastapi.AsyncFastAPI")
    api = system.instance(AsyncServerAPI)  # type: ignore[type-abstract]
    assert isinstance(api, AsyncFastAPI)
    session = httpx.AsyncClient(transport=AsyncTransport(runner), headers={"Content-Type": "application/json"})
    setattr(api, "_get_client", lambda: session)  # noqa: B010 - a method of Chroma's is replaced, on this object only
    client, admin = AsyncClient.__new__(AsyncClient), AsyncAdminClient.__new__(AsyncAdminClient)
    _join(system, client, admin)
    client.tenant, client.database = user_id, _database(avatar_id, database)
    client._server = admin._server = api
    client._admin_client = admin
    await client._validate_tenant_database(tenant=client.tenant, database=client.database)
    return client


def _system(api: str) -> System:
    settings = ChromaSettings(
        chroma_api_impl=api, chroma_server_host="localhost", chroma_server_http_port=80, anonymized_telemetry=False
    )
    return System(settings)


def _join(system: System, *clients: Any) -> None:
    """Give clients their system, as their constructors would."""
    identifier = SYSTEM.uuid()
    SharedSystemClient._identifier_to_system[identifier] = system
    system.start()
    for client in clients:
        client._identifier = identifier
        SharedSystemClient._increment_refcount(identifier)


def _database(avatar_id: str | None, database: str | None) -> str:
    return database_name(avatar_id) if database is None else database
