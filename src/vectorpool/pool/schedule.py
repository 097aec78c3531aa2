"""When the log of each user is due for verification, in 8 bytes a user.

The schedule is a hint: a missing entry costs one request to the store. An entry holds 32 bits of the user id's hash;
other bits choose the entry. So about one user in a billion is confused with another, and is verified when the other
one is due.
"""

from __future__ import annotations

from array import array
from typing import Final

_FEWEST: Final = 1024
# 8 MiB; half a million users fill half of the entries, and most of a million users fit.
_MOST: Final = 2**20
# Entries next to each other in which a user may be found.
_NEIGHBOURS: Final = 8
_MASK: Final = 2**32 - 1


class Schedule:
    """The due time of each user, in whole seconds since 1970, in a table of bounded size. Belongs to one thread."""

    def __init__(self) -> None:
        self._entries = array("Q", bytes(8 * _FEWEST))

    def make_room(self, users: int) -> None:
        """Make room for ``users`` users, within the bound; a table that is too small is replaced by an empty one."""
        entries = min(1 << max(2 * users - 1, 0).bit_length(), _MOST)
        if entries > len(self._entries):
            self._entries = array("Q", bytes(8 * entries))

    def is_due(self, user_id: str, now_s: float) -> bool:
        """Return whether a user is due; True for a user without an entry."""
        due_s = self.due_s(user_id)
        return due_s is None or now_s >= due_s

    def due_s(self, user_id: str) -> int | None:
        """Return when a user is due, in seconds since 1970; None for a user without an entry."""
        mark, entries = self._find(user_id)
        for at in entries:
            due = self._entries[at]
            if due >> 32 == mark:
                return due & _MASK
        return None

    def remember(self, user_id: str, at_s: float) -> None:
        """Store when a user is due next; if there is no room, the neighbour that is due first loses its entry."""
        mark, entries = self._find(user_id)
        chosen = entries[0]
        for at in entries:
            if self._entries[at] >> 32 == mark:
                chosen = at
                break
            if self._entries[at] & _MASK < self._entries[chosen] & _MASK:
                chosen = at
        self._entries[chosen] = mark << 32 | max(1, min(int(at_s), _MASK))

    def _find(self, user_id: str) -> tuple[int, list[int]]:
        hashed = hash(user_id)
        size = len(self._entries)
        # Zero marks an empty entry.
        return (hashed >> 32 & _MASK) or 1, [(hashed + step) % size for step in range(_NEIGHBOURS)]
