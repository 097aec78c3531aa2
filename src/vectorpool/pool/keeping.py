"""Vectorstores that an operator keeps open for a time: neither idleness nor others' need of a slot evicts them.

At most half of the slots, and half of the bytes of open directories, are kept: the rest stays for everybody else. Where
kept ones grow beyond that, the one whose time ends first is let go early. What is kept is known to this shard alone,
and forgotten when it is started again. An eviction on demand and a deletion end it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from vectorpool.errors import LimitExceeded
from vectorpool.pool.slot import Slot
from vectorpool.settings import Settings
from vectorpool.sources import Sources

LONGEST_S: Final = 7 * 86_400.0


class Keeping:
    """The slots that are kept open. Belongs to one event loop. ``let_go`` is told of each that is not kept any more."""

    def __init__(self, settings: Settings, sources: Sources, let_go: Callable[[Slot], None]) -> None:
        self._sources = sources
        self._let_go = let_go
        self._kept: dict[str, tuple[Slot, float]] = {}
        self.limit = settings.open_slots // 2
        self._bytes_limit = settings.open_bytes // 2

    def __contains__(self, user_id: str) -> bool:
        """Whether a user's slot is kept open."""
        return user_id in self._kept

    def until_ms(self, user_id: str) -> int | None:
        """Return until when a slot is kept open, ms since 1970; None if it is not."""
        kept = self._kept.get(user_id)
        return None if kept is None else self._sources.now_ms() + int((kept[1] - self._sources.monotonic_s()) * 1000)

    def check(self, user_id: str) -> None:
        """Raise LimitExceeded if as many are kept as may be."""
        if user_id not in self._kept and len(self._kept) >= self.limit:
            raise LimitExceeded(
                f"{len(self._kept)} vectorstores are kept open on this shard; half of open_slots is the most, "
                f"{self.limit}. End one (DELETE /admin/users/USER/keep-open), or give the shards more slots.",
                extra={"limit": self.limit, "limit_name": "vectorstores kept open"},
            )

    def begin(self, slot: Slot, for_s: float) -> None:
        """Keep an open slot for a time, counted from now. Raises LimitExceeded."""
        self.check(slot.user_id)
        size = 0 if slot.store is None else slot.store.size_bytes()
        others = sum(_size(kept) for kept, _ in self._kept.values() if kept is not slot)
        if size + others > self._bytes_limit:
            raise LimitExceeded(
                f"With {size} bytes more, those kept open on this shard would have more than half of open_bytes, "
                f"{self._bytes_limit}. End one (DELETE /admin/users/USER/keep-open), or raise open_bytes.",
                extra={"limit": self._bytes_limit, "limit_name": "bytes kept open"},
            )
        self._kept[slot.user_id] = slot, self._sources.monotonic_s() + min(for_s, LONGEST_S)

    def end(self, user_id: str) -> None:
        """Let a user's slot go, if it is kept."""
        kept = self._kept.pop(user_id, None)
        if kept is not None:
            self._let_go(kept[0])

    def look(self) -> None:
        """Let those go whose time is over, and while there are too many bytes, the one whose time ends first."""
        now_s = self._sources.monotonic_s()
        for user_id in [user_id for user_id, (_, until_s) in self._kept.items() if until_s <= now_s]:
            self.end(user_id)
        while self._kept and sum(_size(slot) for slot, _ in self._kept.values()) > self._bytes_limit:
            self.end(min(self._kept, key=lambda user_id: self._kept[user_id][1]))


def _size(slot: Slot) -> int:
    return 0 if slot.store is None else slot.store.size_bytes()
