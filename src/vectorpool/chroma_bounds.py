"""The bounds of what Chroma's protocol may send, by the table in ``bounds``.

A body is cut into raw parts first. A part that could hold too many items is counted as text, up to the bound and no
further, before an object is made of any item: a list of 20 million items takes gigabytes, and decoding it keeps the
interpreter lock. What is within the bound is decoded, and its contents are checked then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from vectorpool import bounds
from vectorpool.bounds import Most
from vectorpool.checks import check_index_metadata, count_values
from vectorpool.errors import ChromaRefusal, InvalidFilter, InvalidId, LimitExceeded
from vectorpool.names import excerpt
from vectorpool.settings import Settings

_SPACE: Final = rb"[ \t\r\n]*+"
_TEXT: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# An object that holds no object but what Chroma calls a sparse vector.
_FLAT: Final = rb'\{[^"{}]*+(?:' + _TEXT + rb'[^"{}]*+)*+\}'
_OBJECT: Final = rb'\{[^"{}]*+(?:(?:' + _TEXT + rb"|" + _FLAT + rb')[^"{}]*+)*+\}'
_ITEM: Final = re.compile(
    _SPACE + rb"(?:" + _TEXT + rb"|" + _OBJECT + rb'|\[[^\[\]"{}]*+\]|[^\[\]{}",\s]++)' + _SPACE + rb"(?P<end>[,\]])",
    re.DOTALL,
)
_OPENING: Final = re.compile(_SPACE + rb"\[")
_TOKEN: Final = re.compile(_TEXT + rb"(?P<colon>" + _SPACE + rb":)?", re.DOTALL)
_JOINING: Final = frozenset({"$and", "$or"})
_PATTERNS: Final = frozenset({"$regex", "$not_regex"})
# The shortest item of a list, with its comma, and the shortest member of an object.
_ITEM_BYTES: Final = 2
_MEMBER_BYTES: Final = 5
_QUOTE, _COMMA = ord('"'), ord(",")
# A number of an embedding, with its comma, and the space before it where JSON is written line by line.
_MAX_NUMBER_BYTES: Final = 64
# Objects of one condition: itself and its operator.
_OBJECTS_A_TERM: Final = 2


def of_setting(settings: Settings, what: str, setting: str) -> Most:
    """Return the bound that a setting gives for a number of things."""
    return Most(f"{what} ({setting})", int(getattr(settings, setting)))


# --- Before anything is made of a part ----------------------------------------------------------------


def check_items(part: msgspec.Raw, bound: Most, *, of: str = "The call", each: Most | None = None) -> None:
    """Raise LimitExceeded if the list in ``part`` has more items than ``bound`` allows, or an item too many bytes.

    ``each`` bounds the bytes of an item.

    What is no list, or whose items nest deeper than any item may, is left to the decoder if it is small, and refused
    with ChromaRefusal if it is large.
    """
    text = memoryview(part)
    if len(text) <= min((bound.most + 1) * _ITEM_BYTES, len(text) if each is None else each.most):
        return
    opening = _OPENING.match(text)
    if opening is None:
        # No list: the decoder refuses it at its first byte.
        return
    at = opening.end()
    for _ in range(bound.most):
        end = len(text) if each is None else at + each.most + 1
        item = _ITEM.match(text, at, end)
        if item is None and each is not None and end < len(text):
            raise each.exceeded(of)
        if item is None:
            raise ChromaRefusal(
                f"Failed to deserialize the JSON body into the target type: {bound.name}: an item has another shape",
                status=422,
            )
        if item["end"] == b"]":
            return
        at = item.end()
    raise bound.exceeded(of)


def check_members(part: msgspec.Raw, bound: Most, *, of: str) -> None:
    """Raise LimitExceeded if the object in ``part``, with those inside it, has more members than ``bound`` allows."""
    if len(memoryview(part)) <= (bound.most + 1) * _MEMBER_BYTES:
        return
    text = bytes(part)
    if text.count(b":") <= bound.most:
        return
    members = 0
    for token in _TOKEN.finditer(text):
        members += token["colon"] is not None
        if members > bound.most:
            raise bound.exceeded(of)


def check_values(part: msgspec.Raw, *, of: str) -> None:
    """Raise LimitExceeded if the object in ``part`` has more keys or values than a record's metadata may."""
    check_members(part, bounds.METADATA_KEYS, of=of)
    most = bounds.METADATA_VALUES.most + bounds.METADATA_KEYS.most
    if len(memoryview(part)) <= most * _ITEM_BYTES:
        return
    text = bytes(part)
    if text.count(b",") > most and re.sub(_TEXT, b"", text, flags=re.DOTALL).count(b",") > most:
        raise bounds.METADATA_VALUES.exceeded(of)


def check_bytes(part: msgspec.Raw, bound: Most, *, of: str) -> None:
    """Raise LimitExceeded if a part is longer than ``bound`` allows."""
    bound.check(len(memoryview(part)), of)


def check_numbers(part: memoryview, settings: Settings) -> None:
    """Raise LimitExceeded if the array of numbers, or the base64 text, of one embedding is above max_dimension."""
    most = settings.max_dimension
    if len(part) <= most * _ITEM_BYTES:
        return
    if part[0] == _QUOTE:
        # Four letters of base64 are three bytes, and a number is four.
        count = (len(part) - 2) * 3 // 16
    else:
        count = int(np.count_nonzero(np.frombuffer(part, np.uint8) == _COMMA)) + 1
    of_setting(settings, "numbers", "max_dimension").check(count, "An embedding")
    # Bytes that are no numbers are space, which only the decoder looks through.
    Most("bytes", _MAX_NUMBER_BYTES * most).check(len(part), "An embedding")


