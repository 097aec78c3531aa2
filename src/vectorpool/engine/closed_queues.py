"""The queues of a directory that nothing has open: which operations wait for the index of each collection."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from vectorpool.engine.fast_rows import read_schema as read_collection
from vectorpool.engine.tables import METADATA_SCOPE, OF_COLLECTION, VECTOR_SCOPE, position_of
from vectorpool.engine.version import is_tested, read_schema
from vectorpool.names import CHROMA_DATABASE_FILE


class ClosedQueue(msgspec.Struct, frozen=True):
    """A collection's segments, and its operations that wait: those after ``persisted``, ``count`` up to ``last``."""

    collection_id: str
    database: str
    dimension: int
    threshold: int
    metadata: str
    vector: str
    persisted: int
    count: int
    last: int

    @property
    def is_long(self) -> bool:
        """Whether more waits than Chroma lets wait."""
        return self.count >= self.threshold


def read_only(directory: Path) -> sqlite3.Connection:
    """Return a connection that reads the file as one that does not change."""
    uri = f"{(directory / CHROMA_DATABASE_FILE).absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True)


def closed_queues(directory: Path) -> list[ClosedQueue]:
    """Return the queues of all collections that have a dimension; none if the schema was not tested."""
    schema = read_schema(directory)
    if schema is None or not is_tested(schema.fingerprint):
        return []
    found = []
    sql = (
        "SELECT c.id, d.name, c.dimension, c.schema_str, m.id, v.id FROM collections c JOIN databases d ON d.id = "
        "c.database_id JOIN segments m ON m.collection = c.id AND m.scope = ? JOIN segments v ON v.collection = c.id "
        "AND v.scope = ? WHERE c.dimension IS NOT NULL"
    )
    with closing(read_only(directory)) as db:
        rows = db.execute(sql, (METADATA_SCOPE, VECTOR_SCOPE)).fetchall()
        for collection_id, database, dimension, text, metadata, vector in rows:
            told = None if text is None else read_collection(text)
            if told is None:
                continue
            persisted = position_of(db, vector)
            waiting = f"SELECT COUNT(*), MAX(seq_id) FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}"
            count, last = db.execute(waiting, (persisted, collection_id)).fetchone()
            segments = (metadata, vector, persisted, count, last or persisted)
            found.append(ClosedQueue(collection_id, database, int(dimension), told.sync_threshold, *segments))
    return found
