"""The answers of Chroma's own protocol, as JSON of Chroma's shapes.

Embeddings and distances are float32 and are written as the shortest text that gives the same float32 back; so they
go to the encoder as arrays, and never as Python's floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from vectorpool.engine.collection_info import CollectionInfo, DatabaseInfo
from vectorpool.engine.rows import Rows

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def encode(value: Any) -> bytes:
    """Return JSON; numbers without a JSON form become null, as with Chroma's server."""
    return orjson.dumps(value, option=_OPTIONS)


def collection(found: CollectionInfo, tenant: str) -> dict[str, Any]:
    """Return a collection as the protocol shows it."""
    return {
        "id": found.id,
        "name": found.name,
        "configuration_json": found.configuration,
        "schema": found.schema,
        "metadata": found.metadata,
        "dimension": found.dimension,
        "tenant": tenant,
        "database": found.database,
        # A single-node server never increments these.
        "log_position": 0,
        "version": 0,
    }


def database(found: DatabaseInfo, tenant: str) -> dict[str, Any]:
    """Return a database as the protocol shows it."""
    return {"id": found.id, "name": found.name, "tenant": tenant}


def _float32(rows: Sequence[Any] | None) -> list[Any] | None:
    return None if rows is None else [None if row is None else np.asarray(row, np.float32) for row in rows]


def _distances(rows: Sequence[Any] | None) -> list[Any] | None:
    return None if rows is None else [None if row is None else _distance_row(row) for row in rows]


def _distance_row(row: Any) -> Any:
    exact = np.asarray(row, np.float64)
    with np.errstate(over="ignore"):
        stored = exact.astype(np.float32)
    if np.isfinite(stored).all() or not np.isfinite(exact).any():
        return stored
    # A distance that float32 cannot hold was computed in float64. As a number it keeps its place in the order.
    return [short if np.isfinite(short) else long for short, long in zip(stored, exact.tolist(), strict=True)]


def records(got: Rows, include: Sequence[str]) -> dict[str, Any]:
    """Return the records of a ``get`` as columns; a column outside ``include`` is null."""
    return {
        "ids": got.ids,
        "embeddings": _float32(got.embeddings),
        "documents": got.documents,
        "uris": got.uris,
        "metadatas": got.metadatas,
        "include": list(include),
    }


def matches(found: Sequence[Rows], include: Sequence[str]) -> dict[str, Any]:
    """Return the records nearest to each query, as columns of columns; a column outside ``include`` is null."""

    def columns(name: str) -> list[Any] | None:
        return [getattr(rows, name) for rows in found] if name in include else None

    embeddings = columns("embeddings")
    return {
        "ids": [rows.ids for rows in found],
        "embeddings": None if embeddings is None else [_float32(rows) for rows in embeddings],
        "documents": columns("documents"),
        "uris": columns("uris"),
        "metadatas": columns("metadatas"),
        "distances": _distances(columns("distances")),
        "include": list(include),
    }
