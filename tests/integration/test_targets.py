"""Exports to every kind of target and back: record by record, by increments, and after a kill, on real systems."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from qdrant_client import QdrantClient

from tests.support.chroma_server import ChromaServer
from tests.support.instances import NOTES, Instance, upsert
from tests.support.plain_chroma import PlainChroma
from tests.support.postgres import Postgres
from tests.support.store import S3Server
from tests.support.texts import standard_docstrings
from vectorpool.cli import main
from vectorpool.commands import DeleteVectorstore, Restore
from vectorpool.configuration import load_settings
from vectorpool.errors import NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.objects.stores import open_bucket
from vectorpool.targets import postgresql, qdrant, registry, transfer
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.records import Collection, Records, Sink, Source
from vectorpool.targets.urls import Target, parse

Table = dict[tuple[str, str], dict[str, tuple[Any, ...]]]
ODD = [
    {"n": 2**63 - 1, "x": 0.1, "flag": True, "text": "ü\n\"'\\"},
    {"n": -(2**63), "zero": -0.0, "huge": 1e300, "whole": 3.0},
    {"tags": ["a", "b"], "nested.key": "x"},
    None,
]


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    server = ChromaServer(tmp_path_factory.mktemp("chroma")).start()
    yield server
    server.close()


class Kind:
    """One target: a sink and a source of it, opened anew each time."""

    def __init__(self, target: Target, sink: Callable[[], Sink], source: Callable[[str], Source]) -> None:
        self.target, self.sink, self.source = target, sink, source


def _s3(request: pytest.FixtureRequest) -> str:
    """Return the URL of a folder in a bucket of a real S3."""
    server: S3Server = request.getfixturevalue("radosgw_server")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environ("").items():
        if name.startswith("AWS_"):
            patch.setenv(name, value)
    # What is not AWS often takes no checksum behind a body.
    patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
    place = server.endpoint.removeprefix("http://")
    return f"s3://{server.make_bucket()}/folder?scheme=http&endpoint_override={place}&region={server.region}"


LANCEDB = pytest.param("lancedb", marks=pytest.mark.lancedb)
MILVUS = [pytest.param(each, marks=pytest.mark.milvus) for each in ("milvus", "milvus-server")]


@pytest.fixture(params=["postgresql", "parquet", "parquet-file", "parquet-s3", "chroma", "qdrant", LANCEDB, *MILVUS])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    if request.param == "qdrant":
        # The client's local mode is the same client over a directory.
        target = parse("qdrant+http://127.0.0.1:1")
        path = str(tmp_path / "qdrant")
        return Kind(
            target,
            lambda: qdrant.QdrantSink(target, QdrantClient(path=path)),
            lambda user: qdrant.QdrantSource(target, QdrantClient(path=path), user),
        )
    url = {
        "postgresql": lambda: database(request.getfixturevalue("postgres")),
        "parquet": lambda: f"parquet://{tmp_path}/folder",
        "parquet-s3": lambda: _s3(request),
        "lancedb": lambda: f"lancedb://{tmp_path}/lance",
        "milvus": lambda: f"milvus://{tmp_path}/milvus.db",
        "milvus-server": lambda: request.getfixturevalue("milvus_server").database(),
        "parquet-file": lambda: str(tmp_path / "one.parquet"),
        "chroma": lambda: (
            f"chroma+{str(request.getfixturevalue('chroma').client.base_url).rstrip('/')}?tenant={tmp_path.name}"
        ),
    }[request.param]()
    target = parse(url)
    return Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))


def database(server: Postgres) -> str:
    """Return the URL of a new, empty database."""
    with psycopg.connect(server.url, autocommit=True) as db:
        row = db.execute("SELECT count(*) FROM pg_database").fetchone()
        assert row is not None
        db.execute(f"CREATE DATABASE d{row[0]}".encode())
        return server.url.rpartition("/")[0] + f"/d{row[0]}"


class Store:
    """A local directory that goes from commit to commit."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.commit = 0
        writer = DirectoryWriter(directory)
        self.notes = writer.create(
            Collection("", "avatar-7", "notes", {"owner": "me"}, None, {"hnsw": {"space": "cosine"}})
        )
        self.plain = writer.create(Collection("", "default_database", "plain"))
        self.empty = writer.create(Collection("", "default_database", "empty", {"kept": 1}))
        writer.put(self.notes, records(60, 8))
        writer.put(self.plain, records(40, 3, seed=2))
        writer.close()

    def change(self, change: Callable[[PlainChroma], None]) -> None:
        chroma = PlainChroma(self.directory)
        change(chroma)
        chroma.close()

    def export(
        self, kind: Kind, *, follows: bool = True, user: str = "42", commit: int | None = None
    ) -> transfer.Exported:
        self.commit += 1
        sink = kind.sink()
        source = DirectorySource(self.directory)
        try:
            number = commit or self.commit
            return transfer.export(
                source,
                sink,
                user_id=user,
                commit=number,
                commit_hash=f"{number:032x}",
                lineage=lambda *_: follows,
                shown="the target",
            )
        finally:
            source.close()
            sink.close()

    def table(self) -> Table:
        source = DirectorySource(self.directory)
        try:
            return table_of(source)
        finally:
            source.close()


