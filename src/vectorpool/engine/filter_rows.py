"""The records that satisfy a filter, from Chroma's SQLite tables, without Chroma.

Each condition is one statement over the rows of one metadata segment, or some where it has many values, so no
statement takes more than some hundred parameters. Conditions are joined here, as sets of rows. A negated condition is
the complement of a set, and a complement is only written out at the end, so records without the key are in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from vectorpool.engine.filters import Condition, Equal, Joined, Member, Named, Ordered, Scalar, Text, stored_float
from vectorpool.engine.tables import DOCUMENT_KEY, listed, marks

# Values or ids that one statement takes.
_AT_ONCE: Final = 500
# The trigram index knows no shorter text, and a longer phrase costs more than it rules out.
_SHORTEST_PHRASE: Final = 3
_LONGEST_PHRASE: Final = 32
_SOURCE: Final = "JOIN embeddings e ON e.id = m.id WHERE e.segment_id = ? AND m.key = ?"
# SQLite's LIKE, which Chroma searches with, ends a text at its first NUL.
_CONTAINS: Final = (
    "instr(m.string_value, ?) > 0 "
    "AND (instr(m.string_value, char(0)) = 0 OR instr(m.string_value, ?) < instr(m.string_value, char(0)))"
)
_IN_PHRASE: Final = "m.id IN (SELECT rowid FROM embedding_fulltext_search WHERE embedding_fulltext_search MATCH ?) AND "


class _Found(msgspec.Struct):
    """Record ids by row; ``is_rest``: all rows of the segment but these."""

    rows: dict[int, str]
    is_rest: bool


class Segment(msgspec.Struct, frozen=True):
    """One metadata segment; ``by_phrase`` asks the trigram index before it compares documents."""

    db: sqlite3.Connection
    id: str
    has_lists: bool
    by_phrase: bool = False


def matching(segment: Segment, condition: Condition | None, ids: Sequence[str] | None = None) -> list[tuple[int, str]]:
    """Return (row, record id) of the records that satisfy the condition, in the order of insertion.

    ``ids`` restricts them, in any number; an id that is not there is passed over. Raises sqlite3.Error.
    """
    if condition is None and ids is not None:
        return sorted(rows_named(segment, ids).items())
    found = _Found({}, True) if condition is None else _evaluate(segment, condition)
    if ids is not None:
        found = _all([found, _Found(rows_named(segment, ids), False)])
    if not found.is_rest:
        return sorted(found.rows.items())
    sql = "SELECT id, embedding_id FROM embeddings WHERE segment_id = ? ORDER BY id"
    return [each for each in segment.db.execute(sql, (segment.id,)) if each[0] not in found.rows]


def rows_named(segment: Segment, ids: Sequence[str]) -> dict[int, str]:
    """Return the record ids that are there, by row. Raises sqlite3.Error."""
    found: dict[int, str] = {}
    for part in _parts(list(dict.fromkeys(ids))):
        sql = (
            f"SELECT e.id, e.embedding_id FROM {listed(len(part))} w "
            "CROSS JOIN embeddings e ON e.segment_id = ? AND e.embedding_id = w.column1"
        )
        found.update(segment.db.execute(sql, (*part, segment.id)))
    return found


def _evaluate(segment: Segment, condition: Condition) -> _Found:
    if isinstance(condition, Joined):
        parts = [_evaluate(segment, part) for part in condition.parts]
        return _all(parts) if condition.is_all else _any(parts)
    if isinstance(condition, Equal):
        return _Found(_equal(segment, "embedding_metadata", condition.key, condition.values), condition.is_negated)
    if isinstance(condition, Ordered):
        return _Found(_ordered(segment, condition), False)
    if isinstance(condition, Text):
        return _Found(_containing(segment, condition.text), condition.is_negated)
    if isinstance(condition, Named):
        return _Found(rows_named(segment, condition.ids), False)
    assert isinstance(condition, Member), "what is left to Chroma is resolved before"
    return _Found(_member(segment, condition), condition.is_negated)


def _all(parts: list[_Found]) -> _Found:
    """Return the intersection."""
    left_out: dict[int, str] = {}
    for part in parts:
        if part.is_rest:
            left_out |= part.rows
    kept = sorted((part.rows for part in parts if not part.is_rest), key=len)
    if not kept:
        return _Found(left_out, True)
    rows = {row: i for row, i in kept[0].items() if row not in left_out and all(row in other for other in kept[1:])}
    return _Found(rows, False)


def _any(parts: list[_Found]) -> _Found:
    """Return the union: what is not in the intersection of the complements."""
    found = _all([_Found(part.rows, not part.is_rest) for part in parts])
    return _Found(found.rows, not found.is_rest)


def _parts(values: Sequence[Scalar]) -> Iterator[Sequence[Scalar]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _ask(segment: Segment, table: str, key: str, rest: str, values: Sequence[Scalar]) -> dict[int, str]:
    sql = f"SELECT e.id, e.embedding_id FROM {table} m {_SOURCE} AND {rest}"
    return dict(segment.db.execute(sql, (segment.id, key, *values)))


def _equal(segment: Segment, table: str, key: str, values: Sequence[Scalar]) -> dict[int, str]:
    first = values[0]
    columns: list[tuple[str, Sequence[Scalar]]]
    if isinstance(first, bool):
        columns = [("bool_value", [int(bool(v)) for v in values])]
    elif isinstance(first, str):
        columns = [("string_value", values)]
    else:
        columns = _numbers([v for v in values if not isinstance(v, str)])
    found: dict[int, str] = {}
    for column, wanted in columns:
        for part in _parts(list(dict.fromkeys(wanted))):
            found |= _ask(segment, table, key, f"m.{column} IN ({marks(len(part))})", part)
    return found


def _numbers(values: Sequence[int | float]) -> list[tuple[str, Sequence[Scalar]]]:
    """Return the values of the two columns that are equal to one of these numbers."""
    integers = [i for i in (int(v) for v in values if v == int(v)) if -(2**63) <= i < 2**63]
    floats = [float(v) for v in values if float(v) == v]
    return [("int_value", integers), ("float_value", [*floats, *(stored_float(f) for f in floats)])]


def _ordered(segment: Segment, condition: Ordered) -> dict[int, str]:
    """SQLite compares an integer with a float exactly, but makes a float of an integer for a column of floats."""
    bound, operator = condition.bound, condition.operator
    table, key = "embedding_metadata", condition.key
    found = _ask(segment, table, key, f"m.int_value {operator} ?", [bound])
    near = float(bound)
    if near != bound:
        # No float equals the bound: what is above it is what is above the float beside it, or is that float.
        is_above = near > bound
        sides = {">": ">=" if is_above else ">", "<": "<" if is_above else "<="}
        return found | _ask(segment, table, key, f"m.float_value {sides[operator[0]]} ?", [near])
    stored = stored_float(near)
    joined = f"m.float_value {operator} ? AND m.float_value <> ?"
    if "=" in operator:
        joined = f"(m.float_value {operator} ? OR m.float_value = ?)"
    rest = joined if stored != near else f"m.float_value {operator} ?"
    return found | _ask(segment, table, key, rest, [near, stored] if stored != near else [near])


def _member(segment: Segment, condition: Member) -> dict[int, str]:
    """Chroma compares a member with values of its own type only."""
    if not segment.has_lists:
        return {}
    value, table = condition.value, "embedding_metadata_array"
    if isinstance(value, float):
        values = [value, stored_float(value)]
        return _ask(segment, table, condition.key, "m.float_value IN (?, ?)", values)
    column = "bool_value" if isinstance(value, bool) else "string_value" if isinstance(value, str) else "int_value"
    return _ask(segment, table, condition.key, f"m.{column} = ?", [value])


def _containing(segment: Segment, text: str) -> dict[int, str]:
    rest, values = _CONTAINS, [text, text]
    if segment.by_phrase and len(text) >= _SHORTEST_PHRASE:
        phrase = text[:_LONGEST_PHRASE].replace('"', '""')
        rest, values = _IN_PHRASE + _CONTAINS, [f'"{phrase}"', *values]
    return _ask(segment, "embedding_metadata", DOCUMENT_KEY, rest, values)
