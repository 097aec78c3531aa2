"""Fast writes: plain records into a collection that has records, straight into Chroma's SQLite file.

A one-record upsert costs Chroma 3 to 7 ms of CPU time, which grows with its queue: Chroma reads all of the queue, and
passes the work through half a dozen threads. The result is a row in the queue and the rows of one record. This module
writes those in one transaction. A client of Chroma that is opened later takes the queue for the truth; a client that is
open is replaced before it is asked for what it does not know (``Client.note_fast_write``).

Chroma alone writes the index files. Once as many operations wait in the queue as the sync threshold says, it is asked a
query, for which it applies the queue and writes its files; during a query, unlike a write, other threads may run.

Only plain writes are made here: no deletions, no lists, no values of None, no metadata key or type that is new to the
collection's schema, no first record. Chroma makes those, and it does in every doubt: ``put`` returns False, and nothing
was changed.

``tests/integration/test_fast_writes.py`` compares every table with what Chroma would have left.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from vectorpool.engine.bindings import Client
from vectorpool.engine.database_file import FilesLock
from vectorpool.engine.journal import ChangedPages, FileMark, changed_pages, mark_of
from vectorpool.engine.rows import Batch, Metadatas, Texts
from vectorpool.engine.tables import (
    DOCUMENT_KEY,
    METADATA_SCOPE,
    OF_COLLECTION,
    OWN_KEYS,
    URI_KEY,
    VALUE_COLUMNS,
    VECTOR_SCOPE,
    Operation,
    stored_position,
)
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE

# From this size of the file on, the journal is a file that is read after each commit. That costs a quarter of a
# millisecond, as much as a capture takes to compare a megabyte.
RECORDED_FROM_BYTES: Final = 4 * 1024**2
# How long a write waits for readers before it goes through Chroma, which need not wait for them.
_READERS_S: Final = 0.05
_MAX_SCHEMAS: Final = 64
_TYPES: Final = {str: "string", int: "int", float: "float", bool: "bool"}
_I64: Final = 2**63
_PUT_FIELD: Final = (
    f"INSERT INTO embedding_metadata (id, key, {VALUE_COLUMNS}) VALUES (?,?,?,?,?,?) "
    "ON CONFLICT (id, key) DO UPDATE SET string_value = excluded.string_value, int_value = excluded.int_value, "
    "float_value = excluded.float_value, bool_value = excluded.bool_value"
)
_encode = msgspec.json.Encoder().encode


class _NotPlain(Exception):
    """Chroma is to be called."""


class _Schema(msgspec.Struct, frozen=True):
    """What a collection's schema says: the types that are known by metadata key, and when the index is written."""

    types: dict[str, frozenset[str]]
    sync_threshold: int


class _Queue(msgspec.Struct):
    """How many operations of a collection wait for its index: those after ``persisted``, counted up to ``seq``."""

    persisted: int
    seq: int
    count: int


