"""Filters on records: a ``where`` and a ``where_document``, parsed from JSON into conditions on values.

``read_filter`` takes what both protocols take. It returns None for a filter that Chroma has to answer or refuse: a
list of mixed types, an order on text or booleans, a key that Chroma reserves, and everything that is not a filter. It
decides this before any file is read. Within a filter, regular expressions and empty text are left to Chroma
(``LeftToChroma``), which is asked for the ids that satisfy them.

Chroma stores a float through JSON text, and its JSON reader does not round correctly: some floats are stored one or
two units in the last place away. ``stored_float`` returns what it stores. A condition on a number x takes both x and
``stored_float(x)`` for equal to x, so that a record is found by the number that was sent, by whichever path it was
written. Between integers and floats, numbers compare by their exact values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

Scalar: TypeAlias = str | bool | int | float

# Conditions and values of one filter that are evaluated here; a larger filter is refused with these numbers.
MAX_TERMS: Final = 20_000
MAX_VALUES: Final = 200_000
# A deeper filter is left to Chroma, whose JSON reader refuses more than 128 levels.
_MAX_DEPTH: Final = 60

# Conditions of one filter that Chroma evaluates, each in a call of its own.
_MAX_LEFT: Final = 100
_ON_TEXT: Final = ("$contains", "$not_contains", "$regex", "$not_regex")
_ORDERED: Final = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_I64: Final = 2**63
# Divisors of Chroma's JSON reader: it knows the powers of ten up to this exponent.
_LARGEST_EXPONENT: Final = 308
_LARGEST_SIGNIFICAND: Final = 2**64 - 1


class Equal(msgspec.Struct, frozen=True):
    """The key holds one of these values, numbers or of one type; ``is_negated``: it does not, or the key is missing."""

    key: str
    values: tuple[Scalar, ...]
    is_negated: bool


class Ordered(msgspec.Struct, frozen=True):
    """The key holds a number that is ``>``, ``>=``, ``<`` or ``<=`` the bound."""

    key: str
    operator: str
    bound: int | float


class Member(msgspec.Struct, frozen=True):
    """The key holds a list with this member; ``is_negated``: it does not, or the key is missing or is no list."""

    key: str
    value: Scalar
    is_negated: bool


class Text(msgspec.Struct, frozen=True):
    """The record's document contains this text; ``is_negated``: it does not, or there is no document."""

    text: str
    is_negated: bool


class LeftToChroma(msgspec.Struct, frozen=True):
    """The record satisfies filters in JSON that Chroma evaluates: a condition on text, or all that a request has."""

    where: str | None
    where_document: str | None


class Named(msgspec.Struct, frozen=True):
    """The record has one of these ids."""

    ids: tuple[str, ...]


class Joined(msgspec.Struct, frozen=True):
    """All of some conditions (``is_all``), or any of them."""

    is_all: bool
    parts: tuple[Condition, ...]


Condition: TypeAlias = Equal | Ordered | Member | Text | LeftToChroma | Named | Joined


class TooLarge(Exception):
    """A filter has more conditions or values than are evaluated; the arguments are what, how many, and the limit."""


class _NotOurs(Exception):
    """Chroma has to answer or refuse the filter."""


def read_filter(where: str | None, where_document: str | None) -> Condition | None:
    """Return the condition of two filters in JSON, of which at least one is given; None if Chroma has to be asked.

    Raises TooLarge.
    """
    size = _Size()
    try:
        parts = []
        if where is not None:
            parts.append(_joined(json.loads(where), size, _on_metadata))
        if where_document is not None:
            parts.append(_joined(json.loads(where_document), size, _on_text))
    except (_NotOurs, ValueError, RecursionError):
        return None
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else Joined(True, tuple(parts))


def keys_of(condition: Condition) -> set[str]:
    """Return the metadata keys that a condition names."""
    if isinstance(condition, Joined):
        return set().union(*(keys_of(part) for part in condition.parts))
    return {condition.key} if isinstance(condition, (Equal, Ordered, Member)) else set()


def left_to_chroma(condition: Condition) -> list[LeftToChroma]:
    """Return what Chroma has to evaluate before the condition can be; each once."""
    if isinstance(condition, Joined):
        return list(dict.fromkeys(each for part in condition.parts for each in left_to_chroma(part)))
    return [condition] if isinstance(condition, LeftToChroma) else []


def resolved(condition: Condition, ids: Mapping[LeftToChroma, tuple[str, ...]]) -> Condition:
    """Return the condition with the ids that Chroma found in place of what was left to it."""
    if isinstance(condition, Joined):
        return Joined(condition.is_all, tuple(resolved(part, ids) for part in condition.parts))
    return Named(ids[condition]) if isinstance(condition, LeftToChroma) else condition


def has_empty_join(text: str | None) -> bool:
    """Return whether a filter in JSON joins no conditions, at any depth: Chroma takes that as true for every record."""

    def looks(node: Any, depth: int) -> bool:
        if not isinstance(node, dict) or depth > _MAX_DEPTH:
            return False
        parts = [part for name in ("$and", "$or") if isinstance(part := node.get(name), list)]
        return any(not part or any(looks(child, depth + 1) for child in part) for part in parts)

    try:
        return text is not None and looks(json.loads(text), 1)
    except (ValueError, RecursionError):
        return False


