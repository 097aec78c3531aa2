"""Records as columns: what reads return, and what writes take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

Float32: TypeAlias = NDArray[np.float32]
Metadatas: TypeAlias = Sequence[dict[str, Any] | None] | None
Texts: TypeAlias = Sequence[str | None] | None

# hnswlib divides by the norm plus this, so that a vector of zeros stays one.
TINY: Final = np.float32(1e-30)


class Rows(msgspec.Struct, frozen=True):
    """Records that a read found; a column that was not asked for is None."""

    ids: list[str]
    documents: list[str | None] | None
    metadatas: list[dict[str, Any] | None] | None
    embeddings: list[Any] | None
    uris: list[str | None] | None
    distances: list[float] | None = None


class Batch(msgspec.Struct, frozen=True):
    """Records that a write carries; a column that is None is left as it is.

    ``embeddings`` is float32[n, d], or for an update a list with None for each record whose embedding stays.
    """

    ids: Sequence[str]
    embeddings: Float32 | Sequence[Any] | None
    metadatas: Metadatas = None
    documents: Texts = None
    uris: Texts = None

    def part(self, of: slice) -> Batch:
        """Return the records of a slice."""

        def cut(column: Any) -> Any:
            return None if column is None else column[of]

        return Batch(self.ids[of], cut(self.embeddings), cut(self.metadatas), cut(self.documents), cut(self.uris))


def unit(vector: Float32) -> Float32:
    """Return float32[dimension] of length 1; of length 0 if it was, or if its square overflows, as Chroma stores it."""
    with np.errstate(over="ignore"):
        return np.asarray(vector / (np.sqrt(np.dot(vector, vector)) + TINY), np.float32)
