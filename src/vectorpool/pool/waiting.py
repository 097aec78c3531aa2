"""The waiting room: a bounded, first-come queue for places that are all taken."""

from __future__ import annotations

import asyncio
from collections import deque

from vectorpool.errors import PoolBusy


class WaitingRoom:
    """``enter`` waits until ``call_next`` is called for it. Belongs to one event loop."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._queue: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    async def enter(self, wait_s: float) -> None:
        """Wait to be called. Raises PoolBusy at once if the room is full, or after ``wait_s`` seconds.

        Being called is a turn: whoever is called and cannot use it must pass it on with ``call_next``.
        """
        if len(self._queue) >= self._limit:
            raise PoolBusy(f"Every slot is in use and {self._limit} requests wait already. Send the request later.")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except TimeoutError:
            if turn.done() and not turn.cancelled():
                self.call_next()
            raise PoolBusy("No slot became free in time. Send the request later.") from None
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.call_next()
            raise
        finally:
            if turn in self._queue:
                self._queue.remove(turn)

    def call_next(self) -> None:
        """Call the one who has waited longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
