"""PostgreSQL as a target: its schema's versions, and the documents that it holds beside the records."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.integration.test_targets import (  # noqa: F401
    Kind,
    Store,
    assert_same,
    database,
    read,
    store,
)
from tests.support.postgres import Postgres
from vectorpool.errors import NotExportable, TargetRefused
from vectorpool.names import SIDECAR_FILE
from vectorpool.targets import registry
from vectorpool.targets.urls import parse
from vectorpool.vectorstore.sidecar import Sidecar


def _kind(url: str) -> Kind:
    target = parse(url)
    return Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))


def _documents(url: str, user: str = "42") -> dict[tuple[str, str], tuple[Any, ...]]:
    query = (
        "SELECT avatar_id, path, etag, size, sha256, content_type, records, xmin::text FROM vectorpool.documents "
        "WHERE user_id = %s"
    )
    with psycopg.connect(url) as db:
        return {(row[0], row[1]): row[2:] for row in db.execute(query, (user,)).fetchall()}


def test_documents_are_kept_as_the_registry_has_them(postgres: Postgres, store: Store) -> None:  # noqa: F811
    """Paths, ETags, hashes and the ids of the records; only rows that changed are written, and gone ones go."""
    url = database(postgres)
    sidecar = Sidecar(store.directory / SIDECAR_FILE)
    notes = store.notes.id
    odd = "tief/ü 'a\"b\\.md"
    sidecar.set_document(
        "7", "a.md", notes, "e1", 10, "r", ["r000 ü", "r001 ü"], "ab" * 32, content_type="text/markdown"
    )
    sidecar.set_document("7", odd, notes, "e2", 2**40, "r", [])
    sidecar.set_document("7", "gone.md", notes, "e3", 1, "r", ["r002 ü"])
    sidecar.close()
    store.export(_kind(url), user="42")
    store.export(_kind(url), user="43", commit=1)
    first = _documents(url)
    assert first["7", "a.md"][:5] == ("e1", 10, "ab" * 32, "text/markdown", ["r000 ü", "r001 ü"])
    assert first["7", odd][:5] == ("e2", 2**40, "", "", [])
    sidecar.set_document("7", "a.md", notes, "e9", 11, "r", ["r000 ü"], "cd" * 32)
    sidecar.forget_document("7", "gone.md")
    sidecar.close()
    store.export(_kind(url), user="42")
    later = _documents(url)
    assert later.keys() == {("7", "a.md"), ("7", odd)}
    assert later["7", "a.md"][0] == "e9"
    # The same row version: it was not written again.
    assert later["7", odd] == first["7", odd]
    assert len(_documents(url, "43")) == 3
    sink = registry.open_sink(parse(url))
    sink.state("42")
    sink.forget("42", 9)
    sink.close()
    assert (_documents(url), len(_documents(url, "43"))) == ({}, 3)


def test_a_path_that_postgresql_cannot_hold_is_named(postgres: Postgres, store: Store) -> None:  # noqa: F811
    """U+0000 in a path fails the export by name, and nothing of it is there."""
    url = database(postgres)
    sidecar = Sidecar(store.directory / SIDECAR_FILE)
    sidecar.set_document("7", "a\0b", store.notes.id, "e", 1, "r", [])
    sidecar.close()
    with pytest.raises(NotExportable, match="document 'a"):
        store.export(_kind(url))
    assert _documents(url) == {}


def test_a_foreign_documents_table_is_refused_before_the_migration(postgres: Postgres, store: Store) -> None:  # noqa: F811
    """An earlier schema of ours beside a table of that name of somebody else stays as it is."""
    url = database(postgres)
    store.export(_kind(url))
    with psycopg.connect(url) as db:
        db.execute("UPDATE vectorpool.schema_version SET version = 2")
        db.execute("DROP TABLE vectorpool.documents")
        db.execute("CREATE TABLE vectorpool.documents (theirs int)")
    with pytest.raises(TargetRefused, match="table documents"):
        registry.open_sink(parse(url))
    with psycopg.connect(url) as db:
        assert db.execute("SELECT version FROM vectorpool.schema_version").fetchone() == (2,)
        assert db.execute("SELECT count(*) FROM vectorpool.documents").fetchone() == (0,)


def test_the_first_version_of_the_schema_is_migrated(postgres: Postgres, store: Store) -> None:  # noqa: F811
    """What an earlier release wrote is kept, and the next export is an increment on it."""
    url = database(postgres)
    target = parse(url)
    kind = Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))
    store.export(kind)
    with psycopg.connect(url) as db:
        # As version 1 had it.
        db.execute("UPDATE vectorpool.schema_version SET version = 1")
        db.execute("ALTER TABLE vectorpool.collections DROP COLUMN records")
        db.execute("DROP TABLE vectorpool.documents")
        db.execute(
            "ALTER TABLE vectorpool.records ADD FOREIGN KEY (user_id, collection_id) "
            "REFERENCES vectorpool.collections ON DELETE CASCADE"
        )
    store.change(lambda chroma: chroma.delete(chroma.collection("plain"), ["r001 ü"]))
    done = store.export(kind)
    assert (done.written, done.deleted) == (0, 1)
    assert_same(read(kind), store.table())
    with psycopg.connect(url) as db:
        row = db.execute(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = 'vectorpool.records'::regclass AND contype = 'f'"
        ).fetchone()
        assert row == (0,)
        assert db.execute("SELECT sum(records) FROM vectorpool.collections").fetchone() == (99,)
