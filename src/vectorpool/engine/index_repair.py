"""Repair of updated vectors that Chroma leaves out of its index files.

Chroma 1.5.9 writes only the elements of an index that it marked as changed. An update marks an element when it links it
anew. It finds nothing to link where the record is the only one of the index, or where all records around it were
deleted: the new vector is then in memory only. Chroma also removes the operation from the queue, so the record has its
earlier vector once the directory is opened again.

``IndexRepair.around`` encloses each call that may write index files. If as many operations wait as the sync threshold
says, it notes the vectors of the records that the index has already and that the waiting operations change. After the
call it compares them with the files, and writes what is missing there. The links of such an element stay as they are:
searches read vectors, and Chroma's client has both in memory.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from vectorpool.engine.index_files import read_labels, write_vectors
from vectorpool.engine.index_needs import USUAL_THRESHOLD, IndexNeeds
from vectorpool.engine.rows import Float32
from vectorpool.engine.tables import OF_COLLECTION, VECTOR_SCOPE, Operation, noted_parameters, position_of
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE

T = TypeVar("T")
logger = logging.getLogger(__name__)

# Schemas and counts that are remembered.
_MAX_KNOWN: Final = 256
# The write and read versions of the file format without a WAL.
_NO_WAL: Final = b"\1\1"
_CACHE_PAGES: Final = "PRAGMA cache_size = 64"
# How often the tables are read again because a transaction was under way. Each one lasts for milliseconds, or for as
# long as one call of Chroma writes: a second at the most.
_READS: Final = 1000
_PAUSE_S: Final = 0.01


class _Parameters(msgspec.Struct, frozen=True):
    """Of an index: operations after which it is written, distance function, links of an element."""

    sync_threshold: int
    space: str
    max_neighbors: int


class _Waiting(msgspec.Struct, frozen=True):
    """A collection's index: its segment, dimension, the last operation in its files, how many wait, its parameters."""

    segment: str
    dimension: int
    persisted: int
    count: int
    parameters: _Parameters


class Change(msgspec.Struct, frozen=True):
    """What a call does to records: one operation for each id. ``embeddings`` are those of upserts and updates."""

    operation: Operation
    ids: Sequence[str]
    embeddings: Any = None


