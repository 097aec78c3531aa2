"""How long one user's bulk write blocks all others in the process: the longest gap that a ticking thread measures."""

from __future__ import annotations

import threading
import time

from tests.bench.ground import COLLECTION, Line, Place, fill, router, upsert, vectors
from vectorpool import commands

LIMIT_MS = 50.0


class Ticker:
    """A thread that needs the interpreter lock every millisecond and measures how long it waits."""

    def __init__(self) -> None:
        self.gaps_ms: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        last = time.perf_counter()
        while not self._stop.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            self.gaps_ms.append((now - last) * 1000)
            last = now

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


async def run(place: Place) -> list[Line]:
    """Measure a 5,000-record upsert in one call, and the deletion of a collection of 20,000 records."""
    count = 5000 if place.quick else 20_000
    lines = []
    async with router(place.settings("slices")) as pool:
        await fill(pool, "slices", count)
        rows = vectors(2, 0, 5000)
        for what, command in (
            ("a 5,000-record upsert", upsert(count, rows)),
            (f"deleting a collection of {count + 5000:,} records", commands.DeleteCollection(name=COLLECTION)),
        ):
            began = time.perf_counter()
            with Ticker() as ticker:
                await pool.execute("slices", command)
            took_s = time.perf_counter() - began
            gaps = sorted(ticker.gaps_ms)
            worst, p99 = gaps[-1], gaps[int(len(gaps) * 0.99)]
            lines.append(
                Line(
                    "slices",
                    f"longest hold of the interpreter during {what}",
                    f"{worst:.0f} ms (p99 of waits {p99:.0f} ms, call {took_s:.1f} s)",
                    target=f"about {LIMIT_MS:.0f} ms",
                    met=worst <= LIMIT_MS * 1.2,
                )
            )
    return lines
