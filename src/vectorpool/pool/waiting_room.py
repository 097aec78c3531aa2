"""The waiting room: a bounded first-in, first-out queue of callers that wait for a slot."""

from __future__ import annotations

import asyncio
from collections import deque

from vectorpool.errors import PoolBusy


class WaitingRoom:
    """Each ``enter`` waits until a ``call_next`` releases it. Belongs to one event loop."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._queue: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    async def enter(self, wait_s: float) -> None:
        """Wait until released. Raises PoolBusy at once if the room is full, or after ``wait_s`` seconds.

        A caller that is released and cannot use the slot releases the next one with ``call_next``.
        """
        if len(self._queue) >= self._limit:
            raise PoolBusy(f"Every slot is in use and {self._limit} requests wait already. Send the request later.")
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(call)
        try:
            async with asyncio.timeout(wait_s):
                await call
        except TimeoutError:
            if call.done() and not call.cancelled():
                self.call_next()
            raise PoolBusy("No slot became free in time. Send the request later.") from None
        except asyncio.CancelledError:
            if call.done() and not call.cancelled():
                self.call_next()
            raise
        finally:
            if call in self._queue:
                self._queue.remove(call)

    def call_next(self) -> None:
        """Release the caller that has waited longest."""
        while self._queue:
            call = self._queue.popleft()
            if not call.done():
                call.set_result(None)
                return
