"""The flat index against distances taken in float64, for vectors of every length that float32 has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vectorpool.engine.flat_index import FlatIndex
from vectorpool.engine.rows import Float32

DIMENSION = 8
SPACES = ("l2", "cosine", "ip")


def rows_of(scale: float, count: int, seed: int) -> Float32:
    """Return float32[count, 8] of about this size."""
    return (np.random.default_rng(seed).uniform(-1, 1, (count, DIMENSION)) * scale).astype(np.float32)


def exact(space: str, rows: Float32, query: Float32) -> NDArray[Any]:
    """Return the distances, float64[n]."""
    long_rows, long_query = rows.astype(np.float64), query.astype(np.float64)
    if space == "l2":
        return np.asarray(((long_rows - long_query) ** 2).sum(axis=1))
    if space == "cosine":
        long_rows = long_rows / np.linalg.norm(long_rows, axis=1, keepdims=True)
        long_query = long_query / np.linalg.norm(long_query)
    return np.asarray(1 - long_rows @ long_query)


@pytest.mark.parametrize(
    ("space", "scale"),
    [
        *((space, scale) for space in SPACES for scale in (1e-12, 1.0, 1e17, 1e18)),
        # Chroma stores no direction of a vector whose square overflows.
        *((space, scale) for space in ("l2", "ip") for scale in (1e19, 3.4e38)),
    ],
)
def test_the_nearest_are_those_of_float64_whatever_the_lengths(space: str, scale: float) -> None:
    """Rows are added, replaced and removed before; what float32 cannot tell apart may come in another order."""
    rows = rows_of(scale, 60, 1)
    index = FlatIndex(space, DIMENSION)
    for number, row in enumerate(rows[:50]):
        index.put(f"r{number}", row)
    for number in range(10):
        index.put(f"r{number}", rows[50 + number])
    index.remove("r49")
    kept = np.concatenate([rows[50:], rows[10:49]])

    for query in [*rows_of(scale, 3, 2), kept[7], rows_of(1.0, 1, 3)[0]]:
        ids, found = index.nearest(query, 10)
        wanted = exact(space, kept, query)
        measured = wanted[[int(i[1:]) for i in ids]]
        room = 1e-5 * max(1.0, float(np.abs(wanted).max()))
        assert np.isfinite(found).all()
        assert np.abs(measured - np.sort(wanted)[:10]).max() <= room
        assert np.abs(np.array(found) - measured).max() <= room


@pytest.mark.parametrize("space", SPACES)
def test_an_index_that_was_empty_takes_rows(space: str) -> None:
    """Its longest row is none."""
    index = FlatIndex(space, DIMENSION)
    index.fill([], np.empty((0, DIMENSION), np.float32))
    assert index.nearest(np.ones(DIMENSION, np.float32), 0) == ([], [])
    index.put("a", np.ones(DIMENSION, np.float32))
    assert index.nearest(np.ones(DIMENSION, np.float32), 1)[0] == ["a"]