def records(count: int, dimension: int, *, seed: int = 1) -> Records:
    texts = standard_docstrings()
    return Records(
        [f"r{number:03d} ü" for number in range(count)],
        np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32),
        [None if number % 7 == 3 else texts[number % len(texts)] for number in range(count)],
        [ODD[number % len(ODD)] for number in range(count)],
        [f"s3://b/{number}" if number % 5 == 4 else None for number in range(count)],
    )


def table_of(source: Any) -> Table:
    found: Table = {}
    for collection in source.collections():
        rows = found.setdefault((collection.database, collection.name), {})
        rows["#"] = (collection.metadata, collection.dimension, collection.space)
        for batch in source.batches(collection):
            for row in zip(*(batch.ids, batch.vectors, batch.documents, batch.metadatas, batch.uris), strict=True):
                assert row[0] not in rows
                rows[row[0]] = row[1:]
    return found


def assert_same(found: Table, wanted: Table, *, is_rounded: bool = False) -> None:
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        assert found[name].keys() == rows.keys(), name
        for record_id, row in rows.items():
            other = found[name][record_id]
            if record_id == "#":
                assert other == row
                continue
            if is_rounded:
                np.testing.assert_allclose(other[0], row[0], rtol=3e-6)
            else:
                assert other[0].tobytes() == np.asarray(row[0], np.float32).tobytes()
            assert other[1:] == row[1:], record_id
            assert repr(other[2]) == repr({key: row[2][key] for key in other[2]} if row[2] else row[2])


def read(kind: Kind, user: str = "42") -> Table:
    source = kind.source(user)
    try:
        return table_of(source)
    finally:
        source.close()


def wiped_and_imported(kind: Kind, directory: Path, user: str = "42") -> Table:
    source = kind.source(user)
    writer = DirectoryWriter(directory)
    transfer.read_all(source, writer)
    writer.close()
    source.close()
    local = DirectorySource(directory)
    try:
        return table_of(local)
    finally:
        local.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


def is_rounded(kind: Kind) -> bool:
    # Both make vectors of a cosine collection of length 1, as Chroma here did before.
    return kind.target.kind in ("chroma", "qdrant")


def test_what_was_exported_comes_back_record_by_record(kind: Kind, store: Store, tmp_path: Path) -> None:
    """A store that is exported, wiped and imported has the same collections, records and values."""
    wanted = store.table()
    done = store.export(kind)
    assert (done.written, done.collections) == (100, 3)
    assert_same(read(kind), wanted, is_rounded=is_rounded(kind))
    shutil.rmtree(store.directory)
    (tmp_path / "again").mkdir()
    # Chroma gives the vectors of a cosine collection length 1 again.
    assert_same(wiped_and_imported(kind, tmp_path / "again"), wanted, is_rounded=True)


def test_an_increment_writes_what_changed(kind: Kind, store: Store) -> None:
    """Updates, new records and deletions arrive, and unchanged records are not written by targets with increments."""
    store.export(kind)

    def change(chroma: PlainChroma) -> None:
        notes = chroma.catalogue.get("avatar-7", "notes")
        chroma.upsert(notes, ["new"], np.ones((1, 8), np.float32), [{"a": 1}], ["text"])
        chroma.update(notes, ["r000 ü"], None, [{"flag": None, "b": 2}], ["changed"])
        chroma.delete(notes, ["r001 ü", "r002 ü"])

    store.change(change)
    done = store.export(kind)
    if kind.target.kind != "parquet":
        assert (done.written, done.deleted) == (2, 2)
    assert_same(read(kind), store.table(), is_rounded=is_rounded(kind))


