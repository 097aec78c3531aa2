"""A closed directory with every index as Chroma keeps it: for programs that open it with Chroma alone.

The vectors of a collection that is searched exactly stay in the queue. Chroma takes them into its index whenever it
opens the collection, which takes a millisecond a vector or less, each time until it has written its files.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from vectorpool.engine.bindings import Client
from vectorpool.engine.collection_ids import wait_until_closed
from vectorpool.engine.fast_rows import read_schema as read_collection
from vectorpool.engine.tables import OF_COLLECTION, VECTOR_SCOPE, position_of
from vectorpool.engine.version import is_tested, read_schema
from vectorpool.names import CHROMA_DATABASE_FILE


class _Overdue(msgspec.Struct, frozen=True):
    """A collection of which more operations wait than Chroma lets wait."""

    id: str
    database: str
    dimension: int


def write_indexes(directory: Path) -> int:
    """Have Chroma write each index that more waits for than its threshold says; return how many. Blocking.

    A directory in which there is none, or whose schema was not tested, is not opened. Raises BrokenReplica,
    sqlite3.Error, and what the bindings raise: the directory may not be used then.
    """
    schema = read_schema(directory)
    if schema is None or not is_tested(schema.fingerprint):
        return 0
    overdue = _overdue(directory)
    if not overdue:
        return 0
    client = Client(directory)
    try:
        written = [each for each in overdue if not client.refuses(each.id)]
        for each in written:
            client.apply_queue(collection_id=each.id, database=each.database, dimension=each.dimension)
    finally:
        client.close()
    wait_until_closed(directory)
    return len(written)


def _overdue(directory: Path) -> list[_Overdue]:
    uri = f"{(directory / CHROMA_DATABASE_FILE).absolute().as_uri()}?mode=ro&immutable=1"
    found = []
    with closing(sqlite3.connect(uri, uri=True)) as db:
        sql = (
            "SELECT c.id, d.name, c.dimension, c.schema_str, s.id FROM collections c JOIN databases d ON d.id = "
            "c.database_id JOIN segments s ON s.collection = c.id WHERE s.scope = ? AND c.dimension IS NOT NULL"
        )
        for collection_id, database, dimension, text, segment in db.execute(sql, (VECTOR_SCOPE,)).fetchall():
            told = None if text is None else read_collection(text)
            waiting = f"SELECT COUNT(*) FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}"
            count = db.execute(waiting, (position_of(db, segment), collection_id)).fetchone()[0]
            if told is not None and count >= told.sync_threshold:
                found.append(_Overdue(collection_id, database, int(dimension)))
    return found
