"""Whether the replica is fresh enough for a read. One request to the store serves all reads that arrived before it.

A strong read may only use the answer to a request that was sent after the read arrived. So a read never joins a
request under way; it joins the next one, which starts when that one ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vectorpool.commands import ReadOptions
from vectorpool.settings import Settings
from vectorpool.sources import Sources


class Freshness:
    """Calls ``ask`` (True: the replica is at the newest commit), and stores when the last True was asked for.

    ``sees`` answers the same at once, and may be called on an event loop; its False says nothing.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[bool]], sources: Sources, sees: Callable[[], bool] = lambda: False
    ) -> None:
        self._ask = ask
        self._sees = sees
        self._sources = sources
        self._current: asyncio.Task[bool] | None = None
        self._next: asyncio.Task[bool] | None = None
        self._known_fresh_s: float | None = None
        self._proven_s: float | None = None

    def confirm(self, asked_s: float) -> None:
        """Record that the replica was at the newest commit at ``asked_s`` or later: it was hydrated, or it committed.

        So its own commit was in the log too.
        """
        self._note_fresh(asked_s)
        self._proven_s = max(asked_s, self._proven_s or asked_s)

    def note_newest(self, asked_s: float) -> None:
        """Record that no commit followed on the replica's at ``asked_s`` or later."""
        self._note_fresh(asked_s)

    def _note_fresh(self, asked_s: float) -> None:
        self._known_fresh_s = max(asked_s, self._known_fresh_s or asked_s)

    def is_proven_within(self, limit_s: float) -> bool:
        """Return whether the replica's own commit was seen in the log within the last ``limit_s`` seconds.

        A free next number does not prove that: it is also free if the bucket was put back to an earlier state.
        """
        return self._proven_s is not None and self._sources.monotonic_s() - self._proven_s <= limit_s

    def is_known_enough(
        self, reading: ReadOptions, settings: Settings, arrived_s: float, *, is_in_doubt: bool
    ) -> bool | None:
        """Return whether the replica may answer, by the consistency of the request, or else of the setting.

        ``arrived_s`` is when the read arrived; ``is_in_doubt`` says that the replica holds a commit of unknown outcome.
        Nothing is waited for: None if the store has to be asked (``is_newest``).
        """
        consistency = reading.consistency or settings.consistency
        if consistency == "local":
            return True
        if is_in_doubt:
            # Another writer may have won the number of these writes: the outcome must be known first.
            return False
        if consistency == "bounded":
            bound_ms = settings.consistency_bound_ms if reading.bound_ms is None else reading.bound_ms
            if self.age_ms() <= bound_ms:
                return True
        return True if self.is_known_since(arrived_s) or self._is_seen() else None

    def _is_seen(self) -> bool:
        asked_s = self._sources.monotonic_s()
        if not self._sees():
            return False
        self._note_fresh(asked_s)
        return True

    def is_known_since(self, arrived_s: float) -> bool:
        """Return whether the replica was at the newest commit after ``arrived_s``, so that no request is needed."""
        # An equal time may be earlier: one tick of the clock can hold both times, and a commit between them.
        return self._known_fresh_s is not None and self._known_fresh_s > arrived_s

    def age_ms(self) -> float:
        """Return the milliseconds since the replica was last known to be at the newest commit; infinite if never."""
        if self._known_fresh_s is None:
            return float("inf")
        return (self._sources.monotonic_s() - self._known_fresh_s) * 1000

    async def is_newest(self) -> bool:
        """Return the answer to a request that starts from now on. Raises the errors of ``ask``."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask_after(self._current))
        return await asyncio.shield(self._next)

    async def _ask_after(self, current: asyncio.Task[bool] | None) -> bool:
        if current is not None and not current.done():
            await asyncio.wait([current])
        self._current, self._next = self._next, None
        asked_s = self._sources.monotonic_s()
        newest = await self._ask()
        if newest:
            self._note_fresh(asked_s)
        return newest
