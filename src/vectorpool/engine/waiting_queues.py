"""How many operations wait in the queues that the fast path writes, and what is due then.

``position`` tells a queue of a collection from that of another time: the last operation that its index files hold.
"""

from __future__ import annotations

import enum
import sqlite3
from typing import Final

import msgspec

from vectorpool.engine.index_needs import USUAL_THRESHOLD
from vectorpool.engine.tables import OF_COLLECTION

_MAX_KNOWN: Final = 64


class Due(enum.Enum):
    """What is due after a write: Chroma writes its index, or the queue is squeezed."""

    NOTHING = enum.auto()
    INDEX = enum.auto()
    SQUEEZE = enum.auto()


class WaitingQueue(msgspec.Struct):
    """The operations of a collection that wait for its index: those after ``persisted``.

    Up to ``seq`` its tables have taken in all of them. ``count`` of them were counted, up to ``counted``. Nothing is
    due while fewer than ``calm_until`` wait.
    """

    persisted: int
    seq: int
    counted: int
    count: int = 0
    calm_until: int = 0

    def counts(self, db: sqlite3.Connection, collection_id: str) -> int:
        """Return how many operations wait; those that are counted are not looked at again."""
        sql = f"SELECT COUNT(*) FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}"
        self.count += int(db.execute(sql, (self.counted, collection_id)).fetchone()[0])
        self.counted = self.seq
        return self.count


class WaitingQueues:
    """The queues of one directory. ``keeps``: vectors may wait in a queue, because they are searched there."""

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._known: dict[str, WaitingQueue] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    def queue(
        self, db: sqlite3.Connection, collection_id: str, *, persisted: int, applied: int, last: int
    ) -> WaitingQueue | None:
        """Return a collection's queue, of which its tables have taken in all; None if they have not.

        They have taken in all up to ``applied``; ``last`` is the newest operation of any collection.
        """
        queue = self._known.get(collection_id)
        if queue is None or queue.persisted != persisted:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            queue = self._known[collection_id] = WaitingQueue(persisted, persisted, persisted)
        # Of other collections' operations, each is looked at once.
        late = f"SELECT 1 FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} LIMIT 1"
        if db.execute(late, (max(queue.seq, applied), collection_id)).fetchone():
            return None
        queue.seq = last
        return queue

    def may_wait(self, threshold: int) -> bool:
        """Whether the queue of a collection may be longer than its sync threshold."""
        return self._keeps and threshold == USUAL_THRESHOLD

    def due(
        self, db: sqlite3.Connection, collection_id: str, queue: WaitingQueue, *, metadata_segment: str, threshold: int
    ) -> Due:
        """Return what is due now that the queue has got longer."""
        # No fewer than wait: numbers are shared with other collections.
        if queue.seq - queue.persisted < max(queue.calm_until, threshold):
            return Due.NOTHING
        waiting, limit = queue.counts(db, collection_id), threshold
        if self.may_wait(threshold):
            sql = "SELECT COUNT(*) FROM embeddings WHERE segment_id = ?"
            limit += 2 * int(db.execute(sql, (metadata_segment,)).fetchone()[0])
        if waiting < limit:
            # So many operations come first, at the least.
            queue.calm_until = queue.seq - queue.persisted + limit - waiting
            return Due.NOTHING
        return Due.SQUEEZE if self.may_wait(threshold) else Due.INDEX
