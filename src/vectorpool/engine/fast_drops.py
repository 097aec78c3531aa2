"""Deletion of a collection straight in Chroma's SQLite file, in slices.

One call of Chroma deletes a whole collection, and holds the interpreter lock from beginning to end: a third of a second
for 25,000 records, in which no other user of the shard is answered. Here the collection leaves the catalogue in one
small transaction, so that no reader sees a part of it. Then its records go, some at a time; SQLite runs outside the
interpreter lock, and between slices other writers' and readers' turns come.

A client of Chroma that is open knows the collection and its index. It is closed before anything is deleted, and the
next call that needs Chroma opens another.

``tests/integration/test_fast_drops.py`` compares every table with what Chroma would have left.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Final

from vectorpool.engine.bindings import Client
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile, Doubt
from vectorpool.engine.deletions import connect
from vectorpool.engine.pace import YIELD_S
from vectorpool.engine.tables import METADATA_SCOPE, OF_COLLECTION, marks, segments_of
from vectorpool.errors import BrokenReplica

# Records of one transaction: some 20 ms, for which readers of the same user wait. Each transaction writes a segment of
# the full-text index, so smaller ones cost more in all.
AT_ONCE: Final = 1000
# How long the first transaction waits for readers and calls of the same user before the collection is left to Chroma,
# and how long a later one does before the replica counts as broken.
_BEGIN_WITHIN_S: Final = 2.0
_GO_ON_WITHIN_S: Final = 60.0

# By collection id. Chroma has the same rows in mind, and forgets the queue's and the positions' alike.
_OF_CATALOGUE: Final = (
    "DELETE FROM max_seq_id WHERE segment_id IN (SELECT id FROM segments WHERE collection = ?)",
    "DELETE FROM segment_metadata WHERE segment_id IN (SELECT id FROM segments WHERE collection = ?)",
    "DELETE FROM segments WHERE collection = ?",
    "DELETE FROM collection_metadata WHERE collection_id = ?",
    "DELETE FROM collections WHERE id = ?",
)
# By row ids. Chroma leaves the lists, and the next record with the row of one would show it as its own.
_OF_RECORDS: Final = (
    "DELETE FROM embedding_fulltext_search WHERE rowid IN ({})",
    "DELETE FROM embedding_metadata_array WHERE id IN ({})",
    "DELETE FROM embedding_metadata WHERE id IN ({})",
    "DELETE FROM embeddings WHERE id IN ({})",
)
_RECORDS: Final = "SELECT id FROM embeddings WHERE segment_id = ? LIMIT ?"
_QUEUED: Final = f"SELECT seq_id FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} ORDER BY seq_id LIMIT ?"


class _Busy(Exception):
    """The files could not be had in time."""


class FastDropper:
    """Deletes collections of one open directory, by one thread at a time: the writer's."""

    def __init__(self, source: DatabaseFile, client: Client) -> None:
        self._source = source
        self._client = client

    def drop(self, info: CollectionInfo, applied: Callable[[], None]) -> int | None:
        """Delete a collection; return how many records it had, or None if it is left to Chroma and nothing changed.

        ``applied`` is called before the first effect. Raises BrokenReplica if it cannot be ended.
        """
        try:
            with self._transaction(_BEGIN_WITHIN_S, closes=True) as db:
                segments = segments_of(db, info.id)
                if METADATA_SCOPE not in segments:
                    return None
                segment = segments[METADATA_SCOPE]
                count = int(
                    db.execute("SELECT COUNT(*) FROM embeddings WHERE segment_id = ?", (segment,)).fetchone()[0]
                )
                applied()
                for statement in _OF_CATALOGUE:
                    db.execute(statement, (info.id,))
        except (_Busy, Doubt, OSError, sqlite3.Error):
            # The transaction was rolled back, if there was one.
            return None
        self._client.deletions.note(dropped=True)
        try:
            self._drop_queue(info.id)
            self._drop_records(segment)
        except (_Busy, Doubt, OSError, sqlite3.Error) as error:
            raise BrokenReplica(f"The records of a deleted collection cannot be removed: {error}.") from error
        return count

    def _drop_queue(self, collection_id: str) -> None:
        last, found = 0, AT_ONCE
        while found == AT_ONCE:
            with self._transaction(_GO_ON_WITHIN_S) as db:
                rows = db.execute(_QUEUED, (last, collection_id, AT_ONCE)).fetchall()
                db.execute(f"DELETE FROM embeddings_queue WHERE seq_id IN ({marks(len(rows))})", _ids(rows))
            found, last = len(rows), rows[-1][0] if rows else last
            time.sleep(YIELD_S)

    def _drop_records(self, segment: str) -> None:
        found = AT_ONCE
        while found == AT_ONCE:
            with self._transaction(_GO_ON_WITHIN_S) as db:
                rows = db.execute(_RECORDS, (segment, AT_ONCE)).fetchall()
                for statement in _OF_RECORDS:
                    db.execute(statement.format(marks(len(rows))), _ids(rows))
            found = len(rows)
            time.sleep(YIELD_S)

    @contextmanager
    def _transaction(self, within_s: float, *, closes: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction, while no read and no call of Chroma runs; ``closes`` Chroma before it.

        Raises _Busy, Doubt if the file has a WAL or an open transaction, OSError and sqlite3.Error.
        """
        # The lock of the files comes first: a fast read that holds it may be calling Chroma.
        if not self._source.lock.acquire(timeout=within_s):
            raise _Busy("reads of it went on")
        try:
            with self._client.exclusive(within_s, is_needed=True) as is_granted:
                if not is_granted:
                    raise _Busy("calls of Chroma went on")
                if self._source.stamp() is None:
                    raise Doubt
                if closes:
                    self._client.close_client()
                self._client.state.tracked_write()
                with closing(connect(self._source.directory)) as db:
                    db.execute("BEGIN IMMEDIATE")
                    # Closing the connection rolls back what is not committed.
                    yield db
                    db.execute("COMMIT")
        finally:
            self._source.lock.release()


def _ids(rows: list[tuple[int]]) -> list[int]:
    return [row for (row,) in rows]
