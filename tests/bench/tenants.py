"""Fifty users of 200 records on a directory: ``vectorpool serve`` beside ``chroma run`` with a tenant for each user.

Both get the same bytes over HTTP, in Chroma's own protocol, over eight connections; a request's user is drawn at
random. The service runs with default settings (strong reads, write-through) over a store in a directory of the disk
that ``chroma run`` writes to as well. Queries ask for ten records, filtered ones for ten of the 101 whose number lies
in a range, gets for ten ids. Mixed is six queries, two filtered queries, a get and an upsert of ten requests. The first
id of each answer is checked, and after the writes each user's number of records and the newest of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Iterator

from tests.bench.ground import Line, Place, near
from tests.bench.population import RECORDS, Bodies, Side, user
from tests.bench.traffic import (
    Request,
    Turn,
    bill,
    children,
    chroma_query,
    median_rate,
    post,
    server_at,
    turn,
)
from tests.support.chroma_server import ChromaServer
from tests.support.service import Service

CONNECTIONS = 8
KINDS: dict[str, tuple[str, float]] = {
    "query": ("top-10 queries", 2.5),
    "filtered": ("filtered top-10 queries", 3.0),
    "get": ("gets of ten records", 1.5),
    "upsert": ("one-record upserts", 10.0),
    "mixed": ("six queries, two filtered, a get and an upsert of ten", 9.0),
}
MIX = ("query",) * 6 + ("filtered",) * 2 + ("get", "upsert")


class Requests:
    """The requests of one server, of random users; the bodies are the same for both."""

    def __init__(self, side: Side, users: int) -> None:
        self.side = side
        self._users = users
        self._filtered = list[tuple[bytes, bytes]]()
        self._gets = list[tuple[bytes, bytes]]()
        for number in range(0, RECORDS, 3):
            bounds = [{"number": {"$gte": number - 50}}, {"number": {"$lte": number + 50}}]
            body = {**json.loads(chroma_query(near(1, number)[0])), "where": {"$and": bounds}}
            first = f'"record-{number}"'.encode()
            self._filtered.append((json.dumps(body).encode(), first))
            ids = [f"record-{n}" for n in range(min(number, RECORDS - 10), RECORDS)][:10]
            body = {"ids": ids, "include": ["documents", "metadatas"]}
            self._gets.append((json.dumps(body).encode(), f'"{ids[0]}"'.encode()))

    def of(self, kind: str) -> Iterator[Request]:
        """Return requests of a kind without an end: the same users and bodies in the same order for each server."""
        rng = random.Random(kind)
        while True:
            user_id = user(rng.randrange(self._users))
            yield self._one(rng.choice(MIX) if kind == "mixed" else kind, user_id, rng)

    def _one(self, kind: str, user_id: str, rng: random.Random) -> Request:
        if kind == "query":
            return self.side.query(user_id, rng)
        if kind == "upsert":
            return self.side.upsert(user_id)
        bodies, verb = (self._filtered, "query") if kind == "filtered" else (self._gets, "get")
        body, names = rng.choice(bodies)
        return Request(post(self.side.server, f"{self.side.paths[user_id]}/{verb}", body), names)


async def _measure(sides: dict[str, Requests], kind: str, rounds: int) -> Line:
    feeds = {name: requests.of(kind) for name, requests in sides.items()}
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, requests in sides.items():
            # One iterator for all connections: the next request goes to the one that is free.
            taken = await turn(requests.side.server, [feeds[name]] * CONNECTIONS, 1.5 if number else 0.7)
            if number:
                turns[name].append(taken)
    what, least = KINDS[kind]
    ours, theirs = (median_rate(turns[name]) for name in ("ours", "theirs"))
    note = "; ".join(f"CPU ms a request, {name}: {bill(taken)}" for name, taken in turns.items())
    ratio = ours / theirs
    return Line(
        "tenants",
        f"{what}, a directory: throughput",
        f"{ours:.0f}/s",
        f"{theirs:.0f}/s",
        ratio,
        f">= {least}",
        ratio >= least,
        note,
    )


async def run(place: Place) -> list[Line]:
    """Measure each kind of request in turns of both servers."""
    users, rounds = (10, 2) if place.quick else (50, 5)
    root = place.scratch / "tenants"
    (root / "chroma").mkdir(parents=True)
    service, chroma = Service(root), ChromaServer(root / "chroma")
    bodies = Bodies()
    try:
        await asyncio.to_thread(service.start)
        await asyncio.to_thread(chroma.start)
        found = [pid for pid, command in children(os.getpid()).items() if command == "chroma"]
        processes = {"front": [service.pid], "shards": list(children(service.pid))}
        sides = {
            "ours": Requests(Side(server_at("vectorpool", service.url, processes), bodies), users),
            "theirs": Requests(Side(server_at("chroma run", chroma.url, {"chroma run": found}), bodies), users),
        }
        for number in range(users):
            for name, requests in sides.items():
                await requests.side.create(user(number), tenant=name == "theirs")
        lines = [await _measure(sides, kind, rounds) for kind in KINDS]
        for requests in sides.values():
            await requests.side.check()
        return lines
    finally:
        await asyncio.to_thread(chroma.close)
        await asyncio.to_thread(service.close)