def test_an_unchanged_commit_is_not_written_again(kind: Kind, store: Store) -> None:
    """The same commit again does nothing; an earlier one is refused."""
    store.export(kind)
    assert store.export(kind, commit=1).is_current
    store.export(kind, commit=9)
    with pytest.raises(TargetRefused, match="has commit 9"):
        store.export(kind, commit=8)


def test_another_history_is_written_whole(kind: Kind, store: Store) -> None:
    """After a restore positions say nothing: all is written, and what is left over is deleted."""
    before = store.directory.parent / "before"
    shutil.copytree(store.directory, before)
    store.change(
        lambda chroma: chroma.upsert(
            chroma.catalogue.get("avatar-7", "notes"), ["r000 ü", "late"], np.ones((2, 8), np.float32)
        )
    )
    store.export(kind)
    shutil.rmtree(store.directory)
    before.rename(store.directory)
    done = store.export(kind, follows=False)
    assert done.written == 100
    assert_same(read(kind), store.table(), is_rounded=is_rounded(kind))


def test_collections_are_renamed_dropped_and_made_again(kind: Kind, store: Store) -> None:
    """A renamed collection keeps its records; one of the same name and another dimension takes its old name."""
    store.export(kind)

    def change(chroma: PlainChroma) -> None:
        plain = chroma.collection("plain")
        chroma.catalogue.update(plain.id, name="renamed", metadata={"new": True})
        made = chroma.create("plain")
        chroma.add(made, ["x"], np.ones((1, 5), np.float32))
        chroma.delete_collection("empty")

    store.change(change)
    done = store.export(kind)
    if kind.target.kind != "parquet":
        assert (done.written, done.dropped) == (1, 1)
    assert_same(read(kind), store.table(), is_rounded=is_rounded(kind))


class Killed(Exception):
    """Stands for the death of the exporter."""


def test_an_export_that_dies_is_completed_by_the_next(
    kind: Kind, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a death between two batches the next export completes the target, which then equals the store."""
    monkeypatch.setattr(transfer, "BATCH", 10)
    open_sink, puts = kind.sink, [0]

    def dying() -> Sink:
        sink = open_sink()
        put = sink.put

        def put_once(*arguments: Any, **named: Any) -> None:
            puts[0] += 1
            if puts[0] == 4:
                raise Killed
            put(*arguments, **named)

        sink.put = put_once  # type: ignore[method-assign]
        return sink

    kind.sink = dying
    with pytest.raises(Killed):
        store.export(kind, commit=1)
    kind.sink = open_sink
    done = store.export(kind, commit=1)
    # PostgreSQL took the transaction back, and a file is written anew; the others go on behind the last batch.
    assert done.written == (100 if kind.target.kind in ("postgresql", "parquet") else 70)
    assert_same(read(kind), store.table(), is_rounded=is_rounded(kind))


def test_users_are_apart_and_a_deleted_one_is_gone(kind: Kind, store: Store) -> None:
    """What is forgotten of one user leaves another's, cannot be read, and is not brought back by an older commit."""
    if kind.target.url.endswith(".parquet") or "tenant" in kind.target.parameters:
        pytest.skip("this target holds one user")
    store.export(kind, commit=1)
    store.export(kind, commit=1, user="43")
    sink = kind.sink()
    sink.state("42")
    assert sink.forget("42", 5) == 100
    sink.close()
    with pytest.raises(UserNotFound):
        read(kind)
    with pytest.raises(TargetRefused, match="has commit 5"):
        store.export(kind, commit=2)
    assert_same(read(kind, "43"), store.table(), is_rounded=is_rounded(kind))


def test_parquet_is_read_by_another_program(store: Store, tmp_path: Path) -> None:
    """The file has a row a record, with plain columns, for whoever reads Parquet."""
    target = parse(str(tmp_path / "42.parquet"))
    store.export(Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user)))
    table = pq.read_table(target.url)
    assert table.num_rows == 100
    assert set(table.column("collection").to_pylist()) == {"notes", "plain"}
    assert len(table.column("embedding")[0].as_py()) in (3, 8)


# --- PostgreSQL's own -----------------------------------------------------------------------------------