def is_indexed(schema: Any, keys: set[str]) -> bool:
    """Return whether a collection's schema, parsed from JSON, indexes text and every value of these keys.

    Chroma refuses a filter on what is not indexed. A schema that cannot be read says no; none at all says yes.
    """
    if schema is None:
        return True
    try:
        known = schema["keys"]
        kinds = [schema["defaults"], *(known[key] for key in keys if key in known)]
        inverted = [
            index["enabled"]
            for kind in kinds
            for indexes in kind.values()
            for name, index in indexes.items()
            if name.endswith("_inverted_index")
        ]
        return all(inverted) and bool(known["#document"]["string"]["fts_index"]["enabled"])
    except (KeyError, TypeError, AttributeError):
        return False


def stored_float(number: float) -> float:
    """Return the float that Chroma stores for a finite one.

    It writes the shortest decimal form and reads it as an integer of 64 bits times a power of ten, with one rounding
    for the integer and another for the multiplication.
    """
    sign = -1.0 if math.copysign(1.0, number) < 0 else 1.0
    digits, _, power = repr(abs(number)).partition("e")
    whole, _, decimals = digits.partition(".")
    significand, exponent = int(whole + decimals), int(power or 0) - len(decimals)
    if significand > _LARGEST_SIGNIFICAND:
        return number
    value = float(significand)
    while value != 0.0 and exponent < -_LARGEST_EXPONENT:
        value /= 1e308
        exponent += _LARGEST_EXPONENT
    if value == 0.0:
        return sign * 0.0
    value = value * float(f"1e{exponent}") if exponent >= 0 else value / float(f"1e{-exponent}")
    return sign * value


class _Size:
    """Counts the conditions and values of a filter."""

    def __init__(self) -> None:
        self._terms = self._values = self._left = 0

    def leave(self) -> None:
        """Count a condition that Chroma evaluates; with too many, it evaluates the whole filter."""
        self._left += 1
        if self._left > _MAX_LEFT:
            raise _NotOurs
        self.add(1)

    def add(self, values: int) -> None:
        self._terms += 1
        self._values += values
        for what, count, limit in (("conditions", self._terms, MAX_TERMS), ("values", self._values, MAX_VALUES)):
            if count > limit:
                raise TooLarge(what, count, limit)


def _joined(node: Any, size: _Size, leaf: Any, depth: int = 1) -> Condition:
    if not isinstance(node, dict) or len(node) != 1 or depth > _MAX_DEPTH:
        raise _NotOurs
    ((name, operand),) = node.items()
    if name not in ("$and", "$or"):
        found: Condition = leaf(name, operand, size)
        return found
    if not isinstance(operand, list) or not operand:
        raise _NotOurs
    size.add(0)
    return Joined(name == "$and", tuple(_joined(child, size, leaf, depth + 1) for child in operand))


def _on_text(operator: str, text: Any, size: _Size) -> Condition:
    if operator not in _ON_TEXT or not isinstance(text, str):
        raise _NotOurs
    _clean(text)
    # SQLite ends the pattern at a NUL; what Chroma then finds is its own matter.
    if "regex" in operator or not text or "\0" in text:
        size.leave()
        return LeftToChroma(None, json.dumps({operator: text}))
    size.add(1)
    return Text(text, operator == "$not_contains")


def _on_metadata(key: str, operand: Any, size: _Size) -> Condition:
    if key == "#document" and isinstance(operand, dict) and len(operand) == 1:
        return _on_text(*next(iter(operand.items())), size)
    if not key or key.startswith(("#", "$", "chroma:")) or "\0" in key:
        raise _NotOurs
    _clean(key)
    if not isinstance(operand, dict):
        operand = {"$eq": operand}
    if len(operand) != 1:
        raise _NotOurs
    ((operator, value),) = operand.items()
    if operator in ("$in", "$nin"):
        if not isinstance(value, list) or not value:
            raise _NotOurs
        size.add(len(value))
        return Equal(key, _same_kind(value), operator == "$nin")
    size.add(1)
    value = _scalar(value)
    if operator in ("$eq", "$ne"):
        return Equal(key, (value,), operator == "$ne")
    if operator in ("$contains", "$not_contains"):
        return Member(key, value, operator == "$not_contains")
    if operator not in _ORDERED or isinstance(value, (bool, str)):
        raise _NotOurs
    return Ordered(key, _ORDERED[operator], value)


def _same_kind(values: Sequence[Any]) -> tuple[Scalar, ...]:
    found = tuple(_scalar(value) for value in values)
    if isinstance(found[0], float) and all(type(value) in (int, float) for value in found):
        # After a float, Chroma takes integers too.
        return found
    if any(type(value) is not type(found[0]) for value in found):
        raise _NotOurs
    return found


def _scalar(value: Any) -> Scalar:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if _I64 <= value < 2 * _I64:
            raise _NotOurs
        # Chroma's JSON reader makes a float of an integer that does not fit 64 bits.
        return value if -_I64 <= value < _I64 else float(value)
    if isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise _NotOurs


def _clean(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _NotOurs from None
    return text
