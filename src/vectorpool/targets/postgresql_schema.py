"""The tables in PostgreSQL: schema ``vectorpool``, created and migrated here, with the version in a table.

Vectors are of pgvector's type ``vector`` where the extension is there or may be created, because it is what
PostgreSQL searches; else ``real[]``. What was chosen first stays.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg

from vectorpool.errors import TargetRefused

VERSION: Final = 3
# The lock of all who create or migrate the schema: the name "vectorpo" as a number.
_LOCK: Final = int.from_bytes(b"vectorpo", "big") >> 1

# Those of version 1.
_OLDEST: Final = ("schema_version", "users", "avatars", "collections", "records")
_TABLES: Final = (*_OLDEST, "documents")

_FOREIGN: Final = (
    "The schema vectorpool has a table {} that vectorpool did not make. Rename it, or name another database."
)
_BEFORE_DOCUMENTS: Final = 2

_DOCUMENTS: Final = """
CREATE TABLE vectorpool.documents (
  user_id text NOT NULL REFERENCES vectorpool.users ON DELETE CASCADE, avatar_id text NOT NULL, path text NOT NULL,
  collection_id text NOT NULL, etag text NOT NULL, size bigint NOT NULL, sha256 text NOT NULL,
  content_type text NOT NULL, records text[] NOT NULL, state bytea NOT NULL,
  PRIMARY KEY (user_id, avatar_id, path)
);
"""

_CREATE: Final = (
    """
CREATE SCHEMA IF NOT EXISTS vectorpool;
CREATE TABLE vectorpool.schema_version (version integer NOT NULL, vectors text NOT NULL);
CREATE TABLE vectorpool.users (
  user_id text PRIMARY KEY, commit bigint NOT NULL, commit_hash text NOT NULL,
  deleted boolean NOT NULL DEFAULT false, exported_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE vectorpool.avatars (
  user_id text NOT NULL REFERENCES vectorpool.users ON DELETE CASCADE, avatar_id text NOT NULL,
  PRIMARY KEY (user_id, avatar_id)
);
CREATE TABLE vectorpool.collections (
  user_id text NOT NULL REFERENCES vectorpool.users ON DELETE CASCADE, collection_id text NOT NULL,
  database text NOT NULL, avatar_id text, name text NOT NULL, metadata jsonb, dimension integer,
  configuration jsonb NOT NULL, commit bigint NOT NULL, commit_hash text NOT NULL, mark bigint NOT NULL,
  records bigint NOT NULL,
  PRIMARY KEY (user_id, collection_id)
);
CREATE TABLE vectorpool.records (
  user_id text NOT NULL, collection_id text NOT NULL, id text NOT NULL, embedding {vectors} NOT NULL,
  document text, uri text, metadata jsonb, commit bigint NOT NULL,
  PRIMARY KEY (user_id, collection_id, id)
);
-- Vectors do not get smaller by compression, and trying takes a fifth of an export.
ALTER TABLE vectorpool.records ALTER COLUMN embedding SET STORAGE EXTERNAL;
"""
    + _DOCUMENTS
)

# The statements that lead from version N to N + 1.
MIGRATIONS: Final[dict[int, str]] = {
    # A foreign key is looked up for each record of a COPY; records are deleted with their collection here.
    1: """
ALTER TABLE vectorpool.records DROP CONSTRAINT IF EXISTS records_user_id_collection_id_fkey;
ALTER TABLE vectorpool.records ALTER COLUMN embedding SET STORAGE EXTERNAL;
ALTER TABLE vectorpool.collections ADD COLUMN records bigint NOT NULL DEFAULT 0;
UPDATE vectorpool.collections AS c SET records =
  (SELECT count(*) FROM vectorpool.records AS r WHERE r.user_id = c.user_id AND r.collection_id = c.collection_id);
ALTER TABLE vectorpool.collections ALTER COLUMN records DROP DEFAULT;
""",
    2: _DOCUMENTS,
}


def prepare(db: psycopg.Connection[Any]) -> str:
    """Create the schema, or bring it to this version, in the transaction; return ``vector`` or ``real[]``.

    Raises TargetRefused for tables of others and for a later version, and psycopg.Error.
    """
    if vectors := _of_this_version(db):
        return vectors
    db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    found = _version(db)
    if found is None:
        return _create(db)
    version, vectors = found
    if version > VERSION:
        raise TargetRefused(
            f"The schema vectorpool has version {version}, of a later release; this one knows {VERSION}. Upgrade."
        )
    while version < VERSION:
        if version == _BEFORE_DOCUMENTS and _has_table(db, "documents"):
            raise TargetRefused(_FOREIGN.format("documents"))
        if version not in MIGRATIONS:
            raise TargetRefused(f"The schema vectorpool has the unknown version {version}. Name another database.")
        db.execute(MIGRATIONS[version])
        version += 1
    db.execute("UPDATE vectorpool.schema_version SET version = %s", (VERSION,))
    return vectors


def _of_this_version(db: psycopg.Connection[Any]) -> str | None:
    """Return the type of vectors if the schema is of this version; None says to look closer."""
    try:
        with db.pipeline(), db.transaction():
            row = db.execute("SELECT version, vectors FROM vectorpool.schema_version LIMIT 2").fetchall()
    except psycopg.errors.ProgrammingError:
        # No such schema, table or column.
        return None
    return str(row[0][1]) if len(row) == 1 and row[0][0] == VERSION else None


def _version(db: psycopg.Connection[Any]) -> tuple[int, str] | None:
    names = [row[0] for row in db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'vectorpool'")]
    if "schema_version" not in names:
        if foreign := sorted(set(names) & set(_TABLES)):
            raise TargetRefused(_FOREIGN.format(foreign[0]))
        return None
    columns = _columns(db, "schema_version")
    rows = db.execute("SELECT version, vectors FROM vectorpool.schema_version").fetchall() if columns else []
    if len(rows) != 1 or not set(_OLDEST) <= set(names):
        raise TargetRefused(
            "The schema vectorpool is not one that vectorpool made. Rename it, or name another database."
        )
    return int(rows[0][0]), str(rows[0][1])


def _has_table(db: psycopg.Connection[Any], table: str) -> bool:
    sql = "SELECT 1 FROM pg_tables WHERE schemaname = 'vectorpool' AND tablename = %s"
    return db.execute(sql, (table,)).fetchone() is not None


def _columns(db: psycopg.Connection[Any], table: str) -> bool:
    sql = (
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'vectorpool' AND table_name = %s "
        "AND column_name IN ('version', 'vectors')"
    )
    row = db.execute(sql, (table,)).fetchone()
    return row is not None and row[0] == 2


def _create(db: psycopg.Connection[Any]) -> str:
    vectors = _vector_type(db)
    db.execute(_CREATE.format(vectors=vectors))
    vectors = "real[]" if vectors == "real[]" else "vector"
    db.execute("INSERT INTO vectorpool.schema_version VALUES (%s, %s)", (VERSION, vectors))
    return vectors


def _vector_type(db: psycopg.Connection[Any]) -> str:
    if db.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone() is None:
        return "real[]"
    try:
        with db.transaction():
            db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except psycopg.errors.InsufficientPrivilege:
        return "real[]"
    sql = (
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
        "WHERE e.extname = 'vector'"
    )
    row = db.execute(sql).fetchone()
    assert row is not None
    return f"{row[0]}.vector"
