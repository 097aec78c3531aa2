"""A quiet user's queries while a hostile caller in the same shard sends one kind of attack after the other.

The quiet user has 200 records and asks for the ten nearest, on one connection, 50 times a second at most. Each attack
is sent for some seconds over connections of its own, from another address of the loopback (``127.0.0.2``), by two
processes that only send bytes which are built beforehand. The attacker's answers are counted by status and not judged:
the tests show that the service bounds each attack.

Measured: the slowest of a hundred queries (p99) during each attack, against the same without one, and how many of the
quiet user's requests failed. The queries without an attack are asked before each attack, and taken together. A query
that finds its connection closed, or gets a status that is not 200, has failed.

*Excluded.* The attacker's own work: its programs would run on another machine. Here its processes run only while a core
has nothing else to do (``SCHED_IDLE``). What the kernel does for its connections still counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Final

import msgspec

from tests.bench.ground import Line, Place
from tests.bench.population import Bodies, Side
from tests.bench.traffic import Connection, Server, get, percentile, post, server_at
from tests.support.service import Service

EVERY_S: Final = 0.02
CALM_S: Final = 1.0
CALM_QUERY_S: Final = 0.1
ATTACKER: Final = "127.0.0.2"
SENDERS: Final = 2
TIMEOUT_S: Final = 20.0

# Sends one attack over a fresh connection, and returns the status of the answer; 0 if there is none.
Attack = Callable[[Server], int]


class Measured(msgspec.Struct):
    """The quiet user's queries during one attack: milliseconds, failures; and the answers that the attacker got."""

    took_ms: list[float]
    failed: int
    answers: Counter[int]


# --- Attacks ------------------------------------------------------------------------------------------


def _connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), TIMEOUT_S, source_address=(ATTACKER, 0))


def _exchange(server: Server, data: bytes) -> int:
    with contextlib.suppress(OSError), _connect(server) as connection:
        with contextlib.suppress(OSError):
            # An answer may come, and the connection be closed, before all was sent.
            connection.sendall(data)
        head = connection.recv(65536)
        return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
    return 0


def _sends(method: str, path: str, body: bytes) -> Attack:
    built: list[bytes] = []

    def attack(server: Server) -> int:
        if not built:
            built.append(post(server, path, body).replace(b"POST", method.encode(), 1))
        return _exchange(server, built[0])

    return attack


def _many_headers(server: Server) -> int:
    return _exchange(server, b"GET /health HTTP/1.1\r\n" + b"x-more: " + b"y" * 2 * 1024**2 + b"\r\n\r\n")


def _half_open(server: Server) -> int:
    """Hold many connections that never end their head."""
    held = []
    with contextlib.suppress(OSError):
        for _ in range(400):
            connection = _connect(server)
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
            held.append(connection)
    time.sleep(1.0)
    for connection in held:
        connection.close()
    return 0


def _slow_bodies(server: Server) -> int:
    """Hold many requests whose bodies hardly come."""
    held = []
    with contextlib.suppress(OSError):
        for _ in range(100):
            connection = _connect(server)
            connection.sendall(
                post(server, "/users/hostile/collections", b"")[:-22] + b"content-length: 100000\r\n\r\n{"
            )
            held.append(connection)
    for _ in range(5):
        time.sleep(0.2)
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(b" ")
    for connection in held:
        connection.close()
    return 0


def _attacks(path: str, native: str) -> dict[str, Attack]:
    """Return the attacks by name. ``path`` is the attacker's collection on Chroma's protocol, ``native`` on ours."""

    def query(**more: object) -> bytes:
        return msgspec.json.encode({"query_embeddings": [[0.5] * 384], "n_results": 10, **more})

    wide = {"$or": [{"number": n} for n in range(9000)]}
    deep = b'{"$and":[' * 5000 + b'{"a":1}' + b"]}" * 5000
    lists = b'{"records":[' + b"[]," * 20_000_000 + b"[]]}"
    keys = msgspec.json.encode(
        {"ids": ["x"], "embeddings": [[0.5] * 384], "metadatas": [{f"key{n}": n for n in range(1_000_000)}]}
    )
    texts = msgspec.json.encode({"texts": ["one two three " * 60] * 50})
    upsert = {"ids": [f"i{n}" for n in range(20_000)], "embeddings": [[0.5]] * 20_000}
    base = path.rpartition("/collections/")[0] + "/collections"

    def create(configuration: dict[str, object], number: int) -> bytes:
        return msgspec.json.encode({"name": f"huge-{number}", "configuration": {"hnsw": configuration}})

    return {
        "a filter of 9,000 branches": _sends("POST", f"{path}/query", query(where=wide)),
        "a filter 5,000 deep": _sends("POST", f"{path}/get", b'{"where":' + deep + b"}"),
        "a collection of 10,000,000 links": _sends("POST", base, create({"max_neighbors": 10_000_000}, 1)),
        "a collection without links": _sends("POST", base, create({"max_neighbors": 0}, 2)),
        "an embedding of 200,000 numbers": _sends(
            "POST", f"{path}/upsert", msgspec.json.encode({"ids": ["x"], "embeddings": [[0.5] * 200_000]})
        ),
        "20,000 records in a call": _sends("POST", f"{path}/upsert", msgspec.json.encode(upsert)),
        "an id of 1 MB": _sends(
            "POST", f"{path}/upsert", msgspec.json.encode({"ids": ["x" * 1024**2], "embeddings": [[0.5] * 384]})
        ),
        "1,000,000 keys of metadata": _sends("POST", f"{path}/upsert", keys),
        "a body of 20,000,000 empty lists": _sends("PUT", f"{native}/records", lists),
        "a header of 2 MB": _many_headers,
        "400 connections half open": _half_open,
        "100 slow bodies": _slow_bodies,
        "a flood of texts to embed": _sends("POST", f"{native}/query", texts),
    }


