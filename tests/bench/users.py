"""Many users of 200 records each: ``vectorpool serve`` over the S3, beside ``chroma run`` with a tenant for each user.

Both get the same bytes over HTTP, in Chroma's own protocol, over eight connections; a request's user is drawn at
random. This service runs with default settings unless a line says otherwise, writes through to the S3 and reads
strongly; ``chroma run`` writes to the local disk. Every query's first id is checked, and after the upserts each user's
number of records and the newest of them.

*The pool.* Users by a Zipf law (s = 1.1), one request in ten a write, through fewer slots than users, on an instance
that has seen none of them. The service does not report the tier of an answer; the bench keeps the LRU of each shard as
the pool does, by arrival, and at the end compares it with ``/admin/pool``. A user's first request is *cold*, one whose
slot was evicted since is *warm*, the others are *open*.

*Excluded.* This service's users are forks of one that was loaded through it: one commit each, in a log of its own.
``chroma run`` with 500 and 5,000 tenants: it loads less than a thousand records a second, so 100,000 take two minutes.
The network: everything is on one machine, whose cores servers, S3 and client share.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate

import msgspec

from tests.bench.ground import Line, Place
from tests.bench.population import SEED, Bodies, Side, fork, serve, user
from tests.bench.traffic import (
    Connection,
    Request,
    Server,
    Turn,
    bill,
    children,
    get,
    joined,
    median_rate,
    server_at,
    turn,
)
from tests.support.chroma_server import ChromaServer
from vectorpool.answers import PoolView
from vectorpool.shard.protocol import shard_of

CONNECTIONS = 8
ZIPF = 1.1
# On a busy machine, beyond this time, the largest number of users is skipped: making them takes a minute.
ENOUGH_S = 200


def _feeds(make: Iterator[Request]) -> list[Iterator[Request]]:
    # One iterator for all connections: the next request goes to whichever is free.
    return [make] * CONNECTIONS


def _queries(side: Side, users: int) -> Iterator[Request]:
    rng = random.Random(users)
    while True:
        yield side.query(user(rng.randrange(users)), rng)


def _upserts(side: Side, users: int) -> Iterator[Request]:
    rng = random.Random(users)
    while True:
        yield side.upsert(user(rng.randrange(users)))


async def _schedule(
    sides: dict[str, Iterator[Request]], servers: dict[str, Server], seconds: float, rounds: int
) -> dict[str, list[Turn]]:
    """Run the sides in alternating turns, after a short one that is not counted."""
    taken: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, make in sides.items():
            measured = await turn(servers[name], _feeds(make), seconds if number else seconds / 2)
            if number:
                taken[name].append(measured)
    return taken


def _answers_a_cpu_s(turns: list[Turn]) -> float:
    """Return the requests answered in a CPU second of the server; the client's and the S3's time is not counted."""
    whole = joined(turns)
    spent = sum(s for name, s in whole.cpu_s.items() if name != "client" and not name.startswith("store"))
    return whole.count / max(spent, 0.001)


def _rate_line(what: str, turns: dict[str, list[Turn]], least: float) -> Line:
    ours, theirs = (median_rate(turns[name]) for name in ("ours", "theirs"))
    each = [f"CPU ms a request, {name}: {bill(taken)}" for name, taken in turns.items()]
    by_cpu = " and ".join(f"{_answers_a_cpu_s(turns[name]):.0f}" for name in ("ours", "theirs"))
    told = "; ".join([*each, f"a CPU second of the server answers {by_cpu}"])
    ratio = ours / theirs
    return Line("users", what, f"{ours:.0f}/s", f"{theirs:.0f}/s", ratio, f">= {least}", ratio >= least, told)


# --- Beside chroma run -------------------------------------------------------------------------------


async def _compare(place: Place, ours: Side, theirs: Side, rounds: int) -> list[Line]:
    lines: list[Line] = []
    servers = {"ours": ours.server, "theirs": theirs.server}
    sides = {"ours": ours, "theirs": theirs}
    loaded = 0
    for users, least in ((10, 5.0), (20, 12.0)) if place.quick else ((50, 5.0), (200, 12.0)):
        for number in range(loaded, users):
            await theirs.create(user(number), tenant=True)
        for side in sides.values():
            await _open_all(side, range(users))
        where = f"{users} users, {CONNECTIONS} connections: throughput"
        if not loaded:
            turns = await _schedule({name: _queries(side, users) for name, side in sides.items()}, servers, 1.5, rounds)
            lines.append(_rate_line(f"top-10 queries, {where}", turns, 1.0))
        turns = await _schedule({name: _upserts(side, users) for name, side in sides.items()}, servers, 2.0, rounds)
        lines.append(_rate_line(f"one-record upserts, {where}", turns, least))
        if not loaded:
            taken = await turn(theirs.server, _feeds(_zipf(theirs, users, None)), 4.0)
            lines.append(_tier_line(f"{users} users", taken, ["any"], chroma=True))
        loaded = users
    for side in (ours, theirs):
        await side.check()
    return lines


async def _open_all(side: Side, users: range) -> None:
    """Count each user's collection once, so that the measurement finds it open."""
    waiting = iter(users)

    async def count() -> None:
        connection = await Connection.open(side.server)
        for number in waiting:
            await connection.must(get(side.server, f"{side.paths[user(number)]}/count"))
        connection.close()

    await asyncio.gather(*(count() for _ in range(CONNECTIONS)))


