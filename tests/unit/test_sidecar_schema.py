"""The sidecar's migrations: in order, each whole or not at all, and no row is lost."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vectorpool import names
from vectorpool.answers import RestoredDocument
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.engine.version import TESTED_FINGERPRINT, TESTED_MIGRATIONS
from vectorpool.errors import NewerEngine
from vectorpool.vectorstore import sidecar_schema
from vectorpool.vectorstore.compatibility import check
from vectorpool.vectorstore.restored_documents import flag_documents, flagged_documents
from vectorpool.vectorstore.sidecar import RestoredAt, Sidecar
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


def test_documents_of_the_first_version_keep_their_rows(tmp_path: Path) -> None:
    """Their digest is not known, and no restore brought them; a restore flags them all the same."""
    path = tmp_path / names.SIDECAR_FILE
    with closing(sqlite3.connect(path)) as db, db:
        for statement in sidecar_schema.MIGRATIONS[0]:
            db.execute(statement)
        db.execute("INSERT INTO document VALUES ('7', 'a.md', 'c1', 'e1', 12, 'recipe', ?)", (b"\x91\xa1x",))
        db.execute("PRAGMA user_version = 1")
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(path, copy)
    with closing(Sidecar(path)) as sidecar:
        (row,) = sidecar.documents("7", {"c1": "documents"})
        assert (row.path, row.etag, row.chunks, row.digest, row.restored) == ("a.md", "e1", 1, "", False)
    assert flag_documents(copy)
    assert flagged_documents(copy) == [RestoredDocument("7", "a.md", "e1", 12, "")]
    assert version_of(copy / names.SIDECAR_FILE) == VERSION


def test_flagging_changes_only_what_has_documents(tmp_path: Path) -> None:
    """Without a sidecar, without documents, and where all are flagged already, no byte of a state changes."""
    assert not flag_documents(tmp_path)
    assert not (tmp_path / names.SIDECAR_FILE).exists()
    unversioned(tmp_path / names.SIDECAR_FILE)
    before = (tmp_path / names.SIDECAR_FILE).read_bytes()
    assert not flag_documents(tmp_path)
    assert (tmp_path / names.SIDECAR_FILE).read_bytes() == before
    with closing(Sidecar(tmp_path / names.SIDECAR_FILE)) as sidecar:
        sidecar.set_document("7", "a.md", "c1", "e1", 12, "recipe", ["x"], "d1")
    assert flag_documents(tmp_path)
    before = (tmp_path / names.SIDECAR_FILE).read_bytes()
    assert not flag_documents(tmp_path)
    assert (tmp_path / names.SIDECAR_FILE).read_bytes() == before


def test_flagged_documents_are_listed_in_pages_and_settled(tmp_path: Path) -> None:
    """By avatar and path, of all or of one; a row is settled by its own bytes only, and an ingest settles it too."""
    with closing(Sidecar(tmp_path / names.SIDECAR_FILE)) as sidecar:
        for avatar_id, path in (("7", "b"), ("7", "a"), ("8", "a"), ("7", "é")):
            sidecar.set_document(avatar_id, path, "c1", "e1", 12, "recipe", ["x"], f"d of {path}")
    assert flag_documents(tmp_path)
    with closing(Sidecar(tmp_path / names.SIDECAR_FILE)) as sidecar:

        def flagged(place: RestoredAt, limit: int = 10) -> list[tuple[str, str]]:
            return [(row.avatar_id, row.path) for row in sidecar.restored_documents(place, limit)]

        everything = [("7", "a"), ("7", "b"), ("7", "é"), ("8", "a")]
        assert flagged(RestoredAt()) == everything
        assert flagged(RestoredAt(), 2) == everything[:2]
        assert flagged(RestoredAt(after=("7", "b"))) == everything[2:]
        assert flagged(RestoredAt("7", after=("7", "a"))) == everything[1:3]
        assert flagged(RestoredAt("7", "b")) == everything[1:2]
        assert not sidecar.settle_document("7", "a", "other bytes", "e2")
        assert not sidecar.settle_document("7", "z", "d of z", "e2")
        assert sidecar.settle_document("7", "a", "d of a", "e2")
        assert not sidecar.settle_document("7", "a", "d of a", "e2")
        assert [row.etag for row in sidecar.documents("7", {}) if not row.restored] == ["e2"]
        assert sidecar.settle_document("7", "a", "d of a", "e3")
        sidecar.set_document("7", "b", "c1", "e4", 12, "recipe", ["x"], "new")
        assert flagged(RestoredAt()) == everything[2:]


def test_a_document_that_lost_chunks_stays_changed(tmp_path: Path) -> None:
    """A salvage took its ETag; that its bytes are at its path does not make it unchanged."""
    with closing(Sidecar(tmp_path / names.SIDECAR_FILE)) as sidecar:
        sidecar.set_document("7", "a", "c1", "", 12, "recipe", ["x"], "d1")
        assert not sidecar.settle_document("7", "a", "d1", "e1")
    assert flag_documents(tmp_path)
    with closing(Sidecar(tmp_path / names.SIDECAR_FILE)) as sidecar:
        assert sidecar.settle_document("7", "a", "d1", "e1")
        (row,) = sidecar.documents("7", {})
        assert (row.etag, row.restored) == ("", False)
