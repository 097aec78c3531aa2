"""The size of the slices of a bulk write: one call of Chroma holds the interpreter lock for its whole length.

The number of records of a call follows the time that the last calls took, so that a call stays near
``write_slice_ms``. Between calls the thread sleeps long enough for other threads to take the lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

# Long enough for a waiting thread to take the interpreter lock, short against a slice.
YIELD_S: Final = 0.0005
# A call costs 5 to 15 ms before its first record: smaller slices would spend most of their time on that.
_MIN_SLICE: Final = 16
_MAX_SLICE: Final = 512
# Records of one fast write; it takes some milliseconds, in which other threads may run.
FAST_SLICE: Final = 256


def fixed_slices(count: int, size: int) -> Iterator[slice]:
    """Cut ``range(count)`` into slices of one size, and sleep between them."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
        if start + size < count:
            time.sleep(YIELD_S)


class Pace:
    """How many records the next call may carry, learned from the time that the last calls took."""

    def __init__(self, slice_ms: int) -> None:
        self._target_s = slice_ms / 1000
        self._records = _MIN_SLICE
        self._last_ideal = 0.0

    def slices(self, count: int) -> Iterator[slice]:
        """Cut ``range(count)``; the time between two items is the time of one call."""
        start = 0
        while start < count:
            size = min(self._records, count - start)
            began = time.perf_counter()
            yield slice(start, start + size)
            took_s = max(time.perf_counter() - began, 1e-6)
            # Half-way towards what would have hit the target. The better of two calls counts: the one that crosses
            # the sync threshold is slow whatever its size, and must not make the next ones tiny.
            ideal = size * self._target_s / took_s
            better, self._last_ideal = max(ideal, self._last_ideal), ideal
            self._records = int(min(max((self._records + better) / 2, _MIN_SLICE), _MAX_SLICE, self._records * 2))
            start += size
            if start < count:
                time.sleep(YIELD_S)
