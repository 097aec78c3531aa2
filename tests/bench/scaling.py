"""One, two and four instances on one bucket of the S3: throughput of more instances, and the cost of sharing.

Each instance is ``vectorpool serve`` with one shard. Eight clients send a closed loop of top-10 queries and, one in
four, upserts of a record that is new, to 40 users of 200 records, in Chroma's own protocol: each request to any
instance (*random*), or all of a user's to one (*by user*, as a load balancer that hashes the user id does). Each
query's first id is checked. At the end every acknowledged record is read through another instance than it was sent to.

*Lost races* are creates that found their number taken: the creates of all instances, less the new objects in the logs.
All runs on one machine, whose cores instances, S3 and client share. On two cores four instances cannot answer more
than one, so the CPU time of a request stands beside the throughput. Compaction is rare here, so that its own races are
not counted with those of commits.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

from tests.bench.ground import Line, Place, bucket_of, near, vectors
from tests.bench.traffic import (
    Connection,
    Server,
    chroma_query,
    chroma_records,
    cpu_s,
    get,
    percentile,
    post,
    server_at,
    service_processes,
)
from tests.support.service import Service
from vectorpool.answers import PoolView
from vectorpool.names import log_prefix
from vectorpool.objects.bucket import Bucket

USERS, RECORDS, CLIENTS, INSTANCES = 40, 200, 8, 4
WRITES = 0.25
FLAGS = ("--shards", "1", "--compact-fanout", "64", "--verify-interval-s", "0")
Routing = Literal["random", "by user"]


class Setting(msgspec.Struct, frozen=True):
    """The number of instances that take requests, and the routing."""

    instances: int
    routing: Routing

    def choose(self, user: int, dice: random.Random) -> int:
        """Return the instance of a request."""
        return user % self.instances if self.routing == "by user" else dice.randrange(self.instances)


class Turn(msgspec.Struct):
    """The measurements of one turn: milliseconds of each answer; CPU seconds by process; creates that lost."""

    wall_s: float
    reads_ms: list[float]
    writes_ms: list[float]
    cpu_s: dict[str, float]
    commits: int = 0
    lost: int = 0
    refused: int = 0

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return (len(self.reads_ms) + len(self.writes_ms)) / self.wall_s


class Fleet:
    """The instances, the users on them, and the acknowledged writes: (user, record, the instance that took it)."""

    def __init__(self, servers: list[Server], bucket: Bucket, prefix: str) -> None:
        self.servers = servers
        self.bucket = bucket
        self.users = [f"{prefix}-{number:02}" for number in range(USERS)]
        self.paths: list[str] = []
        self.written: list[tuple[int, int, int]] = []
        self._queries = [(chroma_query(near(1, n)[0]), f'"record-{n}"'.encode()) for n in range(0, RECORDS, 5)]
        self._upserts = [chroma_records(["fresh-########"], n, vectors(2, n, 1)) for n in range(20)]
        self._next = 0

    async def load(self) -> None:
        """Create every user's collection with its records, through the first instance."""
        body = chroma_records([f"record-{n}" for n in range(RECORDS)], 0, vectors(1, 0, RECORDS))
        connection = await Connection.open(self.servers[0])
        for user_id in self.users:
            base = f"/api/v2/tenants/{user_id}/databases/default_database/collections"
            made = await connection.must(post(self.servers[0], base, b'{"name": "notes"}'))
            self.paths.append(f"{base}/{json.loads(made)['id']}")
            await connection.must(post(self.servers[0], f"{self.paths[-1]}/add", body))
        connection.close()

    async def touch(self, setting: Setting) -> None:
        """Open each user at its newest commit on this setting's instances, which may differ from the last ones."""
        dice = random.Random(setting.instances)
        connections = [await Connection.open(server) for server in self.servers]
        for user, path in enumerate(self.paths):
            at = setting.choose(user, dice)
            await connections[at].must(get(self.servers[at], f"{path}/count"))
        for connection in connections:
            connection.close()

    # --- A turn ------------------------------------------------------------------------------------

    async def turn(self, setting: Setting, seconds: float, seed: int) -> Turn:
        """Run the clients for ``seconds``; return the measurements."""
        before = await self._creates(), await self._objects()
        cpu, began = self._cpu(), time.perf_counter()
        taken = Turn(0.0, [], [], {})
        goes_on = lambda: time.perf_counter() < began + seconds  # noqa: E731
        clients = range(CLIENTS)
        await asyncio.gather(*(self._client(setting, random.Random(seed * 100 + n), goes_on, taken) for n in clients))
        taken.wall_s = time.perf_counter() - began
        taken.cpu_s = {name: spent - cpu[name] for name, spent in self._cpu().items()}
        taken.commits = await self._objects() - before[1]
        taken.lost = await self._creates() - before[0] - taken.commits
        return taken

    async def _client(self, setting: Setting, dice: random.Random, goes_on: Callable[[], bool], taken: Turn) -> None:
        connections = [await Connection.open(server) for server in self.servers[: setting.instances]]
        while goes_on():
            user = dice.randrange(USERS)
            at = setting.choose(user, dice)
            began = time.perf_counter()
            if dice.random() < WRITES:
                if await self._write(connections[at], user, at):
                    taken.writes_ms.append((time.perf_counter() - began) * 1000)
                else:
                    taken.refused += 1
                continue
            body, expected = dice.choice(self._queries)
            found = await connections[at].must(post(self.servers[at], f"{self.paths[user]}/query", body))
            taken.reads_ms.append((time.perf_counter() - began) * 1000)
            # New records have vectors that are far from every query.
            assert found.find(b'"record-') == found.find(expected) >= 0, (expected, found[:300])
        for connection in connections:
            connection.close()

    async def _write(self, connection: Connection, user: int, at: int) -> bool:
        number, self._next = self._next, self._next + 1
        body = self._upserts[number % len(self._upserts)].replace(b"########", b"%08d" % number, 1)
        status, answer = await connection.ask(post(self.servers[at], f"{self.paths[user]}/upsert", body))
        # The only refusal that is allowed: other writers committed first, twelve times in a row.
        assert status in (200, 409), (status, answer[:300])
        if status == 200:
            self.written.append((user, number, at))
        return status == 200

    # --- Counting ----------------------------------------------------------------------------------

    async def _creates(self) -> int:
        total = 0
        for server in self.servers:
            connection = await Connection.open(server)
            view = msgspec.json.decode(await connection.must(get(server, "/admin/pool")), type=PoolView)
            connection.close()
            total += view.store.requests.get("create", 0)
        return total

    async def _objects(self) -> int:
        listings = await asyncio.gather(*(self.bucket.list_objects(log_prefix(u), limit=10_000) for u in self.users))
        return sum(map(len, listings))

    def _cpu(self) -> dict[str, float]:
        total: Counter[str] = Counter()
        for server in self.servers:
            spent = cpu_s(server)
            total["instances"] += spent["front"] + spent["shards"]
        # Client and S3 are the same processes for all servers, so they are counted once.
        total["client"] = spent["client"]
        total["store"] = sum(seconds for name, seconds in spent.items() if name.startswith("store"))
        return dict(total)

    async def check(self) -> int:
        """Read every acknowledged record through another instance than took it; return their number."""
        asked: dict[tuple[int, int], list[int]] = {}
        for user, number, at in self.written:
            asked.setdefault((user, (at + 1) % len(self.servers)), []).append(number)
        for (user, at), numbers in asked.items():
            connection = await Connection.open(self.servers[at])
            ids = [f"fresh-{number:08d}" for number in numbers]
            body = json.dumps({"ids": ids, "include": ["documents"]}).encode()
            found = json.loads(await connection.must(post(self.servers[at], f"{self.paths[user]}/get", body)))
            connection.close()
            assert sorted(found["ids"]) == sorted(ids), (user, at, len(ids), len(found["ids"]))
        return len(self.written)


