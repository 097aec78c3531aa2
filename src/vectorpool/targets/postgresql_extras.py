"""What PostgreSQL's target holds beside records: the documents that they came from, and indexes on request.

``?index=hnsw`` in the target's URL has every collection indexed, by pgvector and the collection's own distance. An
index is over the rows of one collection, since dimensions differ. Without the parameter nothing is indexed, and nothing
that was is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import psycopg
from psycopg import sql

from vectorpool.errors import InvalidTarget, NotExportable, TargetRefused
from vectorpool.targets.postgresql_rows import check_text
from vectorpool.targets.records import Collection
from vectorpool.targets.source_documents import SourceDocument
from vectorpool.targets.urls import Target

PARAMETER: Final = "index"
_METHOD: Final = "hnsw"
_CLASSES: Final = {"l2": "l2_ops", "cosine": "cosine_ops", "ip": "ip_ops"}
# What pgvector's index takes, as vector and as halfvec.
_MOST_FLOAT: Final = 2000
_MOST_HALF: Final = 4000
_DOCUMENT: Final = "avatar_id, path, collection_id, etag, size, sha256, content_type, records"


def wants_index(target: Target) -> bool:
    """Return whether a target's URL asks for indexes. Raises InvalidTarget for another kind than ``hnsw``."""
    method = target.parameters.get(PARAMETER)
    if method not in (None, _METHOD):
        raise InvalidTarget(f"{target.shown}: {PARAMETER}={method[:40]!r} is no kind of index. Write {PARAMETER}=hnsw.")
    return method is not None


class Indexes:
    """The indexes of vectors. Raises TargetRefused without pgvector, and psycopg.Error."""

    def __init__(self, db: psycopg.Connection[Any], target: Target) -> None:
        self._db = db
        query = (
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
            "WHERE e.extname = 'vector'"
        )
        row = db.execute(query).fetchone()
        if row is None:
            raise TargetRefused(
                f"{target.shown} has no pgvector, so {PARAMETER}=hnsw cannot be. Leave the parameter out, or have "
                "vector created as an extension before the first export."
            )
        self._schema = str(row[0])

    def missing(self, user_id: str) -> list[Collection]:
        """Return the collections with vectors that have no index."""
        query = (
            "SELECT collection_id, database, name, dimension, configuration FROM vectorpool.collections "
            "WHERE user_id = %s AND dimension IS NOT NULL"
        )
        found = [
            Collection(row[0], row[1], row[2], None, row[3], row[4]) for row in self._db.execute(query, (user_id,))
        ]
        names = {_name(user_id, collection.id): collection for collection in found}
        query = "SELECT indexname FROM pg_indexes WHERE schemaname = 'vectorpool' AND indexname = ANY(%s)"
        for row in self._db.execute(query, (list(names),)):
            del names[row[0]]
        return list(names.values())

    def make(self, user_id: str, collection: Collection) -> None:
        """Index the vectors of a collection. Raises NotExportable for more dimensions than may be."""
        assert collection.dimension is not None
        if collection.dimension > _MOST_HALF:
            raise NotExportable(
                f"{collection.shown} has {collection.dimension} dimensions, and pgvector indexes {_MOST_HALF}. Export "
                f"without {PARAMETER}=hnsw."
            )
        kind = "vector" if collection.dimension <= _MOST_FLOAT else "halfvec"
        query = sql.SQL(
            "CREATE INDEX {name} ON vectorpool.records "
            "USING hnsw ((embedding::{schema}.{kind}({dimension})) {schema}.{operators}) "
            "WHERE user_id = {user} AND collection_id = {collection}"
        ).format(
            name=sql.Identifier(_name(user_id, collection.id)),
            schema=sql.Identifier(self._schema),
            kind=sql.Identifier(kind),
            dimension=sql.Literal(collection.dimension),
            operators=sql.Identifier(f"{kind}_{_CLASSES[collection.space]}"),
            user=sql.Literal(user_id),
            collection=sql.Literal(collection.id),
        )
        self._db.execute(query)


def drop_index(db: psycopg.Connection[Any], user_id: str, collection_id: str) -> None:
    """Drop the index of a collection, if there is one. Raises psycopg.Error."""
    name = sql.Identifier("vectorpool", _name(user_id, collection_id))
    db.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(name))


def _name(user_id: str, collection_id: str) -> str:
    return f"records_{hashlib.sha256(f'{user_id}/{collection_id}'.encode()).hexdigest()[:24]}_hnsw"


def put_documents(db: psycopg.Connection[Any], user_id: str, documents: Iterable[SourceDocument]) -> None:
    """Write the documents that differ from those that are there, and delete those that are gone.

    Raises NotExportable for a path with U+0000, psycopg.Error.
    """
    query = "SELECT avatar_id, path, state FROM vectorpool.documents WHERE user_id = %s"
    there = {(row[0], row[1]): bytes(row[2]) for row in db.execute(query, (user_id,))}
    marks = ", ".join(["%s"] * 10)
    changed: list[tuple[Any, ...]] = []
    for document in documents:
        state = hashlib.sha256(msgspec.msgpack.encode(document)).digest()
        if there.pop((document.avatar_id, document.path), None) == state:
            continue
        for name, value in (("path", document.path), ("records", document.records)):
            check_text(f"document {document.path!r} of avatar {document.avatar_id}", name, value)
        changed.append((user_id, state, *msgspec.structs.astuple(document)))
    with db.cursor() as cursor:
        if changed:
            columns = f"user_id, state, {_DOCUMENT}"
            updates = ", ".join(f"{name} = excluded.{name}" for name in columns.split(", ")[1:])
            cursor.executemany(
                f"INSERT INTO vectorpool.documents ({columns}) VALUES ({marks}) "
                f"ON CONFLICT (user_id, avatar_id, path) DO UPDATE SET {updates}".encode(),
                changed,
            )
        if there:
            cursor.executemany(
                "DELETE FROM vectorpool.documents WHERE user_id = %s AND avatar_id = %s AND path = %s",
                [(user_id, *key) for key in there],
            )
