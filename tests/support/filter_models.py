"""How numbers of metadata are compared: by value, as vectorpool does, and as Chroma does.

They differ on purpose. Chroma cuts a float to an integer where it compares it with one, rounds an integer to a float
where it compares it with one, and changes the digits of a float that it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from vectorpool.engine.filters import stored_float

Compare: TypeAlias = Callable[[Any, str, Any], bool]
_I64: Final = 2**63
_EXACT: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda v, x: v == x,
    "$gt": lambda v, x: v > x,
    "$gte": lambda v, x: v >= x,
    "$lt": lambda v, x: v < x,
    "$lte": lambda v, x: v <= x,
}
_POSITIVE: Final = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}


def by_value(v: Any, operator: str, x: Any) -> bool:
    """Compare two numbers as the fast path does: by value, and the float that Chroma stores for x is x."""
    if isinstance(v, float) and float(x) == x and v == stored_float(float(x)):
        return operator in ("$eq", "$gte", "$lte")
    return _EXACT[operator](v, x)


def as_chroma(v: Any, operator: str, x: Any) -> bool:
    """Compare two numbers as Chroma does."""
    read = stored_float(x) if isinstance(x, float) else x
    if isinstance(v, float):
        return _EXACT[operator](v, float(read))
    return _EXACT[operator](v, _cut(read))


def _cut(number: int | float) -> int:
    return max(-_I64, min(_I64 - 1, int(number)))


def _read(number: int | float) -> float:
    return stored_float(number) if isinstance(number, float) else float(number)


def _is_equal(v: Any, x: float) -> bool:
    return bool(v == (x if isinstance(v, float) else _cut(x)))


def is_number(value: Any) -> bool:
    """Return whether a value is a number, which a boolean is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def satisfies(v: Any, operator: str, x: Any, compare: Compare) -> bool:
    """Return whether a metadata value, None if the record lacks the key, satisfies one condition."""
    if operator in _POSITIVE:
        return not satisfies(v, _POSITIVE[operator], x, compare)
    if operator == "$in":
        if compare is as_chroma and isinstance(x[0], float):
            # Chroma takes a list that begins with a float for one of floats.
            return is_number(v) and any(_is_equal(v, _read(each)) for each in x)
        return any(satisfies(v, "$eq", each, compare) for each in x)
    if operator == "$contains":
        same = [m for m in v if type(m) is type(x)] if isinstance(v, list) else []
        return any(compare(m, "$eq", x) if is_number(m) else m == x for m in same)
    if is_number(x):
        return is_number(v) and compare(v, operator, x)
    return type(v) is type(x) and bool(v == x)