class FastWriter:
    """Writes into one open Chroma directory. One thread at a time.

    Meanwhile ``client`` delays Chroma's calls, and ``files``, the lock of the fast reads, delays those.
    """

    def __init__(self, directory: Path, client: Client, files: FilesLock) -> None:
        self._path = directory / CHROMA_DATABASE_FILE
        self._journal = f"{self._path}-journal"
        self._file: int | None = None
        # The file after the last transaction that was recorded.
        self._last: FileMark | None = None
        self._journal_mode, self._overwrites = "", False
        self._client = client
        self._files = files
        self._db: sqlite3.Connection | None = None
        self._schemas: dict[str, _Schema | None] = {}
        self._queues: dict[str, _Queue] = {}
        self._is_closed = False

    def close(self) -> None:
        """Close the file; ``put`` returns False from now on. Idempotent."""
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

    def put(self, operation: Operation, collection_id: str, database: str, batch: Batch) -> bool:
        """Write records as Chroma would, or return False. Raises BrokenReplica if the index cannot take them in.

        ``operation`` is UPSERT, or ADD, which skips records that are there. ``batch.embeddings`` is float32[n, d].
        """
        ids, embeddings = batch.ids, batch.embeddings
        if self._is_closed or not isinstance(embeddings, np.ndarray):
            return False
        try:
            records = [
                (record_id, row.tobytes(), _fields(batch.metadatas, batch.documents, batch.uris, at))
                for at, (record_id, row) in enumerate(zip(ids, embeddings, strict=True))
            ]
            if len(set(ids)) != len(ids) or not all(ids) or not np.isfinite(embeddings).all():
                return False
        except (_NotPlain, ValueError, TypeError):
            return False
        dimension = int(embeddings.shape[1])
        # This lock comes first: a fast read that holds it may be calling Chroma.
        if not self._files.acquire(timeout=_READERS_S):
            return False
        try:
            with self._client.exclusive(_READERS_S) as is_granted:
                if not is_granted:
                    return False
                is_due = self._put(operation, (collection_id, database), dimension, records)
                self._client.note_fast_write(collection_id)
        except _NotPlain:
            return False
        finally:
            self._files.release()
        if is_due:
            try:
                self._client.apply_queue(collection_id=collection_id, database=database, dimension=dimension)
            except Exception as error:
                # The records are written: this error is not a refusal of them.
                raise BrokenReplica(f"Chroma cannot take what was written into its index: {error}.") from error
        return True

    def _put(
        self,
        operation: Operation,
        key: tuple[str, str],
        dimension: int,
        records: list[tuple[str, bytes, dict[str, Any]]],
    ) -> bool:
        """Write the records in one transaction; return whether the index is to be written now."""
        try:
            db = self._open()
            number = self._client.state.tracked_write()
            before = self._before()
            db.execute("BEGIN IMMEDIATE")
        except (OSError, sqlite3.Error) as error:
            raise _NotPlain from error
        try:
            is_due = self._write(db, operation, key, dimension, records)
            self._client.state.recorded(number, self._commit(db, before))
            return is_due
        except BaseException as error:
            self._queues.clear()
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            # Its pages may be of a transaction that never was.
            self._disconnect()
            if isinstance(error, (ValueError, OverflowError, sqlite3.Error)):
                raise _NotPlain from error
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
                with contextlib.suppress(OSError):
                    pages = changed_pages(journal, self._file, before)
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
            raise _NotPlain
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
        dimension: int,
        records: list[tuple[str, bytes, dict[str, Any]]],
    ) -> bool:
        metadata_segment, schema = self._check(db, key, dimension)
        has_lists = bool(db.execute("SELECT 1 FROM embedding_metadata_array LIMIT 1").fetchone())
        topic = f"persistent://default/default/{key[0]}"
        queue = self._queues[key[0]]
        for record_id, vector, fields in records:
            _check_types(schema.types, fields)
            cursor = db.execute(
                "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata) "
                "VALUES (?, ?, ?, ?, 'FLOAT32', ?)",
                (int(operation), topic, record_id, vector, _encode(fields).decode()),
            )
            queue.seq, queue.count = int(cursor.lastrowid or 0), queue.count + 1
            sql = "SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?"
            found = db.execute(sql, (metadata_segment, record_id)).fetchone()
            if found and operation is Operation.ADD:
                continue
            if found:
                row = int(found[0])
                self._client.deletions.note()
                db.execute("UPDATE embeddings SET seq_id = ? WHERE id = ?", (queue.seq, row))
            else:
                sql = "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, ?)"
                row = int(db.execute(sql, (metadata_segment, record_id, queue.seq)).lastrowid or 0)
            if has_lists and db.execute("SELECT 1 FROM embedding_metadata_array WHERE id = ?", (row,)).fetchone():
                # A list of this record's, or one that a deleted collection left to its row.
                raise _NotPlain
            _put_fields(db, row, fields, is_new=not found)
        moved = db.execute("UPDATE max_seq_id SET seq_id = ? WHERE segment_id = ?", (queue.seq, metadata_segment))
        if moved.rowcount != 1:
            raise _NotPlain
        return queue.count >= schema.sync_threshold

    def _check(self, db: sqlite3.Connection, key: tuple[str, str], dimension: int) -> tuple[str, _Schema]:
        """Return the metadata segment and the schema; raise _NotPlain unless Chroma would just write its rows."""
        sql = (
            "SELECT c.dimension, c.schema_str, s.scope, s.id FROM collections c JOIN databases d ON d.id = "
            "c.database_id JOIN segments s ON s.collection = c.id WHERE c.id = ? AND d.name = ?"
        )
        found = db.execute(sql, key).fetchall()
        segments = {scope: segment for _, _, scope, segment in found}
        if segments.keys() != {METADATA_SCOPE, VECTOR_SCOPE} or found[0][0] != dimension:
            raise _NotPlain
        schema = self._schema(found[0][1])
        applied, persisted = _position(db, segments[METADATA_SCOPE]), _position(db, segments[VECTOR_SCOPE])
        last = db.execute("SELECT MAX(seq_id) FROM embeddings_queue").fetchone()[0]
        if last is None or last < applied:
            # The next number would be one that was used.
            raise _NotPlain
        queue = self._queues.get(key[0])
        if queue is None or queue.persisted != persisted:
            if len(self._queues) >= _MAX_SCHEMAS:
                self._queues.clear()
            queue = self._queues[key[0]] = _Queue(persisted, persisted, 0)
        late = f"SELECT COUNT(*), MAX(seq_id) FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}"
        more, newest = db.execute(late, (queue.seq, key[0])).fetchone()
        queue.count, queue.seq = queue.count + more, max(queue.seq, newest or 0)
        if queue.seq > applied or queue.count >= 2 * schema.sync_threshold:
            # Chroma has something to catch up with, or did not when it was asked to.
            raise _NotPlain
        return segments[METADATA_SCOPE], schema

    def _schema(self, text: str | None) -> _Schema:
        if text is None:
            raise _NotPlain
        if text not in self._schemas:
            if len(self._schemas) >= _MAX_SCHEMAS:
                self._schemas.clear()
            self._schemas[text] = _read_schema(text)
        schema = self._schemas[text]
        if schema is None:
            raise _NotPlain
        return schema


