"""The rows of one record in Chroma's tables, as Chroma writes them: its metadata, its lists, its text; and its removal.

What a record is given is a dictionary by key, with its text and its URI under Chroma's own keys. None takes a key away.
``NotPlain`` is raised for what only Chroma stores, or refuses.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from vectorpool.engine.rows import Metadatas, Texts
from vectorpool.engine.tables import DOCUMENT_KEY, OWN_KEYS, URI_KEY, VALUE_COLUMNS, marks

_TYPES: Final = {str: "string", int: "int", float: "float", bool: "bool"}
_I64: Final = 2**63
_PUT_FIELD: Final = (
    f"INSERT INTO embedding_metadata (id, key, {VALUE_COLUMNS}) VALUES (?,?,?,?,?,?) "
    "ON CONFLICT (id, key) DO UPDATE SET string_value = excluded.string_value, int_value = excluded.int_value, "
    "float_value = excluded.float_value, bool_value = excluded.bool_value"
)
_ADD_MEMBER: Final = f"INSERT INTO embedding_metadata_array (id, key, {VALUE_COLUMNS}) VALUES (?,?,?,?,?,?)"
_WITHOUT_FIELDS: Final = "DELETE FROM embedding_metadata WHERE id = ? AND key IN ({})"
_WITHOUT_LISTS: Final = "DELETE FROM embedding_metadata_array WHERE id = ? AND key IN ({})"
_HAS_TEXT: Final = "SELECT 1 FROM embedding_metadata WHERE id = ? AND key = ?"
_OF_RECORD: Final = (
    "DELETE FROM embeddings WHERE id = ?",
    "DELETE FROM embedding_metadata WHERE id = ?",
    "DELETE FROM embedding_metadata_array WHERE id = ?",
    "DELETE FROM embedding_fulltext_search WHERE rowid = ?",
)


class NotPlain(Exception):
    """Chroma is to be called."""


class Schema(msgspec.Struct, frozen=True):
    """What a collection's schema says: the types that are known by metadata key, and when the index is written.

    ``whole`` is all of it.
    """

    types: dict[str, frozenset[str]]
    sync_threshold: int
    whole: dict[str, Any]

    def grown(self, named: Iterable[tuple[str, str]]) -> str | None:
        """Return the schema's text once it knows all (key, type) of ``named``; None if it does already."""
        news = [(key, kind) for key, kind in named if kind not in self.types.get(key, ())]
        if not news:
            return None
        keys = {key: dict(parts) for key, parts in self.whole["keys"].items()}
        for key, kind in news:
            part = self.whole["defaults"].get(kind)
            if part is None:
                raise NotPlain
            keys.setdefault(key, {})[kind] = part
        return msgspec.json.encode({**self.whole, "keys": keys}).decode()


def read_schema(text: str) -> Schema | None:
    """Return what a schema's text says; None if that is not all that it must."""
    try:
        whole = msgspec.json.decode(text, type=dict[str, Any])
        keys = whole["keys"]
        threshold = keys["#embedding"]["float_list"]["vector_index"]["config"]["hnsw"]["sync_threshold"]
        types = {key: frozenset(parts) for key, parts in keys.items()}
        is_whole = isinstance(whole["defaults"], dict)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return None
    return Schema(types, threshold, whole) if isinstance(threshold, int) and is_whole else None


def fields_of(metadatas: Metadatas, documents: Texts, uris: Texts, at: int, *, may_remove: bool) -> dict[str, Any]:
    """Return what one record is given by key; a value of None is taken only if ``may_remove``. Raises NotPlain."""
    fields = dict(metadatas[at] or {}) if metadatas is not None else {}
    for key, value in fields.items():
        if key.startswith((OWN_KEYS, "#", "$")) or not key:
            raise NotPlain
        if value is None:
            if not may_remove:
                raise NotPlain
        elif type(value) is list:
            if not value or len({type(member) for member in value}) != 1:
                raise NotPlain
            for member in value:
                _check_value(member)
        else:
            _check_value(value)
    for key, texts in ((DOCUMENT_KEY, documents), (URI_KEY, uris)):
        text = texts[at] if texts is not None else None
        if text is not None:
            fields[key] = text
    return fields


def _check_value(value: Any) -> None:
    kind = type(value)
    if kind not in _TYPES:
        raise NotPlain
    if (kind is int and not -_I64 <= value < _I64) or (kind is float and not math.isfinite(value)):
        raise NotPlain


def types_of(fields: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield the (key, type) pairs that the collection's schema has to know."""
    for key, value in fields.items():
        if not key.startswith(OWN_KEYS) and value is not None:
            yield key, _TYPES[type(value[0] if type(value) is list else value)]


def put_fields(db: sqlite3.Connection, row: int, fields: dict[str, Any], *, is_new: bool, has_lists: bool) -> None:
    """Give a record its fields. ``has_lists`` says that some record of the directory has a list."""
    text = fields.get(DOCUMENT_KEY)
    if text is not None:
        had = not is_new and db.execute(_HAS_TEXT, (row, DOCUMENT_KEY)).fetchone()
        if had:
            db.execute("UPDATE embedding_fulltext_search SET string_value = ? WHERE rowid = ?", (text, row))
        else:
            db.execute("INSERT INTO embedding_fulltext_search (rowid, string_value) VALUES (?, ?)", (row, text))
    lists = {key: value for key, value in fields.items() if type(value) is list}
    removed = [key for key, value in fields.items() if value is None]
    if not is_new:
        _remove(db, _WITHOUT_FIELDS, row, [*removed, *lists])
        if has_lists:
            _remove(db, _WITHOUT_LISTS, row, list(fields))
    db.executemany(
        _PUT_FIELD,
        [_columns(row, key, value) for key, value in fields.items() if value is not None and key not in lists],
    )
    for key, members in lists.items():
        db.executemany(_ADD_MEMBER, [_columns(row, key, member) for member in members])


def _remove(db: sqlite3.Connection, statement: str, row: int, keys: list[str]) -> None:
    if keys:
        db.execute(statement.format(marks(len(keys))), (row, *keys))


def _columns(row: int, key: str, value: Any) -> tuple[Any, ...]:
    kind = type(value)
    return (
        row,
        key,
        value if kind is str else None,
        value if kind is int else None,
        value if kind is float else None,
        int(value) if kind is bool else None,
    )


def remove_record(db: sqlite3.Connection, row: int) -> None:
    """Remove all rows of a record but those of the queue."""
    for statement in _OF_RECORD:
        db.execute(statement, (row,))
