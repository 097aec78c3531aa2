"""Salvage: what a wedged Chroma directory still holds, written into a fresh one.

Chroma is not asked about the wedged directory. Its SQLite file says which collections and records there are; the
queue in it has the newest vectors, the HNSW files the older ones. The catalogue (databases, collections, segments)
is copied row by row, so that every id that a client may hold stays; records are inserted through Chroma, so that
every index is made anew. Nothing is written to the wedged directory.

What is lost: a record whose vector is in no file any more. Chroma cannot hold a record without a vector, so its
document and metadata go into the list of losses, in the sidecar, and a document that it was a chunk of is marked as
changed, so that the next ingest embeds it again. A vector that the HNSW files have in an older version than SQLite
believes cannot be told from the right one; nothing in the files says which it is.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE, SIDECAR_FILE
from vectorpool.vectorstore.chroma import Chroma, CollectionInfo
from vectorpool.vectorstore.hnsw_files import HnswFiles
from vectorpool.vectorstore.sidecar import Loss, Sidecar

Float32 = NDArray[np.float32]
logger = logging.getLogger(__name__)

# Parents first.
_CATALOGUE: Final = ("tenants", "databases", "collections", "collection_metadata", "segments", "segment_metadata")
_DOCUMENT: Final = "chroma:document"
_URI: Final = "chroma:uri"
_SLICE: Final = 64
_TURN_S: Final = 0.0005
_ADD, _UPDATE, _UPSERT, _DELETE = range(4)

NO_VECTOR: Final = "its vector is in no file any more; Chroma holds no record without one"
OTHER_DIMENSION: Final = "its vector has another dimension than its collection"


class SalvageReport(msgspec.Struct):
    """What became of a wedged vectorstore: records written again, records lost, and the collections of both."""

    salvaged: int = 0
    lost: int = 0
    collections: list[str] = []


class _Operation(msgspec.Struct, frozen=True):
    seq: int
    kind: int
    record_id: str
    vector: bytes | None
    encoding: str | None
    metadata: dict[str, Any]


class _Record(msgspec.Struct):
    """A record as SQLite has it; ``fields`` holds document and URI under Chroma's own names."""

    record_id: str
    fields: dict[str, Any]


def salvage(wedged: Path, fresh: Path, now_ms: int) -> SalvageReport:
    """Write what ``wedged`` holds into ``fresh``, a closed copy of the empty template. Blocking.

    Raises BrokenReplica if SQLite cannot read the file either, or Chroma refuses what was read; OSError if a file
    cannot be read for a reason that is not the data's.
    """
    if (wedged / SIDECAR_FILE).exists():
        shutil.copy2(wedged / SIDECAR_FILE, fresh / SIDECAR_FILE)
    try:
        with closing(_open(wedged / CHROMA_DATABASE_FILE)) as db:
            _copy_catalogue(db, fresh / CHROMA_DATABASE_FILE)
            return _refill(db, wedged, fresh, now_ms)
    except sqlite3.DatabaseError as error:
        raise BrokenReplica(
            f"The vectorstore cannot be opened, and SQLite cannot read its file either: {error}. Restore an earlier "
            "commit."
        ) from error


def _open(path: Path) -> sqlite3.Connection:
    # A journal beside the file must be rolled back or read, which an immutable connection would not do.
    journals = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=" + ("rw" if journals else "ro&immutable=1"), uri=True)


def _copy_catalogue(db: sqlite3.Connection, path: Path) -> None:
    """Make the fresh file's databases, collections and segments those of the wedged one."""
    with closing(sqlite3.connect(path)) as target, target:
        for table in reversed(_CATALOGUE):
            target.execute(f"DELETE FROM {table}")
        for table in _CATALOGUE:
            there = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
            columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})") if name in there]
            named, marks = ", ".join(columns), ", ".join("?" * len(columns))
            rows = db.execute(f"SELECT {named} FROM {table}") if columns else ()
            target.executemany(f"INSERT INTO {table} ({named}) VALUES ({marks})", rows)