def _read_schema(text: str) -> _Schema | None:
    try:
        keys = msgspec.json.decode(text)["keys"]
        threshold = keys["#embedding"]["float_list"]["vector_index"]["config"]["hnsw"]["sync_threshold"]
        types = {key: frozenset(parts) for key, parts in keys.items()}
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None
    return _Schema(types, threshold) if isinstance(threshold, int) else None


def _position(db: sqlite3.Connection, segment: str) -> int:
    stored = stored_position(db, segment)
    if isinstance(stored, bytes):
        # As older versions of Chroma wrote it. The newer one rewrites it as a number.
        raise _NotPlain
    return stored or 0


def _fields(metadatas: Metadatas, documents: Texts, uris: Texts, at: int) -> dict[str, Any]:
    """Return what is stored of one record by key. Raises _NotPlain for what only Chroma stores."""
    fields = dict(metadatas[at] or {}) if metadatas is not None else {}
    for key, value in fields.items():
        kind = type(value)
        if kind not in _TYPES or key.startswith((OWN_KEYS, "#", "$")) or not key:
            raise _NotPlain
        if (kind is int and not -_I64 <= value < _I64) or (kind is float and not math.isfinite(value)):
            raise _NotPlain
    for key, texts in ((DOCUMENT_KEY, documents), (URI_KEY, uris)):
        text = texts[at] if texts is not None else None
        if text is not None:
            fields[key] = text
    return fields


def _check_types(known: dict[str, frozenset[str]], fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        if not key.startswith(OWN_KEYS) and _TYPES[type(value)] not in known.get(key, ()):
            raise _NotPlain


def _put_fields(db: sqlite3.Connection, row: int, fields: dict[str, Any], *, is_new: bool) -> None:
    text = fields.get(DOCUMENT_KEY)
    if text is not None:
        had = (
            not is_new
            and db.execute("SELECT 1 FROM embedding_metadata WHERE id = ? AND key = ?", (row, DOCUMENT_KEY)).fetchone()
        )
        if had:
            db.execute("UPDATE embedding_fulltext_search SET string_value = ? WHERE rowid = ?", (text, row))
        else:
            db.execute("INSERT INTO embedding_fulltext_search (rowid, string_value) VALUES (?, ?)", (row, text))
    columns = []
    for key, value in fields.items():
        kind = type(value)
        columns.append(
            (
                row,
                key,
                value if kind is str else None,
                value if kind is int else None,
                value if kind is float else None,
                int(value) if kind is bool else None,
            )
        )
    db.executemany(_PUT_FIELD, columns)
