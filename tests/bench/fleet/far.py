"""The bucket of a simulated fleet: one shelf for each user, made at its first request, and requests that take time.

A shelf begins with the log of a vectorstore that has lived for a while, so a user takes memory only from the
first request on, and then little: all shelves of one history share its bytes.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from tests.simulation.network import VirtualSources
from vectorpool.objects.bucket import Body, Bucket, ObjectInfo
from vectorpool.objects.memory import MemoryBucket

T = TypeVar("T")
_P99 = 2.326  # The normal distribution's 99th percentile, in standard deviations.


class Latency(msgspec.Struct, frozen=True):
    """The latency of a request: log-normal, by its median and 99th percentile, in milliseconds."""

    p50_ms: float
    p99_ms: float

    def draw_s(self, dice: random.Random) -> float:
        """Return a random latency, in seconds."""
        return self.p50_ms / 1000 * math.exp(dice.gauss(0, 1) * math.log(self.p99_ms / self.p50_ms) / _P99)


class Latencies(msgspec.Struct, frozen=True):
    """The latency of each class of request, without its bytes, and the throughput of one connection."""

    get: Latency = Latency(20, 120)
    head: Latency = Latency(12, 80)
    put: Latency = Latency(35, 180)
    list: Latency = Latency(30, 150)
    bytes_per_s: float = 80e6


async def measure(bucket: Bucket, prefix: str, rounds: int = 100, size: int = 20_000) -> Latencies:
    """Return the latencies of a real store, measured one request at a time; written objects are deleted again."""
    took: dict[str, list[float]] = {}

    async def timed(name: str, request: Awaitable[object]) -> None:
        began = time.perf_counter()
        await request
        took.setdefault(name, []).append((time.perf_counter() - began) * 1000)

    for number in range(rounds):
        key = f"{prefix}{number:04}"
        await timed("put", bucket.create(key, bytes(size)))
        await timed("get", bucket.get(key))
        await timed("head", bucket.head(key))
        await timed("list", bucket.list_objects(prefix, limit=1000))
    for number in range(rounds):
        await bucket.delete(f"{prefix}{number:04}")
    return Latencies(
        **{
            name: Latency(statistics.median(each), max(sorted(each)[int(rounds * 0.99) - 1], 1.01 * min(each)))
            for name, each in took.items()
        }
    )


class Shelves:
    """All users' objects, in a bucket for each user. ``histories`` are logs by object name, one for each shelf."""

    def __init__(self, sources: VirtualSources, histories: list[dict[str, bytes]], prefix_of: Callable[[str], str]):
        self._sources = sources
        self._histories = histories
        self._prefix_of = prefix_of
        self._shelves: dict[str, MemoryBucket] = {}

    async def shelf(self, key: str) -> MemoryBucket:
        """Return the bucket of the user of a key or prefix."""
        user_id = key.split("/")[1]
        found = self._shelves.get(user_id)
        if found is None:
            found = self._shelves[user_id] = MemoryBucket(name=user_id, sources=self._sources)
            # Users are numbered; neighbours have different histories.
            for name, data in self._histories[int(user_id) % len(self._histories)].items():
                await found.create(self._prefix_of(user_id) + name, data)
        return found


class FarBucket:
    """The shelves as one instance sees them: half of a request's time passes before its effect, half after."""

    def __init__(
        self, shelves: Shelves, sources: VirtualSources, latencies: Latencies, dice: random.Random, scale: int
    ):
        self._shelves = shelves
        self._sources = sources
        self._latencies = latencies
        self._dice = dice
        self._bytes_per_s = latencies.bytes_per_s / scale

    @property
    def url(self) -> str:
        return "memory://fleet"

    async def _travel(self, key: str, latency: Latency, effect: Callable[[Bucket], Awaitable[T]], sent: int = 0) -> T:
        half_s = latency.draw_s(self._dice) / 2
        await self._sources.sleep(half_s + sent / self._bytes_per_s)
        try:
            answer = await effect(await self._shelves.shelf(key))
        finally:
            await self._sources.sleep(half_s)
        return answer

    async def get(self, key: str) -> Body:
        body = await self._travel(key, self._latencies.get, lambda shelf: shelf.get(key))
        await self._sources.sleep(len(body.data) / self._bytes_per_s)
        return body

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        data = await self._travel(key, self._latencies.get, lambda shelf: shelf.get_range(key, start, end))
        await self._sources.sleep(len(data) / self._bytes_per_s)
        return data

    def is_surely_absent(self, key: str) -> bool:
        return False

    async def head(self, key: str) -> ObjectInfo:
        return await self._travel(key, self._latencies.head, lambda shelf: shelf.head(key))

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self._travel(
            prefix, self._latencies.list, lambda shelf: shelf.list_objects(prefix, limit=limit, after=after)
        )

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        raise AssertionError("rounds over all users are not run in a fleet: their requests are computed")

    async def create(self, key: str, data: bytes) -> str:
        return await self._travel(key, self._latencies.put, lambda shelf: shelf.create(key, data), len(data))

    async def put(self, key: str, data: bytes) -> str:
        return await self._travel(key, self._latencies.put, lambda shelf: shelf.put(key, data), len(data))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        raise AssertionError("documents are no part of a fleet")

    async def remove(self, key: str, etag: str) -> None:
        raise AssertionError("documents are no part of a fleet")

    async def copy(self, source: str, target: str) -> None:
        raise AssertionError("documents are no part of a fleet")

    async def upload_url(self, key: str, expires_s: int) -> str:
        raise AssertionError("documents are no part of a fleet")

    async def delete(self, key: str) -> None:
        await self._travel(key, self._latencies.put, lambda shelf: shelf.delete(key))

    async def close(self) -> None:
        pass
