"""The waiting room: a bounded, first-come queue for slots that are all taken."""

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

        A caller that is called and cannot use the slot calls the next one with ``call_next``.
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
        """Call the caller that has waited longest."""
        while self._queue:
            call = self._queue.popleft()
            if not call.done():
                call.set_result(None)
                return
