"""The sidecar's migrations: in order, each whole or not at all, and no row is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.version import TESTED_FINGERPRINT, TESTED_MIGRATIONS
from vectorpool.errors import NewerEngine
from vectorpool.vectorstore import sidecar_schema
from vectorpool.vectorstore.compatibility import check
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.sidecar_schema import VERSION, version_of


def unversioned(path: Path) -> Path:
    """Make a sidecar as it was before it had a version: the tables, a row, and user_version 0."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in sidecar_schema.MIGRATIONS[0]:
            db.execute(statement)
        db.execute("INSERT INTO collection VALUES ('c1', 'minilm')")
    return path


def test_a_new_sidecar_has_the_newest_version(tmp_path: Path) -> None:
    """The file appears with the first thing to say, and its version with it."""
    path = tmp_path / "sidecar"
    sidecar = Sidecar(path)
    sidecar.migrate()
    assert (path.exists(), sidecar.version, version_of(path)) == (False, 0, 0)
    sidecar.set_embedder("c1", "minilm")
    sidecar.close()
    assert sidecar.version == version_of(path) == VERSION


def test_a_sidecar_without_a_version_keeps_its_rows(tmp_path: Path) -> None:
    """The first migration of a file that has the tables already gives it its version, and nothing else."""
    path = unversioned(tmp_path / "sidecar")
    assert version_of(path) == 0
    sidecar = Sidecar(path)
    sidecar.migrate()
    assert sidecar.embedder("c1") == "minilm"
    sidecar.close()
    assert version_of(path) == VERSION


def test_migrations_are_applied_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of an older version gets each later migration once, whatever version it starts from."""
    path = unversioned(tmp_path / "sidecar")
    Sidecar(path).migrate()
    more = (
        *sidecar_schema.MIGRATIONS,
        ("ALTER TABLE collection ADD COLUMN note TEXT", "UPDATE collection SET note = 'two'"),
        ("UPDATE collection SET note = note || ', three'",),
    )
    monkeypatch.setattr(sidecar_schema, "MIGRATIONS", more)
    for _ in range(2):
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            sidecar_schema.migrate(db)
            assert db.execute("SELECT * FROM collection").fetchall() == [("c1", "minilm", "two, three")]
    assert version_of(path) == VERSION + 2


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its statements and its number are undone together; those before it stay."""
    path = unversioned(tmp_path / "sidecar")
    broken = ("ALTER TABLE collection ADD COLUMN note TEXT", "ALTER TABLE nowhere ADD COLUMN x TEXT")
    monkeypatch.setattr(sidecar_schema, "MIGRATIONS", (*sidecar_schema.MIGRATIONS, broken))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        with pytest.raises(sqlite3.OperationalError):
            sidecar_schema.migrate(db)
        assert db.execute("SELECT * FROM collection").fetchall() == [("c1", "minilm")]
    assert version_of(path) == VERSION


def test_a_sidecar_of_a_later_version_is_refused() -> None:
    """The stamp names the sidecar's version, and one that is not known here is refused by name."""
    known = EngineStamp("1.5.9", TESTED_FINGERPRINT, dict(TESTED_MIGRATIONS), VERSION)
    check(known)
    check(None)
    with pytest.raises(NewerEngine, match=f"sidecar {VERSION + 1}") as refused:
        check(EngineStamp("1.5.9", TESTED_FINGERPRINT, dict(TESTED_MIGRATIONS), VERSION + 1))
    assert refused.value.status == 503


def test_an_equal_fingerprint_is_compatible_whatever_the_version() -> None:
    """Neither the version nor an unknown fingerprint refuses a state; only an unknown migration does."""
    check(EngineStamp("9.9.9", TESTED_FINGERPRINT, dict(TESTED_MIGRATIONS), VERSION))
    check(EngineStamp("0.4.0", bytes(16), {"sysdb": 1}, 0))
    with pytest.raises(NewerEngine, match=r"chromadb 9\.9\.9"):
        check(EngineStamp("9.9.9", bytes(16), TESTED_MIGRATIONS | {"metadb": TESTED_MIGRATIONS["metadb"] + 1}, 0))
