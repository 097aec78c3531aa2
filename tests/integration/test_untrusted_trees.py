"""What others put into an import, or below ``vectorstore/`` in the bucket: held to one rule before it is opened."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import chromadb
import pytest

from tests.support.instances import USER, Instance
from vectorpool.commands import CountRecords, DescribeVectorstore
from vectorpool.commitlog import adoption
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.stamp import ANY_ENGINE
from vectorpool.errors import InvalidRequest, LimitExceeded
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.platform.trees import open_database
from vectorpool.settings import Settings
from vectorpool.vectorstore.compatibility import ENGINE

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

Change = Callable[[Path], None]


def sql(*statements: str) -> Change:
    """Return a change that executes statements on the database of a directory."""

    def change(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "chroma.sqlite3", isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)

    return change


def rewrite(table: str, old: str, new: str) -> Change:
    """Return a change that rewrites the statement of a table, as a hostile file has it."""
    return sql(
        "PRAGMA writable_schema=ON",
        f"UPDATE sqlite_master SET sql = replace(sql, '{old}', '{new}') WHERE name = '{table}'",
    )


HOSTILE = {
    "the trigger 'slow'": sql(
        f"CREATE TRIGGER slow AFTER INSERT ON embeddings_queue BEGIN INSERT INTO acquire_write {FOREVER}; END".replace(
            "SELECT count(*) FROM n", "SELECT count(*), 1 FROM n"
        )
    ),
    "the view 'collections'": sql("ALTER TABLE collections RENAME TO c2", f"CREATE VIEW collections AS {FOREVER}"),
    "the view 'other'": sql("CREATE VIEW other AS SELECT 1"),
    "the table 'notes'": sql("CREATE TABLE notes (x)"),
    "the virtual table 'v'": sql("CREATE VIRTUAL TABLE v USING fts5(x)"),
    "the index 'slow'": sql("CREATE INDEX slow ON embeddings (length(embedding_id))"),
    "a table 'tenants' that computes": rewrite("tenants", "id TEXT PRIMARY KEY", "id TEXT PRIMARY KEY CHECK (id != 1)"),
    "a table 'maintenance_log' that computes": rewrite(
        "maintenance_log", "operation TEXT NOT NULL", "operation TEXT AS (hex(zeroblob(99))) NOT NULL"
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as chromadb leaves it, with a record."""
    directory = tmp_path_factory.mktemp("plain")
    client = chromadb.PersistentClient(str(directory))
    collection = client.create_collection("notes", embedding_function=None)
    collection.add(ids=["a"], embeddings=[[1.0, 2.0, 3.0]], documents=["text"])
    client.close()
    return directory


@pytest.fixture
def directory(plain: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(plain, tmp_path / "import"))


def leave_a_journal(directory: Path) -> None:
    """Leave a write-ahead log beside the database, as a killed process does."""
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("INSERT INTO tenants (id) VALUES ('another')")
        db.commit()
        kept = directory.with_name("kept")
        shutil.copytree(directory, kept)
    shutil.rmtree(directory)
    kept.rename(directory)
    assert (directory / "chroma.sqlite3-wal").stat().st_size


async def upload(directory: Path, bucket: Bucket) -> None:
    """Put a directory below a user's ``vectorstore/``, as another tool does."""
    for file in directory.rglob("*"):
        if file.is_file():
            await bucket.put(f"users/{USER}/vectorstore/{file.relative_to(directory)}", file.read_bytes())


def log_of(bucket: Bucket, tmp_path: Path) -> CommitLog:
    return CommitLog(bucket, USER, settings=Settings(replica_dir=str(tmp_path / "replicas")), engine=ENGINE)


@pytest.mark.parametrize("journal", ["none", "left", "closed"])
async def test_what_chroma_made_is_taken(directory: Path, tmp_path: Path, journal: str) -> None:
    """An import and an adopted directory are served, with a write-ahead log beside the database or before it too."""
    if journal == "left":
        leave_a_journal(directory)
    if journal == "closed":
        sql("PRAGMA journal_mode=WAL")(directory)
    imported, adopted = MemoryBucket(), MemoryBucket()
    await log_of(imported, tmp_path).adopt(directory)
    await upload(directory, adopted)
    for name, bucket in (("a", imported), ("b", adopted)):
        async with Instance(tmp_path, bucket, name=name) as instance:
            assert await instance.do(CountRecords(collection="notes")) == {"count": 1}


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("told", HOSTILE)
async def test_a_database_that_computes_is_refused(directory: Path, tmp_path: Path, told: str, journal: bool) -> None:
    """Imported, or adopted from the bucket, it is named and never opened; nothing is committed."""
    HOSTILE[told](directory)
    if journal:
        leave_a_journal(directory)
    bucket = MemoryBucket()
    with pytest.raises(InvalidRequest, match=told):
        await log_of(bucket, tmp_path).adopt(directory)
    assert await bucket.list_objects("", limit=1) == []
    await upload(directory, bucket)
    async with Instance(tmp_path, bucket) as instance:
        refusal = await instance.refusal(DescribeVectorstore())
    assert refusal.code == "invalid-request" and told in refusal.detail
    assert await bucket.list_objects(f"users/{USER}/vectorstore/log/", limit=1) == []


