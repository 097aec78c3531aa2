"""Which records of a collection changed since a position, from Chroma's tables.

Each row of ``embeddings`` names the operation that wrote it last, and a collection's position is the number of the last
operation that it took in. So the rows above an earlier position are those that were added or changed since. This holds
along one history: after a restore, operations get numbers that were used before.
"""

from __future__ import annotations

from pathlib import Path

from vectorpool.engine.tables import METADATA_SCOPE, has_waiting, position_of, segments_of
from vectorpool.platform.trees import open_database


class Changes:
    """Positions of the collections of a directory at rest, and what changed since earlier ones.

    ``database`` is Chroma's SQLite file. Every method blocks. Raises sqlite3.Error, InvalidRequest.
    """

    def __init__(self, database: Path) -> None:
        self._database = database

    def position(self, collection_id: str) -> int:
        """Return the position of a collection; 0 if it cannot be said, because operations wait to be taken in."""
        with open_database(self._database) as db:
            if has_waiting(db):
                return 0
            segment = segments_of(db, collection_id).get(METADATA_SCOPE)
            return 0 if segment is None else position_of(db, segment)

    def ids(self, collection_id: str, since: int = 0) -> list[str]:
        """Return the ids of the records that were added or changed after a position, in the order of insertion."""
        with open_database(self._database) as db:
            segment = segments_of(db, collection_id).get(METADATA_SCOPE)
            # Versions before 0.5.1 stored eight bytes, which SQLite orders behind every integer: those rows count as
            # changed.
            sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ? AND seq_id > ? ORDER BY id"
            return [row[0] for row in db.execute(sql, (segment, since))]