async def run(place: Place) -> list[Line]:
    """Measure the settings in turns, read everything back, and compare each with one instance."""
    services, servers = [], []
    bucket = bucket_of(place)
    try:
        for number in range(INSTANCES):
            root = place.scratch / f"scaling-{number}"
            root.mkdir()
            service = Service(root, *FLAGS, store=place.store, env=place.server.environ(place.store))
            services.append(await asyncio.to_thread(service.start))
            servers.append(server_at(f"i{number}", service.url, service_processes(service.pid, place.server)))
        fleet = Fleet(servers, bucket, f"scaling-{os.getpid()}")
        await fleet.load()
        alone = Setting(1, "by user")
        settings = [alone, *(Setting(n, routing) for n in (2, 4) for routing in ("by user", "random"))]
        turns: dict[Setting, list[Turn]] = {setting: [] for setting in settings}
        seconds, rounds = (1.0, 1) if place.quick else (2.0, 3)
        for number in range(rounds):
            for setting in settings:
                await fleet.touch(setting)
                turns[setting].append(await fleet.turn(setting, seconds, number))
        count = await fleet.check()
    finally:
        await bucket.close()
        for service in services:
            await asyncio.to_thread(service.close)
    return [_line(setting, turns[setting], turns[alone], count) for setting in settings]


def _line(setting: Setting, turns: list[Turn], alone: list[Turn], count: int) -> Line:
    ours, theirs = (statistics.median(turn.per_s for turn in some) for some in (turns, alone))
    reads = [took for turn in turns for took in turn.reads_ms]
    writes = [took for turn in turns for took in turn.writes_ms]
    lost = sum(turn.lost for turn in turns) / len(writes)
    cost = ", ".join(
        f"{name} {1000 * sum(turn.cpu_s[name] for turn in turns) / (len(reads) + len(writes)):.1f}"
        for name in turns[0].cpu_s
    )
    note = (
        f"{lost:.3f} lost races a write, {sum(turn.commits for turn in turns) / len(writes):.2f} commits a write; "
        f"query p50 {percentile(reads, 50):.1f} ms, upsert p50 {percentile(writes, 50):.1f} ms; "
        f"CPU ms a request: {cost}; {sum(turn.refused for turn in turns)} refused; "
        f"{count:,} acknowledged writes of all turns read back through another instance"
    )
    is_by_user = setting.routing == "by user"
    plural = "s" if setting.instances > 1 else ""
    what = f"{USERS} users, one write in four, {setting.instances} instance{plural}, {setting.routing}: throughput"
    return Line(
        "scaling",
        what,
        f"{ours:.0f}/s",
        f"{theirs:.0f}/s (one instance)",
        ours / theirs,
        "no lost race" if is_by_user else "",
        lost == 0 if is_by_user else None,
        note,
    )
