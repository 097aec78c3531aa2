"""The bytes that a bulk load writes into the store, by what writes them, against the bytes of its vectors.

Nothing is removed during a load, so what the log holds at its end is what was written: commits, and the bases and
merged deltas that compaction made of them. 50,000 and 200,000 records take a minute: set
VECTORPOOL_BENCH_LARGE=1 for them.
"""

from __future__ import annotations

import os
import time
from collections import Counter

from tests.bench.ground import COLLECTION, DIMENSION, Line, Place, router, size, upsert, vectors
from vectorpool import commands
from vectorpool.names import log_prefix, parse_log_name
from vectorpool.objects.stores import open_bucket

CALL = 1000
# By kind of log object, times the bytes of the vectors.
MOST = {"commit": 2.0, "compaction": 5.0}


async def _one(place: Place, count: int) -> list[Line]:
    user_id = f"written-{count}"
    settings = place.settings(user_id, drain_s=60.0)
    async with router(settings) as pool:
        await pool.execute(user_id, commands.CreateCollection(name=COLLECTION))
        rows = vectors(1, 0, count)
        began, cpu = time.perf_counter(), time.process_time()
        for first in range(0, count, CALL):
            await pool.execute(user_id, upsert(first, rows[first : first + CALL]))
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    written, objects = Counter[str](), Counter[str]()
    for info in await open_bucket(settings).list_objects(log_prefix(user_id), limit=1000):
        parsed = parse_log_name(info.key.rpartition("/")[2])
        if parsed is not None:
            kind = "commit" if parsed[0] == "commit" else "compaction"
            written[kind] += info.size
            objects[kind] += 1
    of_vectors = count * DIMENSION * 4
    assert objects["commit"] >= count // CALL and written["commit"] > of_vectors / 2
    return [
        Line(
            "written",
            f"bytes of {what} of a load of {count:,} records in calls of {CALL:,}, against those of the vectors",
            size(written[kind]),
            size(of_vectors),
            written[kind] / of_vectors,
            f"<= {MOST[kind]:.0f}",
            written[kind] <= MOST[kind] * of_vectors,
            f"{objects[kind]} objects; the load {took_s:.0f} s, {cpu_s:.0f} s of CPU with its commits",
        )
        for kind, what in (("commit", "the commits"), ("compaction", "all that compaction adds"))
    ]


async def run(place: Place) -> list[Line]:
    """Measure loads of several sizes, which shows what grows faster than the records."""
    sizes: tuple[int, ...] = (2000, 4000) if place.quick else (5000, 20_000)
    if os.environ.get("VECTORPOOL_BENCH_LARGE"):
        sizes += (50_000, 200_000)
    return [line for count in sizes for line in await _one(place, count)]
