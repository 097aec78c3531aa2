"""The vectors of a collection of a directory at rest, by record id, without an index in memory.

What the queue holds beyond the index files comes from the queue, the rest from the files, which are mapped: a few
vectors of a large collection cost a few pages. The values are those that Chroma answers: under cosine the files have
vectors of length 1, and what their length was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.index_files import are_deleted, map_elements, map_norms, read_labels
from vectorpool.engine.rows import Float32
from vectorpool.engine.tables import (
    METADATA_SCOPE,
    OF_COLLECTION,
    VECTOR_SCOPE,
    Operation,
    marks,
    noted_parameters,
    position_of,
    segments_of,
)

# Below, the elements are looked for where Chroma's labels say that they are, and not by reading all labels.
_FEW: Final = 64


class RestingVectors:
    """The vectors of one collection. Every method blocks. Raises sqlite3.Error."""

    def __init__(self, directory: Path, info: CollectionInfo) -> None:
        self._directory = directory
        self._info = info
        self._labels: dict[str, int] | None = None
        self._elements: NDArray[Any] | None = None
        self._order: NDArray[np.intp] | None = None
        self._known: NDArray[np.uint64] | None = None

    def of(self, db: sqlite3.Connection, ids: Sequence[str]) -> Float32 | None:
        """Return float32[len(ids), dimension] of at most a thousand records that are there; None in doubt.

        ``db`` is Chroma's database.
        """
        info = self._info
        if info.dimension is None or not ids:
            return None
        segments = segments_of(db, info.id)
        if segments.keys() != {METADATA_SCOPE, VECTOR_SCOPE}:
            return None
        noted, told = noted_parameters(db, segments[VECTOR_SCOPE]), (info.space, info.max_neighbors)
        # Versions before 1.0 noted what counts, beside what Chroma tells.
        if (noted.get("hnsw:space", info.space), noted.get("hnsw:M", info.max_neighbors)) != told:
            return None
        queued = self._queued(db, segments, ids)
        if queued is None:
            return None
        files = self._directory / segments[VECTOR_SCOPE]
        found = np.empty((len(ids), info.dimension), np.float32)
        left = [place for place, record_id in enumerate(ids) if record_id not in queued]
        if left:
            stored = self._stored(files, [ids[place] for place in left])
            if stored is None:
                return None
            found[left] = stored
        for place, record_id in enumerate(ids):
            if record_id in queued:
                found[place] = queued[record_id]
        return found

    def _queued(
        self, db: sqlite3.Connection, segments: dict[str, str], ids: Sequence[str]
    ) -> dict[str, Float32] | None:
        """Return the vectors that the queue has for records beyond the files; None if it cannot be interpreted."""
        info, files = self._info, self._directory / segments[VECTOR_SCOPE]
        assert info.dimension is not None
        sql = (
            "SELECT operation, id, vector, encoding, seq_id FROM embeddings_queue "
            f"WHERE seq_id > ? AND {OF_COLLECTION} AND id IN ({marks(len(ids))}) ORDER BY seq_id"
        )
        rows = db.execute(sql, (position_of(db, segments[VECTOR_SCOPE]), info.id, *ids)).fetchall()
        settled = position_of(db, segments[METADATA_SCOPE])
        vectors: dict[str, Float32] = {}
        gone: set[str] = set()
        for kind, record_id, vector, encoding, seq in rows:
            if seq > settled:
                return None
            if kind == Operation.DELETE:
                vectors.pop(record_id, None)
                gone.add(record_id)
                continue
            if kind in (Operation.ADD, Operation.UPDATE):
                is_there = record_id in vectors or (record_id not in gone and record_id in self._labels_of(files))
                if (kind == Operation.ADD) == is_there:
                    continue
            if vector is None:
                if kind != Operation.UPDATE:
                    return None
                continue
            if encoding != "FLOAT32" or len(vector) != 4 * info.dimension:
                return None
            vectors[record_id] = np.frombuffer(vector, "<f4")
        # Each id that is asked for is there, so one that was deleted last is a contradiction.
        return vectors if gone <= vectors.keys() else None

    def _labels_of(self, files: Path) -> dict[str, int]:
        if self._labels is None:
            self._labels = read_labels(files)
        return self._labels

    def _stored(self, files: Path, ids: list[str]) -> Float32 | None:
        """Return the vectors of the index files; None if one is not there."""
        info, labels = self._info, self._labels_of(files)
        assert info.dimension is not None
        if any(record_id not in labels for record_id in ids):
            return None
        if self._elements is None:
            self._elements = map_elements(files, info.dimension, info.max_neighbors)
        places = self._places(self._elements, np.asarray([labels[each] for each in ids], np.uint64))
        if places is None:
            return None
        found = np.ascontiguousarray(self._elements[places]["vector"])
        if info.space == "cosine":
            norms = map_norms(files)
            if places.max() >= len(norms):
                return None
            found = found * norms[places][:, None]
        return found

    def _places(self, elements: NDArray[Any], wanted: NDArray[np.uint64]) -> NDArray[np.intp] | None:
        if len(elements) == 0:
            return None
        if len(wanted) <= _FEW and self._order is None:
            # Chroma counts labels from 1 and fills elements in turn, unless elements were used again.
            guess = np.minimum(wanted - np.uint64(1), np.uint64(len(elements) - 1)).astype(np.intp)
            if np.array_equal(elements[guess]["label"], wanted):
                return None if are_deleted(elements[guess]) else guess
        if self._order is None or self._known is None:
            known = np.ascontiguousarray(elements["label"])
            self._order = np.argsort(known, kind="stable")
            self._known = known[self._order]
        at = np.searchsorted(self._known, wanted)
        if at.max() >= len(self._known) or not np.array_equal(self._known[at], wanted):
            return None
        places = self._order[at]
        return None if are_deleted(elements[places]) else places
