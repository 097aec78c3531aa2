"""The documents, metadata and URIs of records, as columns, from Chroma's SQLite tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from vectorpool.engine.rows import Rows
from vectorpool.engine.tables import DOCUMENT_KEY, URI_KEY, VALUE_COLUMNS, listed, marks, value_of

# Rows that one statement names.
_AT_ONCE: Final = 1000


def read_columns(
    db: sqlite3.Connection, found: list[tuple[int, str]], include: Sequence[str], *, has_lists: bool
) -> Rows | None:
    """Return the records of (row, id) in this order, with the columns that are asked for, but no embeddings.

    None if a row holds a value that Chroma does not write: Chroma says what it is. Raises sqlite3.Error.
    """
    fields: dict[int, dict[str, Any]] = {row: {} for row, _ in found}
    assert len(fields) == len(found), "each row is asked for once"
    if not {"documents", "metadatas", "uris"}.isdisjoint(include):
        for start in range(0, len(found), _AT_ONCE):
            rows = [row for row, _ in found[start : start + _AT_ONCE]]
            if not _read(db, rows, fields, has_lists=has_lists):
                return None
    documents, uris, metadatas = list[Any](), list[Any](), list[Any]()
    for values in fields.values():
        documents.append(values.pop(DOCUMENT_KEY, None))
        has_uri = URI_KEY in values
        uris.append(values.pop(URI_KEY) if has_uri else None)
        # As Chroma gives it: None if the record has neither metadata nor a URI.
        metadatas.append(values if values or has_uri else None)
    return Rows(
        ids=[record_id for _, record_id in found],
        documents=documents if "documents" in include else None,
        metadatas=metadatas if "metadatas" in include else None,
        embeddings=None,
        uris=uris if "uris" in include else None,
    )


def _read(db: sqlite3.Connection, rows: list[int], fields: dict[int, dict[str, Any]], *, has_lists: bool) -> bool:
    """Put the values of some rows into ``fields``; return False if one is no value."""
    columns = f"m.id, m.key, {VALUE_COLUMNS}"
    sql = f"SELECT {columns} FROM {listed(len(rows))} w CROSS JOIN embedding_metadata m ON m.id = w.column1"
    for row, key, text, integer, real, flag in db.execute(sql, rows):
        # Most values are texts.
        value = text if text is not None else value_of(text, integer, real, flag)
        if value is None:
            return False
        fields[row][key] = value
    if has_lists:
        of_rows = f"WHERE m.id IN ({marks(len(rows))}) ORDER BY m.rowid"
        sql = f"SELECT {columns} FROM embedding_metadata_array m {of_rows}"
        for row, key, *parts in db.execute(sql, rows):
            value = value_of(*parts)
            if value is None:
                return False
            fields[row].setdefault(key, []).append(value)
    return True
