"""Time, randomness and ids from one injected source, so that a simulation can replay them."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Final, Protocol

# The digit that says which UUIDs these are, by two of its bits.
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


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
        text = os.urandom(16).hex()
        # The same as ``str(uuid.uuid4())``, which takes three times as long: every request has an id.
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM = SystemSources()
