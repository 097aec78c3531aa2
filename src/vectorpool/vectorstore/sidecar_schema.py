"""The sidecar's tables, as an ordered list of migrations. ``PRAGMA user_version`` holds how many were applied.

A released migration never changes; a change of the schema appends one. A file of a later version is refused, see
``compatibility``. The file carries user data, so a migration keeps every row.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Final

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    # IF NOT EXISTS: files from before the first release have the tables and no version.
    (
        "CREATE TABLE IF NOT EXISTS collection (id TEXT PRIMARY KEY, embedder TEXT NOT NULL) WITHOUT ROWID",
        """
        CREATE TABLE IF NOT EXISTS document (
          avatar_id TEXT NOT NULL, path TEXT NOT NULL, collection_id TEXT NOT NULL, etag TEXT NOT NULL,
          size INTEGER NOT NULL, recipe TEXT NOT NULL, chunk_ids BLOB NOT NULL,
          PRIMARY KEY (avatar_id, path)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS salvage_loss (
          collection_id TEXT NOT NULL, avatar_id TEXT, collection TEXT NOT NULL, record_id TEXT NOT NULL,
          reason TEXT NOT NULL, time_ms INTEGER NOT NULL, document TEXT, metadata BLOB NOT NULL,
          PRIMARY KEY (collection_id, record_id)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE IF NOT EXISTS collection_alias (
          told TEXT PRIMARY KEY, collection_id TEXT NOT NULL
        ) WITHOUT ROWID
        """,
    ),
    # The SHA-256 of a document's bytes ('': not known), and whether a restore or fork brought the row.
    (
        "ALTER TABLE document ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE document ADD COLUMN restored INTEGER NOT NULL DEFAULT 0",
    ),
    # The type of a document, the hashes of its chunks ('': not known), and parts of documents that are not complete.
    (
        "ALTER TABLE document ADD COLUMN content_type TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE document ADD COLUMN chunk_hashes BLOB NOT NULL DEFAULT x''",
        "CREATE INDEX document_digest ON document (avatar_id, digest)",
        """
        CREATE TABLE document_part (
          avatar_id TEXT NOT NULL, path TEXT NOT NULL, token TEXT NOT NULL, number INTEGER NOT NULL,
          collection_id TEXT NOT NULL, body BLOB NOT NULL,
          PRIMARY KEY (avatar_id, path, token, number)
        )
        """,
    ),
    # How an avatar's documents are cut, as msgpack.
    ("CREATE TABLE pipeline (avatar_id TEXT PRIMARY KEY, choice BLOB NOT NULL) WITHOUT ROWID",),
)

VERSION: Final = len(MIGRATIONS)

TABLES: Final = frozenset(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", "\n".join(map("\n".join, MIGRATIONS))))

# Where a SQLite file holds its user version: four bytes, the most significant first.
_USER_VERSION_OFFSET: Final = 60


def version_of(path: Path) -> int:
    """Return the schema version of a sidecar file; 0 for one that is not there, or that has no version."""
    try:
        with path.open("rb") as file:
            file.seek(_USER_VERSION_OFFSET)
            return int.from_bytes(file.read(4), "big")
    except FileNotFoundError:
        return 0


def migrate(db: sqlite3.Connection) -> None:
    """Apply the migrations that a sidecar lacks, each in a transaction of its own with its number."""
    applied = int(db.execute("PRAGMA user_version").fetchone()[0])
    for number, statements in enumerate(MIGRATIONS[applied:], applied + 1):
        db.execute("BEGIN")
        try:
            for statement in statements:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
