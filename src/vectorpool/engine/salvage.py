"""Salvage: the records of a directory that Chroma cannot use, written into a fresh directory.

Chroma is not asked about the broken directory. Its SQLite file says which collections and records there are; the queue
in it has the newest vectors, the index files have the older ones. The catalogue (databases, collections, segments) is
copied row by row, so that every id that a client may hold stays valid. Records are inserted through Chroma, so that
every index is built again. Nothing is written to the broken directory.

A record is lost if its vector is in no file any more: Chroma cannot hold a record without a vector. Its text and its
metadata are reported as a ``Loss``. A vector of which the index files have an older version than SQLite expects cannot
be told from the right one, because nothing in the files says which it is.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from vectorpool.engine.bindings import Client
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.index_files import IndexFiles
from vectorpool.engine.pace import YIELD_S
from vectorpool.engine.rows import Batch, Float32
from vectorpool.engine.tables import (
    DOCUMENT_KEY,
    METADATA_SCOPE,
    OF_COLLECTION,
    OWN_KEYS,
    URI_KEY,
    VALUE_COLUMNS,
    VECTOR_SCOPE,
    Operation,
    has_table,
    noted_parameters,
    position_of,
    segments_of,
    value_of,
)
from vectorpool.engine.texts import without_nul
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE

logger = logging.getLogger(__name__)

# Parents first.
_CATALOGUE: Final = ("tenants", "databases", "collections", "collection_metadata", "segments", "segment_metadata")
_SLICE: Final = 64

NO_VECTOR: Final = "its vector is in no file any more; Chroma holds no record without one"
OTHER_DIMENSION: Final = "its vector has another dimension than its collection"


class SalvageReport(msgspec.Struct):
    """What became of a wedged vectorstore: records written again, records lost, and the collections of both."""

    salvaged: int = 0
    lost: int = 0
    collections: list[str] = []


class Loss(msgspec.Struct, frozen=True):
    """A record that a salvage could not write again, and what is left of it."""

    collection_id: str
    avatar_id: str | None
    collection: str
    record_id: str
    reason: str
    time_ms: int
    document: str | None
    metadata: dict[str, Any] | None


# Takes losses as they are found and returns how many are new.
ReportLosses = Callable[[Sequence[Loss]], int]


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


def salvage(broken: Path, fresh: Path, now_ms: int, report_losses: ReportLosses) -> SalvageReport:
    """Write the records of ``broken`` into ``fresh``, a closed copy of the empty template. Blocking.

    Raises BrokenReplica if SQLite cannot read the file either, or Chroma refuses what was read; OSError if a file
    cannot be read for a reason that is not the data's.
    """
    try:
        with closing(_open(broken / CHROMA_DATABASE_FILE)) as db:
            _copy_catalogue(db, fresh / CHROMA_DATABASE_FILE)
            return _refill(db, broken, fresh, now_ms, report_losses)
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
    """Make the fresh file's databases, collections and segments those of the broken one."""
    with closing(sqlite3.connect(path)) as target, target:
        for table in reversed(_CATALOGUE):
            target.execute(f"DELETE FROM {table}")
        for table in _CATALOGUE:
            there = [row[1] for row in target.execute(f"PRAGMA table_info({table})")]
            columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})") if name in there]
            named, marks = ", ".join(columns), ", ".join("?" * len(columns))
            rows = db.execute(f"SELECT {named} FROM {table}") if columns else ()
            target.executemany(f"INSERT INTO {table} ({named}) VALUES ({marks})", rows)


def _refill(
    db: sqlite3.Connection, broken: Path, fresh: Path, now_ms: int, report_losses: ReportLosses
) -> SalvageReport:
    report = SalvageReport(collections=[])
    client = Client(fresh)
    try:
        catalogue = Catalogue(client)
        for database in catalogue.database_names():
            for info in catalogue.collections(database):
                salvaged, lost = _Collection(db, broken, info).rewrite(client, now_ms, report_losses)
                report.salvaged += salvaged
                report.lost += lost
                report.collections.append(info.name)
                if client.count(collection_id=info.id, database=database) != salvaged:
                    raise BrokenReplica(f"The salvaged collection {info.name!r} does not hold what was put into it.")
    finally:
        client.close()
    return report


