"""Embeddings of a command: from bytes to an array, and the check that they fit a collection."""

from __future__ import annotations

import numpy as np

from vectorpool.commands import Vectors
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.rows import Float32
from vectorpool.errors import DimensionMismatch, EmbedderMismatch, InvalidEmbedding
from vectorpool.vectorstore.sidecar import Sidecar


def as_array(vectors: Vectors) -> Float32:
    """Return the embeddings as float32[count, dimension]; raise InvalidEmbedding if the length of the bytes differs."""
    if vectors.dimension < 1 or len(vectors.data) % (4 * vectors.dimension):
        raise InvalidEmbedding(f"{len(vectors.data)} bytes are not rows of {vectors.dimension} float32 numbers.")
    array = np.frombuffer(vectors.data, dtype="<f4").reshape(-1, vectors.dimension)
    if not np.isfinite(array).all():
        raise InvalidEmbedding("An embedding holds NaN or an infinite number. Send finite numbers only.")
    return array


def rows_of(vectors: Vectors) -> Float32:
    """Return the embeddings of a call of Chroma's protocol as float32[count, dimension], unchecked.

    An embedding without a number gives float32[1, 0], and no embedding gives float32[0, dimension].
    """
    if vectors.dimension == 0:
        return np.empty((1, 0), np.float32)
    return np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.dimension)


def check_vectors(info: CollectionInfo, sidecar: Sidecar, vectors: Vectors) -> Float32:
    """Return float32[count, dimension] if it fits the collection; raise DimensionMismatch or EmbedderMismatch."""
    array = as_array(vectors)
    known = sidecar.embedder(info.id)
    if vectors.embedder is not None and known is not None and vectors.embedder != known:
        raise EmbedderMismatch(
            f"The collection {info.name!r} was embedded by {known}, this text by {vectors.embedder}. "
            f"Start the service with the collection's embedder, or ingest into a new collection.",
            extra={"collection_embedder": known, "request_embedder": vectors.embedder},
        )
    if info.dimension is not None and info.dimension != vectors.dimension:
        whose = "the request's" if vectors.embedder is None else f"those of text, which {vectors.embedder} makes,"
        made = "the model that made the collection" if known is None else known
        raise DimensionMismatch(
            f"The collection {info.name!r} has embeddings of dimension {info.dimension}, {whose} have "
            f"{vectors.dimension}. Use {made}: send its embeddings, or start the service with it.",
            extra={
                "collection_dimension": info.dimension,
                "request_dimension": vectors.dimension,
                "collection_embedder": known,
                "request_embedder": vectors.embedder,
            },
        )
    return array
