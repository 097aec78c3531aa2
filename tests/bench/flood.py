"""Neighbours' queries while one user floods the same shard with plain requests, with and without limits of that user.

Four neighbours have 200 records each and ask for the ten nearest, each on one connection, 20 times a second at most.
The flood is queries and upserts of one record, which are all allowed, sent over 16 connections by two processes as fast
as answers come; a refusal is no reason for it to wait. The limits of the flooding user are set while the service runs,
by the operator's route: 20 requests a second and four at once.

Measured: the slowest of a hundred of the neighbours' queries (p99) without a flood, during it without limits, and
during it with limits; and how many of the neighbours' requests failed. Turns alternate.

*Excluded.* The flood's own work: its programs would run on another machine. Here its processes have the lowest
priority, and still take part of the same cores and of their caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import time
from collections import Counter
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Final

import httpx
import msgspec

from tests.bench.ground import Line, Place
from tests.bench.population import Bodies, Side
from tests.bench.traffic import Connection, Server, percentile, server_at
from tests.support.service import Service

NEIGHBOURS: Final = ("one", "two", "three", "four")
FLOODER: Final = "flooder"
EVERY_S: Final = 0.05
SENDERS: Final = 2
CONNECTIONS: Final = 8
LIMITS: Final = {"requests_per_s": 20, "burst": 20, "concurrent_requests": 4}
TURNS: Final = 3


class Measured(msgspec.Struct):
    """The neighbours' queries in turns of one kind: milliseconds, failures; and the answers that the flood got."""

    took_ms: list[float] = []
    failed: int = 0
    answers: Counter[int] = msgspec.field(default_factory=Counter)


async def _watch(side: Side, user_id: str, stop: asyncio.Event, into: Measured) -> None:
    dice = random.Random(user_id)
    connection = await Connection.open(side.server)
    while not stop.is_set():
        query = side.query(user_id, dice)
        began = time.perf_counter()
        status, body = await asyncio.wait_for(connection.ask(query.data), 60)
        took_ms = (time.perf_counter() - began) * 1000
        into.took_ms.append(took_ms)
        into.failed += status != 200 or query.names not in body
        await asyncio.sleep(max(0.0, EVERY_S - took_ms / 1000))
    connection.close()


def _flood(server: Server, requests: list[bytes], ends: Event, answers: SimpleQueue[Counter[int]]) -> None:
    """Send requests again and again until ``ends``; the work of a process of its own."""
    os.nice(19)
    got = Counter[int]()

    async def send(number: int) -> None:
        dice, connection = random.Random(number), await Connection.open(server)
        while not ends.is_set():
            try:
                status, _ = await connection.ask(dice.choice(requests))
            except (OSError, EOFError):
                # The service may close a connection with a refusal.
                status = 0
                with contextlib.suppress(OSError):
                    connection = await Connection.open(server)
            got[status] += 1

    async def send_all() -> None:
        await asyncio.gather(*(send(number) for number in range(CONNECTIONS)))

    asyncio.run(send_all())
    answers.put(got)


async def _turn(side: Side, seconds: float, *, floods: bool, into: Measured) -> None:
    context = multiprocessing.get_context("fork")
    ends, answers, senders = context.Event(), context.SimpleQueue(), []
    dice = random.Random(3)
    requests = [side.query(FLOODER, dice).data for _ in range(30)] + [side.upsert(FLOODER).data for _ in range(10)]
    for _ in range(SENDERS if floods else 0):
        sender = context.Process(target=_flood, args=(side.server, requests, ends, answers), daemon=True)
        sender.start()
        senders.append(sender)
    # The first moment of a flood is another thing than the flood.
    await asyncio.sleep(0.5)
    stop = asyncio.Event()
    watching = [asyncio.create_task(_watch(side, user_id, stop, into)) for user_id in NEIGHBOURS]
    await asyncio.sleep(seconds)
    stop.set()
    await asyncio.gather(*watching)
    ends.set()
    for sender in senders:
        into.answers += await asyncio.to_thread(answers.get)
        await asyncio.to_thread(sender.join)


async def run(place: Place) -> list[Line]:
    """Measure three turns of each kind, of 5 s, of 2 s when quick."""
    root = place.scratch / "flood"
    root.mkdir()
    service = Service(root, "--shards", "1", store=place.store, env=place.server.environ(place.store))
    alone, free, limited = Measured([]), Measured([]), Measured([])
    seconds = 2.0 if place.quick else 5.0
    try:
        await asyncio.to_thread(service.start)
        side = Side(server_at("vectorpool", service.url, {}), Bodies())
        for user_id in (*NEIGHBOURS, FLOODER):
            await side.create(user_id, tenant=False)
        path = f"/admin/users/{FLOODER}/limits"
        async with httpx.AsyncClient(base_url=service.url) as operator:
            for _ in range(TURNS):
                await _turn(side, seconds, floods=False, into=alone)
                await _turn(side, seconds, floods=True, into=free)
                (await operator.put(path, content=json.dumps(LIMITS))).raise_for_status()
                await _turn(side, seconds, floods=True, into=limited)
                (await operator.delete(path)).raise_for_status()
    finally:
        await asyncio.to_thread(service.close)
    return [
        _line("a flood of one user without limits", free, alone, "", None),
        _line("the same flood with limits", limited, alone, "<= 3, none failed", 3.0),
    ]


def _line(name: str, measured: Measured, alone: Measured, target: str, most: float | None) -> Line:
    ours, calm = percentile(measured.took_ms, 99), percentile(alone.took_ms, 99)
    got = ", ".join(f"{count} of {status}" for status, count in sorted(measured.answers.items()))
    return Line(
        "flood",
        f"neighbours' queries, p99, during: {name}",
        f"{ours:.1f} ms",
        f"{calm:.1f} ms without",
        ours / calm,
        target,
        None if most is None else ours <= most * calm and measured.failed == 0,
        f"p50 {percentile(measured.took_ms, 50):.1f} ms, {percentile(alone.took_ms, 50):.1f} ms without; "
        f"{measured.failed} of {len(measured.took_ms)} failed; the flood's answers: {got}",
    )
