"""A gate that many readers pass together and one writer of files passes alone.

Chroma touches its files while it reads, so a capture must hold readers out for its milliseconds, and a
replica must not be swapped under a reader. Whoever wants to be alone waits for the readers inside, and
readers who come later wait for it: neither side starves, because the lone side is one task at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """The gate of one replica. Belongs to one event loop."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._open = asyncio.Event()
        self._open.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """Pass with other readers."""
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if self._inside == 0:
                self._empty.set()

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
