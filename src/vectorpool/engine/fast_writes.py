"""Fast writes: records that are added, changed and deleted straight in Chroma's SQLite file.

A one-record upsert costs Chroma 3 to 7 ms of CPU time, which grows with its queue: Chroma reads all of the queue, and
passes the work through half a dozen threads. The result is a row in the queue and the rows of one record. This module
writes those in one transaction. A client of Chroma that is opened later takes the queue for the truth; a client that is
open is replaced before it is asked for what it does not know (``Client.note_fast_write``).

A row of the queue has no text and no metadata here. Chroma takes those from the queue only for records that its tables
do not have yet, and these rows are in the tables already. So what is deleted or overwritten later is not in the queue.

Chroma alone writes the index files. Vectors wait in the queue for an index that is built later (``index_needs``). Of a
collection whose sync threshold somebody chose, Chroma is asked a query once as many operations wait, for which it
applies the queue and writes its files; during a query, unlike a write, other threads may run.

A collection's first record is Chroma's, and so is all that it may refuse, and every doubt: ``write`` returns False, and
nothing was changed.

``tests/integration/test_fast_writes.py`` compares every table with what Chroma would have left.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from vectorpool.engine.bindings import Client
from vectorpool.engine.database_file import FilesLock
from vectorpool.engine.fast_rows import (
    NotPlain,
    Schema,
    fields_of,
    put_fields,
    read_schema,
    remove_record,
    types_of,
)
from vectorpool.engine.index_files import read_labels
from vectorpool.engine.journal import ChangedPages, FileMark, changed_pages, mark_of
from vectorpool.engine.rows import Batch, Float32
from vectorpool.engine.squeeze import squeeze
from vectorpool.engine.tables import METADATA_SCOPE, VECTOR_SCOPE, Operation, stored_position
from vectorpool.engine.waiting_queues import Due, WaitingQueue, WaitingQueues
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE

logger = logging.getLogger(__name__)

# From this size of the file on, the journal is a file that is read after each commit. That costs a quarter of a
# millisecond, as much as a capture takes to compare a megabyte.
RECORDED_FROM_BYTES: Final = 4 * 1024**2
# How long a write waits for readers before it goes through Chroma, which need not wait for them.
_READERS_S: Final = 0.05
_MAX_SCHEMAS: Final = 64
_QUEUE: Final = (
    "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) VALUES (?, ?, ?, ?, ?, '{}')"
)
_FIND: Final = "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?"


class _Step(msgspec.Struct, frozen=True):
    """One operation on one record: its vector, if it has one, and what the record is given by key."""

    record_id: str
    vector: bytes | None
    fields: dict[str, Any]


class _Target(msgspec.Struct, frozen=True):
    """The collection that is written: its segments, the dimension of its vectors, its schema, its queue."""

    segment: str
    vector_segment: str
    dimension: int
    schema: Schema
    queue: WaitingQueue


class FastWriter:
    """Writes into one open Chroma directory. One thread at a time.

    Meanwhile ``client`` delays Chroma's calls, and ``files``, the lock of the fast reads, delays those. ``keeps``:
    vectors may wait in the queue for an index that is built later, because they are searched there.
    """

    def __init__(self, directory: Path, client: Client, files: FilesLock, *, keeps: bool = False) -> None:
        self._path = directory / CHROMA_DATABASE_FILE
        self._journal = f"{self._path}-journal"
        self._file: int | None = None
        # The file after the last transaction that was recorded.
        self._last: FileMark | None = None
        self._journal_mode, self._overwrites = "", False
        self._client = client
        self._files = files
        self._db: sqlite3.Connection | None = None
        self._schemas: dict[str, Schema | None] = {}
        self._queues = WaitingQueues(keeps=keeps)
        self._is_closed = False

    def close(self) -> None:
        """Close the file; ``write`` returns False from now on. Idempotent."""
        self._is_closed = True
        self.release()

    def release(self) -> None:
        """Close the file, and forget what it said; the next write opens it again."""
        self._disconnect()
        self._queues.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = self._last = None

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def write(self, operation: Operation, collection_id: str, database: str, batch: Batch) -> bool:
        """Write records as Chroma would, or return False. Raises BrokenReplica if the index cannot take them in.

        ADD skips records that are there, UPDATE and DELETE skip those that are not. ``batch.embeddings`` is
        float32[n, d], and for an update None, or None for each record whose embedding stays; a deletion has ids only.
        """
        if self._is_closed or not batch.ids:
            return False
        try:
            dimension, steps = _steps(operation, batch)
        except (NotPlain, ValueError, TypeError):
            return False
        # This lock comes first: a fast read that holds it may be calling Chroma.
        if not self._files.acquire(timeout=_READERS_S):
            return False
        try:
            with self._client.exclusive(_READERS_S) as is_granted:
                if not is_granted:
                    return False
                due = self._apply(operation, (collection_id, database), dimension, steps)
                self._client.note_fast_write(collection_id)
        except NotPlain:
            return False
        finally:
            self._files.release()
        if due is not None:
            try:
                self._client.apply_queue(collection_id=collection_id, database=database, dimension=due)
            except Exception as error:
                # The records are written: this error is not a refusal of them.
                raise BrokenReplica(f"Chroma cannot take what was written into its index: {error}.") from error
        return True

    def _apply(
        self, operation: Operation, key: tuple[str, str], dimension: int | None, steps: list[_Step]
    ) -> int | None:
        """Make the changes in one transaction; return the vectors' dimension if the index is to be written now."""
        try:
            db = self._open()
            number = self._client.state.tracked_write()
            before = self._before()
            db.execute("BEGIN IMMEDIATE")
        except (OSError, sqlite3.Error) as error:
            raise NotPlain from error
        try:
            due = self._write(db, operation, key, dimension, steps)
            self._client.state.recorded(number, self._commit(db, before))
            return due
        except BaseException as error:
            self._queues.clear()
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            # Its pages may be of a transaction that never was.
            self._disconnect()
            if isinstance(error, (ValueError, OverflowError, sqlite3.Error)):
                raise NotPlain from error
            raise

    def _before(self) -> FileMark | None:
        """Return the file's mark; None if the transaction that begins now will not say what it changed.

        That is so for a small file, and if something else wrote since the last transaction here. Raises sqlite3.Error.
        """
        assert self._file is not None and self._db is not None
        last, self._last = self._last, None
        mark = mark_of(os.fstat(self._file))
        mode = "DELETE" if mark.size >= RECORDED_FROM_BYTES and self._overwrites else "MEMORY"
        if mode != self._journal_mode:
            self._db.execute(f"PRAGMA journal_mode = {mode}")
            self._journal_mode = mode
        return mark if mode == "DELETE" and (last is None or last == mark) else None

    def _commit(self, db: sqlite3.Connection, before: FileMark | None) -> ChangedPages | None:
        """Commit; return the pages that the transaction changed, if they are known."""
        assert self._file is not None
        journal: int | None = None
        try:
            # The commit deletes the file; a descriptor still reads it. The full-text index writes within the commit.
            if before is not None:
                with contextlib.suppress(OSError):
                    journal = os.open(self._journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            db.execute("COMMIT")
            pages = None
            if journal is not None and before is not None:
                try:
                    pages = changed_pages(journal, self._file, before)
                except Exception:
                    # The transaction is committed: whatever is wrong here must not make it count as failed.
                    logger.exception("a journal of SQLite could not be read; everything is compared instead")
            self._last = None if pages is None else pages.mark
            return pages
        finally:
            if journal is not None:
                os.close(journal)

    def _open(self) -> sqlite3.Connection:
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        if os.pread(self._file, 2, 18) != b"\1\1" or os.access(self._journal, os.F_OK):
            # It has a WAL, or a transaction of Chroma was cut off.
            raise NotPlain
        if self._db is None:
            uri = f"{self._path.absolute().as_uri()}?mode=rw&nolock=1"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            # A replica that a crash left behind is never opened, so nothing in it must survive one. Freed pages are
            # overwritten, so that it is known what they hold.
            for pragma in ("synchronous = OFF", "cache_size = 256"):
                self._db.execute(f"PRAGMA {pragma}")
            self._overwrites = self._db.execute("PRAGMA secure_delete = ON").fetchone() == (1,)
            self._journal_mode = ""
        return self._db

    def _write(
        self,
        db: sqlite3.Connection,
        operation: Operation,
        key: tuple[str, str],
        dimension: int | None,
        steps: list[_Step],
    ) -> int | None:
        target = self._check(db, key, dimension)
        has_lists = bool(db.execute("SELECT 1 FROM embedding_metadata_array LIMIT 1").fetchone())
        topic = f"persistent://default/default/{key[0]}"
        queue = target.queue
        named: set[tuple[str, str]] = set()
        for step in steps:
            encoding = None if step.vector is None else "FLOAT32"
            cursor = db.execute(_QUEUE, (int(operation), topic, step.record_id, step.vector, encoding))
            queue.seq = int(cursor.lastrowid or 0)
            found = db.execute(_FIND, (target.segment, step.record_id)).fetchone()
            row = None if found is None else int(found[0])
            if row is None and operation in (Operation.UPDATE, Operation.DELETE):
                continue
            if row is not None and operation is Operation.ADD:
                continue
            if row is not None:
                self._client.deletions.note()
            if row is not None and operation is Operation.DELETE:
                remove_record(db, row)
                continue
            self._put(db, target.segment, queue.seq, row, step, has_lists=has_lists)
            has_lists = has_lists or any(type(value) is list for value in step.fields.values())
            named.update(types_of(step.fields))
        moved = db.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", (queue.seq, target.segment))
        if moved.rowcount != 1:
            raise NotPlain
        if (text := target.schema.grown(named)) is not None:
            # An open client remembers the schema, and would write it again without what it learned here.
            self._client.close_client()
            db.execute("UPDATE collections SET schema_str = ? WHERE id = ?", (text, key[0]))
        return target.dimension if self._is_due(db, key, target) else None

    def _put(
        self, db: sqlite3.Connection, segment: str, seq: int, row: int | None, step: _Step, *, has_lists: bool
    ) -> None:
        if row is not None:
            db.execute("UPDATE embeddings SET seq_id = ? WHERE id = ?", (seq, row))
            put_fields(db, row, step.fields, is_new=False, has_lists=has_lists)
            return
        sql = "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, ?)"
        row = int(db.execute(sql, (segment, step.record_id, seq)).lastrowid or 0)
        if has_lists and db.execute("SELECT 1 FROM embedding_metadata_array WHERE id = ?", (row,)).fetchone():
            # A list that a deleted collection left to this row.
            raise NotPlain
        put_fields(db, row, step.fields, is_new=True, has_lists=has_lists)

    def _check(self, db: sqlite3.Connection, key: tuple[str, str], dimension: int | None) -> _Target:
        """Return the collection; raise NotPlain unless Chroma would just write its rows."""
        sql = (
            "SELECT c.dimension, c.schema_str, s.scope, s.id FROM collections c JOIN databases d ON d.id = "
            "c.database_id JOIN segments s ON s.collection = c.id WHERE c.id = ? AND d.name = ?"
        )
        found = db.execute(sql, key).fetchall()
        segments = {scope: segment for _, _, scope, segment in found}
        if segments.keys() != {METADATA_SCOPE, VECTOR_SCOPE} or found[0][0] is None:
            raise NotPlain
        if dimension is not None and found[0][0] != dimension:
            raise NotPlain
        schema = self._schema(found[0][1])
        applied, persisted = _position(db, segments[METADATA_SCOPE]), _position(db, segments[VECTOR_SCOPE])
        last = db.execute("SELECT MAX(seq_id) FROM embeddings_queue").fetchone()[0]
        if last is None or last < applied:
            # The next number would be one that was used.
            raise NotPlain
        queue = self._queues.queue(db, key[0], persisted=persisted, applied=applied, last=last)
        if queue is None:
            # Chroma has something to catch up with.
            raise NotPlain
        if not self._queues.may_wait(schema.sync_threshold) and queue.counts(db, key[0]) >= 2 * schema.sync_threshold:
            # It did not take in what waits when it was asked to.
            raise NotPlain
        return _Target(segments[METADATA_SCOPE], segments[VECTOR_SCOPE], int(found[0][0]), schema, queue)

    def _is_due(self, db: sqlite3.Connection, key: tuple[str, str], target: _Target) -> bool:
        """Return whether the index is to be written now; squeeze the queue if that is due."""
        threshold, queue = target.schema.sync_threshold, target.queue
        due = self._queues.due(db, key[0], queue, metadata_segment=target.segment, threshold=threshold)
        if due is not Due.SQUEEZE:
            return due is Due.INDEX
        left = self._squeeze(db, key[0], target)
        if left is None:
            # Chroma knows what it makes of such a queue.
            return True
        queue.count = left
        return False

    def _squeeze(self, db: sqlite3.Connection, collection_id: str, target: _Target) -> int | None:
        # An open client may have taken in what the queue is about to forget; the next one begins with the files.
        self._client.close_client()
        sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
        there = {record_id for (record_id,) in db.execute(sql, (target.segment,))}
        indexed = read_labels(self._path.parent / target.vector_segment) if target.queue.persisted else {}
        return squeeze(db, collection_id, target.queue.persisted, there, indexed)

    def _schema(self, text: str | None) -> Schema:
        if text is None:
            raise NotPlain
        if text not in self._schemas:
            if len(self._schemas) >= _MAX_SCHEMAS:
                self._schemas.clear()
            self._schemas[text] = read_schema(text)
        schema = self._schemas[text]
        if schema is None:
            raise NotPlain
        return schema


def _position(db: sqlite3.Connection, segment: str) -> int:
    stored = stored_position(db, segment)
    if isinstance(stored, bytes):
        # As older versions of Chroma wrote it. The newer one rewrites it as a number.
        raise NotPlain
    return stored or 0


def _steps(operation: Operation, batch: Batch) -> tuple[int | None, list[_Step]]:
    """Return the vectors' dimension, None without any, and a step for each id.

    Raises NotPlain, ValueError and TypeError for what Chroma is to judge.
    """
    if not all(batch.ids):
        raise NotPlain
    if operation is Operation.DELETE:
        return None, [_Step(record_id, None, {}) for record_id in batch.ids]
    vectors = list(_vectors(operation, batch.embeddings, len(batch.ids)))
    lengths = {len(vector) for vector in vectors if vector is not None}
    if len(lengths) > 1:
        raise NotPlain
    may_remove = operation is not Operation.ADD
    steps = [
        _Step(
            record_id,
            None if vector is None else vector.tobytes(),
            fields_of(batch.metadatas, batch.documents, batch.uris, at, may_remove=may_remove),
        )
        for at, (record_id, vector) in enumerate(zip(batch.ids, vectors, strict=True))
    ]
    return lengths.pop() if lengths else None, steps


def _vectors(operation: Operation, embeddings: Float32 | Sequence[Any] | None, count: int) -> Iterator[Float32 | None]:
    if isinstance(embeddings, np.ndarray):
        if embeddings.ndim != 2 or embeddings.dtype != np.float32 or not np.isfinite(embeddings).all():
            raise NotPlain
        yield from embeddings
        return
    if operation is not Operation.UPDATE:
        raise NotPlain
    for vector in [None] * count if embeddings is None else embeddings:
        if vector is not None and not (
            isinstance(vector, np.ndarray) and vector.dtype == np.float32 and np.isfinite(vector).all()
        ):
            raise NotPlain
        yield vector
