"""The squeeze of a queue: one operation is left for each record, and Chroma makes the same of it.

The vectors of a collection stay in its queue until an index is built (see ``index_needs``), so something has to bound
the queue of a collection whose records change often. ``squeeze`` leaves one operation for each record that the queue
names, which has the record's last vector, and one deletion for each deleted record that the index files have. What a
record was before, and a record that came and went, are not in it any more.

An index in memory that took in a part of the queue cannot go on from a squeezed one: it would miss the deletion of a
record that came and went. So a squeeze changes the mark in the file's header, SQLite's ``application_id``, of which
Chroma makes nothing. An index that was made under another mark is read anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container
from typing import Final

import msgspec

from vectorpool.engine.tables import OF_COLLECTION, Operation

# Where the mark is in the file, and its length in bytes.
MARK: Final = slice(68, 72)
_MARKS: Final = 2**31


class _Fate(msgspec.Struct):
    """What the operations so far make of a record.

    ``vector`` is the row of the queue with its vector, if the queue has that. ``last`` is the last row with an effect.
    """

    is_there: bool
    vector: int | None = None
    last: int | None = None


def squeeze(
    db: sqlite3.Connection, collection_id: str, persisted: int, there: set[str], indexed: Container[str]
) -> int | None:
    """Squeeze a collection's queue after the operation ``persisted``, and change the mark; return how many wait then.

    ``there`` are the ids of its records, ``indexed`` those that its index files have. Returns None, and changes
    nothing, if the queue does not lead from these to those, or cannot be interpreted. In a transaction of the caller.
    """
    sql = (
        "SELECT seq_id, operation, id, vector IS NOT NULL, encoding FROM embeddings_queue "
        f"WHERE seq_id > ? AND {OF_COLLECTION} ORDER BY seq_id"
    )
    rows = db.execute(sql, (persisted, collection_id)).fetchall()
    upserts = {row[0] for row in rows if row[1] == Operation.UPSERT}
    fates: dict[str, _Fate] = {}
    for seq, kind, record_id, has_vector, encoding in rows:
        fate = fates.get(record_id)
        if fate is None:
            fate = fates[record_id] = _Fate(record_id in indexed)
        if kind == Operation.DELETE:
            if fate.is_there or record_id in indexed:
                fate.last = seq
            fate.is_there, fate.vector = False, None
            continue
        if (kind == Operation.ADD and fate.is_there) or (kind == Operation.UPDATE and not fate.is_there):
            continue
        if has_vector and encoding != "FLOAT32":
            return None
        if has_vector:
            fate.vector = seq
        elif kind != Operation.UPDATE:
            return None
        fate.is_there, fate.last = True, seq
    if any(fate.is_there != (record_id in there) for record_id, fate in fates.items()):
        return None
    # The greatest number says which one comes next.
    kept, moved = {rows[-1][0]} if rows else set(), list[tuple[int, int]]()
    for record_id, fate in fates.items():
        if fate.last is None or not (fate.is_there or record_id in indexed):
            continue
        kept.add(fate.last)
        if fate.vector is not None and not (fate.vector == fate.last and fate.last in upserts):
            moved.append((fate.vector, fate.last))
    db.executemany(
        f"UPDATE embeddings_queue SET operation = {int(Operation.UPSERT)}, encoding = 'FLOAT32', "
        "vector = (SELECT vector FROM embeddings_queue WHERE seq_id = ?) WHERE seq_id = ?",
        moved,
    )
    db.executemany("DELETE FROM embeddings_queue WHERE seq_id = ?", [(row[0],) for row in rows if row[0] not in kept])
    mark = int(db.execute("PRAGMA application_id").fetchone()[0])
    db.execute(f"PRAGMA application_id = {(mark + 1) % _MARKS}")
    return sum(row[0] in kept for row in rows)
