"""Users of 200 records each on this service or Chroma's server: their creation, their requests, and the final check.

Both servers get the same bytes, in Chroma's own protocol.
"""

from __future__ import annotations

import asyncio
import json
import random

from tests.bench.ground import Place, bucket_of, near, vectors
from tests.bench.traffic import (
    Connection,
    Request,
    Server,
    chroma_query,
    chroma_records,
    get,
    post,
    server_at,
    service_processes,
)
from tests.support.service import Service
from vectorpool.commitlog import append
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.commitlog.image import EMPTY, capture_into
from vectorpool.commitlog.outcomes import ORIGIN
from vectorpool.sources import SYSTEM

RECORDS = 200
SEED = "users-seed"
DATABASE = "default_database"
_AT_ONCE = 8


def user(number: int) -> str:
    """Return a user's id, which is a tenant's name too."""
    return f"user-{number:05}"


class Bodies:
    """The request bodies, made once: the same for both servers."""

    def __init__(self) -> None:
        numbers = range(0, RECORDS, 3)
        self.all = chroma_records([f"record-{n}" for n in range(RECORDS)], 0, vectors(1, 0, RECORDS))
        self.queries = [(chroma_query(near(1, n)[0]), f'"record-{n}"'.encode()) for n in numbers]
        self.upserts = [chroma_records(["fresh-########"], n, vectors(2, n, 1)) for n in numbers]

    def upsert(self, number: int) -> bytes:
        """Return the body that writes one record of a new id."""
        return self.upserts[number % len(self.upserts)].replace(b"########", b"%08d" % number, 1)


class Side:
    """One server, with the id of each user's collection and the number of records written to it."""

    def __init__(self, server: Server, bodies: Bodies) -> None:
        self.server = server
        self.bodies = bodies
        self.paths: dict[str, str] = {}
        self.written: dict[str, list[int]] = {}
        self._number = 0

    async def create(self, user_id: str, *, tenant: bool) -> str:
        """Create a user's collection with its records, with ``tenant`` also tenant and database; return its id."""
        connection = await Connection.open(self.server)
        try:
            base = f"/api/v2/tenants/{user_id}/databases"
            if tenant:
                await connection.must(post(self.server, "/api/v2/tenants", json.dumps({"name": user_id}).encode()))
                await connection.must(post(self.server, base, json.dumps({"name": DATABASE}).encode()))
            made = await connection.must(post(self.server, f"{base}/{DATABASE}/collections", b'{"name": "notes"}'))
            collection = str(json.loads(made)["id"])
            self.place(user_id, collection)
            await connection.must(post(self.server, f"{self.paths[user_id]}/add", self.bodies.all))
        finally:
            connection.close()
        return collection

    def place(self, user_id: str, collection: str) -> None:
        """Store the id of a user's collection."""
        self.paths[user_id] = f"/api/v2/tenants/{user_id}/databases/{DATABASE}/collections/{collection}"

    def query(self, user_id: str, rng: random.Random, kind: str = "") -> Request:
        """Return a query of a random record of a user."""
        body, names = rng.choice(self.bodies.queries)
        return Request(post(self.server, f"{self.paths[user_id]}/query", body), names, kind)

    def upsert(self, user_id: str, kind: str = "") -> Request:
        """Return an upsert of one new record, and count it for the final check."""
        self._number += 1
        self.written.setdefault(user_id, []).append(self._number)
        return Request(post(self.server, f"{self.paths[user_id]}/upsert", self.bodies.upsert(self._number)), b"", kind)

    async def check(self, most: int = 200) -> None:
        """Fail unless the users have all records that were loaded and written: their counts, and the newest of each."""
        connection = await Connection.open(self.server)
        try:
            for user_id, numbers in list(self.written.items())[:most]:
                count = await connection.must(get(self.server, f"{self.paths[user_id]}/count"))
                assert int(count) == RECORDS + len(numbers), (self.server.name, user_id, count, len(numbers))
                body = json.dumps({"ids": [f"fresh-{numbers[-1]:08d}"], "include": ["documents"]}).encode()
                found = json.loads(await connection.must(post(self.server, f"{self.paths[user_id]}/get", body)))
                sent = json.loads(self.bodies.upsert(numbers[-1]))
                assert (found["ids"], found["documents"]) == (sent["ids"], sent["documents"]), (user_id, found)
        finally:
            connection.close()


async def fork(place: Place, users: range) -> None:
    """Fork the seed's vectorstore to many other users: one self-contained commit each."""
    bucket = bucket_of(place)
    directory = place.scratch / f"fork-{users.start}"
    try:
        state = await hydrate(bucket, SEED, None, directory)
        assert state is not None
        body = BodyBuilder()
        image, _, _ = capture_into(directory, EMPTY, body.add)
        assert image == state.image
        waiting = iter(users)

        async def create() -> None:
            for number in waiting:
                name, checksum = user(number), EMPTY.checksum()
                pending = append.build_commit(
                    name, ORIGIN, checksum, image, [], body, Summary(), SYSTEM, self_contained=True
                )
                await append.append(bucket, name, pending, SYSTEM)

        await asyncio.gather(*(create() for _ in range(_AT_ONCE)))
    finally:
        await bucket.close()


async def serve(place: Place, name: str, *flags: str) -> tuple[Service, Server]:
    """Start ``vectorpool serve`` over the place's store, with a replica directory of its own."""
    root = place.scratch / f"users-{name}"
    root.mkdir()
    service = Service(root, *flags, store=place.store, env=place.server.environ(place.store))
    await asyncio.to_thread(service.start)
    return service, server_at("vectorpool", service.url, service_processes(service.pid, place.server))
