"""Records as columns, as Chroma and the reads that go round it return them."""

from __future__ import annotations

from typing import Any

import msgspec


class Rows(msgspec.Struct, frozen=True):
    """Records as columns; a column that was not asked for is None."""

    ids: list[str]
    documents: list[str | None] | None
    metadatas: list[dict[str, Any] | None] | None
    embeddings: list[list[float]] | None
    uris: list[str | None] | None
    distances: list[float] | None = None
