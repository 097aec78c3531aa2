"""What only shows with several shards, several callers or a client that hurries: reset, refusals, idle connections."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chromadb
import pytest
from chromadb.errors import RateLimitError

from tests.protocol.conftest import only_ours
from tests.support.service import Service, run_cli
from vectorpool.shard.protocol import shard_of

pytestmark = only_ours

ALICE = "alice@x.io"
USERS = (ALICE, *(f"user-{number}" for number in range(7)))
# Chroma's clients keep an idle connection for this long, and then still use it.
CLIENTS_KEEP_S = 40


def _collections(user: str) -> str:
    return f"/api/v2/tenants/{user}/databases/default_database/collections"


class Shared:
    """A service with two shards, which asks for tokens and may be reset; ``alice`` is for her alone."""

    def __init__(self, root: Path, durability: str) -> None:
        tokens = root / "tokens.toml"
        made = [run_cli("token", "alice", "--user", ALICE), run_cli("token", "backend", "--every-user")]
        tokens.write_text("".join(each.stdout for each in made))
        self.alice, self.backend = ({"Authorization": f"Bearer {each.stderr.split()[-1]}"} for each in made)
        env = {"VECTORPOOL_ALLOW_RESET": "true", "VECTORPOOL_DURABILITY": durability}
        self.service = Service(root, "--shards", "2", "--tokens-file", str(tokens), env=env)

    def fill(self) -> None:
        """Give every user a collection."""
        for user in USERS:
            body = {"name": "books", "get_or_create": True}
            self.service.ok("POST", _collections(user), json=body, headers=self.backend)

    def names(self) -> dict[str, list[str]]:
        """Return the names of every user's collections."""
        found = {}
        for user in USERS:
            listed = self.service.ok("GET", _collections(user), headers=self.backend).json()
            found[user] = [each["name"] for each in listed]
        return found


@pytest.fixture(params=["write-through", "write-back"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shared]:
    """Such a service, started."""
    shared = Shared(tmp_path, request.param)
    shared.service.start()
    yield shared
    shared.service.close()


def test_reset_reaches_every_shard_and_nobody_elses(shared: Shared) -> None:
    """A reset empties what its caller may touch, committed or not, in every shard, and nothing of others."""
    assert {shard_of(user, 2) for user in USERS} == {0, 1}
    shared.fill()
    assert shared.service.ok("POST", "/api/v2/reset", headers=shared.alice).json() is True
    assert shared.names() == {user: [] if user == ALICE else ["books"] for user in USERS}
    shared.fill()
    assert shared.service.ok("POST", "/api/v2/reset", headers=shared.backend).json() is True
    assert shared.names() == {user: [] for user in USERS}
    shared.fill()
    shared.service.restart()
    assert shared.names() == {user: ["books"] for user in USERS}


async def test_too_many_writes_at_once_are_refused_as_clients_know_it(tmp_path: Path) -> None:
    """A full queue raises the client's ``RateLimitError``; what was not refused is there, and what was is not."""
    service = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_USER_QUEUE": "1"}).start()
    try:
        place = urlsplit(service.url)
        client = await chromadb.AsyncHttpClient(place.hostname or "", place.port or 0, tenant="42")
        books = await client.create_collection("books", embedding_function=None)

        async def add(number: int) -> str | None:
            try:
                await books.add(ids=[str(number)], embeddings=[[number, 1.0]])
            except RateLimitError:
                return None
            return str(number)

        stored: set[Any] = set()
        for start in range(0, 600, 60):
            told = await asyncio.gather(*(add(number) for number in range(start, start + 60)))
            stored |= set(told) - {None}
            if None in told:
                break
        else:
            raise AssertionError("no write was refused")
        assert set((await books.get())["ids"]) == stored
    finally:
        service.close()


@pytest.mark.long
def test_an_idle_connection_outlives_the_clients(tmp_path: Path) -> None:
    """A connection that was idle for as long as clients keep one still answers."""
    service = Service(tmp_path, "--shards", "1").start()
    try:
        place = urlsplit(service.url)
        request = f"GET /api/v2/version HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
        with socket.create_connection((place.hostname or "", place.port or 0), 10) as connection:
            for _ in range(2):
                connection.sendall(request)
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")
                time.sleep(CLIENTS_KEEP_S + 2)
    finally:
        service.close()
