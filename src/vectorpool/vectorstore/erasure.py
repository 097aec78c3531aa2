"""Erasure: a commit that takes what was deleted out of the files, and when it pays to make one.

A deletion is a commit like any other: Chroma does not answer with the record any more, but its text stays in the files
(see ``engine.erasure``). To remove it the database is written anew, which costs about as much as to commit all of it.
So an erasure is made once for many deletions:

- ``erase_after_s`` after the first deletion, or later for a vectorstore larger than ``ERASED_AT_ONCE_BYTES``, in
  proportion to its size, so that erasures write a bounded number of bytes a second;
- earlier, when a smaller vectorstore is not in use, before it is closed for that reason, and when it is evicted by
  request;
- at once, when more than half of the database, and at least ``MUCH_FREE_BYTES``, are free pages.

The time of the first deletion is in the files (see ``engine.deletions``), so that a restart does not put it off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vectorpool.engine.erasure import erase
from vectorpool.names import SIDECAR_FILE
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.vectorstore.replica import Replica
from vectorpool.vectorstore.sidecar import rewrite

# The size in bytes of a vectorstore up to which an erasure is made whenever it is not in use.
ERASED_AT_ONCE_BYTES: Final = 64 * 1024**2
MUCH_FREE_BYTES: Final = 4 * 1024**2
# Least time between two attempts: one that failed, or that lost a race, does not follow on itself.
_PAUSE_S: Final = 30.0


class ErasureSchedule:
    """When the erasures of one vectorstore are due."""

    def __init__(self, settings: Settings, sources: Sources) -> None:
        self._settings = settings
        self._sources = sources
        self._not_before_s = 0.0

    def is_due(self, replica: Replica | None, *, is_idle: bool) -> bool:
        """Whether to erase a vectorstore now; ``is_idle`` says that it is not in use."""
        if replica is None:
            return False
        remains, size_bytes = replica.remains, replica.size_bytes()
        after_s = self._settings.erase_after_s
        if remains.since_ms is None or not after_s or self._sources.monotonic_s() < self._not_before_s:
            return False
        if is_idle and size_bytes <= ERASED_AT_ONCE_BYTES:
            return True
        if remains.free_bytes >= max(MUCH_FREE_BYTES, size_bytes // 2):
            return True
        age_ms = self._sources.now_ms() - remains.since_ms
        return age_ms >= after_s * 1000 * max(1.0, size_bytes / ERASED_AT_ONCE_BYTES)

    def begin(self) -> float:
        """Note an attempt, and return its time; while it has not succeeded, the next one is not due for a while."""
        now_s = self._sources.monotonic_s()
        self._not_before_s = now_s + _PAUSE_S
        return now_s

    def end(self, replica: Replica) -> None:
        """Note the end of an attempt, of which ``replica`` came."""
        if replica.remains.since_ms is None:
            self._not_before_s = 0.0


def erase_directory(directory: Path) -> bool:
    """Remove what was deleted from a closed directory; return whether anything was done. Blocking.

    Raises sqlite3.Error and OSError; the directory may not be used then.
    """
    if not erase(directory):
        return False
    rewrite(directory / SIDECAR_FILE)
    return True
