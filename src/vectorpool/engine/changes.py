"""Which records of a collection changed since a position, from Chroma's tables.

Each row of ``embeddings`` names the operation that wrote it last, and a collection's position is the number of the last
operation that it took in. So the rows above an earlier position are those that were added or changed since. This holds
along one history: after a restore, operations get numbers that were used before.
"""

from __future__ import annotations

import sqlite3

from vectorpool.engine.tables import (
    METADATA_SCOPE,
    OF_COLLECTION,
    VECTOR_SCOPE,
    Operation,
    has_waiting,
    position_of,
    segments_of,
)


class Changes:
    """Positions of the collections of a directory at rest, and what changed since earlier ones.

    ``db`` is Chroma's database. Every method blocks. Raises sqlite3.Error.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._has_waiting: bool | None = None

    def position(self, collection_id: str) -> int:
        """Return the position of a collection; 0 if it cannot be said, because operations wait to be taken in."""
        if self._has_waiting is None:
            self._has_waiting = has_waiting(self._db)
        segment = segments_of(self._db, collection_id).get(METADATA_SCOPE)
        return 0 if segment is None or self._has_waiting else position_of(self._db, segment)

    def count(self, collection_id: str) -> int:
        """Return the number of records."""
        segment = segments_of(self._db, collection_id).get(METADATA_SCOPE)
        sql = "SELECT COUNT(*) FROM embeddings WHERE segment_id = ?"
        return int(self._db.execute(sql, (segment,)).fetchone()[0])

    def may_have_deleted(self, collection_id: str, since: int) -> bool:
        """Whether a record may have been deleted after a position; False only if the queue still has all that was."""
        if not self._is_in_queue(segments_of(self._db, collection_id), since):
            return True
        sql = f"SELECT 1 FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} AND operation = ? LIMIT 1"
        return self._db.execute(sql, (since, collection_id, int(Operation.DELETE))).fetchone() is not None

    def _is_in_queue(self, segments: dict[str, str], since: int) -> bool:
        """Whether the queue has every operation after a position: it keeps what the index files do not have."""
        vectors = segments.get(VECTOR_SCOPE)
        return bool(since) and vectors is not None and position_of(self._db, vectors) <= since

    def ids(self, collection_id: str, since: int = 0) -> list[str]:
        """Return the ids of the records that were added or changed after a position, in the order of insertion."""
        segments = segments_of(self._db, collection_id)
        segment = segments.get(METADATA_SCOPE)
        if self._is_in_queue(segments, since):
            sql = (
                "SELECT embedding_id FROM embeddings WHERE segment_id = ? AND seq_id > ? AND embedding_id IN "
                f"(SELECT id FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}) ORDER BY id"
            )
            return [row[0] for row in self._db.execute(sql, (segment, since, since, collection_id))]
        # Versions before 0.5.1 stored eight bytes, which SQLite orders behind every integer: those rows count as
        # changed.
        sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ? AND seq_id > ? ORDER BY id"
        return [row[0] for row in self._db.execute(sql, (segment, since))]
