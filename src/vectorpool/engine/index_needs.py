"""Which collections of an open directory need an index, and do not have one yet.

Chroma rewrites most of an index file whenever it takes in what waits, and spends about a millisecond on each vector. A
load that did so at every thousandth record would write bytes that grow with the square of the records. So the vectors
of a collection with Chroma's own ``sync_threshold`` wait in its queue, and queries compare with each of them, which is
exact. An index is built in the background (``index_build``) once it pays:

- when searches of a collection above ``exact_bytes`` have cost about as much as the build will cost. In all, that is at
  most twice the cost of the best choice in hindsight (the ski rental problem: Karlin et al., "Competitive snoopy
  caching", Algorithmica 3, 1988);
- when Chroma was asked for something, and had to take in a long queue first.

A threshold other than Chroma's default was chosen by somebody, and is kept to: Chroma writes that index at once.
"""

from __future__ import annotations

from typing import Final

# Chroma's default threshold.
USUAL_THRESHOLD: Final = 1000
# Chroma spends about a millisecond of CPU time on taking in a vector; in that time, so many bytes are compared.
_BYTES_AN_OPERATION: Final = 6 * 1024**2
# An index that is not kept in memory is read from the files for each search, which takes about so many times as long.
_UNKEPT: Final = 100
# Collections that are remembered.
_MAX_KNOWN: Final = 64


class IndexNeeds:
    """The needs of one open directory. Many threads may call: a search that is not counted does no harm."""

    def __init__(self) -> None:
        self._searched: dict[str, int] = {}
        # Whether an index is to be built.
        self.is_due = False

    def note_search(self, collection_id: str, size: int, waiting: int, *, is_kept: bool) -> None:
        """Note that ``size`` bytes of vectors were compared, of a collection for which ``waiting`` operations wait."""
        if waiting < USUAL_THRESHOLD:
            return
        if len(self._searched) >= _MAX_KNOWN and collection_id not in self._searched:
            self._searched.clear()
        searched = self._searched.get(collection_id, 0) + size * (1 if is_kept else _UNKEPT)
        self._searched[collection_id] = searched
        if searched >= waiting * _BYTES_AN_OPERATION:
            self.is_due = True

    def note_long_queue(self) -> None:
        """Note that a queue is longer than it should be when Chroma is asked."""
        self.is_due = True

    def begin(self) -> None:
        """Forget everything: an index is being built."""
        self._searched.clear()
        self.is_due = False
