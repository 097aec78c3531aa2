"""The embeddings of a body of Chroma's protocol: base64 of little-endian float32, or arrays of numbers.

Base64 goes to bytes and never becomes a list; arrays are decoded vector by vector, so that no single call holds the
interpreter for long.
"""

from __future__ import annotations

import base64
import binascii
import math
import re

import msgspec
import numpy as np

from vectorpool import bounds, chroma_bounds, commands
from vectorpool.chroma_parts import Part, is_null, list_of, records_bound, wrong_shape
from vectorpool.errors import ChromaRefusal
from vectorpool.outline import Member
from vectorpool.settings import Settings


def vectors_of(raw: Part, settings: Settings, *, nulls: bool) -> tuple[commands.Vectors | None, int]:
    """Return the embeddings of a write, and how many were sent, nulls included.

    ``nulls`` allows records without one, and none at all.
    """
    if nulls and is_null(raw):
        return None, 0
    most = records_bound(settings, "embeddings")
    items = _items(raw, most)
    kinds = {bytes(memoryview(item)[:1]) for item in items}
    if nulls:
        kinds.discard(b"n")
    if len(kinds) > 1 or not kinds <= {b'"', b"["}:
        raise _no_variant()
    rows: list[bytes] = []
    positions: list[int] = []
    for at, item in enumerate(items):
        if bytes(memoryview(item)[:1]) != b"n":
            rows.append(numbers_of(item, None, settings) if kinds == {b"["} else _packed(item, settings))
            positions.append(at)
    if any(not row for row in rows):
        raise ChromaRefusal("Validation error: embeddings: Each embedding must have at least 1 dimension")
    whole = joined(rows)
    return commands.Vectors(whole.dimension, whole.data, None, positions if nulls else None), len(items)


def _items(raw: Part, most: bounds.Most) -> list[msgspec.Raw]:
    if isinstance(raw, Member):
        found: list[msgspec.Raw] = list_of(raw, list[msgspec.Raw], "embeddings", most)
        return found
    chroma_bounds.check_items(raw, most)
    try:
        items: list[msgspec.Raw] = msgspec.json.decode(raw, type=list[msgspec.Raw])
    except msgspec.ValidationError as error:
        raise _no_variant() from error
    most.check(len(items))
    return items


def _no_variant() -> ChromaRefusal:
    return wrong_shape("embeddings: data did not match any variant of untagged enum EmbeddingsPayload")


def numbers_of(raw: msgspec.Raw, place: str | None, settings: Settings) -> bytes:
    """Return an array of numbers as float32; ``place`` names it in errors."""
    chroma_bounds.check_numbers(memoryview(raw), settings)
    try:
        numbers = msgspec.json.decode(raw, type=list[float])
    except msgspec.ValidationError as error:
        if "out of range" in str(error):
            raise _out_of_range() from error
        raise (_no_variant() if place is None else wrong_shape(f"{place}: {error}")) from error
    except msgspec.DecodeError as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error
    if any(math.isinf(number) for number in numbers):
        raise _out_of_range()
    with np.errstate(over="ignore"):
        return np.array(numbers, "<f4").tobytes()


def _out_of_range() -> ChromaRefusal:
    return ChromaRefusal("Failed to parse the request body as JSON: number out of range")


def _why_not_base64(text: str) -> str:
    symbol = re.search(r"[^A-Za-z0-9+/=]", text)
    if symbol is None:
        return f"Invalid input length: {len(text)}"
    return f"Invalid symbol {ord(symbol[0])}, offset {symbol.start()}."


def _packed(raw: msgspec.Raw, settings: Settings) -> bytes:
    chroma_bounds.check_numbers(memoryview(raw), settings)
    text = msgspec.json.decode(raw, type=str)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ChromaRefusal(f"Invalid base64 string: {_why_not_base64(text)}") from error
    if len(data) % 4:
        raise ChromaRefusal(
            f"Invalid byte length: {len(data)} bytes cannot be converted to f32 values (must be divisible by 4)"
        )
    numbers = np.frombuffer(data, "<f4")
    if not np.isfinite(numbers).all():
        place = int(np.flatnonzero(~np.isfinite(numbers))[0])
        bad = numbers[place]
        shown = "NaN" if np.isnan(bad) else "inf" if bad > 0 else "-inf"
        raise ChromaRefusal(f"Non-finite float value at embedding index {place}: {shown}")
    return data


def joined(rows: list[bytes]) -> commands.Vectors:
    """Return rows of float32 as Vectors; raise ChromaRefusal if their dimensions differ."""
    if not rows:
        return commands.Vectors(1, b"")
    dimension = len(rows[0]) // 4
    if any(len(row) != len(rows[0]) for row in rows):
        raise ChromaRefusal("Inconsistent dimensions in provided embeddings")
    return commands.Vectors(dimension, b"".join(rows))