def _refill(db: sqlite3.Connection, wedged: Path, fresh: Path, now_ms: int) -> SalvageReport:
    report = SalvageReport(collections=[])
    chroma, sidecar = Chroma(fresh), Sidecar(fresh / SIDECAR_FILE)
    try:
        for avatar_id in (None, *chroma.avatars()):
            for info in chroma.collections(avatar_id):
                salvaged, lost = _Collection(db, wedged, info).rewrite(chroma, sidecar, now_ms)
                report.salvaged += salvaged
                report.lost += lost
                report.collections.append(info.name)
                if chroma.count(info) != salvaged:
                    raise BrokenReplica(f"The salvaged collection {info.name!r} does not hold what was put into it.")
    finally:
        sidecar.close()
        chroma.close()
    return report


class _Collection:
    """One collection of the wedged directory."""

    def __init__(self, db: sqlite3.Connection, wedged: Path, info: CollectionInfo) -> None:
        self._db = db
        self._info = info
        segments = dict(db.execute("SELECT scope, id FROM segments WHERE collection = ?", (info.id,)))
        self._metadata_segment = segments.get("METADATA", "")
        vector_segment = segments.get("VECTOR", "")
        self._metadata_seq = _position(db, self._metadata_segment)
        self._hnsw_seq = _position(db, vector_segment)
        self._queue = list(_operations(db, info.id, self._metadata_seq))
        self._hnsw: HnswFiles | None = None
        # A segment's id is a UUID; anything else does not name a directory of ours.
        if info.dimension and vector_segment and vector_segment.replace("-", "").isalnum():
            self._hnsw = HnswFiles(
                wedged / vector_segment,
                dimension=info.dimension,
                max_neighbors=int(info.hnsw.get("max_neighbors") or 16),
                cosine=info.hnsw.get("space") == "cosine",
            )
        self._queued = self._queued_vectors()

    def rewrite(self, chroma: Chroma, sidecar: Sidecar, now_ms: int) -> tuple[int, int]:
        """Write every record that has a vector into ``chroma``, note the others in ``sidecar``; return both numbers."""
        salvaged = lost = 0
        dimension = self._info.dimension
        batch: list[tuple[_Record, Float32]] = []
        losses: list[Loss] = []
        for record in self._records():
            vector = self._vector(record.record_id)
            if vector is not None and dimension is None:
                # The first record was queued, and its collection not told of its dimension any more.
                dimension = len(vector)
            if vector is not None and len(vector) == dimension:
                batch.append((record, vector))
            else:
                losses.append(self._loss(record, NO_VECTOR if vector is None else OTHER_DIMENSION, now_ms))
            if len(batch) == _SLICE:
                salvaged += _insert(chroma, self._info, batch)
                batch = []
            if len(losses) == _SLICE:
                lost += sidecar.add_losses(losses)
                losses = []
        if batch:
            salvaged += _insert(chroma, self._info, batch)
        if losses:
            lost += sidecar.add_losses(losses)
        return salvaged, lost

    def _loss(self, record: _Record, reason: str, now_ms: int) -> Loss:
        logger.debug("lost record %r of collection %s", record.record_id, self._info.id)
        return Loss(
            collection_id=self._info.id,
            avatar_id=self._info.avatar_id,
            collection=self._info.name,
            record_id=record.record_id,
            reason=reason,
            time_ms=now_ms,
            document=record.fields.get(_DOCUMENT),
            metadata=_metadata(record),
        )

    # --- Records -------------------------------------------------------------------------------------

    def _records(self) -> Iterator[_Record]:
        """Yield the records in order of insertion, with the queued operations applied that SQLite had not reached."""
        late: dict[str, list[_Operation]] = {}
        for operation in self._queue:
            if operation.seq > self._metadata_seq:
                late.setdefault(operation.record_id, []).append(operation)
        rows = self._db.execute(
            "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id", (self._metadata_segment,)
        )
        for row_id, record_id in rows:
            record: _Record | None = _Record(record_id, self._fields(row_id))
            for operation in late.pop(record_id, ()):
                record = _apply(record, operation)
            if record is not None:
                yield record
        for operations in late.values():
            record = None
            for operation in operations:
                record = _apply(record, operation)
            if record is not None:
                yield record

    def _fields(self, row_id: int) -> dict[str, Any]:
        columns = "key, string_value, int_value, float_value, bool_value"
        fields = {
            key: _value(*values)
            for key, *values in self._db.execute(f"SELECT {columns} FROM embedding_metadata WHERE id = ?", (row_id,))
        }
        if self._has_lists:
            listed = f"SELECT {columns} FROM embedding_metadata_array WHERE id = ? ORDER BY rowid"
            for key, *values in self._db.execute(listed, (row_id,)):
                fields.setdefault(key, []).append(_value(*values))
        return fields

    @property
    def _has_lists(self) -> bool:
        # A directory of an older Chroma has no such table.
        return bool(self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'embedding_metadata_array'").fetchone())

    # --- Vectors -------------------------------------------------------------------------------------

    def _queued_vectors(self) -> dict[str, Float32 | None]:
        """Return the newest queued vector by record id; None if the newest operation of the id is a deletion."""
        newest: dict[str, Float32 | None] = {}
        for operation in self._queue:
            record_id = operation.record_id
            if operation.kind == _DELETE:
                newest[record_id] = None
                continue
            if operation.kind == _ADD and self._was_there(operation, newest):
                continue
            if (vector := _decode(operation)) is not None:
                newest[record_id] = vector
        return newest

    def _was_there(self, operation: _Operation, newest: dict[str, Float32 | None]) -> bool:
        """Whether an addition found its id taken, and so had no effect."""
        if operation.record_id in newest:
            return newest[operation.record_id] is not None
        return self._hnsw is not None and operation.seq > self._hnsw_seq and operation.record_id in self._hnsw

    def _vector(self, record_id: str) -> Float32 | None:
        if record_id in self._queued:
            return self._queued[record_id]
        return None if self._hnsw is None else self._hnsw.vector(record_id)


def _position(db: sqlite3.Connection, segment_id: str) -> int:
    """Return the number of the last operation that a segment has taken in."""
    row = db.execute("SELECT seq_id FROM max_seq_id WHERE segment_id = ?", (segment_id,)).fetchone()
    if row is None:
        return 0
    return int.from_bytes(row[0], "big") if isinstance(row[0], bytes) else int(row[0])


def _operations(db: sqlite3.Connection, collection_id: str, metadata_seq: int) -> Iterator[_Operation]:
    """Yield a collection's queue in order; metadata is read only where SQLite has not taken it in."""
    rows = db.execute(
        "SELECT seq_id, operation, id, vector, encoding, CASE WHEN seq_id > ? THEN metadata END FROM embeddings_queue "
        "WHERE topic LIKE '%/' || ? ORDER BY seq_id",
        (metadata_seq, collection_id),
    )
    for seq, kind, record_id, vector, encoding, metadata in rows:
        try:
            fields = msgspec.json.decode(metadata or "{}", type=dict[str, Any])
        except msgspec.MsgspecError:
            fields = {}
        yield _Operation(seq, kind, record_id, vector, encoding, fields)


def _apply(record: _Record | None, operation: _Operation) -> _Record | None:
    """Return the record after one queued operation, as Chroma would have it."""
    exists = record is not None
    if operation.kind == _DELETE:
        return None
    if (operation.kind == _ADD and exists) or (operation.kind == _UPDATE and not exists):
        return record
    fields = dict(record.fields) if record is not None else {}
    fields.update(operation.metadata)
    return _Record(operation.record_id, {k: v for k, v in fields.items() if v is not None})


def _value(text: str | None, integer: int | None, real: float | None, flag: int | None) -> Any:
    if text is not None:
        return text
    if flag is not None:
        return bool(flag)
    return integer if integer is not None else real


def _decode(operation: _Operation) -> Float32 | None:
    if operation.vector is None or len(operation.vector) % 4 or not operation.vector:
        return None
    stored = np.frombuffer(operation.vector, "<i4" if operation.encoding == "INT32" else "<f4").astype(np.float32)
    return stored if np.isfinite(stored).all() else None


def _metadata(record: _Record) -> dict[str, Any] | None:
    return {k: v for k, v in record.fields.items() if not k.startswith("chroma:") and v is not None} or None


def _insert(chroma: Chroma, info: CollectionInfo, batch: list[tuple[_Record, Float32]]) -> int:
    records = [record for record, _ in batch]
    chroma.upsert(
        info,
        [record.record_id for record in records],
        np.stack([vector for _, vector in batch]),
        [_metadata(record) for record in records],
        [record.fields.get(_DOCUMENT) for record in records],
        [record.fields.get(_URI) for record in records],
    )
    # A turn for the other users of the process: a write call holds the interpreter lock.
    time.sleep(_TURN_S)
    return len(batch)
