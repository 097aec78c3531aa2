"""When each user's turn comes in the rounds of upkeep, from the last look at what was verified, in 8 bytes a user.

A hint and nothing more: what is forgotten, or was never known, costs one look at the store. A user is known by 32 bits
of a hash beside the place that other bits choose, so that about one user in a billion is taken for another, and waits
for that one's turn.
"""

from __future__ import annotations

from array import array
from typing import Final

_FEWEST: Final = 1024
# 8 MiB; half a million users leave every second place empty, and a million are still mostly remembered.
_MOST: Final = 2**20
# A user is found in one of so many places next to each other, or not at all.
_NEIGHBOURS: Final = 8
_MASK: Final = 2**32 - 1


class Turns:
    """The times of turns, in whole seconds since 1970, in a table of bounded size. Belongs to one thread."""

    def __init__(self) -> None:
        self._places = array("Q", bytes(8 * _FEWEST))

    def make_room(self, users: int) -> None:
        """Have room for so many users, as far as the bound allows; a table that is too small is forgotten."""
        places = min(1 << max(2 * users - 1, 0).bit_length(), _MOST)
        if places > len(self._places):
            self._places = array("Q", bytes(8 * places))

    def has_come(self, user_id: str, now_s: float) -> bool:
        """Whether a user's turn has come; True for one of whom nothing is known."""
        mark, places = self._find(user_id)
        for place in places:
            entry = self._places[place]
            if entry >> 32 == mark:
                return now_s >= entry & _MASK
        return True

    def remember(self, user_id: str, at_s: float) -> None:
        """Remember when a user's turn comes next; if there is no room, the earliest neighbour is forgotten."""
        mark, places = self._find(user_id)
        chosen = places[0]
        for place in places:
            if self._places[place] >> 32 == mark:
                chosen = place
                break
            if self._places[place] & _MASK < self._places[chosen] & _MASK:
                chosen = place
        self._places[chosen] = mark << 32 | max(1, min(int(at_s), _MASK))

    def _find(self, user_id: str) -> tuple[int, list[int]]:
        hashed = hash(user_id)
        size = len(self._places)
        # Zero marks an empty place.
        return (hashed >> 32 & _MASK) or 1, [(hashed + step) % size for step in range(_NEIGHBOURS)]
