"""The schema of a directory: what this engine makes is what the constants say, and every change is seen."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.schemas import make_newer, make_older, make_unknown
from vectorpool.engine import version
from vectorpool.engine.version import (
    TESTED_FINGERPRINT,
    TESTED_MIGRATIONS,
    TESTED_VERSION,
    Schema,
    installed_version,
    is_tested,
    learn_migrations,
    read_schema,
    unknown_migrations,
)
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.vectorstore.template import Template


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A directory as this engine makes it."""
    directory = tmp_path / "fresh"
    directory.mkdir()
    Template(tmp_path / "template").copy_to(directory)
    return directory


def schema_of(directory: Path) -> Schema:
    schema = read_schema(directory)
    assert schema is not None
    return schema


def test_a_fresh_directory_has_the_tested_schema(fresh: Path) -> None:
    """The installed Chroma is the tested one, and makes the migrations and the fingerprint that are recorded."""
    schema = schema_of(fresh)
    assert (schema.migrations, schema.fingerprint.hex()) == (TESTED_MIGRATIONS, TESTED_FINGERPRINT.hex()), (
        f"chromadb {installed_version()} makes another schema than {TESTED_VERSION}"
    )
    assert is_tested(schema.fingerprint)
    assert not schema.is_older
    assert unknown_migrations(schema.migrations) == []


def test_an_older_and_a_newer_directory_are_told_apart(fresh: Path) -> None:
    """A missing migration makes a directory older, one that no constant names makes it newer."""
    make_older(fresh)
    schema = schema_of(fresh)
    assert schema.is_older
    assert unknown_migrations(schema.migrations) == []
    assert not is_tested(schema.fingerprint)
    make_newer(fresh)
    assert unknown_migrations(schema_of(fresh).migrations) == ["sysdb 11"]
    assert unknown_migrations({"otherdb": 1}) == ["otherdb 1"]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (x INTEGER)",
        "ALTER TABLE collections ADD COLUMN more TEXT",
        "ALTER TABLE segments RENAME COLUMN scope TO range",
        "UPDATE migrations SET hash = 'other' WHERE dir = 'sysdb' AND version = 3",
        "DROP TABLE maintenance_log",
    ],
)
def test_a_change_of_the_schema_changes_the_fingerprint(statement: str, fresh: Path) -> None:
    """Tables, columns, and the hash of a migration are part of the fingerprint."""
    with closing(sqlite3.connect(fresh / CHROMA_DATABASE_FILE)) as db, db:
        db.execute(statement)
    assert not is_tested(schema_of(fresh).fingerprint)


def test_contents_and_statistics_are_no_part_of_the_fingerprint(fresh: Path) -> None:
    """Rows, indexes' statistics and a vacuum leave the schema what it is."""
    with closing(sqlite3.connect(fresh / CHROMA_DATABASE_FILE)) as db:
        db.execute("INSERT INTO tenants (id) VALUES ('another')")
        db.commit()
        db.execute("ANALYZE")
        db.execute("VACUUM")
    assert is_tested(schema_of(fresh).fingerprint)


def test_a_file_that_sqlite_cannot_read_has_no_schema(fresh: Path) -> None:
    """Neither garbage nor a missing file raises; what else is done with it says what is wrong."""
    make_unknown(fresh)
    assert read_schema(fresh) is not None
    (fresh / CHROMA_DATABASE_FILE).write_bytes(b"garbage" * 1000)
    assert read_schema(fresh) is None
    (fresh / CHROMA_DATABASE_FILE).unlink()
    assert read_schema(fresh) is None


def test_a_directory_without_migrations_is_older_than_any(tmp_path: Path) -> None:
    """A database that Chroma never migrated has no migrations, and they are all missing."""
    with closing(sqlite3.connect(tmp_path / CHROMA_DATABASE_FILE)) as db, db:
        db.execute("CREATE TABLE t (x)")
    schema = schema_of(tmp_path)
    assert schema.migrations == {}
    assert schema.is_older


def test_stamps_are_read_without_chroma() -> None:
    """The command line reads stamps: neither Chroma nor its bindings are imported for that."""
    script = (
        "import sys; import vectorpool.vectorstore.compatibility, vectorpool.cli.logs; "
        "assert not [m for m in sys.modules if m.startswith('chromadb')], 'Chroma was imported'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_another_chroma_knows_what_it_applies_itself(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance with another version than the tested one learns its migrations from a directory that it has made."""
    make_newer(fresh)
    monkeypatch.setattr(version, "_known", dict(TESTED_MIGRATIONS))
    assert unknown_migrations(schema_of(fresh).migrations) == ["sysdb 11"]
    learn_migrations(fresh)
    assert unknown_migrations(schema_of(fresh).migrations) == []
    assert not schema_of(fresh).is_older
    assert unknown_migrations({"sysdb": 12}) == ["sysdb 12"]
