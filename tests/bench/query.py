"""Warm top-10 queries, filtered and not, and gets of ten records over HTTP: ``vectorpool serve`` beside ``chroma run``.

Both have the same 5,000 records and take turns. A filter finds one record in ten. The load comes from this process over
raw streams with requests built beforehand. The CPU time of a request is in the notes, for every process that takes
part, since on a small machine the client's share counts.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import statistics
from collections.abc import Iterator

import msgspec

from tests.bench.ground import COLLECTION, Line, Place, bucket_of, load, near
from tests.bench.traffic import Request, Server, Turn, bill, children, post, server_at, service_processes, turn
from tests.support.chroma_server import ChromaServer
from tests.support.service import Service
from vectorpool.commitlog.hydrate import hydrate

COUNT = 5000
PROBES = 64
CHROMA = "chroma run"
QUERY, FILTERED, GET = "top-10 queries", "filtered top-10 queries", "gets of ten records"
# A filter asks for this many of a year's days.
DAYS = 36


class Target(msgspec.Struct):
    """A server and its prebuilt requests, by kind."""

    server: Server
    requests: dict[str, list[Request]]

    def feeds(self, kind: str, connections: int) -> list[Iterator[Request]]:
        """Return the requests of each connection: all of them in a cycle, with another start for each connection."""
        requests = self.requests[kind]
        firsts = (number * 5 % PROBES for number in range(connections))
        return [itertools.cycle(requests[first:] + requests[:first]) for first in firsts]


def _target(server: Server, query: str, get: str, field: str) -> Target:
    """``query`` and ``get`` are paths; ``field`` is the name of a query's embeddings."""
    requests: dict[str, list[Request]] = {QUERY: [], FILTERED: [], GET: []}
    for probe in range(PROBES):
        number = probe * 71 % (COUNT - 10)
        asked = {"n_results": 10, "include": ["documents", "metadatas", "distances"]}
        body = msgspec.json.encode({field: near(1, number).tolist(), **asked})
        requests[QUERY].append(Request(post(server, query, body), f'"record-{number}"'.encode()))
        day = number % 365 // DAYS * DAYS
        where = {"$and": [{"day": {"$gte": day}}, {"day": {"$lt": day + DAYS}}]}
        body = msgspec.json.encode({field: near(1, number).tolist(), "where": where, **asked})
        requests[FILTERED].append(Request(post(server, query, body), f'"record-{number}"'.encode()))
        ids = [f"record-{n}" for n in range(number, number + 10)]
        body = msgspec.json.encode({"ids": ids, "include": ["documents", "metadatas"]})
        requests[GET].append(Request(post(server, get, body), f'"record-{number}"'.encode()))
    return Target(server, requests)


def _chroma(chroma: ChromaServer) -> Target:
    base = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    found = chroma.client.get(f"{base}/{COLLECTION}").raise_for_status().json()
    processes = {CHROMA: [pid for pid, command in children(os.getpid()).items() if command == "chroma"]}
    server = server_at(CHROMA, chroma.url, processes)
    return _target(server, f"{base}/{found['id']}/query", f"{base}/{found['id']}/get", "query_embeddings")


def _serve(place: Place, consistency: str) -> Service:
    root = place.scratch / f"served-{consistency}"
    root.mkdir()
    env = place.server.environ(place.store)
    return Service(root, "--consistency", consistency, store=place.store, env=env).start()


async def run(place: Place) -> list[Line]:
    """Measure 1 to 64 connections, consistency strong and local, against one ``chroma run``."""
    user_id = f"cold-{COUNT}"
    await load(place, user_id, COUNT)
    root = place.scratch / "chroma-run"
    root.mkdir()
    bucket = bucket_of(place)
    await hydrate(bucket, user_id, None, root / "data")
    await bucket.close()
    services: dict[str, Service] = {}
    path = f"/users/{user_id}/collections/{COLLECTION}"
    chroma = ChromaServer(root)
    targets: dict[str, Target] = {}
    try:
        for name in ("strong", "local"):
            services[name] = service = await asyncio.to_thread(_serve, place, name)
            server = server_at(name, service.url, service_processes(service.pid, place.server))
            targets[name] = _target(server, f"{path}/query", f"{path}/records/get", "embeddings")
        await asyncio.to_thread(chroma.start)
        targets[CHROMA] = await asyncio.to_thread(_chroma, chroma)
        lines = []
        for kind in (QUERY, FILTERED, GET):
            for connections in (1, 16) if place.quick else (1, 4, 16, 64):
                lines += await _compare(targets, kind, connections, 0.7)
    finally:
        await asyncio.to_thread(chroma.close)
        for service in services.values():
            await asyncio.to_thread(service.close)
        shutil.rmtree(root)
    return lines


async def _compare(targets: dict[str, Target], kind: str, connections: int, seconds: float) -> list[Line]:
    for target in targets.values():
        await turn(target.server, target.feeds(kind, connections), 0.3)
    turns: dict[str, list[Turn]] = {name: [] for name in targets}
    for _ in range(3):
        for name, target in targets.items():
            turns[name].append(await turn(target.server, target.feeds(kind, connections), seconds))
    return [
        line
        for name in targets
        if name != CHROMA
        for line in _lines(name, kind, connections, turns[name], turns[CHROMA])
    ]


def _lines(name: str, kind: str, connections: int, ours: list[Turn], theirs: list[Turn]) -> list[Line]:
    what = f"{kind}, {COUNT:,} records, {connections} connection{'s' * (connections > 1)}, {name}"
    mine, other = (statistics.median(each.per_s for each in turns) for turns in (ours, theirs))
    ratio = mine / other
    note = f"CPU ms a request: {bill(ours)}; {bill(theirs)}"
    # A filtered query takes at most 0.35 of Chroma's time.
    least = 1 / 0.35 if kind == FILTERED else 1.0
    lines = [
        Line(
            "query",
            f"{what}: throughput",
            f"{mine:.0f}/s",
            f"{other:.0f}/s",
            ratio,
            f">= {least:.1f}",
            ratio >= least,
            note,
        )
    ]
    mine, other = (statistics.median(each.ms(50) for each in turns) for turns in (ours, theirs))
    ratio = mine / other
    most = 0.35 if kind == FILTERED else 1.3
    target, met = (f"<= {most}", ratio <= most) if connections == 1 else ("", None)
    lines.append(Line("query", f"{what}: p50", f"{mine:.2f} ms", f"{other:.2f} ms", ratio, target, met))
    return lines