# --- What was decoded ---------------------------------------------------------------------------------


def check_ids(ids: list[str] | None) -> None:
    """Raise InvalidId if an id is longer than a record's id may be."""
    most = bounds.RECORD_ID_BYTES
    for record_id in ids or ():
        if len(record_id) * 4 > most and len(record_id.encode("utf-8", "surrogatepass")) > most:
            raise InvalidId(
                f"The record id {excerpt(record_id)} is longer than {most} bytes. Use a shorter one.",
                extra={"limit": most, "limit_name": "record id bytes"},
            )


def check_metadata(metadata: Mapping[str, Any], *, of: str) -> None:
    """Raise LimitExceeded if metadata has too many keys or values, or too long a key or list."""
    bounds.METADATA_KEYS.check(len(metadata), of)
    bounds.METADATA_VALUES.check(count_values(metadata), of)
    most = bounds.METADATA_KEY_BYTES
    for key, value in metadata.items():
        if len(key) * 4 > most and len(key.encode("utf-8", "surrogatepass")) > most:
            raise LimitExceeded(
                f"The metadata key {excerpt(key)} of {of} is longer than {most} bytes. Use a shorter one.",
                extra={"limit": most, "limit_name": "metadata key bytes"},
            )
        if isinstance(value, list):
            bounds.METADATA_LIST.check(len(value), of)


def check_collection_metadata(metadata: Mapping[str, Any], *, of: str) -> None:
    """Raise LimitExceeded or InvalidRequest if a collection's metadata is outside the table of bounds."""
    check_metadata(metadata, of=of)
    check_index_metadata(metadata)


def check_index(part: msgspec.Raw, *, of: str) -> None:
    """Check every number of an index in a configuration or a schema; raise InvalidRequest, which names the range."""
    check_bytes(part, bounds.CONFIGURATION_BYTES, of=of)
    try:
        found = msgspec.json.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error
    keys = found.get("keys", found.get("key_overrides")) if isinstance(found, dict) else None
    if isinstance(keys, dict):
        bounds.COLLECTION_KEYS.check(len(keys), of)
    for bound, value in bounds.index_numbers(found):
        # Chroma's own parser refuses a negative one, by a status of its own, where the number must be whole.
        if value >= 0 or bound is bounds.RESIZE_FACTOR:
            bound.check(value)


# --- Filters ------------------------------------------------------------------------------------------


def check_filter(part: msgspec.Raw, field: str) -> None:
    """Raise InvalidFilter or LimitExceeded if a filter is larger or deeper than the table allows.

    What it means is Chroma's business; only how much there is of it is counted here.
    """
    text = bytes(part)
    bounds.FILTER_BYTES.check(len(text), field)
    objects = bounds.FILTER_TERMS.most * _OBJECTS_A_TERM
    if text.count(b"{") > objects and re.sub(_TEXT, b"", text, flags=re.DOTALL).count(b"{") > objects:
        raise _too_many(bounds.FILTER_TERMS, field)
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChromaRefusal(f"Failed to parse the request body as JSON: {error}", status=400) from error
    terms = patterns = 0
    nodes: list[tuple[Any, int]] = [(found, 1)]
    while nodes:
        node, depth = nodes.pop()
        if depth > bounds.FILTER_DEPTH:
            raise InvalidFilter(
                f"{field} is nested deeper than {bounds.FILTER_DEPTH} levels. Write it flatter.",
                extra={"limit": bounds.FILTER_DEPTH, "limit_name": "filter depth"},
            )
        if not isinstance(node, dict):
            continue
        terms += max(1, len(node))
        if terms > bounds.FILTER_TERMS.most:
            raise _too_many(bounds.FILTER_TERMS, field)
        for name, operand in node.items():
            if isinstance(operand, list) and name in _JOINING:
                nodes += ((child, depth + 1) for child in operand)
                continue
            below, pattern = _operand(name, operand, field)
            nodes += ((child, depth + 1) for child in below)
            patterns += pattern
            bounds.FILTER_PATTERN_BYTES.check(patterns, field)


def _operand(name: str, operand: Any, field: str) -> tuple[list[Any], int]:
    """Check the lists of one condition; return what is nested in it, and the bytes of its regular expressions."""
    pairs = operand.items() if isinstance(operand, dict) else ((name, operand),)
    below: list[Any] = []
    patterns = 0
    for operator, value in pairs:
        if isinstance(value, list):
            if len(value) > bounds.PROTOCOL_FILTER_VALUES.most:
                raise _too_many(bounds.PROTOCOL_FILTER_VALUES, field)
            below += [member for member in value if isinstance(member, (dict, list))]
        elif isinstance(value, dict):
            below.append(value)
        elif isinstance(value, str) and operator in _PATTERNS:
            patterns += len(value.encode("utf-8", "surrogatepass"))
    return below, patterns


def _too_many(bound: Most, field: str) -> InvalidFilter:
    return InvalidFilter(
        f"{field} has more than {bound.most} {bound.name}. Use $in, or several calls.",
        extra={"limit": bound.most, "limit_name": bound.name},
    )
