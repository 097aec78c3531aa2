"""Parts of bodies as Chroma's Python clients before 1.0 send them, as today's clients send the same."""

from __future__ import annotations

from typing import Any, Final

import msgspec

# The options of an index by their older names, and those that an index has no longer.
_NAMES: Final = {"M": "max_neighbors"}
_GONE: Final = ("_type", "num_threads", "batch_size")


def is_no_filter(text: str | None) -> bool:
    """Return whether the JSON of a filter is ``{}``, which older clients send where they mean none."""
    return text is not None and "".join(text.split()) == "{}"


def todays_configuration(text: str | None) -> str | None:
    """Return the JSON of a new collection's configuration: as it came, or an older client's in today's names."""
    if text is None or '"_type"' not in text:
        return text
    try:
        asked = msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError:
        return text
    if asked.get("_type") != "CollectionConfigurationInternal":
        return text
    older = asked.get("hnsw_configuration")
    if not isinstance(older, dict):
        return None
    hnsw = {_NAMES.get(name, name): value for name, value in older.items() if name not in _GONE}
    return msgspec.json.encode({"hnsw": hnsw}).decode()