def test_a_foreign_table_and_a_later_schema_are_refused(postgres: Postgres) -> None:
    """A table of our name that we did not make is left alone, and so is the schema of a later release."""
    url = database(postgres)
    with psycopg.connect(url) as db:
        db.execute("CREATE SCHEMA vectorpool")
        db.execute("CREATE TABLE vectorpool.records (theirs int)")
    with pytest.raises(TargetRefused, match="did not make"):
        postgresql.open_sink(parse(url))
    with psycopg.connect(url) as db:
        assert db.execute("SELECT count(*) FROM vectorpool.records").fetchone() == (0,)
    url = database(postgres)
    postgresql.open_sink(parse(url)).close()
    with psycopg.connect(url) as db:
        db.execute("UPDATE vectorpool.schema_version SET version = 999")
    with pytest.raises(TargetRefused, match="later release"):
        postgresql.open_sink(parse(url))


def test_errors_of_connections_have_no_password(postgres: Postgres) -> None:
    """A database that is not there, a role that is not, and a server that is away are errors of one sentence each."""
    base = postgres.url.replace("test@", "nobody:s3cretword@")
    for url, error in (
        (base, TargetRefused),
        (postgres.url.replace("test@", "test:s3cretword@").replace("/postgres", "/nowhere"), TargetRefused),
        ("postgresql://u:s3cretword@127.0.0.1:1/d", TargetUnavailable),
    ):
        with pytest.raises(error) as raised:
            postgresql.open_sink(parse(url))
        assert "s3cretword" not in raised.value.detail
        assert "s3cretword" not in repr(parse(url))


def test_text_that_postgresql_cannot_hold_is_refused_by_name(postgres: Postgres, store: Store) -> None:
    """U+0000 in a document is named with its record, and nothing of the export is there."""
    target = parse(database(postgres))
    store.change(
        lambda chroma: chroma.update(chroma.catalogue.get("avatar-7", "notes"), ["r005 ü"], None, None, ["a\0b"])
    )
    kind = Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))
    with pytest.raises(NotExportable, match="r005"):
        store.export(kind)
    with pytest.raises(UserNotFound):
        read(kind)


def test_an_export_waits_for_another_of_the_same_user(
    postgres: Postgres, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's row is locked from the first look to the end, and a wait is bounded."""
    monkeypatch.setattr(postgresql, "_LOCK_MS", 200)
    target = parse(database(postgres))
    first, second = postgresql.open_sink(target), postgresql.open_sink(target)
    assert first.state("42") is None
    with pytest.raises(TargetUnavailable, match="Another export"):
        second.state("42")
    second.close()
    third = postgresql.open_sink(target)
    assert third.state("43") is None
    first.close()
    third.close()


# --- The command line, over commits ---------------------------------------------------------------------


async def test_commits_are_exported_restored_imported_and_deleted(postgres: Postgres, tmp_path: Path) -> None:
    """An increment follows on writes, a restore is exported whole, an import is a commit, and a deletion arrives."""
    url, place = database(postgres), {"VECTORPOOL_STORE": str(tmp_path / "bucket")}
    place["VECTORPOOL_REPLICA_DIR"] = str(tmp_path / "replicas")
    settings = load_settings({"store": place["VECTORPOOL_STORE"]})

    async def run(*arguments: str, fails: bool = False) -> str:
        runner = CliRunner()
        result = await asyncio.to_thread(runner.invoke, main, list(arguments), env=place, prog_name="vectorpool")
        assert (result.exit_code != 0) == fails, result.output
        return " ".join(result.output.split())

    target = parse(url)
    kind = Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))
    async with Instance(tmp_path / "a", open_bucket(settings)) as instance:
        await instance.do(NOTES)
        await instance.do(upsert(*(f"r{number}" for number in range(20))))
        assert "20 records written" in await run("export", "42", url)
        await instance.do(upsert("r3", "r21"))
        assert "2 records written" in await run("export", "42", url)
        assert "is there already" in await run("export", "42", url)
        later = read(kind)
        await instance.do(Restore(commit=2))
        assert "20 records written, 1 deleted" in await run("export", "42", url)
        assert sum(map(len, read(kind).values())) == sum(map(len, later.values())) - 1
        assert "1 collections, 20 records" in await run("import", url, "--user", "43", "--source-user", "42")
        assert "already" in await run("import", url, "--user", "43", "--source-user", "42", fails=True)
        await run("export", "43", url)
        assert_same(read(kind, "43"), read(kind), is_rounded=True)
        await instance.do(DeleteVectorstore())
        assert "20 records deleted" in await run("export", "42", url)
    with pytest.raises(UserNotFound):
        read(kind)
    assert "nothing of user 42" in await run("import", url, "--user", "44", "--source-user", "42", fails=True)
    assert len(read(kind, "43")) == 1
