"""Is the replica fresh enough for a read? One question to the store serves every reader that came before it was asked.

A strong read may only use an answer to a question that was asked after the read arrived. So a reader never
joins a question in flight; it joins the next one, which starts when that one ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from vectorpool.commands import ReadOptions
from vectorpool.settings import Settings
from vectorpool.sources import Sources


class Freshness:
    """Asks ``ask`` (True: the replica is at the newest commit), and remembers when it last said yes."""

    def __init__(self, ask: Callable[[], Awaitable[bool]], sources: Sources) -> None:
        self._ask = ask
        self._sources = sources
        self._current: asyncio.Task[bool] | None = None
        self._next: asyncio.Task[bool] | None = None
        self._known_fresh_s: float | None = None
        self._proven_s: float | None = None

    def confirm(self, asked_s: float) -> None:
        """Note that the replica was at the newest commit at ``asked_s`` or later: it was hydrated, or it committed.

        So its own commit was in the log too.
        """
        self._note_fresh(asked_s)
        self._proven_s = max(asked_s, self._proven_s or asked_s)

    def _note_fresh(self, asked_s: float) -> None:
        self._known_fresh_s = max(asked_s, self._known_fresh_s or asked_s)

    def is_proven_within(self, limit_s: float) -> bool:
        """Whether the replica's own commit was seen in the log within so many seconds.

        That the next number is free does not tell: it is free too if the bucket was put back to an earlier state.
        """
        return self._proven_s is not None and self._sources.monotonic_s() - self._proven_s <= limit_s

    async def is_enough(self, reading: ReadOptions, settings: Settings, arrived_s: float, *, is_in_doubt: bool) -> bool:
        """Say, by the consistency that the request or else the setting asks for, whether the replica may answer.

        ``arrived_s`` is when the read came; ``is_in_doubt`` says that the replica holds a commit of unknown outcome.
        Raises what asking raises.
        """
        bound_ms = settings.consistency_bound_ms if reading.bound_ms is None else reading.bound_ms
        consistency = reading.consistency or settings.consistency
        if consistency == "local":
            return True
        if is_in_doubt:
            # The replica holds writes that may yet be lost to another writer: first find out about them.
            return False
        if consistency == "bounded" and self.age_ms() <= bound_ms:
            return True
        return self.is_known_since(arrived_s) or await self.is_newest()

    def is_known_since(self, arrived_s: float) -> bool:
        """Whether the replica was at the newest commit after ``arrived_s``: the store need not be asked."""
        # At the same time may have been before: a clock's tick can hold both, and a commit between them.
        return self._known_fresh_s is not None and self._known_fresh_s > arrived_s

    def age_ms(self) -> float:
        """Return how long ago the replica was known to be at the newest commit; infinite if never."""
        if self._known_fresh_s is None:
            return float("inf")
        return (self._sources.monotonic_s() - self._known_fresh_s) * 1000

    async def is_newest(self) -> bool:
        """Return the answer to a question that is asked from now on. Raises what asking raises."""
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
