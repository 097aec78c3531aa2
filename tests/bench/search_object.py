"""What a cold answer would cost from a search object beside the base: an investigation, not a part of the product.

The object holds, for each record of a collection, its vector as int8 with a scale, the length of what that leaves out,
its id, and where its float vector and its text are. A cold query lists the log, reads this object whole, and scans it.
By Cauchy and Schwarz the product of a query with what was left out is at most the product of both lengths, so each
record has a range of possible distances. Those that may be among the ten nearest are read as float vectors, by ranges
of another object, and compared exactly: the answer is the exact one, which is asserted here for each query. Texts of
the ten are ranges too.

Measured over the bucket of the S3, with the client and the CPU of one process, in turns with LanceDB if it is there
(``--group bench``). Excluded: HTTP in front of it, filters, later commits, and making the object. So the time is a
lower bound of what the product would reach.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time

import msgspec
import numpy as np
import zstandard

from tests.bench.ground import DIMENSION, Line, Place, bucket_of, ms, near, size, upsert, vectors
from tests.bench.peers import Lance, has_lance
from vectorpool.engine.rows import Float32
from vectorpool.objects.bucket import Bucket

RESULTS = 10
PART_BYTES = 4 * 1024**2
# Ranges nearer to each other than this are read as one.
GAP_BYTES = 64 * 1024
AT_ONCE = 16
QUERIES = 9


class Asked(msgspec.Struct):
    """The cost of one cold answer: milliseconds of wall and CPU time, bytes and requests, exact comparisons."""

    wall_ms: float
    cpu_ms: float
    bytes: int
    requests: int
    candidates: int


class SearchObject:
    """A collection of ``count`` records of clusters, with its two objects in a bucket."""

    def __init__(self, bucket: Bucket, prefix: str, rows: Float32) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._rows = rows
        self._read = 0
        self._requests = 0

    async def write(self) -> int:
        """Write the objects; return the bytes of the one that is read whole."""
        command = upsert(0, self._rows)
        scale = np.maximum(np.abs(self._rows).max(axis=1), 1e-12) / 127
        codes = np.rint(self._rows / scale[:, None]).astype(np.int8)
        left = np.linalg.norm(self._rows - codes * scale[:, None], axis=1)
        records = [
            json.dumps([text, metadata]).encode()
            for text, metadata in zip(command.documents or [], command.metadatas or [], strict=True)
        ]
        ends = np.cumsum([len(record) for record in records]).astype("<u8")
        names = zstandard.compress("\n".join(command.ids).encode())
        head = np.array([len(self._rows), len(names)], "<u8").tobytes()
        # Rounding of float32 is far below a millionth of a unit vector's length.
        body = head + scale.astype("<f4").tobytes() + (left + 1e-6).astype("<f4").tobytes() + ends.tobytes()
        body += names + codes.tobytes()
        await self._bucket.put(f"{self._prefix}/search", body)
        await self._bucket.put(f"{self._prefix}/vectors", self._rows.tobytes())
        await self._bucket.put(f"{self._prefix}/texts", b"".join(records))
        self._bytes = len(body)
        return len(body)

    async def _get(self, name: str, start: int, end: int) -> bytes:
        data = await self._bucket.get_range(f"{self._prefix}/{name}", start, end)
        self._read, self._requests = self._read + len(data), self._requests + 1
        return data

    async def _ranges(self, name: str, wanted: list[tuple[int, int]]) -> dict[int, bytes]:
        """Return the bytes of ranges by their start; ranges that are near to each other are one request."""
        joined: list[tuple[int, int]] = []
        for start, end in sorted(wanted):
            if joined and start - joined[-1][1] <= GAP_BYTES:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
        turns = asyncio.Semaphore(AT_ONCE)

        async def get(start: int, end: int) -> bytes:
            async with turns:
                return await self._get(name, start, end)

        parts = await asyncio.gather(*(get(*each) for each in joined))
        found = {}
        for start, end in wanted:
            at = next(n for n, each in enumerate(joined) if each[0] <= start and end <= each[1])
            found[start] = parts[at][start - joined[at][0] : end - joined[at][0]]
        return found

    async def answer(self, query: Float32) -> Asked:
        """Answer a query as an instance that has nothing of the user; assert that the answer is the exact one."""
        self._read = self._requests = 0
        cpu, began = time.process_time(), time.perf_counter()
        await self._bucket.list_objects(self._prefix + "/", limit=1000)
        starts = range(0, self._bytes, PART_BYTES)
        body = b"".join(await asyncio.gather(*(self._get("search", at, at + PART_BYTES) for at in starts)))
        count, names_bytes = (int(each) for each in np.frombuffer(body, "<u8", 2))
        scale = np.frombuffer(body, "<f4", count, 16)
        left = np.frombuffer(body, "<f4", count, 16 + 4 * count)
        ends = np.frombuffer(body, "<u8", count, 16 + 8 * count)
        names_at = 16 + 16 * count
        codes = np.frombuffer(body, np.int8, count * DIMENSION, names_at + names_bytes).reshape(count, DIMENSION)
        product = np.empty(count, np.float32)
        for at in range(0, count, 4096):
            # In steps that fit a cache: all at once would be the float vectors again.
            product[at : at + 4096] = codes[at : at + 4096].astype(np.float32) @ query
        product *= scale
        doubt = left * float(np.linalg.norm(query))
        least = np.partition(product - doubt, count - RESULTS)[count - RESULTS]
        candidates = np.flatnonzero(product + doubt >= least)
        row_bytes = 4 * DIMENSION
        found = await self._ranges("vectors", [(int(n) * row_bytes, (int(n) + 1) * row_bytes) for n in candidates])
        exact = np.array([np.frombuffer(found[int(n) * row_bytes], "<f4") @ query for n in candidates])
        best = candidates[np.argsort(-exact)[:RESULTS]]
        ids = zstandard.decompress(body[names_at : names_at + names_bytes]).decode().split("\n")
        spans = [(int(ends[n - 1]) if n else 0, int(ends[n])) for n in best]
        texts = await self._ranges("texts", spans)
        answer = [(ids[n], json.loads(texts[span[0]])) for n, span in zip(best, spans, strict=True)]
        asked = Asked(
            (time.perf_counter() - began) * 1000,
            (time.process_time() - cpu) * 1000,
            self._read,
            self._requests + 1,
            len(candidates),
        )
        expected = np.argsort(-(self._rows @ query))[:RESULTS]
        assert [each[0] for each in answer] == [f"record-{n}" for n in expected]
        return asked


def clustered(count: int) -> Float32:
    """Return float32[count, 384] of length 1 in a hundred clusters, as texts of few subjects have."""
    dice = np.random.default_rng(7)
    middles = dice.standard_normal((100, DIMENSION))
    rows = middles[dice.integers(0, 100, count)] + 0.7 * dice.standard_normal((count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("<f4")


async def run(place: Place) -> list[Line]:
    """Measure 20,000 and 100,000 records; 5,000 when quick."""
    lines = []
    bucket = bucket_of(place)
    try:
        for count in [5000] if place.quick else [20_000, 100_000]:
            prefix = f"search-object/{os.getpid()}/{count}"
            alone = SearchObject(bucket, f"{prefix}/alone", vectors(1, 0, count))
            whole = await alone.write()
            lance = Lance(place, f"search-{os.getpid()}-{count}", count) if has_lance() else None
            if lance is not None:
                await lance.prepare()
            ours, theirs = list[Asked](), list[float]()
            for number in range(QUERIES):
                ours.append(await alone.answer(near(1, number * 7)[0]))
                if lance is not None:
                    began = time.perf_counter()
                    await lance.answer(number * 7)
                    theirs.append((time.perf_counter() - began) * 1000)
            rows = clustered(count)
            group = SearchObject(bucket, f"{prefix}/clusters", rows)
            await group.write()
            dice = np.random.default_rng(9)
            noisy = [rows[n] + 0.02 * dice.standard_normal(DIMENSION).astype("<f4") for n in range(QUERIES)]
            many = [await group.answer(query.astype("<f4")) for query in noisy]
            lines.append(_line(count, whole, ours, theirs, many))
    finally:
        await bucket.close()
    return lines


def _line(count: int, whole: int, ours: list[Asked], theirs: list[float], many: list[Asked]) -> Line:
    wall = [each.wall_ms for each in ours]
    middle = statistics.median

    def told(asked: list[Asked]) -> str:
        compared, requests = (middle(getattr(each, name) for each in asked) for name in ("candidates", "requests"))
        read, cpu_ms = (middle(getattr(each, name) for each in asked) for name in ("bytes", "cpu_ms"))
        return f"{compared:.0f} compared exactly, {requests:.0f} requests, {size(read)}, CPU {cpu_ms:.1f} ms"

    note = (
        f"search object {size(whole)}, float vectors {size(count * DIMENSION * 4)}; random vectors: {told(ours)}; "
        f"clusters: {told(many)}, {ms([each.wall_ms for each in many])}; all answers were the exact ones"
    )
    ratio = middle(wall) / middle(theirs) if theirs else None
    other = f"{ms(theirs)} (LanceDB)" if theirs else ""
    what = f"cold answer from a search object, {count:,} records, without HTTP (investigation)"
    return Line("search_object", what, ms(wall), other, ratio, note=note)
