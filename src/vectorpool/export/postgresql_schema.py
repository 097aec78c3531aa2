"""The tables of an export in PostgreSQL, and how older ones become these.

Records refer to their collection, and collections to their user, so that to delete a user deletes everything of it.
"""

from __future__ import annotations

from typing import Any, Final

from vectorpool.errors import TargetRefused

VERSION: Final = 1
# Of the lock that makers of the schema take turns by: any constant.
_LOCK: Final = 0x7665_6374

_TABLES: Final = """
CREATE TABLE vectorpool.users (
  user_id text PRIMARY KEY,
  commit bigint NOT NULL,
  exported_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE vectorpool.collections (
  user_id text NOT NULL REFERENCES vectorpool.users ON DELETE CASCADE,
  database text NOT NULL,
  name text NOT NULL,
  avatar_id text,
  source_id text NOT NULL,
  dimension int,
  metadata jsonb,
  configuration jsonb NOT NULL,
  PRIMARY KEY (user_id, database, name)
);
CREATE TABLE vectorpool.records (
  user_id text NOT NULL,
  database text NOT NULL,
  collection text NOT NULL,
  id text NOT NULL,
  embedding {embedding} NOT NULL,
  document text,
  metadata jsonb,
  uri text,
  digest bytea NOT NULL,
  PRIMARY KEY (user_id, database, collection, id),
  FOREIGN KEY (user_id, database, collection) REFERENCES vectorpool.collections ON DELETE CASCADE
);
CREATE TABLE vectorpool.schema_version (version int NOT NULL);
"""
# By the version that each one makes.
_MIGRATIONS: Final[dict[int, str]] = {}


def prepare(db: Any, name: str) -> bool:
    """Make the tables, or bring older ones up to date; return whether embeddings are pgvector's ``vector``.

    Raises TargetRefused for a schema that is newer or not ours.
    """
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        tables = {found for (found,) in db.execute(_LIST)}
        if not tables:
            _create(db)
        elif "schema_version" not in tables:
            raise TargetRefused(
                f"{name} has a schema vectorpool that is not ours (tables {', '.join(sorted(tables))[:200]}). Name "
                "another database."
            )
        else:
            _migrate(db, name)
        (kind,) = db.execute(_EMBEDDING).fetchone() or (None,)
    if kind is None:
        raise TargetRefused(f"{name} has no table vectorpool.records with embeddings. Export to another database.")
    return bool(kind == "vector")


_LIST: Final = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'vectorpool'"
_EMBEDDING: Final = (
    "SELECT udt_name FROM information_schema.columns "
    "WHERE table_schema = 'vectorpool' AND table_name = 'records' AND column_name = 'embedding'"
)
_HAS_PGVECTOR: Final = "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'"


def _create(db: Any) -> None:
    (has_pgvector,) = db.execute(_HAS_PGVECTOR).fetchone()
    if has_pgvector:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
    db.execute("CREATE SCHEMA IF NOT EXISTS vectorpool")
    db.execute(_TABLES.format(embedding="vector" if has_pgvector else "real[]"))
    db.execute("INSERT INTO vectorpool.schema_version VALUES (%s)", [VERSION])


def _migrate(db: Any, name: str) -> None:
    (version,) = db.execute("SELECT version FROM vectorpool.schema_version FOR UPDATE").fetchone() or (0,)
    if version > VERSION:
        raise TargetRefused(
            f"{name} has version {version} of the schema, and this build knows {VERSION}. Export with a newer build."
        )
    for number in range(version + 1, VERSION + 1):
        db.execute(_MIGRATIONS[number])
        db.execute("UPDATE vectorpool.schema_version SET version = %s", [number])
