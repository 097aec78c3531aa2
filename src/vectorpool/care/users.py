"""The users that were used since the last round of health checks."""

from __future__ import annotations

from typing import Final

# Users that wait for a check; further ones are checked once they are used again.
MOST_WAITING: Final = 100_000


class UsedUsers:
    """A bounded set of user ids. Belongs to one event loop."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def __len__(self) -> int:
        return len(self._used)

    def note(self, user_id: str) -> None:
        """Note a use."""
        if len(self._used) < MOST_WAITING:
            self._used.add(user_id)

    def take(self) -> list[str]:
        """Return the users that were used since the last call."""
        taken, self._used = self._used, set()
        return list(taken)