class _Collection:
    """One collection of the broken directory."""

    def __init__(self, db: sqlite3.Connection, broken: Path, info: CollectionInfo) -> None:
        self._db = db
        self._info = info
        segments = segments_of(db, info.id)
        self._metadata_segment = segments.get(METADATA_SCOPE, "")
        vector_segment = segments.get(VECTOR_SCOPE, "")
        self._metadata_seq = position_of(db, self._metadata_segment)
        self._hnsw_seq = position_of(db, vector_segment)
        self._queue = list(_operations(db, info.id, self._metadata_seq))
        self._hnsw: IndexFiles | None = None
        # A segment's id is a UUID; anything else does not name a directory of ours.
        if info.dimension and vector_segment and vector_segment.replace("-", "").isalnum():
            noted = noted_parameters(db, vector_segment)
            self._hnsw = IndexFiles(
                broken / vector_segment,
                dimension=info.dimension,
                max_neighbors=int(noted.get("hnsw:M", info.max_neighbors)),
                cosine=noted.get("hnsw:space", info.space) == "cosine",
            )
        self._queued = self._queued_vectors()
        # A directory of an older Chroma has no such table.
        self._has_lists = has_table(db, "embedding_metadata_array")

    def rewrite(self, client: Client, now_ms: int, report_losses: ReportLosses) -> tuple[int, int]:
        """Write every record that has a vector, report the others as losses; return both numbers."""
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
                salvaged += _insert(client, self._info, batch)
                batch = []
            if len(losses) == _SLICE:
                lost += report_losses(losses)
                losses = []
        if batch:
            salvaged += _insert(client, self._info, batch)
        if losses:
            lost += report_losses(losses)
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
            document=record.fields.get(DOCUMENT_KEY),
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
        columns = f"key, {VALUE_COLUMNS}"
        fields = {
            key: value_of(*values)
            for key, *values in self._db.execute(f"SELECT {columns} FROM embedding_metadata WHERE id = ?", (row_id,))
        }
        if self._has_lists:
            listed = f"SELECT {columns} FROM embedding_metadata_array WHERE id = ? ORDER BY rowid"
            for key, *values in self._db.execute(listed, (row_id,)):
                fields.setdefault(key, []).append(value_of(*values))
        return fields

    # --- Vectors -------------------------------------------------------------------------------------

    def _queued_vectors(self) -> dict[str, Float32 | None]:
        """Return the newest queued vector by record id; None if the newest operation of the id is a deletion."""
        newest: dict[str, Float32 | None] = {}
        for operation in self._queue:
            record_id = operation.record_id
            if operation.kind == Operation.DELETE:
                newest[record_id] = None
                continue
            if operation.kind == Operation.ADD and self._was_there(operation, newest):
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


def _operations(db: sqlite3.Connection, collection_id: str, metadata_seq: int) -> Iterator[_Operation]:
    """Yield a collection's queue in order; metadata is read only where SQLite has not taken it in."""
    rows = db.execute(
        "SELECT seq_id, operation, id, vector, encoding, CASE WHEN seq_id > ? THEN metadata END FROM embeddings_queue "
        f"WHERE {OF_COLLECTION} ORDER BY seq_id",
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
    if operation.kind == Operation.DELETE:
        return None
    if (operation.kind == Operation.ADD and exists) or (operation.kind == Operation.UPDATE and not exists):
        return record
    fields = dict(record.fields) if record is not None else {}
    fields.update(operation.metadata)
    return _Record(operation.record_id, {k: v for k, v in fields.items() if v is not None})


def _decode(operation: _Operation) -> Float32 | None:
    if operation.vector is None or len(operation.vector) % 4 or not operation.vector:
        return None
    stored = np.frombuffer(operation.vector, "<i4" if operation.encoding == "INT32" else "<f4").astype(np.float32)
    return stored if np.isfinite(stored).all() else None


def _metadata(record: _Record) -> dict[str, Any] | None:
    return {k: v for k, v in record.fields.items() if not k.startswith(OWN_KEYS) and v is not None} or None


def _text(record: _Record) -> str | None:
    text = record.fields.get(DOCUMENT_KEY)
    return None if text is None else without_nul(text)


def _insert(client: Client, info: CollectionInfo, records: list[tuple[_Record, Float32]]) -> int:
    batch = Batch(
        ids=[record.record_id for record, _ in records],
        embeddings=np.stack([vector for _, vector in records]),
        metadatas=[_metadata(record) for record, _ in records],
        documents=[_text(record) for record, _ in records],
        uris=[record.fields.get(URI_KEY) for record, _ in records],
    )
    client.upsert(collection_id=info.id, database=info.database, batch=batch)
    # A write call holds the interpreter lock; other threads run before the next one.
    time.sleep(YIELD_S)
    return len(records)
