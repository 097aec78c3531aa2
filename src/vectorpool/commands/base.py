"""Parts of commands: embeddings, the index of a collection, read options."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from vectorpool.settings import ChunkStrategy, Consistency, Space

Metadata: TypeAlias = dict[str, Any]
Include = Literal["documents", "metadatas", "embeddings", "distances", "uris"]


class Vectors(msgspec.Struct, frozen=True, array_like=True):
    """Embeddings of one call: float32[count, dimension], little-endian, row after row."""

    dimension: int
    data: bytes
    # The name of the embedder that made them; None if the caller sent them.
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


class PipelineChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an avatar's documents are cut; None is the setting of the instance."""

    strategy: ChunkStrategy | None = None
    chunk_tokens: int | None = None
    chunk_overlap_tokens: int | None = None


class ReadOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """How fresh a read must be. None means the setting of the instance.

    ``bound_ms`` belongs to bounded consistency; ``min_commit`` is the least commit that the caller accepts, which
    makes a client read its own writes on any instance. ``at`` reads a past commit instead, beside the live one.
    """

    consistency: Consistency | None = None
    bound_ms: int | None = None
    min_commit: int = 0
    at: int | None = None


class Command(msgspec.Struct, frozen=True, tag_field="op", kw_only=True):
    """The base of every command; ``op`` names it on the wire.

    A subclass with a tag is an operation of its own; the others are the kinds below.
    """

    # Whether the command changes what is stored: stopped half-way, its outcome is unknown.
    is_change: ClassVar[bool] = False
    # Whether the command only removes, or notes what is there: it is applied however much is stored.
    frees: ClassVar[bool] = False


class Read(Command, frozen=True, kw_only=True):
    """Answered from a replica, and changes nothing."""


class ChromaRead(Read, frozen=True, kw_only=True):
    """A read of Chroma's own protocol: answered in Chroma's shapes."""


class Write(Command, frozen=True, kw_only=True):
    """Applied to a replica and committed; applied again after a lost race."""

    is_change: ClassVar[bool] = True


class RecordWrite(Write, frozen=True, kw_only=True):
    """A write that changes no collection itself, except for the dimension that a first record gives it."""


class Operation(Command, frozen=True, kw_only=True):
    """Done by the pool to a whole vectorstore."""


class LogOperation(Operation, frozen=True, kw_only=True):
    """Done on the log alone: no open vectorstore is needed."""
