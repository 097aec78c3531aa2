"""What the fast path knows of collections: their segments, and their vectors as a flat index.

A view is of one change counter of Chroma's SQLite file. An index outlives it: it takes in the operations that the queue
got since, or is read from the index files again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import Doubt, Later
from vectorpool.engine.filter_rows import Segment, rows_named
from vectorpool.engine.flat_index import FlatIndex, apply
from vectorpool.engine.index_files import read_vectors
from vectorpool.engine.index_needs import USUAL_THRESHOLD, IndexNeeds
from vectorpool.engine.index_rows import NEVER, Held, IndexRows, Place, Stamp, mark_of
from vectorpool.engine.tables import METADATA_SCOPE, OF_COLLECTION, VECTOR_SCOPE, noted_parameters, position_of

# Operations of the queue that are read at a time.
_TAIL: Final = 2000
# While much waits for an index, up to so many times the bytes are searched that all kept indexes may take.
_WHILE_BEHIND: Final = 4
# How long a search waits for another one whose vectors are not kept either.
_TURN_S: Final = 2.0
# Collections that are remembered; the oldest is forgotten for another.
_MAX_VIEWS: Final = 64
# Rows that are remembered of a collection; one too many makes the memory begin anew.
_MAX_ROWS: Final = 1024
# A collection's id and its database.
Key = tuple[str, str]


class Behind(Doubt):
    """Chroma has not taken into its tables what was written; it will when it is asked."""


class View(msgspec.Struct):
    """What is known of a collection at one change counter."""

    stamp: Stamp
    dimension: int | None
    metadata_segment: str
    vector_segment: str
    has_lists: bool
    count: int | None = None
    # The rows of records by id, as far as queries found them.
    rows: dict[str, int] = {}
    # Whether the vectors take more than they may, or the files are not as Chroma writes them.
    is_too_large: bool = False
    # Operations that wait for Chroma's index, as far as they were counted.
    waiting: int = 0


class Views:
    """The views of one open directory. Only the holder of its reader's lock may use them.

    ``known`` returns a collection by database and id. ``max_bytes`` bounds the vectors of one collection, and ``rows``
    those of all that are kept. ``unsettled`` holds the collections whose index files Chroma may be writing.
    """

    def __init__(
        self,
        directory: Path,
        known: Callable[[str, str], CollectionInfo | None],
        max_bytes: int,
        unsettled: Container[str],
        rows: IndexRows,
        needs: IndexNeeds,
    ) -> None:
        self._directory = directory
        self._known = known
        self._max_bytes = max_bytes
        self._unsettled = unsettled
        self._rows = rows
        self._needs = needs
        self._has_turn = False
        self._owner = rows.owner()
        self._views: dict[Key, View] = {}
        # The newest operation of the queue, of whatever collection, when a collection's tables were last not behind.
        self._looked: dict[Key, int] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._views.clear()
        self._looked.clear()
        self._rows.drop_all(self._owner)

    def files_changed(self) -> None:
        """Forget all but the vectors, which are compared with the files at their next use."""
        self._views.clear()
        self._looked.clear()
        self._rows.doubt(self._owner)

    def forget_beyond(self, seq: int) -> None:
        """Forget the indexes that took in a later operation: its number will be another's."""
        self._rows.drop_beyond(self._owner, seq)

    def _place(self, key: Key) -> Place:
        return self._owner, *key

    def seq_of(self, key: Key) -> int | None:
        """Return the last operation that a collection's index has taken in; None if none is kept."""
        held = self._rows.get(self._place(key))
        return None if held is None else held.seq

    def forget(self, key: Key, seq: int | None) -> None:
        """Forget what was read while the file changed; an index that is still at ``seq`` took in nothing of it."""
        self._views.pop(key, None)
        self._looked.pop(key, None)
        held = self._rows.get(self._place(key))
        if held is not None and held.seq == seq:
            held.stamp = NEVER
        else:
            self._rows.drop(self._place(key))

    def view(self, db: sqlite3.Connection, key: Key, stamp: Stamp) -> View:
        """Return a collection's view at this stamp. Raises Doubt."""
        view = self._views.get(key)
        if view is not None and view.stamp == stamp:
            return view
        sql = (
            "SELECT c.dimension, s.scope, s.id FROM collections c JOIN databases d ON d.id = c.database_id "
            "JOIN segments s ON s.collection = c.id WHERE c.id = ? AND d.name = ?"
        )
        found = db.execute(sql, key).fetchall()
        segments = {scope: segment for _, scope, segment in found}
        if segments.keys() != {METADATA_SCOPE, VECTOR_SCOPE}:
            raise Doubt
        metadata_segment = segments[METADATA_SCOPE]
        # Of other collections' operations, each is looked at once.
        last = db.execute("SELECT MAX(seq_id) FROM embeddings_queue").fetchone()[0] or 0
        looked = self._looked.get(key, 0)
        start = max(position_of(db, metadata_segment), looked if looked <= last else 0)
        late = f"SELECT 1 FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} LIMIT 1"
        if db.execute(late, (start, key[0])).fetchone():
            raise Behind
        if len(self._looked) >= _MAX_VIEWS:
            self._looked.clear()
        self._looked[key] = last
        lists = db.execute("SELECT 1 FROM embedding_metadata_array LIMIT 1").fetchone()
        fresh = View(stamp, found[0][0], metadata_segment, segments[VECTOR_SCOPE], bool(lists))
        if len(self._views) >= _MAX_VIEWS and key not in self._views:
            oldest = next(iter(self._views))
            del self._views[oldest]
            self._rows.drop(self._place(oldest))
        self._views[key] = fresh
        return fresh

    def is_too_large(self, key: Key, stamp: Stamp | None) -> bool:
        """Return whether a collection is known to have no index at this stamp."""
        view = self._views.get(key)
        return view is not None and view.stamp == stamp and view.is_too_large

    def is_too_large_now(self, key: Key) -> bool:
        """Return whether a collection had no index when it was looked at last."""
        view = self._views.get(key)
        return view is not None and view.is_too_large

    def index(self, db: sqlite3.Connection, view: View, key: Key, *, at_once: bool) -> FlatIndex:
        """Return the index that holds what the files hold. Raises Doubt if it may not, or they do not say."""
        if view.dimension is None or view.is_too_large:
            raise Doubt
        place = self._place(key)
        held = self._rows.get(place)
        if held is not None and (held.segment != view.vector_segment or held.mark != mark_of(view.stamp)):
            held = None
        if held is not None and held.stamp == view.stamp:
            return held.index
        persisted = position_of(db, view.vector_segment)
        is_doubted = held is not None and held.stamp == NEVER
        is_loaded = held is None or persisted > held.seq
        # After the position was read: files that belong to it are settled, or the collection is not.
        if is_loaded and at_once:
            raise Doubt
        if is_loaded and key[0] in self._unsettled:
            raise Later
        # Dropped while it changes: if that fails, nothing is left of it.
        self._rows.drop(place)
        if held is None or is_loaded:
            # Counted first: to read all vectors only to leave them would be half of a cold answer.
            self._count_waiting(db, view, key, persisted)
            self._check_size(db, view)
            self._take_turn(db, view)
            # The queue may have lost what the HNSW files have taken in.
            index = self._load(db, view, key)
            held = Held(index, view.vector_segment, persisted, view.stamp, persisted, 0, mark_of(view.stamp))
            if key[0] in self._unsettled:
                raise Later
            held.index.reserve(self.count(db, view))
        is_changed = _take_in(db, key[0], held)
        if held.persisted != persisted:
            # Index files came that hold no more than this index.
            self._count_waiting(db, view, key, persisted)
            held.persisted, held.waiting = persisted, view.waiting
        view.waiting = held.waiting
        if is_changed or is_loaded or is_doubted:
            view.count = None
            self._check_size(db, view)
            if len(held.index) != view.count:
                raise Doubt
        held.stamp = view.stamp
        self._rows.put(place, held)
        return held.index

    def count(self, db: sqlite3.Connection, view: View) -> int:
        """Return the number of records."""
        if view.count is None:
            sql = "SELECT COUNT(*) FROM embeddings WHERE segment_id = ?"
            view.count = int(db.execute(sql, (view.metadata_segment,)).fetchone()[0])
        return view.count

    def _most(self, view: View) -> int:
        """Return the bytes of vectors that are searched without Chroma: more while much waits for its index.

        To take that in would cost Chroma a millisecond a vector, and a search some nanoseconds.
        """
        most = self._rows.max_bytes * _WHILE_BEHIND if view.waiting >= USUAL_THRESHOLD else 0
        return max(self._max_bytes, most)

    def _count_waiting(self, db: sqlite3.Connection, view: View, key: Key, persisted: int) -> None:
        last = db.execute("SELECT MAX(seq_id) FROM embeddings_queue").fetchone()[0] or 0
        view.waiting = last - persisted
        if view.waiting >= USUAL_THRESHOLD:
            # No further than it matters: an index that takes them in counts them.
            some = f"SELECT 1 FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} LIMIT ?"
            sql = f"SELECT COUNT(*) FROM ({some})"
            view.waiting = int(db.execute(sql, (persisted, key[0], USUAL_THRESHOLD)).fetchone()[0])

    def _take_turn(self, db: sqlite3.Connection, view: View) -> None:
        """Wait until no other index is in use that is too large to be kept; raise Later if that takes long."""
        assert view.dimension is not None
        if self._has_turn or self.count(db, view) * view.dimension * 4 <= self._rows.max_bytes:
            return
        if not self._rows.large.acquire(timeout=_TURN_S):
            raise Later
        self._has_turn = True

    def end_turn(self) -> None:
        """Let another large index be used, after the answer. Idempotent."""
        if self._has_turn:
            self._has_turn = False
            self._rows.large.release()

    def note_search(self, view: View, key: Key, index: FlatIndex, queries: int) -> None:
        """Note that queries were compared with all vectors of a collection, if an index would spare that."""
        size = len(index) * index.dimension * 4
        if size > self._max_bytes:
            is_kept = index.nbytes <= self._rows.max_bytes
            self._needs.note_search(key[0], size * queries, view.waiting, is_kept=is_kept)

    def rows(self, db: sqlite3.Connection, view: View, record_ids: Sequence[str]) -> list[tuple[int, str]]:
        """Return (row, record id) of records in this order. Raises Doubt if one is not there."""
        rows = view.rows
        if unknown := [record_id for record_id in record_ids if record_id not in rows]:
            if len(rows) + len(unknown) > _MAX_ROWS:
                rows = view.rows = {}
                unknown = list(record_ids)
            named = rows_named(Segment(db, view.metadata_segment, view.has_lists), unknown)
            rows |= {record_id: row for row, record_id in named.items()}
            if len(named) != len(unknown):
                raise Doubt
        return [(rows[record_id], record_id) for record_id in record_ids]

    def _check_size(self, db: sqlite3.Connection, view: View) -> None:
        assert view.dimension is not None
        view.is_too_large = self.count(db, view) * view.dimension * 4 > self._most(view)
        if view.is_too_large:
            raise Doubt

    def _load(self, db: sqlite3.Connection, view: View, key: Key) -> FlatIndex:
        assert view.dimension is not None
        info = self._known(key[1], key[0])
        if info is None:
            raise Doubt
        _doubt_older_parameters(db, view.vector_segment, info)

        def there() -> set[str]:
            sql = "SELECT embedding_id FROM embeddings WHERE segment_id = ?"
            return {record_id for (record_id,) in db.execute(sql, (view.metadata_segment,))}

        # Twice the bytes: a collection may just have been halved, and the records say so before the files do.
        read = read_vectors(
            self._directory / view.vector_segment,
            dimension=view.dimension,
            max_neighbors=info.max_neighbors,
            max_bytes=2 * self._most(view),
            there=there,
        )
        if read is None:
            view.is_too_large = True
            raise Doubt
        index = FlatIndex(info.space, view.dimension)
        if read[0]:
            index.fill(*read)
        return index


def _take_in(db: sqlite3.Connection, collection_id: str, held: Held) -> bool:
    """Apply the operations that the queue has for an index; return whether there was one. Raises Doubt."""
    sql = (
        "SELECT seq_id, operation, id, vector, encoding FROM embeddings_queue "
        f"WHERE seq_id > ? AND {OF_COLLECTION} ORDER BY seq_id LIMIT ?"
    )
    is_changed = False
    while tail := db.execute(sql, (held.seq, collection_id, _TAIL)).fetchall():
        if not apply(held.index, [operation[1:] for operation in tail]):
            raise Doubt
        held.seq, is_changed = tail[-1][0], True
        held.waiting += len(tail)
    return is_changed


def _doubt_older_parameters(db: sqlite3.Connection, vector_segment: str, info: CollectionInfo) -> None:
    """Raise Doubt if a version before 1.0 noted another space or other links than Chroma tells."""
    noted = noted_parameters(db, vector_segment)
    told = (info.space, info.max_neighbors)
    if (noted.get("hnsw:space", info.space), noted.get("hnsw:M", info.max_neighbors)) != told:
        raise Doubt
