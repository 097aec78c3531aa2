"""A rate: how much may be taken a second, and at once by who rested.

It is the generic cell rate algorithm. Its state is one number, the time in which all that was taken is paid back at the
rate, which every second makes shorter by a second; a taking is refused if it would make that longer than the capacity
takes. The time is kept as a length and not as a moment, so a clock that jumps back costs nothing, and one that jumps
forward gives at most the capacity.
"""

from __future__ import annotations


class Rate:
    """At most ``per_s`` a second, and ``capacity`` at once. Times are monotonic seconds."""

    __slots__ = ("_at_s", "_owed_s", "capacity", "per_s")

    def __init__(self, per_s: float, capacity: float) -> None:
        self.per_s = per_s
        self.capacity = capacity
        self._owed_s = 0.0
        self._at_s = 0.0

    def wait_s(self, now_s: float, count: float = 1) -> float:
        """Return the seconds after which ``count`` may be taken; 0 if it may be taken now."""
        return max(0.0, self._owed(now_s) - (self.capacity - count) / self.per_s)

    def take(self, now_s: float, count: float = 1) -> None:
        """Take ``count``, also if that is more than may be taken: then it is owed."""
        self._owed_s = self._owed(now_s) + count / self.per_s

    def give_back(self, now_s: float, count: float) -> None:
        """Undo a taking."""
        self._owed_s = max(0.0, self._owed(now_s) - count / self.per_s)

    def left(self, now_s: float) -> float:
        """Return how much may be taken at once now; less than nothing while something is owed."""
        return self.capacity - self._owed(now_s) * self.per_s

    def is_rested(self, now_s: float) -> bool:
        """Whether nothing would be lost by forgetting the state."""
        return self._owed(now_s) == 0.0

    def change(self, per_s: float, capacity: float, now_s: float) -> None:
        """Set another rate. What was taken stays taken, up to the new capacity."""
        taken = min(self._owed(now_s) * self.per_s, capacity)
        self.per_s, self.capacity, self._owed_s = per_s, capacity, taken / per_s

    def _owed(self, now_s: float) -> float:
        self._owed_s = max(0.0, self._owed_s - max(0.0, now_s - self._at_s))
        self._at_s = now_s
        return self._owed_s
