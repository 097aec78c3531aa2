"""The CPU time of a one-record upsert in a shard, by part and by size: the write, the capture, the commit's bytes.

Writes with a journal that is read and captures of what it named, and without and of everything, in turns on the same
replica. A small file has no such journal either way. The store is memory, and its time is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests.bench.ground import Line, Place, fill, router, upsert, vectors
from vectorpool.commitlog.format import MAX_STATE_BYTES, Summary
from vectorpool.commitlog.image import Capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.engine import fast_writes
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.vectorstore.replica import Replica

T = TypeVar("T")
SIZES = (200, 5000, 20_000)
TURNS, UPSERTS = 12, 25
PARTS = ("write", "capture", "packing")


class _Watch:
    """Milliseconds of CPU time of this thread, by kind of capture and part."""

    def __init__(self) -> None:
        self.ms: dict[tuple[str, str], list[float]] = {}

    def time(self, kind: str, part: str, call: Callable[[], T]) -> T:
        """Call, and note the time."""
        began = time.thread_time()
        answer = call()
        self.ms.setdefault((kind, part), []).append((time.thread_time() - began) * 1000)
        return answer


async def _measure(place: Place, count: int) -> tuple[_Watch, int, float]:
    """Return the times, the bytes of the SQLite file, and the blocks of the median commit."""
    settings = Settings(replica_dir=str(place.scratch / f"capture-{count}"), max_records=2 * count + 10_000)
    bucket = MemoryBucket()
    async with router(settings, bucket) as pool:
        await fill(pool, "capture", count)
    log = CommitLog(bucket, "capture", settings=settings)
    directory = Path(settings.replica_dir) / "measured"
    directory.mkdir()
    hydrated = await log.hydrate(directory)
    assert hydrated is not None
    replica = Replica("capture", directory, hydrated.position, hydrated.image, settings)
    replica.state.hydrated()
    kinds = {"recorded": fast_writes.RECORDED_FROM_BYTES, "whole": MAX_STATE_BYTES}
    watch, number, blocks = _Watch(), count, []
    for turn in range(TURNS + 1):
        for kind, from_bytes in kinds.items():
            fast_writes.RECORDED_FROM_BYTES = from_bytes
            for _ in range(UPSERTS):
                command = upsert(number, vectors(1, number, 1))
                number += 1
                of = kind if turn else "first"
                watch.time(of, "write", lambda command=command: replica.write(command))
                captured = watch.time(of, "capture", replica.capture)

                def pack(captured: Capture = captured) -> object:
                    return log.prepare(replica.position, replica.image, captured, Summary(), stamp=replica.stamp)

                pending = watch.time(of, "packing", pack)
                replica.advance(await log.append(pending), pending.image)
                blocks.append(sum(len(extent.data) for extent in captured.extents) // 4096)
    fast_writes.RECORDED_FROM_BYTES = kinds["recorded"]
    size = (directory / "chroma.sqlite3").stat().st_size
    assert bool(replica._captures.recorded) == (size >= kinds["recorded"])
    replica.discard()
    return watch, size, statistics.median(blocks)


async def run(place: Place) -> list[Line]:
    """Measure at 200, 5,000 and 20,000 records of 384 dimensions (200 and 2,000 if quick)."""
    lines = []
    for count in (200, 2000) if place.quick else SIZES:
        watch, size, blocks = await _measure(place, count)
        of = {kind: {part: statistics.median(watch.ms[kind, part]) for part in PARTS} for kind in ("recorded", "whole")}
        ours, theirs = (sum(each.values()) for each in of.values())
        parts = "; ".join(f"{part} {of['recorded'][part]:.2f} and {of['whole'][part]:.2f}" for part in PARTS)
        lines.append(
            Line(
                "capture",
                f"CPU of a one-record upsert into {count:,} records, by the journal and by all blocks",
                f"{ours:.2f} ms",
                f"{theirs:.2f} ms",
                ours / theirs,
                note=f"{parts}; SQLite file {size / 1e6:.1f} MB, {blocks:.0f} blocks a commit",
            )
        )
    return lines
