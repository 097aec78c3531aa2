"""What is known of databases and collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from vectorpool.names import avatar_of_database

# What a collection can be created with; the rest of a configuration is derived.
_OF_INDEX: Final = (
    "space",
    "ef_construction",
    "max_neighbors",
    "ef_search",
    "num_threads",
    "batch_size",
    "sync_threshold",
)


def of_creation(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a configuration a new collection can be created with."""
    index = configuration.get("hnsw") or {}
    kept: dict[str, Any] = {"hnsw": {key: index[key] for key in _OF_INDEX if index.get(key) is not None}}
    if configuration.get("embedding_function"):
        kept["embedding_function"] = configuration["embedding_function"]
    return kept


class DatabaseInfo(msgspec.Struct, frozen=True):
    """What Chroma says of a database."""

    id: str
    name: str


class CollectionInfo(msgspec.Struct, frozen=True):
    """What Chroma says of a collection. ``dimension`` is None until the first record."""

    id: str
    name: str
    database: str
    metadata: dict[str, Any] | None
    dimension: int | None
    configuration: dict[str, Any]
    schema: Any

    @property
    def avatar_id(self) -> str | None:
        """The avatar whose collection it is; None for a collection of the user's own."""
        return avatar_of_database(self.database)

    @property
    def hnsw(self) -> dict[str, Any]:
        """The configuration of the index."""
        return dict(self.configuration.get("hnsw") or {})

    @property
    def space(self) -> str:
        """The distance function: ``l2``, ``cosine`` or ``ip``. It never changes."""
        return str(self.hnsw.get("space") or "l2")

    @property
    def metadata_keys(self) -> set[str]:
        """The metadata keys of its records that the schema knows."""
        keys = self.schema.get("keys") if isinstance(self.schema, dict) else None
        return {key for key in keys if not key.startswith("#")} if isinstance(keys, dict) else set()

    @property
    def max_neighbors(self) -> int:
        """The links of an element of the index, which decide the layout of its files. The number never changes."""
        return int(self.hnsw.get("max_neighbors") or 16)