async def test_one_that_was_adopted_before_is_not_opened(directory: Path, tmp_path: Path) -> None:
    """A commit may hold a trigger from before there was this rule: it is damaged, and neighbours do not wait."""
    HOSTILE["the trigger 'slow'"](directory)
    bucket = MemoryBucket()
    settings = Settings(replica_dir=str(tmp_path / "replicas"))
    await CommitLog(bucket, USER, settings=settings, engine=ANY_ENGINE).adopt(directory)
    async with Instance(tmp_path, bucket) as instance:
        refusal = await instance.refusal(DescribeVectorstore())
        assert refusal.code == "damaged" and "the trigger 'slow'" in refusal.detail
        assert (await instance.refusal(DescribeVectorstore(), "43")).code == "user-not-found"


async def test_a_statement_is_interrupted_at_its_deadline(directory: Path) -> None:
    """Whatever a stranger's file makes SQLite do, it ends, and says that it took too long."""
    with (
        pytest.raises(InvalidRequest, match=r"took longer than 0\.2 s"),
        open_database(directory / "chroma.sqlite3", limit_s=0.2) as db,
    ):
        db.execute(FOREVER).fetchall()


def link_a_file(directory: Path) -> None:
    (directory / "index.bin").symlink_to("/etc/passwd")


def link_a_directory(directory: Path) -> None:
    (directory / "11111111-1111-1111-1111-111111111111").symlink_to("/etc")


def link_the_database(directory: Path) -> None:
    (directory / "chroma.sqlite3").rename(directory.with_name("elsewhere"))
    (directory / "chroma.sqlite3").symlink_to(directory.with_name("elsewhere"))


def link_a_journal(directory: Path) -> None:
    (directory / "chroma.sqlite3-journal").symlink_to("/etc/passwd")


def make_a_pipe(directory: Path) -> None:
    os.mkfifo(directory / "pipe")


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("change", [link_a_file, link_a_directory, link_the_database, link_a_journal, make_a_pipe])
async def test_links_and_pipes_are_refused(directory: Path, tmp_path: Path, change: Change, journal: bool) -> None:
    """With a write-ahead log beside the database or without: no link is followed, and no pipe is waited for."""
    if journal:
        leave_a_journal(directory)
    change(directory)
    bucket = MemoryBucket()
    with pytest.raises(InvalidRequest, match="neither a file nor a directory"):
        await log_of(bucket, tmp_path).adopt(directory)
    assert await bucket.list_objects("", limit=1) == []


async def test_bounds_come_before_copies(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory over a bound is refused before a byte of it is copied, also where it must be copied."""
    leave_a_journal(directory)
    monkeypatch.setattr("vectorpool.commitlog.log.copy_files", lambda *_: pytest.fail("it was copied"))
    for name, limit in (("MAX_FILES", 1), ("MAX_STATE_BYTES", 1000)):
        with monkeypatch.context() as patch:
            patch.setattr(adoption, name, limit)
            with pytest.raises(LimitExceeded, match="more than"):
                await log_of(MemoryBucket(), tmp_path).adopt(directory)
    bucket = MemoryBucket()
    await upload(directory, bucket)
    monkeypatch.setattr(adoption, "MAX_FILES", 1)
    monkeypatch.setattr(adoption, "_download", lambda *_: pytest.fail("it was downloaded"))
    with pytest.raises(LimitExceeded):
        await log_of(bucket, tmp_path).hydrate(tmp_path / "hydrated")


@pytest.mark.parametrize("index", [True, False])
async def test_an_empty_database_is_no_empty_vectorstore(directory: Path, tmp_path: Path, index: bool) -> None:
    """Beside index folders, or alone, it is what a copy that was cut short leaves: refused, and left as it is."""
    for left in directory.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.write_bytes(b"")
    if index:
        (directory / "0a1b").mkdir()
        (directory / "0a1b" / "data_level0.bin").write_bytes(b"x" * 100)
    bucket = MemoryBucket()
    with pytest.raises(InvalidRequest, match=r"chroma\.sqlite3 is empty"):
        await log_of(bucket, tmp_path).adopt(directory)
    await upload(directory, bucket)
    before = await bucket.list_objects("", limit=9)
    async with Instance(tmp_path, bucket) as instance:
        refusal = await instance.refusal(DescribeVectorstore())
    assert refusal.code == "invalid-request" and "is empty" in refusal.detail
    assert await bucket.list_objects("", limit=9) == before


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """A SQLite file without Chroma's tables is not made into an empty vectorstore."""
    directory = tmp_path / "other"
    directory.mkdir()
    sqlite3.connect(directory / "chroma.sqlite3").execute(
        "CREATE TABLE tenants (id TEXT PRIMARY KEY)"
    ).connection.close()
    with pytest.raises(InvalidRequest, match="not a database of Chroma's"):
        await log_of(MemoryBucket(), tmp_path).adopt(directory)
