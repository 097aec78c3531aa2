"""Fast reads: count, get and nearest records straight from Chroma's files, where the request is plain.

A call of Chroma costs 0.4 to 1.5 ms, most of it on the way between its threads. The same rows are in its SQLite file,
some microseconds away, and the same vectors in a flat index (``flat_index``). Requests are answered here, filtered
ones by ``filter_rows``; every refusal and every doubt is left to Chroma: a method returns None. With ``at_once`` a
method also returns None for what would take longer than an event loop should wait. A query, or a filter, waits a little
for a write that is under way: Chroma would answer it otherwise.

Each answer proves that the file did not change while it was read (``database_file``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Container, Sequence
from typing import Final, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.collection_views import Behind, Key, View, Views
from vectorpool.engine.database_file import DatabaseFile, Doubt, Later
from vectorpool.engine.filter_rows import Segment, matching
from vectorpool.engine.filters import Condition, LeftToChroma, is_indexed, keys_of, left_to_chroma, resolved
from vectorpool.engine.flat_index import FlatIndex
from vectorpool.engine.index_needs import IndexNeeds
from vectorpool.engine.index_rows import IndexRows, Stamp
from vectorpool.engine.record_columns import read_columns
from vectorpool.engine.rows import Float32, Rows
from vectorpool.errors import VectorpoolError

T = TypeVar("T")

# A request with more ids than this is not answered at once.
_MAX_IDS: Final = 1000
# Records and multiplications of a read with ``at_once``: about half a millisecond.
_MAX_RECORDS_AT_ONCE: Final = 50
_MAX_NUMBERS_AT_ONCE: Final = 2 * 1024**2
# Records above which a text is looked for in the trigram index first.
_MAX_SCANNED: Final = 2000
_MAX_OFFSET: Final = 2**62
# How often, and with what pauses, a read that only the fast path answers rightly waits for a write: half a second.
_PATIENCE: Final = 100
_PAUSE_S: Final = 0.005
# How often Chroma is made to take in what was written, for one read. Some of it may stay in the queue for good.
_SETTLED: Final = 3


class Chroma(Protocol):
    """What is asked of Chroma itself."""

    def settle(self, collection_id: str, database: str) -> None:
        """Have it take into its tables what was written."""

    def ids_matching(self, collection_id: str, database: str, clause: LeftToChroma) -> Sequence[str]:
        """Return the ids of the records that satisfy what is left to Chroma."""


class _Question(msgspec.Struct, frozen=True):
    """A request: what its answer needs of the files, and whether it may wait for them."""

    key: Key
    condition: Condition | None = None
    needs_index: bool = False
    at_once: bool = False

    @property
    def is_patient(self) -> bool:
        """Whether Chroma might answer it otherwise."""
        return not self.at_once and (self.needs_index or self.condition is not None)


class _Asked(msgspec.Struct, frozen=True):
    include: Sequence[str]
    places: NDArray[np.intp] | None


class _Reading(msgspec.Struct, frozen=True):
    """What an answer is made of: the view, its index if that is needed, and the condition with nothing left to ask."""

    view: View
    index: FlatIndex | None
    condition: Condition | None

    def found(self, db: sqlite3.Connection, ids: Sequence[str] | None) -> list[tuple[int, str]]:
        """Return (row, record id) of the records that satisfy the condition, of these ids or of all."""
        view = self.view
        segment = Segment(db, view.metadata_segment, view.has_lists, (view.count or 0) > _MAX_SCANNED)
        return matching(segment, self.condition, ids)


_DOUBTS: Final = (Doubt, OSError, sqlite3.Error, ValueError, OverflowError, KeyError, VectorpoolError)


class FastReader:
    """Reads one open Chroma directory. Many threads may ask; one at a time is served, with the lock of ``source``.

    ``known`` returns a collection by database and id. ``max_bytes`` bounds the vectors of one collection, and ``rows``
    those of all that are kept. ``unsettled`` holds the collections whose index files Chroma may be writing. Without
    ``chroma``, what needs it is not answered. ``needs`` learns which collections an index would help.
    """

    def __init__(
        self,
        source: DatabaseFile,
        known: Callable[[str, str], CollectionInfo | None],
        max_bytes: int,
        unsettled: Container[str] = (),
        rows: IndexRows | None = None,
        chroma: Chroma | None = None,
        needs: IndexNeeds | None = None,
    ) -> None:
        self._source = source
        source.open()
        self._known = known
        self._chroma = chroma
        rows = IndexRows() if rows is None else rows
        needs = IndexNeeds() if needs is None else needs
        self._views = Views(source.directory, known, max_bytes, unsettled, rows, needs)

    def close(self) -> None:
        """Close the file once the read in progress ends. Idempotent."""
        with self._source.lock:
            self._source.close()
            self._views.clear()

    def files_changed(self) -> None:
        """Forget what was read, before or after others change the files; no read may run.

        The vectors stay: an index takes in what the queue got since, or is read again.
        """
        with self._source.lock:
            self._source.release()
            self._views.files_changed()

    def forget_undone(self) -> None:
        """Forget the vectors of each collection that took in an operation beyond the newest in the file."""
        with self._source.lock:
            try:
                found = self._source.db.execute("SELECT MAX(seq_id) FROM embeddings_queue").fetchone()[0]
            except sqlite3.Error:
                found = 0
            self._views.forget_beyond(found or 0)

    def is_too_large(self, collection_id: str, database: str) -> bool:
        """Return whether a collection's vectors are known to take more than may be searched exactly."""
        with self._source.lock:
            return self._views.is_too_large_now((collection_id, database))

    def takes(self, collection_id: str, database: str, condition: Condition) -> bool:
        """Return whether the collection's schema indexes all that a condition names; else Chroma may refuse it."""
        info = self._known(database, collection_id)
        return info is not None and is_indexed(info.schema, keys_of(condition))

    # --- Requests ------------------------------------------------------------------------------------

    def count(self, collection_id: str, database: str, *, at_once: bool = False) -> int | None:
        """Return the number of records, or None if Chroma has to be asked."""
        question = _Question((collection_id, database), at_once=at_once)
        return self._answer(question, lambda reading: self._views.count(self._source.db, reading.view))

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

        def ask(reading: _Reading) -> Rows:
            if condition is None and ids is None:
                sql = "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id LIMIT ? OFFSET ?"
                at_most = _MAX_RECORDS_AT_ONCE + 1 if at_once else _MAX_OFFSET
                at_most = at_most if limit is None else min(limit, at_most)
                found = self._source.db.execute(sql, (reading.view.metadata_segment, at_most, offset)).fetchall()
            else:
                end = None if limit is None else offset + limit
                found = reading.found(self._source.db, ids)[offset:end]
            if at_once and len(found) > _MAX_RECORDS_AT_ONCE:
                raise Doubt
            return self._rows(reading, found, include)

        needs_index = "embeddings" in include
        return self._answer(_Question((collection_id, database), condition, needs_index, at_once), ask)

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

        def ask(reading: _Reading) -> list[Rows]:
            index = reading.index
            if index is None or queries.shape[1] != reading.view.dimension:
                raise Doubt
            if at_once and (limit > _MAX_RECORDS_AT_ONCE or len(index) * queries.size > _MAX_NUMBERS_AT_ONCE):
                raise Doubt
            places = None
            if ids is not None or condition is not None:
                # Without a filter, Chroma refuses a query among ids of which one is not there.
                if ids is not None and condition is None and not (ids and all(each in index for each in ids)):
                    raise Doubt
                places = index.places_of([record_id for _, record_id in reading.found(self._source.db, ids)])
            asked = _Asked(include, places)
            if places is None:
                self._views.note_search(reading.view, (collection_id, database), index, len(queries))
            return [self._nearest(reading, index, query, limit, asked) for query in queries]

        return self._answer(_Question((collection_id, database), condition, True, at_once), ask)

    # --- Inside --------------------------------------------------------------------------------------

    def _answer(self, question: _Question, ask: Callable[[_Reading], T]) -> T | None:
        unsettled = 0
        for _ in range(_PATIENCE if question.is_patient else 1):
            try:
                return self._answer_if_still(question, ask)
            except Behind:
                if self._chroma is None or not question.is_patient or unsettled == _SETTLED:
                    return None
                unsettled += 1
                self._chroma.settle(*question.key)
            except Later:
                if question.is_patient:
                    time.sleep(_PAUSE_S)
            except Doubt:
                return None
        return None

    def _answer_if_still(self, question: _Question, ask: Callable[[_Reading], T]) -> T:
        """Answer from the files as they are. Raises Doubt."""
        condition, before = question.condition, None
        if condition is not None and (clauses := left_to_chroma(condition)):
            if self._chroma is None:
                raise Doubt
            with self._source.lock:
                before = self._source.stamp()
                if question.needs_index and self._views.is_too_large(question.key, before):
                    raise Doubt
            named = {clause: tuple(self._chroma.ids_matching(*question.key, clause)) for clause in clauses}
            condition = resolved(condition, named)
        if not self._source.lock.acquire(blocking=not question.at_once):
            raise Later
        try:
            stamp = self._source.stamp()
            if stamp is None or (before is not None and before != stamp):
                raise Later
            return self._answer_at(stamp, question, condition, ask)
        finally:
            self._views.end_turn()
            self._source.lock.release()

    def _answer_at(
        self, stamp: Stamp, question: _Question, condition: Condition | None, ask: Callable[[_Reading], T]
    ) -> T:
        key = question.key
        seq = self._views.seq_of(key)
        try:
            view = self._views.view(self._source.db, key, stamp)
            index = (
                self._views.index(self._source.db, view, key, at_once=question.at_once)
                if question.needs_index
                else None
            )
            answer = ask(_Reading(view, index, condition))
        except _DOUBTS as error:
            is_changed = self._source.is_closed or self._source.stamp() != stamp
            if isinstance(error, Doubt) and not is_changed:
                raise
        else:
            is_changed = self._source.stamp() != stamp
            if not is_changed:
                return answer
        # The file changed meanwhile, or SQLite could not read it. What was read is forgotten, and the pages too.
        self._views.forget(key, seq)
        self._source.forget_pages()
        raise Later if is_changed else Doubt

    def _nearest(self, reading: _Reading, index: FlatIndex, query: Float32, limit: int, asked: _Asked) -> Rows:
        found, distances = list[str](), list[float]()
        if len(index) and (asked.places is None or len(asked.places)):
            found, distances = index.nearest(query, limit, asked.places)
        rows = self._rows(reading, self._views.rows(self._source.db, reading.view, found), asked.include)
        return msgspec.structs.replace(rows, distances=distances if "distances" in asked.include else None)

    def _rows(self, reading: _Reading, found: list[tuple[int, str]], include: Sequence[str]) -> Rows:
        """Return the records of (row, id) in this order, with the columns that are asked for."""
        rows = read_columns(self._source.db, found, include, has_lists=reading.view.has_lists)
        if rows is None:
            raise Doubt
        if "embeddings" not in include:
            return rows
        if reading.index is None or not reading.index.has_vectors:
            # Older index files hold directions alone.
            raise Doubt
        return msgspec.structs.replace(rows, embeddings=reading.index.vectors(rows.ids))
