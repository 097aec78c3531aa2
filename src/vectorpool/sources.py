"""Time, randomness and ids from one injected source, so that a simulation can replay them."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from typing import Protocol


class Sources(Protocol):
    """Where the program gets what a seed cannot otherwise repeat."""

    def now_ms(self) -> int:
        """Return the wall-clock time, milliseconds since 1970. Never used to decide what is safe."""
        ...

    def monotonic_s(self) -> float:
        """Return a clock that only goes forward, in seconds."""
        ...

    def random(self) -> float:
        """Return a number in [0, 1), for jitter."""
        ...

    def uuid(self) -> str:
        """Return a fresh UUID, as text."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemSources:
    """The real clock and the real dice."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    def random(self) -> float:
        return random.random()

    def uuid(self) -> str:
        return str(uuid.uuid4())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM = SystemSources()
