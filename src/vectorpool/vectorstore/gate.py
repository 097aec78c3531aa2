"""A gate that many readers pass together and one writer of files passes alone.

Chroma touches its files while it reads, so a capture must hold readers out for its milliseconds, and a
replica must not be swapped under a reader. Whoever wants to be alone waits for the readers inside, and
readers who come later wait for it: neither side starves, because the lone side is one task at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Together:
    """Passes a gate with other readers. It keeps nothing for one reader, so all readers of a gate share it."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> None:
        gate = self._gate
        while not gate._open.is_set():
            await gate._open.wait()
        gate._inside += 1
        gate._empty.clear()

    async def __aexit__(self, *_: object) -> None:
        gate = self._gate
        gate._inside -= 1
        if gate._inside == 0:
            gate._empty.set()


class Gate:
    """The gate of one replica. Belongs to one event loop."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._together = _Together(self)

    def together(self) -> _Together:
        """Return a context manager that passes with other readers."""
        return self._together

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Pass when nobody is inside, and keep everybody out meanwhile."""
        assert not self._alone, "two tasks want the replica for themselves: only the slot's writer may"
        self._alone = True
        self._open.clear()
        try:
            await self._empty.wait()
            yield
        finally:
            self._alone = False
            self._open.set()