class IndexRepair:
    """The repair of one open directory. Many threads may call.

    ``unsettled`` holds the collections whose index files may have been written and are not compared yet. Their vectors
    must not be read from the files.
    """

    def __init__(self, directory: Path, needs: IndexNeeds) -> None:
        self._directory = directory
        self._needs = needs
        # Held by a call that may write index files, so that no other one writes them after its look at the tables.
        self._alone = threading.Lock()
        self._tables = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._schemas: dict[str, _Parameters] = {}
        # By segment and position: how many operations wait, and the last of them that was counted.
        self._counts: dict[tuple[str, int], tuple[int, int]] = {}
        # Collections whose queue the present client has applied. It does that once, so their reads write no files.
        self._applied: set[str] = set()
        self.unsettled: set[str] = set()

    @contextmanager
    def around(self, collection_id: str, change: Change | None) -> Iterator[None]:
        """Enclose a call that loads an index, and makes ``change``. Raises BrokenReplica if the files stay wrong."""
        if change is None and collection_id in self._applied:
            yield
            return
        with self._checked(collection_id, change):
            yield
        self._applied.add(collection_id)

    @contextmanager
    def _checked(self, collection_id: str, change: Change | None) -> Iterator[None]:
        more = 0 if change is None else len(change.ids)
        if not _is_due(self._look(collection_id), more):
            yield
            return
        with self._alone:
            before = self._look(collection_id)
            if before is None or not _is_due(before, more):
                yield
                return
            if before.count >= before.parameters.sync_threshold == USUAL_THRESHOLD:
                self._needs.note_long_queue()
            changed = self._changed(collection_id, before, change)
            self.unsettled.add(collection_id)
            try:
                yield
            finally:
                try:
                    self._settle(collection_id, before, changed)
                finally:
                    self.unsettled.discard(collection_id)

    def overdue(self, collection_id: str) -> int | None:
        """Return the dimension of a collection of which more operations wait than Chroma lets wait, else None.

        Raises BrokenReplica.
        """
        waiting = self._look(collection_id)
        if waiting is None or not waiting.count >= waiting.parameters.sync_threshold > 1:
            return None
        return waiting.dimension

    def forget_client(self) -> None:
        """Note, while no call is in progress, that the next client applies every queue anew."""
        self._applied.clear()
        # A client is closed before a queue is squeezed.
        self._counts.clear()

    # --- The tables ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; it is opened again when it is needed. Idempotent."""
        with self._tables:
            self._disconnect()

    def forget_files(self) -> None:
        """Close the file, and forget what it said."""
        with self._tables:
            self._disconnect()
            self._counts.clear()

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T | None:
        """Read the tables while no transaction is under way: SQLite's locks do not count within one process.

        Returns None if the file has a WAL, which cannot be read so.
        """
        path = self._directory / CHROMA_DATABASE_FILE
        for _ in range(_READS):
            with self._tables:
                try:
                    stamp = _stamp(path)
                    if stamp is not None and stamp[2] != _NO_WAL:
                        return None
                    if self._db is None:
                        uri = f"{path.absolute().as_uri()}?mode=ro&nolock=1"
                        self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
                        self._db.execute(_CACHE_PAGES)
                    found = read(self._db)
                    if stamp is not None and stamp == _stamp(path):
                        return found
                except sqlite3.Error:
                    # A transaction moved the pages that were read.
                    pass
                except OSError as error:
                    raise BrokenReplica(f"The vectorstore's file cannot be read: {error}.") from error
                self._disconnect()
            time.sleep(_PAUSE_S)
        raise BrokenReplica("The vectorstore's tables cannot be read beside Chroma.")

    def _look(self, collection_id: str) -> _Waiting | None:
        """Return the state of the index; None if the collection has none yet, or is not there."""

        def read(db: sqlite3.Connection) -> tuple[_Waiting, int] | None:
            sql = (
                "SELECT s.id, c.dimension, c.schema_str FROM collections c JOIN segments s ON s.collection = c.id "
                "WHERE c.id = ? AND s.scope = ?"
            )
            found = db.execute(sql, (collection_id, VECTOR_SCOPE)).fetchone()
            if found is None or found[1] is None:
                return None
            segment, persisted = found[0], position_of(db, found[0])
            count, last = self._counts.get((segment, persisted), (0, persisted))
            sql = f"SELECT COUNT(*), MAX(seq_id) FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION}"
            more, newest = db.execute(sql, (last, collection_id)).fetchone()
            parameters = self._parameters(found[2]) or _noted(db, segment)
            return _Waiting(segment, int(found[1]), persisted, count + more, parameters), newest or last

        found = self._read(read)
        if found is None:
            return None
        waiting, last = found
        if len(self._counts) >= _MAX_KNOWN:
            self._counts.clear()
        self._counts[waiting.segment, waiting.persisted] = waiting.count, last
        return waiting

    def _parameters(self, schema: str | None) -> _Parameters | None:
        if schema is None:
            return None
        known = self._schemas.get(schema)
        if known is None:
            try:
                config = msgspec.json.decode(schema)["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
                hnsw = config["hnsw"]
                known = _Parameters(int(hnsw["sync_threshold"]), str(config["space"]), int(hnsw["max_neighbors"]))
            except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
                return None
            if len(self._schemas) >= _MAX_KNOWN:
                self._schemas.clear()
            self._schemas[schema] = known
        return known

    # --- The vectors ---------------------------------------------------------------------------------

    def _changed(self, collection_id: str, before: _Waiting, change: Change | None) -> dict[str, Float32]:
        """Return the newest vectors, float32[dimension], of the records of the files that the operations change.

        A record that an operation adds, also after it was deleted, has an element of its own, which Chroma writes.
        """
        known = read_labels(self._directory / before.segment).keys()
        if not known:
            return {}
        gone: set[str] = set()
        changed: dict[str, Float32] = {}

        def apply(kind: int, record_id: str, vector: Float32 | None) -> None:
            if kind == Operation.DELETE:
                gone.add(record_id)
                changed.pop(record_id, None)
            elif kind != Operation.ADD and vector is not None and record_id in known and record_id not in gone:
                changed[record_id] = vector

        def read(db: sqlite3.Connection) -> list[tuple[int, str, bytes | None]]:
            sql = (
                "SELECT operation, id, vector FROM embeddings_queue "
                f"WHERE seq_id > ? AND {OF_COLLECTION} ORDER BY seq_id"
            )
            rows = db.execute(sql, (before.persisted, collection_id))
            return [row for row in rows if row[1] in known]

        for kind, record_id, vector in self._read(read) or ():
            apply(kind, record_id, None if vector is None else np.frombuffer(vector, "<f4"))
        for at, record_id in enumerate(() if change is None else change.ids):
            assert change is not None
            vector = None if change.embeddings is None else change.embeddings[at]
            apply(change.operation, record_id, None if vector is None else np.asarray(vector, "<f4"))
        return {record_id: vector for record_id, vector in changed.items() if len(vector) == before.dimension}

    def _settle(self, collection_id: str, before: _Waiting, changed: dict[str, Float32]) -> None:
        if not changed:
            return
        after = self._look(collection_id)
        if after is None or after.segment != before.segment or after.persisted == before.persisted:
            # The files were not written, or are of a collection that is not there any more.
            return
        try:
            repaired = write_vectors(
                self._directory / before.segment,
                changed,
                dimension=before.dimension,
                max_neighbors=before.parameters.max_neighbors,
                cosine=before.parameters.space == "cosine",
            )
        except OSError as error:
            raise BrokenReplica(f"The files of an index cannot be repaired: {error}.") from error
        if repaired:
            logger.info("Chroma left %d updated vectors out of an index's files; they were written", repaired)


def _is_due(waiting: _Waiting | None, more: int) -> bool:
    return waiting is not None and 0 < waiting.count + more >= waiting.parameters.sync_threshold


def _noted(db: sqlite3.Connection, segment: str) -> _Parameters:
    """Return the parameters of a collection without a schema: those that older versions noted, or their defaults.

    Chroma may go by another threshold then, so that any operation counts as due.
    """
    noted = noted_parameters(db, segment)
    return _Parameters(1, str(noted.get("hnsw:space", "l2")), int(noted.get("hnsw:M", 16)))


def _stamp(path: Path) -> tuple[bytes, int, bytes] | None:
    """Return what tells this content of the file from another, and its file format; None during a transaction."""
    with path.open("rb", buffering=0) as file:
        head = file.read(28)
        written_ns = os.fstat(file.fileno()).st_mtime_ns
    if os.path.lexists(f"{path}-journal"):
        return None
    return head[24:28], written_ns, head[18:20]