# --- Measuring ---------------------------------------------------------------------------------------


async def _watch(side: Side, stop: asyncio.Event) -> tuple[list[float], int]:
    """Send the quiet user's queries until ``stop``; return their milliseconds, and how many failed."""
    dice, took_ms, failed = random.Random(1), list[float](), 0
    connection = await Connection.open(side.server)
    while not stop.is_set():
        began = time.perf_counter()
        try:
            status, _ = await asyncio.wait_for(connection.ask(side.query("quiet", dice).data), 60)
        except (OSError, EOFError, TimeoutError):
            status = 0
        if status != 200:
            failed += 1
            connection.close()
            with contextlib.suppress(OSError):
                connection = await Connection.open(side.server)
        took_ms.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(max(0.0, EVERY_S - took_ms[-1] / 1000))
    connection.close()
    return took_ms, failed


async def _calm(side: Side) -> None:
    """Wait until the service answers as it does alone, so that no attack is measured during the one before."""
    dice = random.Random(2)
    for _ in range(60):
        await asyncio.sleep(CALM_S)
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            connection = await Connection.open(side.server)
            began = time.perf_counter()
            status, _ = await asyncio.wait_for(connection.ask(side.query("quiet", dice).data), 60)
            connection.close()
            if status == 200 and time.perf_counter() - began < CALM_QUERY_S:
                return
    raise AssertionError("the service did not recover from an attack within a minute")


def _send(attack: Attack, server: Server, ends: Event, answers: SimpleQueue[Counter[int]]) -> None:
    """Send an attack again and again until ``ends``; the work of a process of its own."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    got = Counter[int]()
    while not ends.is_set():
        got[attack(server)] += 1
    answers.put(got)


async def _under(side: Side, attack: Attack | None, seconds: float) -> Measured:
    context = multiprocessing.get_context("fork")
    stop, ends, answers = asyncio.Event(), context.Event(), context.SimpleQueue()
    senders: list[ForkProcess] = []
    for _ in range(0 if attack is None else SENDERS):
        sender = context.Process(target=_send, args=(attack, side.server, ends, answers), daemon=True)
        sender.start()
        senders.append(sender)
    watching = asyncio.create_task(_watch(side, stop))
    await asyncio.sleep(seconds)
    ends.set()
    got: Counter[int] = sum([await asyncio.to_thread(answers.get) for _ in senders], Counter())
    for sender in senders:
        await asyncio.to_thread(sender.join)
    stop.set()
    took_ms, failed = await watching
    return Measured(took_ms, failed, got)


async def run(place: Place) -> list[Line]:
    """Measure each attack for 8 s, for 4 s when quick, and half as long before it without one."""
    root = place.scratch / "hostile"
    root.mkdir()
    service = Service(root, "--shards", "1", store=place.store, env=place.server.environ(place.store))
    seconds = 4.0 if place.quick else 8.0
    alone, during = Measured([], 0, Counter()), dict[str, Measured]()
    try:
        await asyncio.to_thread(service.start)
        side = Side(server_at("vectorpool", service.url, {}), Bodies())
        for user_id in ("quiet", "hostile"):
            await side.create(user_id, tenant=False)
        for name, attack in _attacks(side.paths["hostile"], "/users/hostile/collections/notes").items():
            await _calm(side)
            calm = await _under(side, None, seconds / 2)
            alone.took_ms += calm.took_ms
            alone.failed += calm.failed
            during[name] = await _under(side, attack, seconds)
        assert not alone.failed, "a query failed without an attack"
        connection = await Connection.open(side.server)
        await connection.must(get(side.server, "/health/ready"))
        connection.close()
    finally:
        await asyncio.to_thread(service.close)
    return [_line(name, measured, alone) for name, measured in during.items()]


def _line(name: str, measured: Measured, alone: Measured) -> Line:
    ours, calm = percentile(measured.took_ms, 99), percentile(alone.took_ms, 99)
    got = ", ".join(f"{count} of {status}" for status, count in sorted(measured.answers.items()))
    return Line(
        "hostile",
        f"a quiet user's query, p99, during: {name}",
        f"{ours:.1f} ms",
        f"{calm:.1f} ms without",
        ours / calm,
        "<= 5, none failed",
        ours <= 5 * calm and measured.failed == 0,
        f"{measured.failed} of {len(measured.took_ms)} failed; the attacker's answers: {got}",
    )
