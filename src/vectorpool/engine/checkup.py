"""A look at an open directory: Chroma answers, its counts agree, and records find themselves.

Every collection is counted twice: in the tables, and by Chroma. Of each, records are drawn by chance; each asks for
its own neighbours. An index is approximate, and some distances are not least between equals. So a record that does not
find itself among all others must find itself among itself alone, and a collection fails if none of three or more found
themselves.

Vectors may wait for an index in a long queue, which Chroma would take in at a millisecond each. Such a queue is read
whole as searches read it, and then cut to the records that are drawn: the directory is a copy, of which nothing stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from vectorpool.engine.bindings import Client
from vectorpool.engine.closed_queues import closed_queues
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.deletions import connect
from vectorpool.engine.tables import OF_COLLECTION, marks

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


def cut_queues(
    directory: Path, finds: Callable[[str, str, list[str]], bool], *, samples: int, random: Callable[[], float]
) -> dict[str, list[str]]:
    """Cut the long queues of a directory that is not open; return, by collection, the ids that are left to be drawn.

    ``finds`` searches a collection for records by their own vectors without Chroma, and returns whether it found them.
    A queue for which it did not stays whole. Raises sqlite3.Error.
    """
    drawn: dict[str, list[str]] = {}
    for queue in closed_queues(directory):
        if not queue.is_long:
            continue
        with closing(connect(directory)) as db:
            sql = (
                f"SELECT DISTINCT q.id FROM embeddings_queue q JOIN embeddings e ON e.embedding_id = q.id AND "
                f"e.segment_id = ? WHERE q.seq_id > ? AND {OF_COLLECTION} AND q.vector IS NOT NULL"
            )
            ids = [i for (i,) in db.execute(sql, (queue.metadata, queue.persisted, queue.collection_id))]
            some = sorted({ids[int(random() * len(ids))] for _ in range(samples)}) if ids else []
            if not finds(queue.collection_id, queue.database, some):
                continue
            drawn[queue.collection_id] = some
            db.execute(
                f"DELETE FROM embeddings_queue WHERE seq_id > ? AND {OF_COLLECTION} AND id NOT IN ({marks(len(some))}) "
                "AND seq_id < (SELECT MAX(seq_id) FROM embeddings_queue)",
                (queue.persisted, queue.collection_id, *some),
            )
    return drawn


def check_up(
    client: Client,
    collections: list[CollectionInfo],
    count: Callable[[str, str], int | None],
    drawn: dict[str, list[str]],
    *,
    samples: int,
    random: Callable[[], float],
) -> EngineCheckup:
    """Look at every collection; ``count`` counts in the tables. Blocking. Raises what the bindings raise.

    Of the collections in ``drawn``, these records are looked at; of others, ``samples`` are drawn.
    """
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
            pages = _pages(client, info, drawn.get(info.id), counted, min(samples, counted), random)
            seen, fault = _sample(client, info, counted, pages)
            found.samples += seen
            found.sample_fault = found.sample_fault or fault
    return found


def _pages(
    client: Client, info: CollectionInfo, drawn: list[str] | None, count: int, samples: int, random: Callable[[], float]
) -> Iterator[Any]:
    """Yield a page for each record that was drawn, or is drawn by its offset."""
    where: dict[str, Any] = {"collection_id": info.id, "database": info.database, "include": ["embeddings"]}
    if drawn is None:
        for _ in range(samples):
            yield client.get(**where, limit=1, offset=int(random() * count))
    else:
        for record_id in drawn:
            yield client.get(**where, ids=[record_id])


def _sample(client: Client, info: CollectionInfo, count: int, pages: Iterator[Any]) -> tuple[int, str]:
    """Look at the record of each page; return how many there were, and the fault."""
    where = {"collection_id": info.id, "database": info.database}
    missed = samples = 0
    for page in pages:
        samples += 1
        if not page.ids:
            return samples, f"The collection {info.name!r} counts {count} records and does not return one of them."
        vector = np.asarray(page.embeddings, dtype=np.float32).reshape(1, -1)
        if vector.shape[1] != info.dimension or not np.isfinite(vector).all():
            return (
                samples,
                f"The collection {info.name!r} holds a record whose vector is not one of {info.dimension} numbers.",
            )
        if not np.any(vector):
            # It has no direction, so under cosine it has no neighbours.
            continue
        alone = client.query(**where, embeddings=vector, n_results=1, ids=list(page.ids), include=["distances"])
        if list(alone.ids[0]) != list(page.ids):
            return samples, f"The collection {info.name!r} holds a record that its index does not find."
        near = client.query(**where, embeddings=vector, n_results=min(_NEIGHBOURS, count), include=["distances"])
        if page.ids[0] not in near.ids[0] and not _are_equals(info, near.distances[0], alone.distances[0][0]):
            missed += 1
    if samples >= _FEWEST and missed == samples:
        return samples, f"None of {samples} records of the collection {info.name!r} found itself in a query."
    return samples, ""


def _are_equals(info: CollectionInfo, distances: list[float], own: float) -> bool:
    """Whether what a query found is as near as the record itself: many records of one vector, or inner products."""
    return info.space == "ip" or all(distance <= own + _NEAR for distance in distances)
