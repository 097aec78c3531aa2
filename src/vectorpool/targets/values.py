"""Metadata as JSON, for targets whose JSON does not hold every float of Chroma's.

JSON has no NaN and no infinity, and PostgreSQL's ``jsonb`` writes 1e300 as digits without a point and forgets the
sign of -0.0. Such a float is the object ``{"$float": "<its text>"}``. Chroma's metadata has texts, integers of 64
bits, floats, booleans and lists of them, and never an object, so an object cannot mean anything else.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec

_ENCODER: Final = msgspec.json.Encoder()
_FLOAT: Final = "$float"
# Up to here a float without a fraction keeps its point.
_PLAIN_BELOW: Final = 1e15
_PLAIN_ABOVE: Final = 1e-300


def encode(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata whose floats survive."""
    return {key: _encoded(value) for key, value in metadata.items()}


def decode(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return what ``encode`` was given."""
    return {key: _decoded(value) for key, value in metadata.items()}


def to_json(metadata: dict[str, Any] | None) -> str | None:
    """Return metadata as JSON text, None for none."""
    return None if metadata is None else _ENCODER.encode(encode(metadata)).decode()


def from_json(text: str | None) -> dict[str, Any] | None:
    """Return what ``to_json`` was given."""
    return None if text is None else decode(json.loads(text))


def unholdable(metadata: dict[str, Any] | None) -> str | None:
    """Return the key of a float that plain JSON does not hold; None if there is none."""
    for key, value in (metadata or {}).items():
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, float) and not math.isfinite(each):
                return key
    return None


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    if isinstance(value, float):
        size = abs(value)
        is_plain = _PLAIN_ABOVE < size < _PLAIN_BELOW or (size == 0 and math.copysign(1, value) > 0)
        return value if is_plain else {_FLOAT: repr(value)}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if isinstance(value, dict) and set(value) == {_FLOAT}:
        return float(value[_FLOAT])
    return value
