"""Copies in PostgreSQL, on a real server: round trips, increments, faults, and what is refused."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner

from tests.support.exports import Stored, assert_same, make_stored, read_back
from tests.support.postgres import Postgres, programs
from vectorpool.cli import main
from vectorpool.engine.rows import Batch
from vectorpool.errors import Misconfigured, TargetRefused, TargetUnavailable
from vectorpool.export.copying import build_directory, export_directory
from vectorpool.export.places import open_sink, open_source
from vectorpool.export.postgresql import redacted

USER = "42"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    # Below no directory that only this account may enter.
    directory = Path(tempfile.mkdtemp(prefix="vectorpool-postgres-", dir="/tmp"))
    running = Postgres(directory)
    yield running
    running.kill()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def url(server: Postgres) -> Iterator[str]:
    """The URL of a database of the test's own."""
    with psycopg.connect(server.url, autocommit=True) as admin:
        (count,) = admin.execute("SELECT count(*) FROM pg_database").fetchone() or (0,)
        admin.execute(f"CREATE DATABASE d{count}")
    yield server.url.rpartition("/")[0] + f"/d{count}"


def export(directory: Path, url: str, commit: int, user: str = USER) -> Any:
    sink = open_sink(url)
    try:
        return export_directory(directory, user, commit, sink)
    finally:
        sink.close()


def rebuilt(url: str, directory: Path, user: str = USER) -> Stored:
    source = open_source(url, user)
    try:
        build_directory(source, directory)
    finally:
        source.close()
    return read_back(directory)


def rows(url: str, sql: str) -> list[Any]:
    with psycopg.connect(url) as db:
        return db.execute(sql).fetchall()


def test_what_goes_out_comes_back(tmp_path: Path, url: str) -> None:
    """Every collection, vector, text, URI and kind of value is the same after export and import."""
    directory = make_stored(tmp_path / "a")
    before = read_back(directory)
    done = export(directory, url, 7)
    assert (done.collections, done.written, done.unchanged) == (3, before.count, 0)
    assert_same(rebuilt(url, tmp_path / "b"), before)
    assert rows(url, "SELECT user_id, commit FROM vectorpool.users") == [(USER, 7)]
    assert ("avatar-7", "7") in rows(url, "SELECT database, avatar_id FROM vectorpool.collections")


def test_an_increment_writes_what_changed(tmp_path: Path, url: str) -> None:
    """Changed, new and deleted records; a dropped collection, and one made anew under its name."""
    directory = make_stored(tmp_path / "a")
    export(directory, url, 1)
    assert export(directory, url, 1).written == 0
    with Stored.changing(directory) as change:
        change.put("default_database", "notes", Batch(["n1"], np.ones((1, 3), np.float32), documents=["changed"]))
        change.put("default_database", "notes", Batch(["new"], np.ones((1, 3), np.float32)))
        change.delete("default_database", "notes", ["n2", "n3"])
        change.drop("default_database", "empty")
        change.drop("avatar-7", "documents")
        change.create("avatar-7", "documents")
        change.put("avatar-7", "documents", Batch(["d1"], np.ones((1, 5), np.float32)))
    after = read_back(directory)
    done = export(directory, url, 2)
    assert (done.written, done.deleted) == (3, 2)
    assert done.unchanged == after.count - 3
    assert_same(rebuilt(url, tmp_path / "b"), after)
    with pytest.raises(TargetRefused, match="commit 2"):
        export(directory, url, 1)


def test_users_are_apart_and_are_forgotten(tmp_path: Path, url: str) -> None:
    """A copy of one user is not seen as another's, and goes as a whole."""
    directory = make_stored(tmp_path / "a")
    export(directory, url, 1)
    export(directory, url, 1, user="43")
    sink = open_sink(url)
    assert sink.forget(USER) and not sink.forget(USER)
    assert (sink.commit_of(USER), sink.commit_of("43")) == (0, 1)
    sink.close()
    assert rows(url, "SELECT DISTINCT user_id FROM vectorpool.records") == [("43",)]
    with pytest.raises(TargetRefused, match="no collections"):
        rebuilt(url, tmp_path / "b")
    assert_same(rebuilt(url, tmp_path / "c", user="43"), read_back(directory))


def test_an_export_that_is_cut_short_leaves_the_copy_as_it_was(tmp_path: Path, url: str) -> None:
    """The connection ends in the middle: an error without the password, the old copy, and then the next one."""
    directory = make_stored(tmp_path / "a")
    export(directory, url, 1)
    before = rows(url, "SELECT id, digest FROM vectorpool.records ORDER BY id")
    with Stored.changing(directory) as change:
        change.delete("default_database", "notes", ["n1"])
        change.put("avatar-7", "documents", Batch(["d9"], np.ones((1, 4), np.float32)))

    def cut(name: str, count: int) -> None:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    sink = open_sink(url.replace("test@", "test:secret@"))
    with pytest.raises(TargetUnavailable) as told:
        export_directory(directory, USER, 2, sink, cut)
    sink.close()
    assert "secret" not in told.value.detail and "test:***@" in told.value.detail
    assert rows(url, "SELECT id, digest FROM vectorpool.records ORDER BY id") == before
    assert rows(url, "SELECT commit FROM vectorpool.users") == [(1,)]
    export(directory, url, 2)
    assert_same(rebuilt(url, tmp_path / "b"), read_back(directory))


