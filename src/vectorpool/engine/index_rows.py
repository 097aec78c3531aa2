"""The flat indexes that a shard keeps in memory, for all its open directories together, within a number of bytes.

An index that was not used for longest is dropped when another needs the room. Its collection's next query reads it from
the files again, so answers do not depend on what is kept. A read in progress holds its own index until it ends, and an
index larger than the bound is not kept at all.
"""

from __future__ import annotations

import itertools
import threading
from typing import Final, TypeAlias

import msgspec

from vectorpool.engine.flat_index import FlatIndex

# The change counter and the mark of a squeeze, four bytes each, and when the file was written, in nanoseconds.
Stamp: TypeAlias = tuple[bytes, int]
# An open directory, a collection's id, and its database.
Place: TypeAlias = tuple[int, str, str]

DEFAULT_BYTES: Final = 256 * 1024**2


# The stamp of no file.
NEVER: Final[Stamp] = (b"", 0)


class Held(msgspec.Struct):
    """An index as of ``stamp``. It holds a vector segment up to the operation ``seq`` of the queue.

    ``waiting`` of the operations are later than what Chroma's index files held, ``persisted``. It was read while the
    queue had the mark ``mark``.
    """

    index: FlatIndex
    segment: str
    seq: int
    stamp: Stamp
    persisted: int
    waiting: int
    mark: bytes


def mark_of(stamp: Stamp) -> bytes:
    """Return the mark of the last squeeze (see ``squeeze``)."""
    return stamp[0][4:]


class IndexRows:
    """Indexes by place. Many threads may call."""

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self.max_bytes = max_bytes
        # Held while an index is in use that is larger than the bound: one at a time.
        self.large = threading.Lock()
        self._owners = itertools.count()
        self._lock = threading.Lock()
        # The least recently used first.
        self._held: dict[Place, tuple[Held, int]] = {}
        self._bytes = 0

    @property
    def bytes(self) -> int:
        """What is kept."""
        return self._bytes

    def owner(self) -> int:
        """Return a number for an open directory."""
        return next(self._owners)

    def get(self, place: Place) -> Held | None:
        """Return what is kept, now the most recently used; None if it was dropped."""
        with self._lock:
            entry = self._held.pop(place, None)
            if entry is None:
                return None
            self._held[place] = entry
            return entry[0]

    def put(self, place: Place, held: Held) -> None:
        """Keep an index, if the bound allows, and drop others until there is room."""
        size = held.index.nbytes
        with self._lock:
            self._drop(place)
            if size > self.max_bytes:
                return
            while self._held and self._bytes + size > self.max_bytes:
                self._drop(next(iter(self._held)))
            self._held[place] = held, size
            self._bytes += size

    def drop(self, place: Place) -> None:
        """Forget an index. Idempotent."""
        with self._lock:
            self._drop(place)

    def doubt(self, owner: int) -> None:
        """Have the indexes of a directory compared with the files at their next use."""
        with self._lock:
            for place, (held, _) in self._held.items():
                if place[0] == owner:
                    held.stamp = NEVER

    def drop_beyond(self, owner: int, seq: int) -> None:
        """Forget the indexes of a directory that took in an operation after ``seq``."""
        with self._lock:
            for place in [place for place, (held, _) in self._held.items() if place[0] == owner and held.seq > seq]:
                self._drop(place)

    def drop_all(self, owner: int) -> None:
        """Forget the indexes of a directory."""
        with self._lock:
            for place in [place for place in self._held if place[0] == owner]:
                self._drop(place)

    def _drop(self, place: Place) -> None:
        entry = self._held.pop(place, None)
        if entry is not None:
            self._bytes -= entry[1]
