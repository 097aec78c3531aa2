"""Parts of bodies as Chroma's Python clients before 1.0 send them, as today's clients send the same."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from vectorpool.errors import UNDECODABLE

# The options of an index by their older names, and those that an index has no longer.
_NAMES: Final = {"M": "max_neighbors"}
_SHORT: Final = 64
# No configuration of an older client is longer.
_LONGEST: Final = 4096
_GONE: Final = ("_type", "num_threads", "batch_size")


def is_no_filter(raw: msgspec.Raw) -> bool:
    """Return whether the JSON of a filter is ``{}``, which older clients send where they mean none."""
    text = memoryview(raw)
    # Longer text is a filter, and need not be copied.
    return len(text) < _SHORT and b"".join(bytes(text).split()) == b"{}"


def todays_configuration(raw: msgspec.Raw) -> msgspec.Raw:
    """Return the JSON of a new collection's configuration: as it came, or an older client's in today's names."""
    if len(memoryview(raw)) > _LONGEST or b'"_type"' not in bytes(raw):
        return raw
    try:
        asked = msgspec.json.decode(raw, type=dict[str, Any])
    except UNDECODABLE:
        return raw
    if asked.get("_type") != "CollectionConfigurationInternal":
        return raw
    older = asked.get("hnsw_configuration")
    if not isinstance(older, dict):
        return msgspec.Raw(b"null")
    hnsw = {_NAMES.get(name, name): value for name, value in older.items() if name not in _GONE}
    return msgspec.Raw(msgspec.json.encode({"hnsw": hnsw}))
