"""Which schema a Chroma directory has, read from its SQLite file alone; and which schemas this release knows.

The *fingerprint* is a digest of the applied migrations, the tables and their columns. Two directories with equal
fingerprints are compatible, whatever version of Chroma made them. Fast reads and fast writes rely on the tables, so
they work only on a fingerprint that the tests cover. A directory is *newer* if a migration was applied that this engine
does not know, and *older* if one is missing.

Chroma is not imported here: the command line reads stamps too. Reading a schema costs about 0.5 ms.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import xxhash

from vectorpool.names import CHROMA_DATABASE_FILE

# The version that this release is tested with. A state without a stamp was written by it.
TESTED_VERSION: Final = "1.5.9"

# The highest migration of each group that the tested version applies to a fresh directory.
TESTED_MIGRATIONS: Final = {"embeddings_queue": 2, "metadb": 6, "sysdb": 10}

# The fingerprint of a fresh directory, and of any directory that the tested version has migrated.
TESTED_FINGERPRINT: Final = bytes.fromhex("1aade7b8b572b842beb500c2e6429308")

_TESTED_FINGERPRINTS: Final = frozenset({TESTED_FINGERPRINT})

_encode = msgspec.msgpack.Encoder().encode


# What this process's engine knows: the tested migrations, and those of another version once it has made a directory.
_known: Final = dict(TESTED_MIGRATIONS)


class Schema(msgspec.Struct, frozen=True):
    """What a directory's SQLite file holds: the highest migration of each group, and the fingerprint, 16 bytes."""

    migrations: dict[str, int]
    fingerprint: bytes
    # Views and triggers, of which Chroma makes none. With any of them, nothing else was read.
    strangers: tuple[str, ...] = ()

    @property
    def is_older(self) -> bool:
        """Whether this engine changes the schema when it opens the directory."""
        return any(self.migrations.get(group, 0) < number for group, number in _known.items())


@cache
def installed_version() -> str:
    """Return the version of the installed Chroma, without importing it."""
    return version("chromadb")


def is_tested(fingerprint: bytes) -> bool:
    """Whether the fast paths were tested on a schema of this fingerprint."""
    return fingerprint in _TESTED_FINGERPRINTS


def unknown_migrations(migrations: dict[str, int]) -> list[str]:
    """Return the migrations that this engine does not know, as "group number"; a directory that has any is newer."""
    return [f"{group} {number}" for group, number in sorted(migrations.items()) if number > _known.get(group, 0)]


def learn_migrations(directory: Path) -> None:
    """Note the migrations of a directory that the installed Chroma has just made: it knows exactly these."""
    schema = read_schema(directory)
    if schema is not None:
        _known.clear()
        _known.update(schema.migrations)


def read_schema(directory: Path, *, is_open: bool = False) -> Schema | None:
    """Return the schema of a Chroma directory, or None if SQLite cannot read its file. Blocking.

    ``is_open`` says that Chroma has the directory open, so that the file may change.
    """
    mode = "mode=ro" if is_open else "mode=ro&immutable=1"
    uri = f"{(directory / CHROMA_DATABASE_FILE).absolute().as_uri()}?{mode}"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as db:
            return _read(db)
    except sqlite3.Error:
        return None


def _read(db: sqlite3.Connection) -> Schema:
    strangers = db.execute("SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger') ORDER BY name")
    if named := tuple(f"the {kind} {name!a}" for kind, name in strangers):
        return Schema({}, bytes(16), named)
    found = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
    # SQLite's own tables are not part of the schema: ANALYZE makes some.
    tables = [(name, sql) for name, sql in found if not name.startswith("sqlite_")]
    is_tracked = any(name == "migrations" for name, _ in tables)
    applied = db.execute("SELECT dir, version, hash FROM migrations ORDER BY dir, version") if is_tracked else ()
    rows = [tuple(row) for row in applied]
    migrations: dict[str, int] = {}
    for group, number, _ in rows:
        migrations[group] = max(number, migrations.get(group, 0))
    columns = [(name, _columns(db, name, sql)) for name, sql in tables]
    return Schema(migrations, bytes(xxhash.xxh3_128_digest(_encode((rows, columns)))))


def _columns(db: sqlite3.Connection, table: str, sql: str) -> Iterable[object]:
    if sql.upper().startswith("CREATE VIRTUAL"):
        # To ask for its columns would load the module that it names.
        return [sql]
    return db.execute("SELECT name, type FROM pragma_table_info(?) ORDER BY cid", (table,)).fetchall()
