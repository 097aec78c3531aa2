"""Sources that repeat from a seed: random numbers, ids, and a clock that moves only in ``sleep``."""

from __future__ import annotations

import asyncio
import random
import uuid


class SeededSources:
    """Time, randomness and ids from one seed. ``sleep`` moves the clock and lets other tasks run; it never waits."""

    def __init__(self, seed: int = 0, *, start_ms: int = 1_700_000_000_000) -> None:
        self.seed = seed
        self._dice = random.Random(seed)
        self._start_ms = start_ms
        self.elapsed_s = 0.0

    def now_ms(self) -> int:
        return self._start_ms + int(self.elapsed_s * 1000)

    def monotonic_s(self) -> float:
        return self.elapsed_s

    def random(self) -> float:
        return self._dice.random()

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._dice.getrandbits(128), version=4))

    async def sleep(self, seconds: float) -> None:
        self.elapsed_s += max(seconds, 0.0)
        await asyncio.sleep(0)
