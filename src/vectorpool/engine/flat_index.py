"""A flat index: the vectors of one collection as one matrix, asked by comparing a query with every row.

For collections of up to some thousand records this is both exact and several times quicker than a call of Chroma,
which spends most of its time around its index and not in it. The matrix holds what Chroma's index holds: the index
files as they were last persisted, and the operations of the queue since then, applied in order.

Distances are Chroma's: squared Euclidean for ``l2``, 1 - cosine for ``cosine``, 1 - inner product for ``ip``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vectorpool.engine.rows import TINY, Float32, unit
from vectorpool.engine.tables import Operation

# How far the quick form of a squared distance may be off, in units of the squared lengths that it subtracts.
_ROUNDING: Final = 4e-6
# While half the squared lengths of rows and query are below it, no product and no distance of theirs overflows float32.
_SURELY_SMALL: Final = 1e37
_SMALLEST: Final = 16
# A text, and its places in a list and a dictionary.
_BYTES_OF_AN_ID: Final = 200
# Vectors from which on their lengths are computed together.
_MANY_ROWS: Final = 64
# Rows that are converted to float64 at a time.
_LONG_ROWS: Final = 4096


class FlatIndex:
    """Vectors by record id. Only the holder of its reader's lock may use it."""

    def __init__(self, space: str, dimension: int) -> None:
        self.space = space
        self._ids: list[str] = []
        self._places: dict[str, int] = {}
        self._rows: Float32 = np.empty((_SMALLEST, dimension), np.float32)
        # Half of each row's squared length, and a number that none of them exceeds.
        self._halves: Float32 = np.empty(_SMALLEST, np.float32)
        self._longest = 0.0
        # Under cosine, the lengths that the vectors had; None if they are not known.
        self._lengths: Float32 | None = np.empty(_SMALLEST, np.float32) if space == "cosine" else None

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, record_id: str) -> bool:
        return record_id in self._places

    def has_none_of(self, record_ids: set[str]) -> bool:
        """Return whether none of the records is there."""
        return self._places.keys().isdisjoint(record_ids)

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return int(self._rows.shape[1])

    @property
    def nbytes(self) -> int:
        """About the bytes of memory that it takes."""
        lengths = 0 if self._lengths is None else self._lengths.nbytes
        return self._rows.nbytes + self._halves.nbytes + lengths + _BYTES_OF_AN_ID * len(self._ids)

    @property
    def has_vectors(self) -> bool:
        """Whether ``vectors`` can tell them as they were sent."""
        return self.space != "cosine" or self._lengths is not None

    def fill(self, ids: list[str], rows: Float32, lengths: Float32 | None = None) -> None:
        """Replace everything. ``rows`` is float32[count, dimension], under cosine of length 1, and is kept.

        ``lengths`` is float32[count], what the length of each vector was, if that is known.
        """
        self._ids = ids
        self._places = {record_id: place for place, record_id in enumerate(ids)}
        self._rows = rows
        self._halves = np.einsum("ij,ij->i", rows, rows) / np.float32(2)
        self._longest = float(self._halves.max(initial=0))
        self._lengths = lengths if self.space == "cosine" else None

    def put(self, ids: Sequence[str], vectors: Float32) -> None:
        """Add or replace vectors, float32[len(ids), dimension], of any length; no id comes twice."""
        places: NDArray[np.intp] | slice
        if self._places.keys().isdisjoint(ids):
            # All are new, as when a loaded collection is read.
            places = slice(len(self._ids), len(self._ids) + len(ids))
            self._places.update(zip(ids, range(places.start, places.stop), strict=True))
            self._ids.extend(ids)
        else:
            places = self._make_places(ids)
        self.reserve(len(self._ids))
        if self.space == "cosine":
            vectors, lengths = _units(vectors)
            if self._lengths is not None:
                self._lengths[places] = lengths
        self._rows[places] = vectors
        halves = _halves(vectors)
        self._halves[places] = halves
        self._longest = max(self._longest, float(halves.max(initial=0)))

    def _make_places(self, ids: Sequence[str]) -> NDArray[np.intp]:
        """Return the places of records, new ones at the end."""
        places = np.empty(len(ids), np.intp)
        for at, record_id in enumerate(ids):
            place = self._places.get(record_id)
            if place is None:
                place = self._places[record_id] = len(self._ids)
                self._ids.append(record_id)
            places[at] = place
        return places

    def remove(self, record_id: str) -> None:
        """Forget one vector, if it is there; the last row moves into its place."""
        place = self._places.pop(record_id, None)
        if place is None:
            return
        last = self._ids.pop()
        if place < len(self._ids):
            self._ids[place] = last
            self._places[last] = place
            self._rows[place] = self._rows[len(self._ids)]
            self._halves[place] = self._halves[len(self._ids)]
            if self._lengths is not None:
                self._lengths[place] = self._lengths[len(self._ids)]

    def reserve(self, count: int) -> None:
        """Make room for ``count`` vectors in all."""
        if count <= len(self._rows):
            return
        capacity = max(count, _SMALLEST, len(self._rows) * 3 // 2)

        def grown(array: Float32) -> Float32:
            more = np.empty((capacity, *array.shape[1:]), np.float32)
            more[: len(array)] = array
            return more

        self._rows, self._halves = grown(self._rows), grown(self._halves)
        self._lengths = None if self._lengths is None else grown(self._lengths)

    def places_of(self, record_ids: Sequence[str]) -> NDArray[np.intp]:
        """Return the places of records, in the order of the index; raise KeyError if one is not there."""
        places = np.fromiter((self._places[i] for i in record_ids), np.intp, len(record_ids))
        places.sort()
        return places

    def vectors(self, record_ids: Sequence[str]) -> list[list[float]]:
        """Return the vectors of records as they were sent.

        Raises KeyError if one is not there, and ValueError if one was too long for its direction to be kept.
        """
        places = [self._places[i] for i in record_ids]
        rows = self._rows[places]
        if self._lengths is not None:
            lengths = self._lengths[places]
            if not np.isfinite(lengths).all():
                raise ValueError("a vector's length is not a number of float32")
            rows = rows * lengths[:, None]
        found: list[list[float]] = rows.tolist()
        return found

    def nearest(
        self, query: Float32, limit: int, among: NDArray[np.intp] | None = None
    ) -> tuple[list[str], list[float]]:
        """Return ids and distances of the ``limit`` rows nearest to float32[dimension], nearest first.

        ``among`` are the places of the rows that are compared; without it, all are. A distance beyond float32 is
        given as float64, so no finite vector has an infinite one.
        """
        count = len(self._ids)
        rows, halves = self._rows[:count], self._halves[:count]
        if among is not None:
            rows, halves = rows[among], halves[among]
        if self.space == "cosine":
            query, longest = unit(query), self._longest
        else:
            longest = max(self._longest, _half(query))
        if longest < _SURELY_SMALL:
            places, distances = self._measured(rows, halves, query, limit, longest)
        else:
            places, distances = self._measured_with_care(rows, halves, query, limit, longest)
        order = distances.argsort(kind="stable")[:limit]
        chosen = places[order] if among is None else among[places[order]]
        return list(map(self._ids.__getitem__, chosen.tolist())), distances[order].tolist()

    def _measured(
        self, rows: Float32, halves: Float32, query: Float32, limit: int, longest: float
    ) -> tuple[NDArray[np.intp], NDArray[Any]]:
        """Return the rows that may be among the nearest, and their distances.

        ``longest`` is at least half the squared length of the query and of every row.
        """
        scores = rows @ query
        if self.space == "l2":
            scores -= halves
            places = _candidates(scores, limit, _ROUNDING * longest)
            apart = rows[places] - query
            return places, np.einsum("ij,ij->i", apart, apart)
        places = _highest(scores, limit)
        return places, np.float32(1) - scores[places]

    def _measured_with_care(
        self, rows: Float32, halves: Float32, query: Float32, limit: int, longest: float
    ) -> tuple[NDArray[np.intp], NDArray[Any]]:
        """Do the same where numbers may overflow: if one does, in float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            scores = rows @ query
            is_finite = np.isfinite(scores).all() and (self.space != "l2" or np.isfinite(scores - halves).all())
            if is_finite and np.isfinite(longest):
                places, distances = self._measured(rows, halves, query, limit, longest)
                if np.isfinite(distances).all():
                    return places, distances
        return np.arange(len(rows)), self._long_distances(rows, query)

    def _long_distances(self, rows: Float32, query: Float32) -> NDArray[np.float64]:
        """Return the distances in float64[n], which the squares of float32 numbers do not overflow."""
        long_query = query.astype(np.float64)
        found = np.empty(len(rows), np.float64)
        for start in range(0, len(rows), _LONG_ROWS):
            part = rows[start : start + _LONG_ROWS].astype(np.float64)
            if self.space == "l2":
                part -= long_query
                found[start : start + len(part)] = np.einsum("ij,ij->i", part, part)
            else:
                found[start : start + len(part)] = 1 - part @ long_query
        return found


def _half(vector: Float32) -> float:
    """Return half the squared length, which is infinite beyond float32."""
    with np.errstate(over="ignore"):
        return float(np.dot(vector, vector)) / 2


def _halves(vectors: Float32) -> Float32:
    """Return half the squared length of each row."""
    with np.errstate(over="ignore"):
        return np.asarray(np.einsum("ij,ij->i", vectors, vectors) / np.float32(2), np.float32)


def _units(vectors: Float32) -> tuple[Float32, Float32]:
    """Return the rows with length 1, and their lengths, to the last digit as hnswlib stores both.

    It adds squares in turn, and multiplies by the reciprocal. A row whose square overflows has no direction.
    """
    with np.errstate(over="ignore"):
        squares = vectors * vectors
        if len(vectors) >= _MANY_ROWS:
            # Whole rows of the transposed array are added in turn; of few columns numpy would add pairs.
            sums = np.add.reduce(np.ascontiguousarray(squares.T), axis=0)
        else:
            sums = np.add.accumulate(squares, axis=1)[:, -1]
        lengths = np.sqrt(sums)
        return np.asarray(vectors * (np.float32(1) / (lengths + TINY))[:, None], np.float32), lengths


def _candidates(scores: Float32, limit: int, rounding: float) -> NDArray[np.intp]:
    """Return the places of all rows that may be among the nearest, given scores that may be off by ``rounding``.

    |x - q|^2 = |q|^2 - 2 (x.q - |x|^2 / 2) loses digits where x and q are close, so the difference itself is taken
    for whatever the loss could hide.
    """
    if limit >= len(scores):
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    return np.flatnonzero(scores >= least - rounding)


def _highest(scores: Float32, limit: int) -> NDArray[np.intp]:
    if limit >= len(scores):
        return np.arange(len(scores))
    return scores.argpartition(len(scores) - limit)[len(scores) - limit :]


def _is_load(index: FlatIndex, operations: Sequence[tuple[int, str, bytes | None, str | None]]) -> bool:
    """Whether each operation adds a record of its own that is not there."""
    size, plain = 4 * index.dimension, (Operation.ADD, Operation.UPSERT)
    ids = {operation[1] for operation in operations}
    return (
        len(ids) == len(operations)
        and index.has_none_of(ids)
        and all(
            kind in plain and vector is not None and len(vector) == size and encoding == "FLOAT32"
            for kind, _, vector, encoding in operations
        )
    )


def apply(index: FlatIndex, operations: Sequence[tuple[int, str, bytes | None, str | None]]) -> bool:
    """Apply queued operations: (kind, record id, vector, encoding). Return False if one cannot be interpreted."""
    if _is_load(index, operations):
        added = np.frombuffer(b"".join(vector or b"" for _, _, vector, _ in operations), "<f4")
        index.put([operation[1] for operation in operations], added.reshape(len(operations), index.dimension))
        return True
    # What becomes of each record: its last vector, or None if it is deleted.
    newest: dict[str, bytes | None] = {}
    for kind, record_id, vector, encoding in operations:
        if kind == Operation.DELETE:
            newest[record_id] = None
            continue
        is_there = newest[record_id] is not None if record_id in newest else record_id in index
        if (kind == Operation.ADD and is_there) or (kind == Operation.UPDATE and not is_there):
            continue
        if vector is None:
            if kind != Operation.UPDATE:
                return False
            continue
        if encoding != "FLOAT32" or len(vector) != 4 * index.dimension:
            return False
        newest[record_id] = vector
    put = {record_id: vector for record_id, vector in newest.items() if vector is not None}
    for record_id in newest.keys() - put.keys():
        index.remove(record_id)
    if put:
        index.put(list(put), np.frombuffer(b"".join(put.values()), "<f4").reshape(len(put), index.dimension))
    return True