async def _spread(ours: Side, few: int, many: int, rounds: int) -> Line:
    """Compare upserts of many users with those of few, on the same instance, which has room for all."""
    await _open_all(ours, range(many))
    feeds = {"theirs": _upserts(ours, few), "ours": _upserts(ours, many)}
    turns = await _schedule(feeds, {"ours": ours.server, "theirs": ours.server}, 2.0, rounds)
    await ours.check()
    return _rate_line(f"one-record upserts, {many:,} users against {few}, all open: throughput", turns, 0.8)


# --- Tiers -------------------------------------------------------------------------------------------


class Slots:
    """The LRU of each shard as the pool keeps it, by the arrival of requests."""

    def __init__(self, shards: int, slots: int) -> None:
        self._open: list[OrderedDict[str, None]] = [OrderedDict() for _ in range(shards)]
        self._slots = slots
        self._seen: set[str] = set()

    def use(self, user_id: str) -> str:
        """Return the tier that answers a request of this user, and record the use."""
        slots = self._open[shard_of(user_id, len(self._open))]
        tier = "open" if user_id in slots else "warm" if user_id in self._seen else "cold"
        self._seen.add(user_id)
        slots[user_id] = None
        slots.move_to_end(user_id)
        if len(slots) > self._slots:
            slots.popitem(last=False)
        return tier

    def open_now(self) -> set[str]:
        """Return the users who have a slot."""
        return {user_id for slots in self._open for user_id in slots}


def _drawn(users: int, seed: int) -> Iterator[int]:
    """Draw users by a Zipf law: the nth most frequent by 1 / n ** 1.1."""
    rng = random.Random(seed)
    weights = list(accumulate(1 / (n + 1) ** ZIPF for n in range(users)))
    while True:
        yield from rng.choices(range(users), cum_weights=weights, k=1000)


def _zipf(side: Side, users: int, slots: Slots | None) -> Iterator[Request]:
    rng = random.Random(users)
    for number in _drawn(users, users):
        tier = slots.use(user(number)) if slots else "any"
        if rng.random() < 0.1:
            yield side.upsert(user(number), f"{tier} write")
        else:
            yield side.query(user(number), rng, f"{tier} read")


def _tier_line(where: str, taken: Turn, tiers: list[str], note: str = "", *, chroma: bool = False) -> Line:
    parts = [note] if note else []
    for kind in (f"{tier} {what}" for what in ("read", "write") for tier in tiers):
        if found := taken.took_ms.get(kind):
            parts.append(f"{kind}s {taken.ms(50, kind):.1f} / {taken.ms(99, kind):.1f} ms ({len(found)})")
    parts.append(f"{taken.per_s:.0f}/s; CPU ms a request: {bill([taken])}")
    shown = f"{taken.ms(50):.1f} / {taken.ms(99):.1f} ms"
    what = f"Zipf access, one write in ten, {where}: p50 / p99"
    return Line("users", what, "" if chroma else shown, shown if chroma else "", note="; ".join(parts))


