"""Facts about Chroma's SQLite tables that several modules share: keys, operation codes, positions, values.

The tables: ``collections``, ``databases`` and ``segments`` are the catalogue. ``embeddings`` has one row a record,
``embedding_metadata`` one row a metadata value, ``embedding_metadata_array`` one row a member of a list. New operations
wait in ``embeddings_queue``; ``max_seq_id`` says which of them a segment has taken in.
"""

from __future__ import annotations

import enum
import sqlite3
from typing import Any, Final

# Keys under which Chroma stores a record's text and its URI, beside the caller's metadata.
DOCUMENT_KEY: Final = "chroma:document"
URI_KEY: Final = "chroma:uri"
OWN_KEYS: Final = "chroma:"

# The columns of a metadata value, in the order that ``value_of`` takes them.
VALUE_COLUMNS: Final = "string_value, int_value, float_value, bool_value"

# A query over one collection's queue: the topic ends with the collection's id.
OF_COLLECTION: Final = "topic LIKE '%/' || ?"

# The scopes of a collection's two segments.
METADATA_SCOPE: Final = "METADATA"
VECTOR_SCOPE: Final = "VECTOR"


class Operation(enum.IntEnum):
    """The kinds of operations in the queue."""

    ADD = 0
    UPDATE = 1
    UPSERT = 2
    DELETE = 3


def listed(count: int) -> str:
    """Return a table of ``count`` parameters, in ``column1``.

    A list behind IN becomes a table of its own, with 87 KB of buffers, which are cleared when they are had and freed.
    """
    return f"(VALUES {', '.join(('(?)',) * count)})"


def stored_position(db: sqlite3.Connection, segment_id: str) -> int | bytes | None:
    """Return the position of a segment as it is stored: older versions of Chroma stored eight bytes, big-endian."""
    row = db.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment_id,)).fetchone()
    return None if row is None else row[0]


def position_of(db: sqlite3.Connection, segment_id: str) -> int:
    """Return the number of the last operation that a segment has taken in; 0 if it took in none."""
    stored = stored_position(db, segment_id)
    return int.from_bytes(stored, "big") if isinstance(stored, bytes) else int(stored or 0)


def segments_of(db: sqlite3.Connection, collection_id: str) -> dict[str, str]:
    """Return the ids of a collection's segments by scope."""
    return dict(db.execute("SELECT scope, id FROM segments WHERE collection = ?", (collection_id,)))


def has_waiting(db: sqlite3.Connection) -> bool:
    """Return whether the queue holds operations that the records of some collection have not taken in."""
    newest = dict(db.execute("SELECT substr(topic, -36), MAX(seq_id) FROM embeddings_queue GROUP BY 1"))
    segments = db.execute("SELECT collection, id FROM segments WHERE scope = ?", (METADATA_SCOPE,)).fetchall()
    return any(newest.get(collection, 0) > position_of(db, segment) for collection, segment in segments)


def noted_parameters(db: sqlite3.Connection, vector_segment: str) -> dict[str, Any]:
    """Return the index parameters that versions before 1.0 noted with a segment, such as ``hnsw:space``; later: none.

    Chroma builds and searches such an index by them, and tells its defaults as the collection's configuration.
    """
    sql = "SELECT key, str_value, int_value FROM segment_metadata WHERE segment_id = ? AND key LIKE 'hnsw:%'"
    return {key: text if text is not None else number for key, text, number in db.execute(sql, (vector_segment,))}


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """Return whether the database has a table; older versions of Chroma lack some."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)).fetchone() is not None


def value_of(text: str | None, integer: int | None, real: float | None, flag: int | None) -> Any:
    """Return the metadata value of one row; None if the row holds no value."""
    if text is not None:
        return text
    if flag is not None:
        return bool(flag)
    return integer if integer is not None else real


def marks(count: int) -> str:
    """Return ``count`` parameter marks of a statement."""
    return ",".join("?" * count)
