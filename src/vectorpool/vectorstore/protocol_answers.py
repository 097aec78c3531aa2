"""What Chroma's own protocol answers, as JSON of Chroma's shapes.

Embeddings and distances are float32 and are written as the shortest text that gives the same float32 back; so they
go to the encoder as arrays, once, and are never spelled out as Python's floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from vectorpool.vectorstore.rows import Rows

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY


def encode(value: Any) -> bytes:
    """Return JSON; numbers that JSON has no text for become null, as with Chroma's server."""
    return orjson.dumps(value, option=_OPTIONS)


def collection(found: Any, tenant: str, database: str) -> dict[str, Any]:
    """Return a collection of the bindings as the protocol shows it."""
    return {
        "id": str(found.id),
        "name": found.name,
        "configuration_json": found.configuration,
        "schema": found.schema,
        "metadata": found.metadata,
        "dimension": found.dimension,
        "tenant": tenant,
        "database": database,
        # A single-node server never counts these up.
        "log_position": 0,
        "version": 0,
    }


def database(found: Any, tenant: str) -> dict[str, Any]:
    """Return a database of the bindings as the protocol shows it."""
    return {"id": str(found.id), "name": found.name, "tenant": tenant}


def _float32(rows: Sequence[Any] | None) -> list[Any] | None:
    return None if rows is None else [None if row is None else np.asarray(row, np.float32) for row in rows]


def records(got: Any, include: Sequence[str]) -> dict[str, Any]:
    """Return what ``get`` found, as columns; a column that was not asked for is null."""
    return {
        "ids": got.ids,
        "embeddings": _float32(got.embeddings),
        "documents": got.documents,
        "uris": got.uris,
        "metadatas": got.metadatas,
        "include": list(include),
    }


def matches(got: Any, include: Sequence[str], limit: int) -> dict[str, Any]:
    """Return at most ``limit`` of what ``query`` found, for each query its columns; what was not asked for is null."""
    embeddings, distances = _first(got.embeddings, limit), _first(got.distances, limit)
    return {
        "ids": _first(got.ids, limit),
        "embeddings": None if embeddings is None else [_float32(rows) for rows in embeddings],
        "documents": _first(got.documents, limit),
        "uris": _first(got.uris, limit),
        "metadatas": _first(got.metadatas, limit),
        "distances": _float32(distances),
        "include": list(include),
    }


def nearest(found: Sequence[Rows], include: Sequence[str]) -> dict[str, Any]:
    """Return the records nearest to each query, as ``matches`` does, from rows that were read without Chroma."""

    def columns(name: str) -> list[Any] | None:
        # Every query of a request includes the same, so the first says what there is.
        return None if getattr(found[0], name) is None else [getattr(rows, name) for rows in found]

    return {
        "ids": columns("ids"),
        "embeddings": columns("embeddings"),
        "documents": columns("documents"),
        "uris": columns("uris"),
        "metadatas": columns("metadatas"),
        "distances": _float32(columns("distances")),
        "include": list(include),
    }


def _first(columns: list[list[Any]] | None, limit: int) -> list[list[Any]] | None:
    return columns if columns is None or limit else [[] for _ in columns]