def test_two_exporters_take_turns(tmp_path: Path, url: str) -> None:
    """Both end, one after the other, and the copy is whole."""
    directories = [make_stored(tmp_path / name) for name in "ab"]
    failed: list[BaseException] = []

    def run(directory: Path) -> None:
        try:
            export(directory, url, 1)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(directory,)) for directory in directories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    assert_same(rebuilt(url, tmp_path / "c"), read_back(directories[0]))


def test_a_nul_is_refused_by_name(tmp_path: Path, url: str) -> None:
    """PostgreSQL has none: the record is named, and nothing of the increment is there."""
    directory = make_stored(tmp_path / "a")
    with Stored.changing(directory) as change:
        odd = Batch(["odd"], np.ones((1, 3), np.float32), metadatas=[{"key": "a\0b"}])
        change.put("default_database", "notes", odd)
    with pytest.raises(TargetRefused, match="NUL") as told:
        export(directory, url, 1)
    assert "'odd'" in told.value.detail
    assert rows(url, "SELECT count(*) FROM vectorpool.users") == [(0,)]


def test_what_is_not_ours_is_left_alone(url: str) -> None:
    """Another schema of the name, a newer one, a foreign table: each a sentence, and nothing is changed."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE SCHEMA vectorpool")
        db.execute("CREATE TABLE vectorpool.records (mine int)")
        with pytest.raises(TargetRefused, match="not ours"):
            open_sink(url)
        assert rows(url, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'vectorpool'") == [
            ("records",)
        ]
        db.execute("DROP SCHEMA vectorpool CASCADE")
        open_sink(url).close()
        db.execute("UPDATE vectorpool.schema_version SET version = 99")
        with pytest.raises(TargetRefused, match="version 99"):
            open_sink(url)


def test_wrong_places_are_named(server: Postgres) -> None:
    """No database, no server, no host, no such kind: a sentence each, without the password."""
    base = server.url.rpartition("/")[0].replace("test@", "test:secret@")
    for wrong in (f"{base}/nowhere", "postgresql://test:secret@127.0.0.1:9/x"):
        with pytest.raises(TargetUnavailable) as told:
            open_sink(wrong)
        assert "secret" not in told.value.detail and "127.0.0.1" in told.value.detail
    with pytest.raises(Misconfigured, match="no host"):
        open_sink("postgresql:///x")
    with pytest.raises(Misconfigured, match="postgresql"):
        open_sink("postgresqll://x/y")
    assert redacted("postgresql://a:b@c/d?password=e") == "postgresql://a:***@c/d"


def vectorpool(store: Path, *arguments: str, fails: bool = False) -> str:
    """Run a command on a directory store in this process; return what it prints."""
    place = ("--store", str(store), "--replica-dir", str(store.parent / "replicas"))
    umask = os.umask(0o022)
    os.umask(umask)
    try:
        done = CliRunner().invoke(main, [*arguments, *place], prog_name="vectorpool")
    finally:
        os.umask(umask)
    assert (done.exit_code != 0) == fails, f"{arguments}: {done.exit_code}\n{done.output}\n{done.exception}"
    return done.stdout + done.stderr


def test_by_the_command_line(tmp_path: Path, url: str) -> None:
    """Out, out again, in as another user, and gone with the user; each said in one line, and in the audit."""
    store, directory = tmp_path / "store", make_stored(tmp_path / "a")
    vectorpool(store, "import", str(directory), "--user", USER)
    secret = url.replace("test@", "test:secret@")
    told = vectorpool(store, "export", USER, secret)
    assert "commit 1" in told and "2540 records written" in told and "PGPASSWORD" in told and "secret" not in told
    assert "already" in vectorpool(store, "export", USER, url)
    told = vectorpool(store, "import", url, "--user", "44", "--source-user", USER)
    assert "commit 1 of user 44" in told
    assert "vectorstore" in vectorpool(store, "import", url, "--user", "44", fails=True)
    vectorpool(store, "export", "44", str(tmp_path / "b"))
    assert_same(read_back(tmp_path / "b"), read_back(directory))
    vectorpool(store, "admin", "delete", USER, "--yes")
    assert "deleted now too" in vectorpool(store, "export", USER, url)
    assert "nothing of it" in vectorpool(store, "export", USER, url, fails=True)
    assert rows(url, "SELECT count(*) FROM vectorpool.records") == [(0,)]
    audit = vectorpool(store, "audit", "--user", USER)
    assert "export" in audit and "delete-export" in audit and "secret" not in audit
