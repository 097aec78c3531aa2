"""Embeddings so long that squares overflow float32: what both protocols answer, within ``exact_bytes`` and above."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import Instance
from vectorpool.commands import (
    ChromaGetCollection,
    ChromaQueryRecords,
    CreateCollection,
    Evict,
    Hnsw,
    QueryRecords,
    UpsertRecords,
    Vectors,
)
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.objects.memory import MemoryBucket

ROWS = np.array([[3.4e38, 0], [1, 0], [0, 1], [-3.4e38, 0], [2e19, 0]], "<f4")
IDS = ["far", "one", "two", "opposite", "square"]


def as_vectors(rows: Any) -> Vectors:
    """Return rows as a command carries them."""
    return Vectors(dimension=2, data=np.asarray(rows, "<f4").tobytes())


async def filled(instance: Instance, space: Any) -> str:
    """Make the collection, half of it in the index and half in the queue; return its id."""
    await instance.do(CreateCollection(name="notes", hnsw=Hnsw(space=space, sync_threshold=3)))
    for part in (slice(0, 3), slice(3, 5)):
        await instance.do(UpsertRecords(collection="notes", ids=IDS[part], vectors=as_vectors(ROWS[part])))
    return str((await instance.do(ChromaGetCollection(database=DEFAULT_DATABASE, name="notes")))["id"])


async def asked(instance: Instance, collection_id: str, row: Any, *, filtered: bool) -> list[dict[str, float | None]]:
    """Return distances by id, in order, of the native API and of Chroma's protocol."""
    native = QueryRecords(
        collection="notes",
        vectors=as_vectors(row),
        where={"absent": {"$ne": 1}} if filtered else None,
        include=("distances",),
    )
    protocol = ChromaQueryRecords(
        database=DEFAULT_DATABASE,
        collection_id=collection_id,
        vectors=as_vectors(row),
        where='{"absent": {"$ne": 1}}' if filtered else None,
        include=("distances",),
    )
    results = (await instance.do(native))["results"][0]
    columns = await instance.do(protocol)
    return [
        {result["id"]: result["distance"] for result in results},
        dict(zip(columns["ids"][0], columns["distances"][0], strict=True)),
    ]


@pytest.mark.parametrize("cold", [False, True], ids=["warm", "cold"])
@pytest.mark.parametrize("space", ["l2", "ip"])
async def test_exact_distances_are_numbers_in_order(tmp_path: Path, space: str, cold: bool) -> None:
    """Within ``exact_bytes`` no distance is missing on either protocol, and the nearest come first."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        collection_id = await filled(instance, space)
        if cold:
            await instance.do(Evict())
        for row in ROWS:
            wide, base = row.astype(np.float64), ROWS.astype(np.float64)
            exact = ((base - wide) ** 2).sum(1) if space == "l2" else 1 - base @ wide
            for distances in await asked(instance, collection_id, row, filtered=False):
                assert set(distances) == set(IDS)
                for record_id, distance in distances.items():
                    assert distance is not None
                    assert math.isclose(distance, exact[IDS.index(record_id)], rel_tol=1e-5, abs_tol=1e-5)
                assert list(distances.values()) == sorted(distances.values())


@pytest.mark.parametrize("space", ["l2", "ip"])
async def test_what_chroma_answers_is_complete(tmp_path: Path, space: str) -> None:
    """Above ``exact_bytes`` every record has a distance; one that overflows is null, and the others are right."""
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=0) as instance:
        collection_id = await filled(instance, space)
        for filtered in (False, True):
            for distances in await asked(instance, collection_id, ROWS[1], filtered=filtered):
                assert set(distances) == set(IDS)
                known = {key: value for key, value in distances.items() if value is not None}
                expected = {"one": 0.0, "two": 2.0} if space == "l2" else {"one": 0.0, "two": 1.0}
                for key, value in expected.items():
                    assert math.isclose(known[key], value, abs_tol=1e-6)
                if space == "l2":
                    assert list(distances)[:2] == ["one", "two"] and set(known) == {"one", "two"}


async def test_a_direction_that_overflows_is_none(tmp_path: Path) -> None:
    """Under cosine Chroma stores no direction for a vector whose square overflows: it is at 1 from everything."""
    for number, exact_bytes in enumerate((0, 2**20)):
        async with Instance(tmp_path, MemoryBucket(), name=str(number), exact_bytes=exact_bytes) as instance:
            collection_id = await filled(instance, "cosine")
            for distances in await asked(instance, collection_id, ROWS[1], filtered=False):
                assert set(distances) == set(IDS)
                assert next(iter(distances)) == "one"
                for key in ("far", "opposite", "square", "two"):
                    assert math.isclose(distances[key] or 0.0, 1.0, abs_tol=1e-5)