async def _tiers(place: Place, ours: Side, users: int, slots: int, seconds: float) -> Line:
    """Measure Zipf access on an instance that starts cold; the first third of the time is not counted."""
    shards = 2
    flags = ("--shards", str(shards), "--open-slots", str(slots))
    service, ours.server = await serve(place, f"zipf-{users}", *flags)
    try:
        model = Slots(shards, slots)
        feed = _zipf(ours, users, model)
        await turn(ours.server, _feeds(feed), seconds / 3)
        before = await _pool(ours.server)
        taken = await turn(ours.server, _feeds(feed), seconds)
        view = await _pool(ours.server)
        await ours.check(20)
    finally:
        await asyncio.to_thread(service.close)
    is_open = {slot.user_id for slot in view.slots if slot.state in ("ready", "committing")}
    agreed = len(is_open & model.open_now()) / max(len(is_open), 1)
    opened = sum(len(took) for kind, took in taken.took_ms.items() if kind.startswith("open"))
    steady = Slots(shards, slots)
    draws = [steady.use(user(number)) for number, _ in zip(_drawn(users, 1), range(100_000), strict=False)]
    requests = {
        name: view.store.requests[name] - before.store.requests.get(name, 0) for name in sorted(view.store.requests)
    }
    note = (
        f"hit ratio {opened / taken.count:.2f}, {draws[20_000:].count('open') / 80_000:.2f} in the long run; "
        f"the bench's LRU agrees with {agreed:.0%} of the pool; "
        f"{sum(requests.values()) / taken.count:.1f} requests to the S3 a request ({_per(requests, taken.count)})"
    )
    return _tier_line(f"{users:,} users, {shards} x {slots} slots", taken, ["open", "warm", "cold"], note)


def _per(requests: dict[str, int], count: int) -> str:
    return ", ".join(f"{name} {number / count:.2f}" for name, number in requests.items() if number)


async def _pool(server: Server) -> PoolView:
    connection = await Connection.open(server)
    try:
        return msgspec.json.decode(await connection.must(get(server, "/admin/pool")), type=PoolView)
    finally:
        connection.close()


# --- The bench ---------------------------------------------------------------------------------------


async def run(place: Place) -> list[Line]:
    """Measure upserts, queries and Zipf access; see the module."""
    began = time.perf_counter()
    rounds = 1 if place.quick else 3
    bodies = Bodies()
    many = 60 if place.quick else 1000
    service, server = await serve(place, "default")
    ours = Side(server, bodies)
    chroma = ChromaServer(place.scratch / "users-chroma")
    try:
        collection = await ours.create(SEED, tenant=False)
        for number in range(5000):
            ours.place(user(number), collection)
        await fork(place, range(many))
        await asyncio.to_thread(chroma.start)
        found = [pid for pid, command in children(os.getpid()).items() if command == "chroma"]
        theirs = Side(server_at("chroma run", chroma.url, {"chroma run": found}), bodies)
        lines = await _compare(place, ours, theirs, rounds)
        await asyncio.to_thread(chroma.close)
    finally:
        await asyncio.to_thread(chroma.close)
        await asyncio.to_thread(service.close)
    service, ours.server = await serve(place, "roomy", "--open-slots", str(many))
    try:
        lines.append(await _spread(ours, 10 if place.quick else 50, many, rounds))
    finally:
        await asyncio.to_thread(service.close)
    for users, slots in ((20, 5),) if place.quick else ((50, 10), (500, 25), (5000, 100)):
        if users > many:
            if time.perf_counter() - began > ENOUGH_S:
                what = f"Zipf access, one write in ten, {users:,} users"
                lines.append(Line("users", what, "not measured", note=f"the bench took more than {ENOUGH_S} s before"))
                continue
            await fork(place, range(many, users))
        lines.append(await _tiers(place, ours, users, slots, 2.0 if place.quick else 6.0))
    return lines
