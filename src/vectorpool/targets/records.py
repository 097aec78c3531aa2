"""What passes between a source and a sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Float32: TypeAlias = NDArray[np.float32]

# Records of one batch, at most.
BATCH: Final = 1000


class Collection(msgspec.Struct, frozen=True):
    """A collection. ``dimension`` is None until its first record; ``configuration`` is Chroma's, as JSON values."""

    id: str
    database: str
    name: str
    metadata: dict[str, Any] | None = None
    dimension: int | None = None
    configuration: dict[str, Any] = {}

    @property
    def space(self) -> str:
        """The distance: ``l2``, ``cosine`` or ``ip``."""
        return str((self.configuration.get("hnsw") or {}).get("space") or "l2")

    @property
    def shown(self) -> str:
        """The collection in an error."""
        return f"{self.database}/{self.name}"


class Records(msgspec.Struct, frozen=True):
    """A batch of records as columns of one length; ``vectors`` is float32[n, dimension]."""

    ids: Sequence[str]
    vectors: Float32
    documents: Sequence[str | None]
    metadatas: Sequence[dict[str, Any] | None]
    uris: Sequence[str | None]

    def part(self, of: slice) -> Records:
        """Return the records of a slice."""
        return Records(self.ids[of], self.vectors[of], self.documents[of], self.metadatas[of], self.uris[of])


class Held(msgspec.Struct, frozen=True):
    """What a target holds of one collection.

    It is whole as of ``commit``, 0 for never; ``mark`` is the position of the last change that it has. While an export
    to ``next_commit`` is unfinished, ``cursor`` counts the records that are written.
    """

    commit: int = 0
    commit_hash: str = ""
    mark: int = 0
    next_commit: int = 0
    cursor: int = 0


class State(msgspec.Struct, frozen=True):
    """What a target holds of a user: the commit of the last finished export, and its collections by id."""

    commit: int
    commit_hash: str
    collections: dict[str, Held] = {}


class Copy(msgspec.Struct, frozen=True):
    """What a target holds of a user since the last finished export; ``records`` is None if they were not counted.

    ``collections`` are the databases and names of at most a thousand collections, where they were asked for.
    """

    commit: int
    commit_hash: str
    records: int | None = None
    collections: list[tuple[str, str]] = []


class Sink(Protocol):
    """A target that is written. Every method may be repeated; nothing is promised to readers before ``finish``."""

    # Every export writes all records anew.
    is_always_whole: bool
    # An open one serves one user after another, and is dear to open.
    may_be_kept: bool

    def state(self, user_id: str) -> State | None:
        """Return what is there of a user, and keep other exporters of the user away where the target can."""

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Begin an export of one commit."""

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Create a collection, or give it its present name and metadata, and note where its export stands."""

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Add records or replace them whole; ``is_new`` says that the collection had none before this export."""

    def count(self, collection: Collection) -> int:
        """Return how many records a collection has."""

    def ids(self, collection: Collection) -> set[str]:
        """Return the ids of a collection's records."""

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete records; ids that are not there are skipped."""

    def drop_collection(self, collection_id: str) -> None:
        """Delete a collection with its records, if it is there."""

    def note(self, collection: Collection, held: Held) -> None:
        """Note where the export of a collection stands."""

    def finish(self) -> None:
        """Make the export valid: from now on the target holds the commit."""

    def forget(self, user_id: str, commit: int) -> int:
        """Delete what is there of a user who was deleted by ``commit``; return how many records that were."""

    def close(self) -> None:
        """Close the target; an export that is not finished is taken back where the target can."""


class Source(Protocol):
    """A target that is read."""

    def collections(self) -> list[Collection]:
        """Return the collections of the user."""

    def copy(self) -> Copy | None:
        """Return the commit that the target has whole; None if it has none, or a later export is unfinished."""

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield all records of a collection but the first ``cursor``, in an order that does not change."""

    def close(self) -> None:
        """Close the target."""
