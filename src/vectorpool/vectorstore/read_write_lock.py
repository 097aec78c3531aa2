"""The read-write lock of one replica: many readers share it, and one change of the files has it exclusively.

Chroma changes its files while it reads, so a capture, which takes milliseconds, must run without readers. A replica
must not be replaced during a read. An exclusive holder waits for the current readers, and later readers wait for it.
Neither side starves, because only one task at a time requests the lock exclusively.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Shared:
    """Holds a lock together with other readers. It has no state of one reader, so all readers of a lock share it."""

    __slots__ = ("_lock",)

    def __init__(self, lock: ReadWriteLock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        lock = self._lock
        while not lock._open.is_set():
            await lock._open.wait()
        lock._readers += 1
        lock._no_readers.clear()

    async def __aexit__(self, *_: object) -> None:
        lock = self._lock
        lock._readers -= 1
        if lock._readers == 0:
            lock._no_readers.set()


class ReadWriteLock:
    """The lock of one replica. Belongs to one event loop."""

    def __init__(self) -> None:
        self._readers = 0
        self._is_exclusive = False
        self._open = asyncio.Event()
        self._open.set()
        self._no_readers = asyncio.Event()
        self._no_readers.set()
        self._shared = _Shared(self)

    @property
    def is_exclusive(self) -> bool:
        """Whether a task holds the lock alone, or waits for it."""
        return self._is_exclusive

    def shared(self) -> _Shared:
        """Return a context manager that holds the lock together with other readers."""
        return self._shared

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the lock alone: wait for the current readers, and make later ones wait."""
        assert not self._is_exclusive, "two tasks ask for the replica exclusively: only the slot's writer may"
        self._is_exclusive = True
        self._open.clear()
        try:
            await self._no_readers.wait()
            yield
        finally:
            self._is_exclusive = False
            self._open.set()
