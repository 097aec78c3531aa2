"""A quiet user's queries while a neighbour loads 20,000 records: in one shard of this service and in ``chroma run``.

The quiet user has 200 records and asks for the ten nearest, on one connection, 20 times a second at most (a slow
answer delays the next query, so slow moments have fewer queries, on both sides alike). The neighbour sends
records of 384 dimensions in calls of 500, one after the other, over a connection of its own. Ours runs one shard, so
that both are in the same process, writes through to the S3 and reads strongly; ``chroma run`` has two tenants and a
local disk. Both get the same bytes, in Chroma's own protocol, in the same order: alone, then during the load. The
first id of every answer is checked, and the number of records after the load.

*Excluded.* The network, and separate cores: servers, S3 and client share this machine. The two loads are not
interleaved, since a half-loaded server would compete with the other one; each side has one load.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator

import msgspec

from tests.bench.ground import Line, Place, vectors
from tests.bench.population import Bodies, Side
from tests.bench.traffic import (
    Connection,
    Request,
    Server,
    Turn,
    children,
    chroma_records,
    cpu_s,
    get,
    post,
    server_at,
    service_processes,
    turn,
)
from tests.support.chroma_server import ChromaServer
from tests.support.service import Service

CALL = 500
EVERY_S = 0.05
ALONE_S = 3.0


class Measured(msgspec.Struct):
    """One side: the quiet user's queries alone and during the load, and the load itself."""

    alone: Turn
    during: Turn
    load_s: float
    records: int
    calls_ms: list[float]
    cpu_s: dict[str, float]

    @property
    def per_s(self) -> float:
        """Records loaded a second."""
        return self.records / self.load_s

    def told(self) -> str:
        """Return the other measurements, as text for the note."""
        thousands = self.records / 1000
        cpu = ", ".join(f"{name} {seconds / thousands:.2f}" for name, seconds in self.cpu_s.items())
        return (
            f"p50 {self.alone.ms(50):.1f} ms alone, {self.during.ms(50):.1f} ms during the load, "
            f"slowest {self.during.ms(100):.0f} ms of {self.during.count} queries; slowest call of the load "
            f"{max(self.calls_ms):.0f} ms; CPU s for 1,000 records and the queries meanwhile: {cpu}"
        )


def _quiet(side: Side) -> Iterator[Request]:
    rng = random.Random(1)
    while True:
        yield side.query("quiet", rng)


async def _load(server: Server, path: str, bodies: list[bytes]) -> list[float]:
    """Send the calls one after the other; return the milliseconds of each."""
    connection = await Connection.open(server)
    took = []
    try:
        for body in bodies:
            began = time.perf_counter()
            await connection.must(post(server, f"{path}/upsert", body))
            took.append((time.perf_counter() - began) * 1000)
    finally:
        connection.close()
    return took


async def _measure(side: Side, bodies: list[bytes], *, tenant: bool) -> Measured:
    server = side.server
    for user_id in ("quiet", "loading"):
        await side.create(user_id, tenant=tenant)
    feed = [_quiet(side)]
    await turn(server, feed, 0.5, every_s=EVERY_S)
    alone = await turn(server, feed, ALONE_S, every_s=EVERY_S)
    stop = asyncio.Event()
    asked = asyncio.create_task(turn(server, feed, 600.0, every_s=EVERY_S, stop=stop))
    before, began = cpu_s(server), time.perf_counter()
    try:
        calls_ms = await _load(server, side.paths["loading"], bodies)
    finally:
        load_s, after = time.perf_counter() - began, cpu_s(server)
        stop.set()
        during = await asked
    connection = await Connection.open(server)
    found = int(await connection.must(get(server, f"{side.paths['loading']}/count")))
    connection.close()
    records = len(bodies) * CALL
    # The user's first 200 records are among the loaded ones.
    assert found == records, (server.name, found, records)
    cost = {name: after[name] - before[name] for name in after}
    return Measured(alone, during, load_s, records, calls_ms, cost)


async def run(place: Place) -> list[Line]:
    """Measure this service and Chroma, one after the other; 5,000 records when quick."""
    count = 5000 if place.quick else 20_000
    bodies = [
        chroma_records([f"record-{n}" for n in range(first, first + CALL)], first, vectors(1, first, CALL))
        for first in range(0, count, CALL)
    ]
    shared = Bodies()
    root = place.scratch / "neighbour"
    root.mkdir()
    service = Service(root, "--shards", "1", store=place.store, env=place.server.environ(place.store))
    chroma = ChromaServer(place.scratch / "neighbour-chroma")
    try:
        await asyncio.to_thread(service.start)
        processes = service_processes(service.pid, place.server)
        ours = await _measure(Side(server_at("vectorpool", service.url, processes), shared), bodies, tenant=False)
        await asyncio.to_thread(service.close)
        await asyncio.to_thread(chroma.start)
        processes = {"chroma run": [pid for pid, command in children(os.getpid()).items() if command == "chroma"]}
        theirs = await _measure(Side(server_at("chroma run", chroma.url, processes), shared), bodies, tenant=True)
    finally:
        await asyncio.to_thread(chroma.close)
        await asyncio.to_thread(service.close)
    return _lines(ours, theirs)


def _lines(ours: Measured, theirs: Measured) -> list[Line]:
    what = f"while another user in the same shard loads {ours.records:,} records in calls of {CALL}"
    alone, during = ours.alone.ms(99) / theirs.alone.ms(99), ours.during.ms(99) / theirs.during.ms(99)
    speed = ours.per_s / theirs.per_s
    told = f"ours: {ours.told()}; chroma run: {theirs.told()}"

    def line(what: str, measure: str, values: tuple[float, float], ratio: float, target: str, note: str) -> Line:
        met = None if not target else ratio <= 0.1 if target.startswith("<=") else ratio >= 0.7
        mine, other = (f"{value:.1f} ms" if measure == "ms" else f"{value:.0f} records/s" for value in values)
        return Line("neighbour", what, mine, other, ratio, target, met, note)

    return [
        line(
            f"a quiet user's query, p99, {what}",
            "ms",
            (ours.during.ms(99), theirs.during.ms(99)),
            during,
            "<= 0.1",
            told,
        ),
        line("the same, p99, no neighbour", "ms", (ours.alone.ms(99), theirs.alone.ms(99)), alone, "", ""),
        line("the load itself, during those queries", "speed", (ours.per_s, theirs.per_s), speed, ">= 0.7", ""),
    ]
