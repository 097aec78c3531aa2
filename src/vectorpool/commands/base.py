"""What commands are made of: embeddings, the index of a collection, how fresh a read must be."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from vectorpool.settings import Consistency, Space

Metadata: TypeAlias = dict[str, Any]
Include = Literal["documents", "metadatas", "embeddings", "distances", "uris"]


class Vectors(msgspec.Struct, frozen=True, array_like=True):
    """Embeddings of one call: float32[count, dimension], little-endian, row after row."""

    dimension: int
    data: bytes
    # Who made them: an embedder's name, or None when the caller brought them.
    embedder: str | None = None
    # The positions in the command's ids that have an embedding; None means all, in order.
    rows: list[int] | None = None


class Hnsw(msgspec.Struct, frozen=True, omit_defaults=True):
    """The index of a new collection; None means the server's default."""

    space: Space | None = None
    ef_construction: int | None = None
    ef_search: int | None = None
    max_neighbors: int | None = None
    sync_threshold: int | None = None


class ReadOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How fresh a read must be. None means what the instance is set to.

    ``bound_ms`` belongs to bounded consistency; ``min_commit`` is the least commit that the caller accepts, which
    makes a client read its own writes on any instance. ``at`` reads a past commit instead, beside the live one.
    """

    consistency: Consistency | None = None
    bound_ms: int | None = None
    min_commit: int = 0
    at: int | None = None


class BaseCommand(msgspec.Struct, frozen=True, tag_field="op", kw_only=True):
    """The base of every command; ``op`` names it on the wire."""
