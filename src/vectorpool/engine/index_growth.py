"""When an index is written, and when a queue is squeezed: by how many operations wait, and by the collection's size.

Chroma rewrites most of an index file whenever it takes in what waits. At a fixed threshold, a load writes bytes that
grow with the square of the records, and its processor builds an index. A collection whose vectors are searched exactly
needs none: its vectors stay in the queue, and Chroma is not asked.

``squeeze`` bounds such a queue by the number of records. It leaves one operation for each record that the queue names,
which has the record's last vector, and one deletion for each deleted record that the index files have. Chroma makes the
same of it, whenever it is asked. What a record was before, and a record that came and went, are not in it any more.

A threshold other than Chroma's default was chosen by somebody, and is kept to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container
from typing import Final

import msgspec

from vectorpool.engine.tables import OF_COLLECTION, Operation

# Chroma's default.
USUAL_THRESHOLD: Final = 1000
# Operations that wait for the index of a collection that needs it: the call that has them taken in takes a second or
# two, and other calls of the same user wait for it.
MOST_WAITING: Final = 4000
# Records above which a collection is indexed, however short its vectors are.
MOST_SQUEEZED: Final = 40_000
# An index is written again once a part like this of its collection waits.
_PART: Final = 4


class Growth(msgspec.Struct, frozen=True):
    """What is due at how many waiting operations, and from which number on the question has another answer.

    ``is_indexed`` says that the index is to be written then; else the queue is squeezed.
    """

    due: int
    is_indexed: bool
    valid_until: int


def growth(threshold: int, records: int, waiting: int, vector_bytes: int, exact_bytes: int) -> Growth:
    """Return what is due in a collection of ``records`` records for which ``waiting`` operations wait.

    ``threshold`` is the collection's own. Vectors of ``vector_bytes`` bytes are searched exactly up to ``exact_bytes``
    a collection.
    """
    if threshold != USUAL_THRESHOLD or not exact_bytes:
        return Growth(threshold, True, threshold)
    most = min(exact_bytes // vector_bytes, MOST_SQUEEZED)
    if records > most:
        due = max(threshold, min(records // _PART, MOST_WAITING))
        return Growth(due, True, due)
    due = threshold + 2 * records
    # With each operation there is one record more at the most.
    return Growth(due, False, min(due, waiting + most + 1 - records))


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
    """Squeeze a collection's queue after the operation ``persisted``; return how many wait then.

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
    return sum(row[0] in kept for row in rows)
