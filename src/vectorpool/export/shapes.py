"""What goes between a vectorstore and another place: collections, batches of records, and the two interfaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from vectorpool.engine.rows import Batch

# Records of one batch, which bounds the memory of a copy: 6 MB of 1,536 dimensions.
BATCH: Final = 1000

Key: TypeAlias = tuple[str, str]


class CollectionShape(msgspec.Struct, frozen=True):
    """A collection: its database and name, what was chosen when it was made, and its id where it comes from.

    ``configuration`` is Chroma's, as JSON values. ``dimension`` is None until the first record.
    """

    database: str
    name: str
    metadata: dict[str, Any] | None = None
    configuration: dict[str, Any] = {}
    dimension: int | None = None
    source_id: str = ""

    @property
    def key(self) -> Key:
        """What names it within a vectorstore."""
        return self.database, self.name


def digests_of(batch: Batch) -> list[bytes]:
    """Return for each record 16 bytes that change with its embedding, document, metadata and URI (xxh3)."""
    rows = np.ascontiguousarray(batch.embeddings, "<f4")
    digests = []
    for at in range(len(batch.ids)):
        metadata = _at(batch.metadatas, at)
        told = (_at(batch.documents, at), sorted(metadata.items()) if metadata else None, _at(batch.uris, at))
        digests.append(xxhash.xxh3_128_digest(rows[at].tobytes() + msgspec.msgpack.encode(told)))
    return digests


def _at(column: Sequence[Any] | None, at: int) -> Any:
    return None if column is None else column[at]


def pick(batch: Batch, chosen: NDArray[np.bool_]) -> Batch:
    """Return the records of a batch at which ``chosen`` is true."""
    at: list[int] = np.flatnonzero(chosen).tolist()

    def column(values: Sequence[Any] | None) -> list[Any] | None:
        return None if values is None else [values[each] for each in at]

    rows = np.asarray(batch.embeddings, np.float32)[at]
    return Batch(
        [batch.ids[each] for each in at], rows, column(batch.metadatas), column(batch.documents), column(batch.uris)
    )


class Increment(Protocol):
    """One user's copy in a target while it is brought up to a commit; nothing of it shows before the end."""

    def collections(self) -> dict[Key, CollectionShape]:
        """Return the collections that the target has."""

    def digests(self, shape: CollectionShape) -> Mapping[str, bytes]:
        """Return the digests of a collection's records by id; empty bytes where the target keeps none."""

    def create(self, shape: CollectionShape) -> None:
        """Create a collection, or change what the target knows of it."""

    def put(self, shape: CollectionShape, batch: Batch, digests: Sequence[bytes]) -> None:
        """Add records, or replace them."""

    def delete(self, shape: CollectionShape, ids: Sequence[str]) -> None:
        """Delete records."""

    def drop(self, key: Key) -> None:
        """Drop a collection with its records."""


class Sink(Protocol):
    """A target. Raises TargetUnavailable, TargetRefused."""

    def commit_of(self, user_id: str) -> int:
        """Return the commit that the target holds of a user; 0 if it holds none, or does not know."""

    def increment(self, user_id: str, commit: int) -> AbstractContextManager[Increment]:
        """Bring a user's copy up to a commit in the block; after an exception it is as it was, or to be repeated."""

    def forget(self, user_id: str) -> bool:
        """Delete all of a user; return whether there was anything."""

    def close(self) -> None:
        """Close connections. Idempotent."""


class Source(Protocol):
    """A place whose collections can become a vectorstore. Raises TargetUnavailable, TargetRefused."""

    def collections(self) -> list[CollectionShape]:
        """Return the collections."""

    def batches(self, shape: CollectionShape) -> Iterator[Batch]:
        """Yield a collection's records, each once."""

    def close(self) -> None:
        """Close connections. Idempotent."""
