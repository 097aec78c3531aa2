"""How many different metadata keys the records of one collection may have, together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vectorpool.bounds import COLLECTION_KEYS
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.vectorstore.effect import Effect


def check_keys(
    catalogue: Catalogue,
    info: CollectionInfo,
    metadatas: Iterable[Mapping[str, Any] | None] | None,
    effect: Effect,
) -> None:
    """Raise LimitExceeded if a write would give a collection too many different keys. Known keys always pass.

    A write that is applied again passes too: it may be acknowledged, and others may have used the keys up meanwhile.
    """
    if effect.is_again:
        return
    used = {key for metadata in metadatas or () if metadata for key, value in metadata.items() if value is not None}
    if used <= info.metadata_keys:
        return
    known = catalogue.refresh(info).metadata_keys
    if not used <= known:
        COLLECTION_KEYS.check(len(used | known), f"The collection {info.name!r}, with this call,")
