"""A collection above ``exact_bytes``, before it has an index and after it.

A query is compared with every vector until some thousand queries have cost what the index will cost. Then it is built
in the background.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time

import msgspec

from tests.bench.ground import Line, Place, fill, ms, near, query, router, size, timed
from vectorpool.answers import QueryResult
from vectorpool.names import log_prefix, parse_log_name
from vectorpool.objects.stores import open_bucket

_AT_ONCE = 50
_TIMED = 40


async def _times(pool: object, user_id: str) -> tuple[list[float], float, int]:
    """Return the times of lone queries, the CPU time of one, in milliseconds, and how many found the nearest record."""
    waits, found, cpu = [], 0, time.process_time()
    for turn in range(_TIMED):
        took, answer = await timed(lambda n=turn: pool.execute(user_id, query(near(1, n))))  # type: ignore[attr-defined]
        found += msgspec.json.decode(answer.body, type=QueryResult).results[0][0].id == f"record-{turn}"
        waits.append(took)
    return waits, (time.process_time() - cpu) / _TIMED * 1000, found


async def _one(place: Place, count: int) -> list[Line]:
    user_id = f"indexes-{count}"
    settings = place.settings(user_id)
    async with router(settings) as pool:
        await fill(pool, user_id, count)
        await pool.execute(user_id, query(near(1, 0)))
        before, cpu_before, found_before = await _times(pool, user_id)
        loaded = await _commits(settings, user_id)
        assert found_before == _TIMED
        queries = 0
        began = time.perf_counter()
        many = query(near(1, 0).repeat(_AT_ONCE, axis=0))
        while len(await _commits(settings, user_id)) == len(loaded):
            took, _ = await timed(lambda: pool.execute(user_id, many))
            queries += _AT_ONCE
            # So that the build has a core, as with other users of the instance it would not always.
            await asyncio.sleep(took / 1000)
        seconds = time.perf_counter() - began
        # Chroma opens with the first.
        await pool.execute(user_id, query(near(1, 0)))
        after, cpu_after, found_after = await _times(pool, user_id)
    written = await _commits(settings, user_id)
    [index] = [written[seq] for seq in written.keys() - loaded.keys()]
    return [
        Line(
            "indexes",
            f"top-10 query of {count:,} records: compared with all, against by the index",
            ms(before),
            ms(after),
            statistics.median(before) / statistics.median(after),
            note=f"CPU {cpu_before:.1f} and {cpu_after:.1f} ms; {found_before} and {found_after} of {_TIMED} found the "
            f"nearest of these random vectors; the index came {seconds:.0f} s and about {queries:,} "
            f"queries later, in a commit of {size(index)}",
        )
    ]


async def _commits(settings: object, user_id: str) -> dict[int, int]:
    """Return the bytes of each commit by number."""
    found = {}
    for info in await open_bucket(settings).list_objects(log_prefix(user_id), limit=1000):  # type: ignore[arg-type]
        parsed = parse_log_name(info.key.rpartition("/")[2])
        if parsed is not None and parsed[0] == "commit":
            found[parsed[1]] = info.size
    return found


async def run(place: Place) -> list[Line]:
    """Measure 20,000 records; 50,000 take some minutes: set VECTORPOOL_BENCH_LARGE=1 for them."""
    sizes: tuple[int, ...] = (12_000,) if place.quick else (20_000,)
    if os.environ.get("VECTORPOOL_BENCH_LARGE"):
        sizes += (50_000,)
    return [line for count in sizes for line in await _one(place, count)]
