"""The flat index against distances taken in float64, for vectors of every length that float32 has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vectorpool.engine.flat_index import FlatIndex, apply
from vectorpool.engine.rows import Float32
from vectorpool.engine.tables import Operation

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
        index.put([f"r{number}"], row[None])
    index.put([f"r{number}" for number in range(10)], rows[50:])
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
    index.put(["a"], np.ones((1, DIMENSION), np.float32))
    assert index.nearest(np.ones(DIMENSION, np.float32), 1)[0] == ["a"]


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("seed", range(20))
def test_operations_have_the_effect_that_one_after_the_other_has(space: str, seed: int) -> None:
    """Additions skip what is there, updates what is not; in parts of any size the index holds the last vectors."""
    random = np.random.default_rng(seed)
    rows = np.float32(rows_of(3.0, 60, seed))
    operations, expected = list[tuple[int, str, bytes | None, str | None]](), dict[str, int]()
    for at, kind in enumerate(random.choice(list(Operation), 60)):
        record_id, is_bare = f"r{random.integers(12)}", kind == Operation.UPDATE and random.random() < 0.3
        bare = kind == Operation.DELETE or is_bare
        operations.append((int(kind), record_id, None if bare else rows[at].tobytes(), None if bare else "FLOAT32"))
        if kind == Operation.DELETE:
            expected.pop(record_id, None)
        elif (kind == Operation.UPSERT or (kind == Operation.ADD) != (record_id in expected)) and not is_bare:
            expected[record_id] = at
    index, start = FlatIndex(space, DIMENSION), 0
    while start < len(operations):
        end = start + int(random.integers(1, 30))
        assert apply(index, operations[start:end])
        start = end
    assert len(index) == len(expected)
    for record_id, at in expected.items():
        assert record_id in index
        assert np.allclose(index.vectors([record_id]), rows[at], rtol=1e-5)
        if space == "l2":
            assert index.nearest(rows[at], 1)[0] == [record_id]


def test_operations_that_cannot_be_interpreted_are_told() -> None:
    """A vector of another length or type, and an addition without one."""
    vector = np.ones(DIMENSION, "<f4").tobytes()
    for kind, each, encoding in (
        (Operation.ADD, None, None),
        (Operation.UPSERT, vector[4:], "FLOAT32"),
        (Operation.UPSERT, vector, "INT32"),
    ):
        assert not apply(FlatIndex("l2", DIMENSION), [(int(kind), "a", each, encoding)])


def test_a_vector_whose_length_is_not_known_is_not_told() -> None:
    """Under cosine: without lengths from the files, and one whose square overflows float32."""
    index = FlatIndex("cosine", DIMENSION)
    assert index.has_vectors
    index.put(["a"], np.full((1, DIMENSION), 1e20, np.float32))
    with pytest.raises(ValueError, match="length"):
        index.vectors(["a"])
    index.fill(["a"], np.ones((1, DIMENSION), np.float32))
    assert not index.has_vectors


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 8, 9, 127, 128, 129, 384, 1536])
def test_lengths_of_many_vectors_are_those_of_each(dimension: int) -> None:
    """To the last digit: squares are added in turn, however many vectors come at once."""
    random = np.random.default_rng(dimension)
    for count in (63, 64, 65, 100, 1000, 2000):
        vectors = (random.normal(size=(count, dimension)) * 10.0 ** random.integers(-3, 4)).astype("<f4")
        together, one_by_one = FlatIndex("cosine", dimension), FlatIndex("cosine", dimension)
        ids = [str(number) for number in range(count)]
        together.put(ids, vectors)
        for number in range(count):
            one_by_one.put(ids[number : number + 1], vectors[number : number + 1])
        assert together.vectors(ids) == one_by_one.vectors(ids)


def test_a_load_is_applied_as_single_operations_are() -> None:
    """Added records of their own are taken together; with a repeated id, or one that is there, in turn."""
    vector = [np.full(2, number, "<f4").tobytes() for number in range(6)]
    load = [(Operation.ADD, f"r{number}", vector[number], "FLOAT32") for number in range(3)]
    again = [(Operation.UPSERT, "r1", vector[4], "FLOAT32"), (Operation.ADD, "r2", vector[5], "FLOAT32")]
    twice = [(Operation.ADD, "new", vector[1], "FLOAT32"), (Operation.ADD, "new", vector[2], "FLOAT32")]
    index = FlatIndex("l2", 2)
    for operations in (load, again, twice):
        assert apply(index, operations)
    assert index.vectors(["r0", "r1", "r2", "new"]) == [[0, 0], [4, 4], [2, 2], [1, 1]]
    for wrong in ((Operation.ADD, "x", vector[0][:4], "FLOAT32"), (Operation.ADD, "x", vector[0], "INT32")):
        assert not apply(index, [wrong])
    assert not apply(index, [(Operation.ADD, "x", None, None)]) and "x" not in index and apply(index, [])
