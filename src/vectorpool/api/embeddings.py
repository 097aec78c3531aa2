"""From the numbers and texts of a request to ``commands.Vectors``: float32[count, dimension], finite, not ragged."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vectorpool.checks import check_count
from vectorpool.commands import Vectors
from vectorpool.context import RequestContext
from vectorpool.embedding import Embedder
from vectorpool.errors import InvalidEmbedding, LimitExceeded
from vectorpool.settings import Settings
from vectorpool.telemetry.parts import EMBED

Row = npt.NDArray[np.float32]


def to_row(embedding: Sequence[float], settings: Settings, *, of: str) -> Row:
    """Return one embedding as float32[dimension]; ``of`` names its owner in errors.

    Raises InvalidEmbedding if it is empty or holds what float32 cannot (NaN, infinity, 1e39), LimitExceeded above
    ``settings.max_dimension``.
    """
    if not embedding:
        raise InvalidEmbedding(f"The embedding of {of} is empty. Send numbers, or leave it out and send a document.")
    if len(embedding) > settings.max_dimension:
        raise LimitExceeded(
            f"The embedding of {of} has {len(embedding)} numbers; at most {settings.max_dimension} are allowed "
            "(max_dimension). Use a smaller model.",
            extra={"limit": settings.max_dimension, "limit_name": "max_dimension", "count": len(embedding)},
        )
    try:
        # A third of the time that numpy takes for a list of numbers.
        row = np.frombuffer(struct.pack(f"={len(embedding)}f", *embedding), np.float32)
    except OverflowError:
        # Numpy says where.
        with np.errstate(over="ignore"):
            row = np.array(embedding, dtype=np.float32)
    if not np.isfinite(row).all():
        place = int(np.flatnonzero(~np.isfinite(row))[0])
        raise InvalidEmbedding(
            f"The embedding of {of} holds NaN, infinity or a number beyond float32 at position {place}. "
            "Send finite numbers.",
            extra={"position": place},
        )
    return row


def pack(rows: Sequence[Row], names: Sequence[str], *, embedder: str | None, positions: list[int] | None) -> Vectors:
    """Return rows of one dimension as Vectors; ``names`` names each row in errors.

    Raises InvalidEmbedding if the rows differ in length.
    """
    dimension = len(rows[0])
    for row, name in zip(rows, names, strict=True):
        if len(row) != dimension:
            raise InvalidEmbedding(
                f"The embedding of {name} has {len(row)} numbers, that of {names[0]} has {dimension}. Send embeddings "
                "of one length in one call.",
                extra={"dimension": dimension, "got": len(row)},
            )
    whole = rows[0] if len(rows) == 1 else np.concatenate(rows)
    data = whole.astype("<f4", copy=False).tobytes()
    return Vectors(dimension, data, embedder, positions)


async def embed_missing(
    given: Sequence[Row | None],
    texts: Sequence[str | None],
    names: Sequence[str],
    embedder: Embedder,
    context: RequestContext,
    *,
    user_id: str,
) -> Vectors | None:
    """Return the embeddings of one write: those given, and for rows without one, those of their texts.

    A row with neither has none: the result's ``rows`` then lists the rows that have. None if no row has any.
    ``Vectors.embedder`` is the embedder's name if it made at least one row.
    """
    rows: list[Row | None] = list(given)
    wanted = [at for at, (row, text) in enumerate(zip(given, texts, strict=True)) if row is None and text is not None]
    if wanted:
        asked = [text for at in wanted if (text := texts[at]) is not None]
        made = await context.within(embedder.embed(asked, user_id), part=EMBED)
        for at, row in zip(wanted, made, strict=True):
            rows[at] = row
    positions = [at for at, row in enumerate(rows) if row is not None]
    if not positions:
        return None
    return pack(
        [row for row in rows if row is not None],
        [names[at] for at in positions],
        embedder=embedder.name if wanted else None,
        positions=None if len(positions) == len(rows) else positions,
    )


async def for_query(
    texts: Sequence[str] | None,
    embeddings: Sequence[Sequence[float] | Row] | None,
    embedder: Embedder,
    settings: Settings,
    context: RequestContext,
    *,
    user_id: str,
) -> Vectors:
    """Return the embeddings of a query from exactly one of texts and embeddings, at most ``settings.max_queries``.

    An embedding that is an array was checked before.
    """
    asked = len(texts or embeddings or ())
    check_count("queries", asked, limit=settings.max_queries, limit_name="max_queries")
    if embeddings is not None and asked == 1:
        [embedding] = embeddings
        row = embedding if isinstance(embedding, np.ndarray) else to_row(embedding, settings, of="query 0")
        return Vectors(len(row), row.astype("<f4", copy=False).tobytes())
    names = [f"query {at}" for at in range(asked)]
    if embeddings is not None:
        rows = [
            embedding if isinstance(embedding, np.ndarray) else to_row(embedding, settings, of=name)
            for embedding, name in zip(embeddings, names, strict=True)
        ]
        return pack(rows, names, embedder=None, positions=None)
    made = await context.within(embedder.embed(list(texts or ()), user_id), part=EMBED)
    return pack(list(made), names, embedder=embedder.name, positions=None)
