"""Load over raw streams with requests built beforehand, and its CPU time in every process that takes part.

An ordinary HTTP client takes more CPU time for a request than the servers that are measured here. So requests are bytes
that are built before the clock starts, a connection is a pair of streams, and only the part of an answer that proves it
right is read. CPU time is read from ``/proc``: user and system time of whole processes, so a server's background work
during a turn is included.
"""

from __future__ import annotations

import asyncio
import base64
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

from tests.bench.ground import Float32
from tests.support.store import S3Server

RECORD = b'"record-'
_TICKS = os.sysconf("SC_CLK_TCK")


class Request(msgspec.Struct):
    """Bytes to send, the record id that the answer must name first (b"": none at all), and the kind of request."""

    data: bytes
    names: bytes = b""
    kind: str = ""


class Server(msgspec.Struct):
    """A server's address, and the processes whose CPU time is counted, by role."""

    name: str
    host: str
    port: int
    processes: dict[str, list[int]] = {}


class Turn(msgspec.Struct):
    """The measurements of one turn: milliseconds of each answer by kind, and CPU seconds by process."""

    wall_s: float
    took_ms: dict[str, list[float]]
    cpu_s: dict[str, float]

    @property
    def count(self) -> int:
        """The number of answers."""
        return sum(map(len, self.took_ms.values()))

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return self.count / self.wall_s

    def ms(self, percent: float, *kinds: str) -> float:
        """Return a percentile of the milliseconds of some kinds, of all by default; NaN if there is none."""
        return percentile(
            [ms for kind, took in self.took_ms.items() if not kinds or kind in kinds for ms in took], percent
        )


def percentile(values: list[float], percent: float) -> float:
    """Return the value that ``percent`` of the values do not exceed; NaN if there is none."""
    if not values:
        return float("nan")
    return sorted(values)[min(int(len(values) * percent / 100), len(values) - 1)]


# --- Servers and requests ----------------------------------------------------------------------------


def server_at(name: str, url: str, processes: dict[str, list[int]]) -> Server:
    """Return a server by its URL; the client, this process, is added to its processes."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    return Server(name, parts.hostname, parts.port, {**processes, "client": [os.getpid()]})


def post(server: Server, path: str, body: bytes) -> bytes:
    """Return a request that sends JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def get(server: Server, path: str) -> bytes:
    """Return a request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n\r\n".encode()


def chroma_records(ids: list[str], first: int, rows: Float32) -> bytes:
    """Return a body of Chroma's protocol that writes these records, as its own client would: vectors in base64."""
    numbers = range(first, first + len(rows))
    return msgspec.json.encode(
        {
            "ids": ids,
            "embeddings": [base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode() for row in rows],
            "documents": [f"Note {n}: what was said on day {n % 365} about subject {n % 97}." for n in numbers],
            "metadatas": [{"number": n, "day": n % 365} for n in numbers],
        }
    )


def chroma_query(row: Float32) -> bytes:
    """Return a body of Chroma's protocol that asks for the ten nearest of float32[384]."""
    return msgspec.json.encode(
        {"query_embeddings": [row.tolist()], "n_results": 10, "include": ["documents", "metadatas", "distances"]}
    )


# --- Turns --------------------------------------------------------------------------------------------


class Connection:
    """One connection that is kept open; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, server: Server) -> Connection:
        """Connect."""
        return cls(*await asyncio.open_connection(server.host, server.port, limit=2**20))

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer, whose length must be given."""
        self._writer.write(data)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return int(head[9:12]), await self._reader.readexactly(length)

    async def must(self, data: bytes) -> bytes:
        """Send a request that must succeed, and return the body of the answer."""
        status, body = await self.ask(data)
        assert status in (200, 201), (status, data[:200], body[:300])
        return body

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def _serve_feed(
    server: Server, feed: Iterator[Request], goes_on: Callable[[], bool], every_s: float, took: dict[str, list[float]]
) -> None:
    connection = await Connection.open(server)
    try:
        while goes_on():
            request = next(feed)
            began = time.perf_counter()
            body = await connection.must(request.data)
            took_s = time.perf_counter() - began
            took.setdefault(request.kind, []).append(took_s * 1000)
            found = body.find(request.names) if request.names else -1
            assert body.find(RECORD) == found and (found >= 0 or not request.names), (request.names, body[:300])
            if took_s < every_s:
                await asyncio.sleep(every_s - took_s)
    finally:
        connection.close()


async def turn(
    server: Server,
    feeds: Sequence[Iterator[Request]],
    seconds: float,
    *,
    every_s: float = 0.0,
    stop: asyncio.Event | None = None,
) -> Turn:
    """Send the requests of each feed over a connection of its own, in a closed loop; check every answer.

    It ends after ``seconds``, or when ``stop`` is set. With ``every_s``, a connection sends at most one request in that
    many seconds.
    """
    took: dict[str, list[float]] = {}
    before, began = cpu_s(server), time.perf_counter()

    def goes_on() -> bool:
        return time.perf_counter() < began + seconds and not (stop and stop.is_set())

    await asyncio.gather(*(_serve_feed(server, feed, goes_on, every_s, took) for feed in feeds))
    wall_s, after = time.perf_counter() - began, cpu_s(server)
    return Turn(wall_s, took, {name: after[name] - before[name] for name in after})


def joined(turns: Iterable[Turn]) -> Turn:
    """Return several turns as one."""
    whole = Turn(0.0, {}, {})
    for each in turns:
        whole.wall_s += each.wall_s
        for kind, took in each.took_ms.items():
            whole.took_ms.setdefault(kind, []).extend(took)
        for name, seconds in each.cpu_s.items():
            whole.cpu_s[name] = whole.cpu_s.get(name, 0.0) + seconds
    return whole


def median_rate(turns: Iterable[Turn]) -> float:
    """Return the median of the turns' answers a second."""
    return statistics.median(each.per_s for each in turns)


def bill(turns: Iterable[Turn]) -> str:
    """Return the CPU milliseconds of a request by process, as text."""
    whole = joined(turns)
    return ", ".join(f"{name} {seconds * 1000 / max(whole.count, 1):.2f}" for name, seconds in whole.cpu_s.items())


# --- CPU time ----------------------------------------------------------------------------------------


def cpu_s(server: Server) -> dict[str, float]:
    """Return the CPU seconds so far of a server's processes, by role."""
    return {name: sum(map(_cpu_s, pids)) for name, pids in server.processes.items()}


def _cpu_s(pid: int) -> float:
    # The command, in brackets, may hold spaces; user and system time are fields 14 and 15 of the line.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children(pid: int) -> dict[int, str]:
    """Return the processes that a process has started, with their commands."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            start, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == pid:
            found[int(path.parent.name)] = start.partition("(")[2]
    return found


def service_processes(front: int, server: S3Server) -> dict[str, list[int]]:
    """Return front, shards and the S3 of a service, the last if this process started it."""
    store = [pid for pid, command in children(os.getpid()).items() if command in ("radosgw", "ceph-osd", "ceph-mon")]
    return {"front": [front], "shards": list(children(front)), f"store ({server.name})": store}
