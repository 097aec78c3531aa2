"""Metadata as JSON text, and back, without a change of kind: a float stays a float, and an integer an integer.

What JSON has no word for is refused by name: NaN and infinities. Text with a NUL is refused where a database has none.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from vectorpool.errors import TargetRefused

_INT64: Final = range(-(2**63), 2**63)


def to_json(metadata: dict[str, Any] | None, of: str) -> str | None:
    """Return metadata as JSON text, None for none; raise TargetRefused that names the record and the key.

    A float without a fraction is written with one decimal and never with an exponent, because databases that keep
    numbers as decimals would give it back as an integer.
    """
    if metadata is None:
        return None
    parts = (f"{json.dumps(key, ensure_ascii=False)}: {_value(value, of, key)}" for key, value in metadata.items())
    return "{" + ", ".join(parts) + "}"


def _value(value: Any, of: str, key: str) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(each, of, key) for each in value) + "]"
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TargetRefused(f"JSON has no word for {value}, the value of {key[:60]!a} in {of}. Change it first.")
        return f"{value:.1f}" if value.is_integer() and abs(value) < 2**63 else repr(value)
    return json.dumps(value, ensure_ascii=False)


def from_json(text: str | None) -> dict[str, Any] | None:
    """Return metadata from JSON text; an integer that Chroma cannot hold was a float."""
    if text is None:
        return None
    read: dict[str, Any] = json.loads(text, parse_int=_integer)
    return read


def _integer(digits: str) -> int | float:
    value = int(digits)
    return value if value in _INT64 else float(digits)


def has_nul(*values: Any) -> bool:
    """Whether any text among values, lists and metadata has a NUL."""
    for value in values:
        if isinstance(value, str) and "\0" in value:
            return True
        if isinstance(value, list) and has_nul(*value):
            return True
        if isinstance(value, dict) and has_nul(*value, *value.values()):
            return True
    return False
