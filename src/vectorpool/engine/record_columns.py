"""The documents, metadata and URIs of records, as columns, from Chroma's SQLite tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from vectorpool.engine.rows import Rows
from vectorpool.engine.tables import DOCUMENT_KEY, URI_KEY, VALUE_COLUMNS, marks, value_of

# Rows that one statement names.
_AT_ONCE: Final = 1000


def read_columns(
    db: sqlite3.Connection, found: list[tuple[int, str]], include: Sequence[str], *, has_lists: bool
) -> Rows | None:
    """Return the records of (row, id) in this order, with the columns that are asked for, but no embeddings.

    None if a row holds a value that Chroma does not write: Chroma says what it is. Raises sqlite3.Error.
    """
    fields: dict[int, dict[str, Any]] = {row: {} for row, _ in found}
    if not {"documents", "metadatas", "uris"}.isdisjoint(include):
        for start in range(0, len(found), _AT_ONCE):
            rows = [row for row, _ in found[start : start + _AT_ONCE]]
            if not _read(db, rows, fields, has_lists=has_lists):
                return None
    return Rows(
        ids=[record_id for _, record_id in found],
        documents=[fields[row].get(DOCUMENT_KEY) for row, _ in found] if "documents" in include else None,
        metadatas=[_metadata(fields[row]) for row, _ in found] if "metadatas" in include else None,
        embeddings=None,
        uris=[fields[row].get(URI_KEY) for row, _ in found] if "uris" in include else None,
    )


def _read(db: sqlite3.Connection, rows: list[int], fields: dict[int, dict[str, Any]], *, has_lists: bool) -> bool:
    """Put the values of some rows into ``fields``; return False if one is no value."""
    of_rows = f"WHERE id IN ({marks(len(rows))})"
    for row, key, *columns in db.execute(f"SELECT id, key, {VALUE_COLUMNS} FROM embedding_metadata {of_rows}", rows):
        value = fields[row][key] = value_of(*columns)
        if value is None:
            return False
    if has_lists:
        sql = f"SELECT id, key, {VALUE_COLUMNS} FROM embedding_metadata_array {of_rows} ORDER BY rowid"
        for row, key, *columns in db.execute(sql, rows):
            value = value_of(*columns)
            if value is None:
                return False
            fields[row].setdefault(key, []).append(value)
    return True


def _metadata(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Return a record's metadata as Chroma gives it: None if it has neither metadata nor a URI."""
    if fields.keys() <= {DOCUMENT_KEY}:
        return None
    return {key: value for key, value in fields.items() if key != DOCUMENT_KEY and key != URI_KEY}
