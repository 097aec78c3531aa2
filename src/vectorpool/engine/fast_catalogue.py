"""The catalogue straight from Chroma's SQLite file: databases and collections, where the tables say it plainly.

Chroma's answer has a collection's schema as it is stored, and a configuration that follows from it. What cannot be told
for certain, and what Chroma refuses in words of its own, raises Doubt: Chroma is to be asked.
``tests/integration/test_fast_catalogue.py`` compares every answer with Chroma's.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from vectorpool.engine.collection_info import CollectionInfo, DatabaseInfo
from vectorpool.engine.database_file import DatabaseFile, Doubt
from vectorpool.engine.tables import value_of
from vectorpool.names import DEFAULT_TENANT

T = TypeVar("T")

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_COLUMNS: Final = "c.id, c.name, c.dimension, c.config_json_str, c.schema_str"
_METADATA: Final = "str_value, int_value, float_value, bool_value"
_OF_DATABASE: Final = "FROM collections c JOIN databases d ON d.id = c.database_id WHERE d.tenant_id = ? AND d.name = ?"
_NUMBERS: Final = ("ef_construction", "ef_search", "max_neighbors", "resize_factor", "sync_threshold")
# What the older column of the configuration holds once the schema has it.
_EMPTY: Final = "{}"


class FastCatalogue:
    """The catalogue of one open directory. Many threads may ask. Every method blocks, and raises Doubt."""

    def __init__(self, source: DatabaseFile) -> None:
        self._source = source

    def databases(self, limit: int | None, offset: int) -> list[DatabaseInfo]:
        """Return the databases by name."""

        def read(db: sqlite3.Connection) -> list[DatabaseInfo]:
            sql = "SELECT id, name FROM databases WHERE tenant_id = ? ORDER BY name LIMIT ? OFFSET ?"
            return [DatabaseInfo(*row) for row in db.execute(sql, (DEFAULT_TENANT, *_page(limit, offset)))]

        return self._read(read)

    def collections(self, database: str, limit: int | None, offset: int) -> list[CollectionInfo]:
        """Return the collections of a database by id; none if there is no such database."""

        def read(db: sqlite3.Connection) -> list[CollectionInfo]:
            sql = f"SELECT {_COLUMNS} {_OF_DATABASE} ORDER BY c.id LIMIT ? OFFSET ?"
            rows = db.execute(sql, (DEFAULT_TENANT, database, *_page(limit, offset))).fetchall()
            return [_info(db, database, row) for row in rows]

        return self._read(read)

    def count_collections(self, database: str) -> int:
        """Return the number of collections of a database; 0 if there is no such database."""
        sql = f"SELECT COUNT(*) {_OF_DATABASE}"
        return self._read(lambda db: int(db.execute(sql, (DEFAULT_TENANT, database)).fetchone()[0]))

    def by_name(self, database: str, name: str) -> CollectionInfo | None:
        """Return a collection by its name; None if it or its database is not there."""
        return self._one(database, "c.name = ?", name)

    def by_id(self, database: str, collection_id: str) -> CollectionInfo | None:
        """Return a collection by its id; None if it is not in this database."""
        if not _UUID.fullmatch(collection_id):
            # Chroma refuses it, or reads it in another spelling.
            raise Doubt
        return self._one(database, "c.id = ?", collection_id)

    def _one(self, database: str, condition: str, value: str) -> CollectionInfo | None:
        def read(db: sqlite3.Connection) -> CollectionInfo | None:
            sql = f"SELECT {_COLUMNS} {_OF_DATABASE} AND {condition}"
            row = db.execute(sql, (DEFAULT_TENANT, database, value)).fetchone()
            return None if row is None else _info(db, database, row)

        return self._read(read)

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``read`` finds in a file that stands still. Raises Doubt."""
        source = self._source
        with source.lock:
            try:
                stamp = source.stamp()
                if stamp is None:
                    raise Doubt
                found = read(source.db)
                if source.stamp() == stamp:
                    return found
            except (OSError, sqlite3.Error, ValueError, OverflowError, KeyError, TypeError):
                pass
            # The pages that were read may be of a transaction that never was.
            source.forget_pages()
            raise Doubt


def _page(limit: int | None, offset: int) -> tuple[int, int]:
    if offset < 0 or (limit is not None and limit < 0):
        raise Doubt
    return -1 if limit is None else limit, offset


def _info(db: sqlite3.Connection, database: str, row: tuple[Any, ...]) -> CollectionInfo:
    collection_id, name, dimension, older, schema_text = row
    if schema_text is None or older not in (None, _EMPTY):
        raise Doubt
    schema = msgspec.json.decode(schema_text)
    return CollectionInfo(
        id=collection_id,
        name=name,
        database=database,
        metadata=_metadata(db, collection_id),
        dimension=dimension,
        configuration=_configuration(schema),
        schema=schema,
    )


def _metadata(db: sqlite3.Connection, collection_id: str) -> dict[str, Any] | None:
    sql = f"SELECT key, {_METADATA} FROM collection_metadata WHERE collection_id = ?"
    found = {key: value_of(*columns) for key, *columns in db.execute(sql, (collection_id,))}
    if None in found.values():
        raise Doubt
    return found or None


def _configuration(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that Chroma tells of a schema. Raises Doubt for an index that is not HNSW."""
    index = schema["keys"]["#embedding"]["float_list"]["vector_index"]["config"]
    function = index.get("embedding_function")
    if "spann" in index or (function is not None and function.get("type") != "known"):
        raise Doubt
    hnsw = {"space": index["space"], **{name: index["hnsw"][name] for name in _NUMBERS}}
    return {"hnsw": hnsw, "spann": None, "embedding_function": function}
