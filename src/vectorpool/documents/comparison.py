"""The wanted state beside the actual one: the bucket's listing and the registry, merged by path.

Both come in pages, ordered by the bytes of their paths, so a comparison of any size holds one page of each.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

import msgspec

from vectorpool.answers import Ingested
from vectorpool.documents.library import Document

Difference = Literal["unchanged", "changed", "new", "gone", "missing"]


class Pair(msgspec.Struct, frozen=True):
    """What the listing and the registry say of one path; one of them may know nothing of it."""

    path: str
    document: Document | None
    known: Ingested | None


async def paired(
    listing: AsyncGenerator[Document, None], registry: AsyncGenerator[Ingested, None]
) -> AsyncGenerator[Pair, None]:
    """Yield every path of either, ascending; close both in the end."""
    async with aclosing(listing), aclosing(registry), aclosing(_merged(listing, registry)) as merged:
        async for pair in merged:
            yield pair


async def _merged(
    listing: AsyncGenerator[Document, None], registry: AsyncGenerator[Ingested, None]
) -> AsyncGenerator[Pair, None]:
    document, known = await anext(listing, None), await anext(registry, None)
    while document is not None or known is not None:
        there = document is not None and (known is None or _key(document.path) <= _key(known.path))
        recorded = known is not None and (document is None or _key(known.path) <= _key(document.path))
        path = document.path if there and document is not None else known.path if known is not None else ""
        yield Pair(path, document if there else None, known if recorded else None)
        if there:
            document = await anext(listing, None)
        if recorded:
            known = await anext(registry, None)


def _key(path: str) -> bytes:
    return path.encode()


def difference(pair: Pair, recipe: str, collection: str, *, force: bool = False) -> Difference:
    """Return how a path is out of step; ``changed`` means that its bytes must be looked at.

    ``missing``: a restore or fork brought the records, and the bytes are nowhere; they stay.
    """
    document, known = pair.document, pair.known
    if document is None:
        assert known is not None, "a pair has one side at least"
        return "missing" if known.restored else "gone"
    if known is None:
        return "new"
    same_recipe = (known.recipe, known.collection) == (recipe, collection)
    return "unchanged" if same_recipe and not force and known.etag == document.etag else "changed"
