"""Shared parts of the benches: seeded records, a user loaded through the product, a line of the table, the machine."""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from tests.support.store import S3Server
from vectorpool import commands
from vectorpool.answers import QueryResult
from vectorpool.names import parse_log_name
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.metered import MeteredBucket
from vectorpool.objects.stores import open_bucket
from vectorpool.settings import Settings
from vectorpool.shard.inprocess import InProcessRouter

T = TypeVar("T")
DIMENSION = 384
COLLECTION = "notes"
CALL = 500
Float32 = np.ndarray


class Line(msgspec.Struct):
    """One line of the table. ``ratio`` is this service's figure by the peer's; ``met`` is None without a target."""

    bench: str
    what: str
    ours: str
    against: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""


class Place(msgspec.Struct):
    """The place of a run: the S3, its bucket's URL, a scratch directory, and whether the run is quick."""

    server: S3Server
    store: str
    scratch: Path
    quick: bool
    loaded: dict[str, int] = {}

    def settings(self, name: str, **changes: object) -> Settings:
        """Return settings over the S3 with a replica directory of its own."""
        return self.server.settings(self.store, replica_dir=str(self.scratch / name), **changes)


class WatchedBucket(MeteredBucket):
    """A metered bucket that also stores the created commits: (key, bytes)."""

    def __init__(self, inner: Bucket) -> None:
        super().__init__(inner)
        self.commits: list[tuple[str, int]] = []

    async def create(self, key: str, data: bytes) -> str:
        parsed = parse_log_name(key.rpartition("/")[2])
        if parsed is not None and parsed[0] == "commit":
            self.commits.append((key, len(data)))
        return await super().create(key, data)


def vectors(seed: int, first: int, count: int) -> Float32:
    """Return float32[count, 384] of length 1 for records ``first`` and on: the same for the same seed."""
    rows = np.stack([np.random.default_rng((seed, n)).standard_normal(DIMENSION) for n in range(first, first + count)])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


def near(seed: int, number: int) -> Float32:
    """Return float32[1, 384] to which record ``number`` is the nearest by far."""
    noise = np.random.default_rng((seed, number, 1)).standard_normal(DIMENSION) * 0.01
    return (vectors(seed, number, 1) + noise).astype("<f4")


def upsert(first: int, rows: Float32) -> commands.UpsertRecords:
    """Return the command that writes records ``first`` and on with these vectors, a text and metadata."""
    numbers = range(first, first + len(rows))
    return commands.UpsertRecords(
        collection=COLLECTION,
        ids=[f"record-{n}" for n in numbers],
        vectors=commands.Vectors(rows.shape[1], rows.tobytes()),
        documents=[
            f"Note {n}: what was said on day {n % 365} about subject {n % 97}, in a few words." for n in numbers
        ],
        metadatas=[{"number": n, "day": n % 365} for n in numbers],
    )


def query(rows: Float32) -> commands.QueryRecords:
    """Return a top-10 query."""
    return commands.QueryRecords(collection=COLLECTION, vectors=commands.Vectors(rows.shape[1], rows.tobytes()))


def check_first(body: bytes, number: int) -> None:
    """Fail unless record ``number`` is the nearest of ten matches."""
    matches = msgspec.json.decode(body, type=QueryResult).results[0]
    assert len(matches) == 10 and matches[0].id == f"record-{number}", [m.id for m in matches]


@asynccontextmanager
async def router(settings: Settings, bucket: Bucket | None = None) -> AsyncIterator[InProcessRouter]:
    """Start one shard in this process, and drain it at the end."""
    made = InProcessRouter(settings, bucket=bucket)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def load(place: Place, user_id: str, count: int) -> None:
    """Write a user of ``count`` records to the store, through the product in calls of 500."""
    if place.loaded.get(user_id) == count:
        return
    async with router(place.settings(f"load-{user_id}", drain_s=60.0)) as pool:
        await fill(pool, user_id, count)
    place.loaded[user_id] = count


async def fill(pool: InProcessRouter, user_id: str, count: int, hnsw: commands.Hnsw | None = None) -> None:
    """Create the collection and write ``count`` records in calls of 500."""
    await pool.execute(user_id, commands.CreateCollection(name=COLLECTION, hnsw=hnsw or commands.Hnsw()))
    for first in range(0, count, CALL):
        await pool.execute(user_id, upsert(first, vectors(1, first, min(CALL, count - first))))
    answer = await pool.execute(user_id, commands.CountRecords(collection=COLLECTION))
    assert msgspec.json.decode(answer.body)["count"] == count


async def timed(work: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    """Return (milliseconds, result) of one run."""
    began = time.perf_counter()
    result = await work()
    return (time.perf_counter() - began) * 1000, result


def bucket_of(place: Place) -> WatchedBucket:
    """Return the place's bucket, watched."""
    return WatchedBucket(open_bucket(place.settings("unused")))


def ms(values: list[float]) -> str:
    """Return the median of milliseconds, as text."""
    middle = statistics.median(values)
    return f"{middle:.1f} ms" if middle < 100 else f"{middle:.0f} ms"


def size(count: float) -> str:
    """Return a number of bytes, as text."""
    return f"{count / 1024:.0f} KiB" if count < 1024**2 else f"{count / 1024**2:.1f} MiB"


def machine() -> str:
    """Return a description of the machine, as text."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    load_1 = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, load average at the start {load_1:.1f}"
    )


def in_thread(function: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """Return an async function that runs ``function`` in a thread."""
    return lambda: asyncio.to_thread(function)
