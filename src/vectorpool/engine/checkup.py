"""A look at an open directory: Chroma answers, its counts agree, and records find themselves.

Every collection is counted twice: in the tables, and by Chroma. Of each, records are drawn by chance; each asks for
its own neighbours. An index is approximate, and some distances are not least between equals. So a record that does not
find itself among all others must find itself among itself alone, and a collection fails if none of three or more found
themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np

from vectorpool.engine.bindings import Client
from vectorpool.engine.collection_info import CollectionInfo

_NEIGHBOURS: Final = 10
_NEAR: Final = 1e-3
# Records drawn of all collections, so that many collections do not make a check long.
_MOST_SAMPLES: Final = 100
_FEWEST: Final = 3


class EngineCheckup(msgspec.Struct):
    """What a look found. A fault is a sentence for people, without ids of records."""

    records: int = 0
    collections: int = 0
    samples: int = 0
    count_fault: str = ""
    sample_fault: str = ""


def check_up(
    client: Client,
    collections: list[CollectionInfo],
    count: Callable[[str, str], int | None],
    *,
    samples: int,
    random: Callable[[], float],
) -> EngineCheckup:
    """Look at every collection; ``count`` counts in the tables. Blocking. Raises what the bindings raise."""
    found = EngineCheckup()
    for info in collections:
        if client.refuses(info.id):
            continue
        where = {"collection_id": info.id, "database": info.database}
        counted, told = client.count(**where), count(info.id, info.database)
        found.collections += 1
        found.records += counted
        if told is not None and told != counted:
            found.count_fault = (
                f"The collection {info.name!r} counts {counted} records in Chroma and {told} in its tables."
            )
        if counted and info.dimension is not None and found.samples < _MOST_SAMPLES:
            fault = _sample(client, info, counted, min(samples, counted), random)
            found.samples += min(samples, counted)
            found.sample_fault = found.sample_fault or fault
    return found


def _sample(client: Client, info: CollectionInfo, count: int, samples: int, random: Callable[[], float]) -> str:
    where = {"collection_id": info.id, "database": info.database}
    missed = 0
    for _ in range(samples):
        page = client.get(**where, limit=1, offset=int(random() * count), include=["embeddings"])
        if not page.ids:
            return f"The collection {info.name!r} counts {count} records and does not return one of them."
        vector = np.asarray(page.embeddings, dtype=np.float32).reshape(1, -1)
        if vector.shape[1] != info.dimension or not np.isfinite(vector).all():
            return f"The collection {info.name!r} holds a record whose vector is not one of {info.dimension} numbers."
        if not np.any(vector):
            # It has no direction, so under cosine it has no neighbours.
            continue
        alone = client.query(**where, embeddings=vector, n_results=1, ids=list(page.ids), include=["distances"])
        if list(alone.ids[0]) != list(page.ids):
            return f"The collection {info.name!r} holds a record that its index does not find."
        near = client.query(**where, embeddings=vector, n_results=min(_NEIGHBOURS, count), include=["distances"])
        if page.ids[0] not in near.ids[0] and not _are_equals(info, near.distances[0], alone.distances[0][0]):
            missed += 1
    if samples >= _FEWEST and missed == samples:
        return f"None of {samples} records of the collection {info.name!r} found itself in a query."
    return ""


def _are_equals(info: CollectionInfo, distances: list[float], own: float) -> bool:
    """Whether what a query found is as near as the record itself: many records of one vector, or inner products."""
    return info.space == "ip" or all(distance <= own + _NEAR for distance in distances)
