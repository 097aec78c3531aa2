"""Turns of users at what is bounded: documents in memory at once, over all syncs of a process.

A user who has many documents waiting gets a turn as often as one who has few. Large documents have places of their own,
so that they delay only each other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Final, Protocol

from vectorpool.telemetry.spans import stage

LARGE_BYTES: Final = 1024**2


class Turns(Protocol):
    """Bounds the documents that are worked on at once."""

    def take(self, user_id: str, size: int) -> AbstractAsyncContextManager[None]:
        """Return a context manager that waits for a place for a document of ``size`` bytes, and gives it back."""
        ...


class Unbounded:
    """No bound but the sync's own: for a process with one sync."""

    def take(self, user_id: str, size: int) -> AbstractAsyncContextManager[None]:
        """Wait for nothing."""
        return nullcontext()


class FairTurns:
    """``at_once`` places for small documents and ``large`` for others. Belongs to one event loop."""

    def __init__(self, at_once: int, large: int) -> None:
        self._small = _Places(at_once)
        self._large = _Places(large)

    @asynccontextmanager
    async def take(self, user_id: str, size: int) -> AsyncIterator[None]:
        """Wait until it is the user's turn."""
        places = self._small if size <= LARGE_BYTES else self._large
        with stage("wait for a turn"):
            await places.acquire(user_id)
        try:
            yield
        finally:
            places.release()


class _Places:
    def __init__(self, free: int) -> None:
        assert free >= 1, "somebody must have a turn"
        self._free = free
        # By user, in the order of their next turns.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def acquire(self, user_id: str) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(user_id, turn)
            else:
                # The place was given in the moment in which its taker left.
                self.release()
            raise

    def release(self) -> None:
        while self._waiting:
            user_id = next(iter(self._waiting))
            turns = self._waiting.pop(user_id)
            turn = turns.popleft()
            if turns:
                self._waiting[user_id] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, user_id: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(user_id)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[user_id]
