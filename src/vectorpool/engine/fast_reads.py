"""Fast reads: count, get and nearest records straight from Chroma's files, where the request is plain.

A call of Chroma costs 0.4 to 1.5 ms, most of it on the way between its threads. The same rows are in its SQLite file,
some microseconds away, and the same vectors in a flat index (``flat_index``). Requests are answered here, filtered
ones by ``filter_rows``; every refusal and every doubt is left to Chroma: a method returns None. With ``at_once`` a
method also returns None for what would take longer than an event loop should wait.

Chroma may write meanwhile (its locks do not count within one process), so each answer proves that the file did not
change: a transaction of SQLite has a journal beside the file from before its first page is written until it ends, and
it leaves a higher change counter in the file. No journal and the same counter, before and after, mean that no page was
written in between. Everything that is remembered is remembered under that counter.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vectorpool.engine.catalogue import CollectionInfo
from vectorpool.engine.filter_rows import Segment, matching
from vectorpool.engine.filters import Condition, is_indexed, keys_of
from vectorpool.engine.flat_index import FlatIndex, apply
from vectorpool.engine.index_files import read_vectors
from vectorpool.engine.record_columns import read_columns
from vectorpool.engine.rows import Float32, Rows
from vectorpool.engine.tables import METADATA_SCOPE, OF_COLLECTION, VECTOR_SCOPE, noted_parameters, position_of
from vectorpool.errors import VectorpoolError
from vectorpool.names import CHROMA_DATABASE_FILE

T = TypeVar("T")

# SQLite would keep 2 MB of pages a connection. A read needs some dozens, and the system caches the others.
_CACHE_PAGES: Final = "PRAGMA cache_size = 128"
# Operations of the queue that are applied at once; there are as many as the sync threshold says, 1,000 by default.
_MAX_TAIL: Final = 20_000
# Collections that are remembered; the oldest is forgotten for another.
_MAX_VIEWS: Final = 64
# A request with more ids than this is not answered at once.
_MAX_IDS: Final = 1000
# Records and multiplications of a read with ``at_once``: about half a millisecond.
_MAX_RECORDS_AT_ONCE: Final = 50
_MAX_NUMBERS_AT_ONCE: Final = 2 * 1024**2
# Records above which a text is looked for in the trigram index first.
_MAX_SCANNED: Final = 2000
_MAX_OFFSET: Final = 2**62


class _View(msgspec.Struct):
    """What is known of a collection at one change counter; the index may be of an earlier one."""

    stamp: tuple[bytes, int]
    dimension: int | None
    metadata_segment: str
    vector_segment: str
    has_lists: bool
    count: int | None = None
    index: FlatIndex | None = None
    # Whether the index is of this counter.
    is_indexed: bool = False
    # The last queued operation that the index has taken in.
    seq: int = 0
    # Whether the vectors once took more than they may; a collection that shrinks is looked at again when it is opened.
    is_too_large: bool = False


class _Asked(msgspec.Struct, frozen=True):
    include: Sequence[str]
    places: NDArray[np.intp] | None


class _Doubt(Exception):
    """The files do not say it plainly: Chroma is to be asked."""


# The stamp of no file.
_NEVER: Final = (b"", 0)
_DOUBTS: Final = (_Doubt, OSError, sqlite3.Error, ValueError, OverflowError, KeyError, VectorpoolError)


class FastReader:
    """Reads one open Chroma directory. Many threads may ask; one at a time is served.

    ``known`` returns a collection by database and id; ``max_bytes`` bounds the vectors of one collection. ``files`` is
    held while a read is served. ``unsettled`` holds the collections whose index files Chroma may be writing.
    """

    def __init__(
        self,
        directory: Path,
        known: Callable[[str, str], CollectionInfo | None],
        max_bytes: int,
        files: threading.Lock,
        unsettled: Container[str] = (),
    ) -> None:
        self._directory = directory
        self._unsettled = unsettled
        self._known = known
        self._max_bytes = max_bytes
        self._files = files
        self._journal = str(directory / (CHROMA_DATABASE_FILE + "-journal"))
        # By (collection id, database).
        self._views: dict[tuple[str, str], _View] = {}
        self._file = os.open(directory / CHROMA_DATABASE_FILE, os.O_RDONLY | os.O_CLOEXEC)
        self._db = self._connect()
        self._is_closed = False

    def _connect(self) -> sqlite3.Connection:
        # SQLite's locks mean nothing here, and this module looks for a journal itself.
        uri = f"{(self._directory / CHROMA_DATABASE_FILE).absolute().as_uri()}?mode=ro&nolock=1"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        db.execute(_CACHE_PAGES)
        return db

    def close(self) -> None:
        """Close the file once the read in progress ends. Idempotent."""
        with self._files:
            if not self._is_closed:
                self._is_closed = True
                self._views.clear()
                self._db.close()
                os.close(self._file)

    # --- Requests ------------------------------------------------------------------------------------

    def count(self, collection_id: str, database: str, *, at_once: bool = False) -> int | None:
        """Return the number of records, or None if Chroma has to be asked."""

        def ask(view: _View) -> int:
            if view.count is None:
                view.count = self._count(view)
            return view.count

        return self._answer(collection_id, database, ask, at_once=at_once)

    def get(
        self,
        collection_id: str,
        database: str,
        *,
        ids: Sequence[str] | None,
        limit: int | None,
        offset: int,
        include: Sequence[str],
        condition: Condition | None = None,
        at_once: bool = False,
    ) -> Rows | None:
        """Return records in the order of insertion, or None if Chroma has to be asked."""
        is_long = condition is not None or "embeddings" in include or len(ids or ()) > _MAX_IDS
        if (ids is not None and not ids) or (at_once and is_long) or max(offset, limit or 0) >= _MAX_OFFSET:
            return None

        def ask(view: _View) -> Rows:
            self._check_indexed((collection_id, database), condition)
            if condition is None and ids is None:
                sql = "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id LIMIT ? OFFSET ?"
                at_most = _MAX_RECORDS_AT_ONCE + 1 if at_once else _MAX_OFFSET
                at_most = at_most if limit is None else min(limit, at_most)
                found = self._db.execute(sql, (view.metadata_segment, at_most, offset)).fetchall()
            else:
                end = None if limit is None else offset + limit
                found = matching(self._segment(view), condition, ids)[offset:end]
            if at_once and len(found) > _MAX_RECORDS_AT_ONCE:
                raise _Doubt
            return self._rows(view, found, include)

        return self._answer(collection_id, database, ask, is_indexed="embeddings" in include, at_once=at_once)

    def query(
        self,
        collection_id: str,
        database: str,
        queries: Float32,
        limit: int,
        include: Sequence[str],
        *,
        ids: Sequence[str] | None = None,
        condition: Condition | None = None,
        at_once: bool = False,
    ) -> list[Rows] | None:
        """Return for each row of ``queries`` (float32[n, d]) its nearest records, or None if Chroma has to be asked."""
        is_long = ids is not None or condition is not None or "embeddings" in include
        if not len(queries) or limit <= 0 or (at_once and is_long) or not np.isfinite(queries).all():
            return None

        def ask(view: _View) -> list[Rows]:
            self._check_indexed((collection_id, database), condition)
            index = view.index
            if index is None or queries.shape[1] != view.dimension:
                raise _Doubt
            if at_once and (limit > _MAX_RECORDS_AT_ONCE or len(index) * queries.size > _MAX_NUMBERS_AT_ONCE):
                raise _Doubt
            places = None
            if ids is not None or condition is not None:
                # Chroma refuses a query among ids of which one is not there.
                if ids is not None and not (ids and all(record_id in index for record_id in ids)):
                    raise _Doubt
                found = matching(self._segment(view), condition, ids)
                places = index.places_of([record_id for _, record_id in found])
            asked = _Asked(include, places)
            return [self._nearest(view, index, query, limit, asked) for query in queries]

        return self._answer(collection_id, database, ask, is_indexed=True, at_once=at_once)

    # --- Inside --------------------------------------------------------------------------------------

    def _answer(
        self,
        collection_id: str,
        database: str,
        ask: Callable[[_View], T],
        *,
        is_indexed: bool = False,
        at_once: bool,
    ) -> T | None:
        if not self._files.acquire(blocking=not at_once):
            return None
        try:
            return self._answer_alone((collection_id, database), ask, is_indexed=is_indexed, at_once=at_once)
        finally:
            self._files.release()

    def _answer_alone(
        self, key: tuple[str, str], ask: Callable[[_View], T], *, is_indexed: bool, at_once: bool
    ) -> T | None:
        stamp = None if self._is_closed else self._stamp()
        if stamp is None:
            return None
        seq = self._seq_of(key)
        try:
            view = self._view(key, stamp)
            if is_indexed:
                self._index(view, key, at_once=at_once)
            answer = ask(view)
        except _DOUBTS as error:
            if isinstance(error, _Doubt) and self._stamp() == stamp:
                return None
        else:
            if self._stamp() == stamp:
                return answer
        # The file changed meanwhile, or SQLite could not read it. What was read is forgotten, and the pages too. An
        # index that took in no operation meanwhile is still valid.
        doubted = self._views.pop(key, None)
        if doubted is not None and doubted.index is not None and doubted.seq == seq:
            doubted.stamp = _NEVER
            self._views[key] = doubted
        self._db.close()
        self._db = self._connect()
        return None

    def _seq_of(self, key: tuple[str, str]) -> int | None:
        view = self._views.get(key)
        return view.seq if view is not None and view.index is not None else None

    def _stamp(self) -> tuple[bytes, int] | None:
        """Return what tells this content of the file from another; None while it is being written, or has a WAL."""
        head = os.pread(self._file, 28, 0)
        if len(head) < 28 or head[18] != 1 or head[19] != 1 or os.access(self._journal, os.F_OK):
            return None
        # The time too: a transaction that is rolled back leaves the counter as it was.
        return head[24:28], os.fstat(self._file).st_mtime_ns

    def _view(self, key: tuple[str, str], stamp: tuple[bytes, int]) -> _View:
        view = self._views.get(key)
        if view is not None and view.stamp == stamp:
            return view
        sql = (
            "SELECT c.dimension, s.scope, s.id FROM collections c JOIN databases d ON d.id = c.database_id "
            "JOIN segments s ON s.collection = c.id WHERE c.id = ? AND d.name = ?"
        )
        found = self._db.execute(sql, key).fetchall()
        segments = {scope: segment for _, scope, segment in found}
        if segments.keys() != {METADATA_SCOPE, VECTOR_SCOPE}:
            raise _Doubt
        metadata_segment = segments[METADATA_SCOPE]
        late = f"SELECT 1 FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} LIMIT 1"
        if self._db.execute(late, (position_of(self._db, metadata_segment), key[0])).fetchone():
            # Chroma has not taken into its tables what was written; it will when it is asked.
            raise _Doubt
        lists = self._db.execute("SELECT 1 FROM embedding_metadata_array LIMIT 1").fetchone()
        fresh = _View(stamp, found[0][0], metadata_segment, segments[VECTOR_SCOPE], bool(lists))
        if view is not None and view.vector_segment == fresh.vector_segment:
            fresh.index, fresh.seq, fresh.is_too_large = view.index, view.seq, view.is_too_large
        if len(self._views) >= _MAX_VIEWS and key not in self._views:
            del self._views[next(iter(self._views))]
        self._views[key] = fresh
        return fresh

    def _index(self, view: _View, key: tuple[str, str], *, at_once: bool) -> None:
        """Have the view's index hold what the files hold. Raises _Doubt if it may not, or they do not say."""
        if view.dimension is None or view.is_too_large:
            raise _Doubt
        if view.is_indexed:
            return
        persisted = position_of(self._db, view.vector_segment)
        is_loaded = view.index is None or persisted > view.seq
        # After the position was read: files that belong to it are settled, or the collection is not.
        if is_loaded and (at_once or key[0] in self._unsettled):
            raise _Doubt
        index, view.index = view.index, None
        if is_loaded:
            # Counted first: to read all vectors only to leave them would be half of a cold answer.
            view.is_too_large = self._count(view) * view.dimension * 4 > self._max_bytes
            if view.is_too_large:
                raise _Doubt
            # The queue may have lost what the HNSW files have taken in.
            index, view.seq = self._load(view, key), persisted
            if key[0] in self._unsettled:
                raise _Doubt
        assert index is not None
        sql = (
            "SELECT seq_id, operation, id, vector, encoding FROM embeddings_queue "
            f"WHERE seq_id > ? AND {OF_COLLECTION} ORDER BY seq_id LIMIT ?"
        )
        tail = self._db.execute(sql, (view.seq, key[0], _MAX_TAIL + 1)).fetchall()
        if len(tail) > _MAX_TAIL:
            raise _Doubt
        if tail:
            if not apply(index, [operation[1:] for operation in tail]):
                raise _Doubt
            view.seq = tail[-1][0]
        if is_loaded or tail:
            view.count = self._count(view)
            if len(index) != view.count:
                raise _Doubt
            view.is_too_large = view.count * index.dimension * 4 > self._max_bytes
            if view.is_too_large:
                raise _Doubt
        view.index, view.is_indexed = index, True

    def _count(self, view: _View) -> int:
        sql = "SELECT COUNT(*) FROM embeddings WHERE segment_id = ?"
        return int(self._db.execute(sql, (view.metadata_segment,)).fetchone()[0])

    def _load(self, view: _View, key: tuple[str, str]) -> FlatIndex:
        assert view.dimension is not None
        info = self._known(key[1], key[0])
        if info is None:
            raise _Doubt
        self._doubt_older_parameters(view.vector_segment, info)
        # Twice the bytes: a collection may just have been halved, and the records say so before the files do.
        read = read_vectors(
            self._directory / view.vector_segment,
            dimension=view.dimension,
            max_neighbors=info.max_neighbors,
            max_bytes=2 * self._max_bytes,
        )
        if read is None:
            view.is_too_large = True
            raise _Doubt
        index = FlatIndex(info.space, view.dimension)
        if read[0]:
            index.fill(*read)
        return index

    def _doubt_older_parameters(self, vector_segment: str, info: CollectionInfo) -> None:
        """Raise _Doubt if a version before 1.0 noted another space or other links than Chroma tells."""
        noted = noted_parameters(self._db, vector_segment)
        told = (info.space, info.max_neighbors)
        if (noted.get("hnsw:space", info.space), noted.get("hnsw:M", info.max_neighbors)) != told:
            raise _Doubt

    def _nearest(self, view: _View, index: FlatIndex, query: Float32, limit: int, asked: _Asked) -> Rows:
        found, distances = list[str](), list[float]()
        if len(index) and (asked.places is None or len(asked.places)):
            found, distances = index.nearest(query, limit, asked.places)
        places = {record_id: row for row, record_id in matching(self._segment(view), None, found)}
        if len(places) != len(found):
            raise _Doubt
        rows = self._rows(view, [(places[record_id], record_id) for record_id in found], asked.include)
        return msgspec.structs.replace(rows, distances=distances if "distances" in asked.include else None)

    def _segment(self, view: _View) -> Segment:
        return Segment(self._db, view.metadata_segment, view.has_lists, (view.count or 0) > _MAX_SCANNED)

    def _check_indexed(self, key: tuple[str, str], condition: Condition | None) -> None:
        """Raise _Doubt if the collection's schema leaves something out of Chroma's indexes: Chroma may refuse."""
        if condition is not None:
            info = self._known(key[1], key[0])
            if info is None or not is_indexed(info.schema, keys_of(condition)):
                raise _Doubt

    def _rows(self, view: _View, found: list[tuple[int, str]], include: Sequence[str]) -> Rows:
        """Return the records of (row, id) in this order, with the columns that are asked for."""
        rows = read_columns(self._db, found, include, has_lists=view.has_lists)
        if rows is None:
            raise _Doubt
        if "embeddings" not in include:
            return rows
        if view.index is None or view.index.space == "cosine":
            # The index holds directions; Chroma has the vectors as they were sent.
            raise _Doubt
        return msgspec.structs.replace(rows, embeddings=view.index.vectors(rows.ids))
