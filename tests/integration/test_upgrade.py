"""States of other engines under real Chroma: an older one is migrated in its own commit, a newer one is refused."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.instances import NOTES, USER, Instance, upsert, vectors
from tests.support.schemas import commit_changed, everything, make_newer, make_older, make_unknown
from vectorpool.commands import (
    Command,
    CountRecords,
    CreateBackup,
    DeleteVectorstore,
    Fork,
    GetRecords,
    Hydrate,
    IngestDocument,
    ListCommits,
    ListIngested,
    ListRestored,
    QueryRecords,
    ReadOptions,
    Restore,
    Verify,
)
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import CommitInfo
from vectorpool.context import RequestContext
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.engine.version import TESTED_FINGERPRINT, TESTED_MIGRATIONS, installed_version
from vectorpool.errors import NewerEngine
from vectorpool.names import SIDECAR_FILE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore.compatibility import ENGINE
from vectorpool.vectorstore.sidecar_schema import VERSION

INGEST = IngestDocument(
    avatar_id="7",
    collection="documents",
    path="a.txt",
    etag="e1",
    size=3,
    recipe="r",
    ids=["a.txt#0"],
    vectors=vectors(1, embedder="minilm"),
    documents=["abc"],
    metadatas=[{"path": "a.txt"}],
)


def unversion(directory: Path) -> None:
    """Make the sidecar one from before it had a version."""
    with closing(sqlite3.connect(directory / SIDECAR_FILE)) as db, db:
        # What later migrations added.
        db.execute("DROP INDEX document_digest")
        db.execute("DROP TABLE document_part")
        db.execute("DROP TABLE pipeline")
        for column in ("digest", "restored", "content_type", "chunk_hashes"):
            db.execute(f"ALTER TABLE document DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 0")


def sidecar_of_later(directory: Path) -> None:
    """Make the sidecar one of a version that is not known yet."""
    with closing(sqlite3.connect(directory / SIDECAR_FILE)) as db, db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")


def at_commit(seq: int) -> RequestContext:
    """Return the context of a read of a past commit."""
    return RequestContext(read=ReadOptions(at=seq))


async def entries(instance: Instance) -> list[CommitInfo]:
    """Return the commits, oldest first."""
    return list(reversed(await instance.history()))


# --- FileTimes ------------------------------------------------------------------------------------------


async def test_every_commit_carries_the_stamp_of_this_engine(tmp_path: Path) -> None:
    """Chroma's version, the schema, and the sidecar's version once there is one."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        await instance.do(INGEST)
        stamps = [entry.stamp for entry in await entries(instance)]
    assert all(stamp is not None for stamp in stamps)
    assert {(s.version, s.fingerprint) for s in stamps if s} == {(installed_version(), TESTED_FINGERPRINT)}
    assert all(s.migrations == TESTED_MIGRATIONS for s in stamps if s)
    assert [s.sidecar for s in stamps if s] == [0, 0, VERSION]


async def test_a_stamp_is_small(tmp_path: Path) -> None:
    """It is in every commit, so it may cost no more than 100 bytes."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        (entry,) = await entries(instance)
    assert len(msgspec.msgpack.encode(entry.stamp)) <= 100


# --- Older -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [make_older, unversion])
@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_a_migration_is_a_commit_of_its_own(
    change: Callable[[Path], None], durability: str, tmp_path: Path
) -> None:
    """Reads migrate and commit nothing; the first write comes after a commit that holds what the migration changed."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, durability=durability) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        await instance.do(INGEST)
        before = await instance.records()
    at = (await commit_changed(bucket, USER, instance.settings, tmp_path / "old", change)).seq

    async with Instance(tmp_path, bucket, name="b", durability=durability) as instance:
        assert await instance.records() == before
        page = await instance.do(QueryRecords(collection="notes", vectors=vectors(1), n_results=2))
        assert len(page["results"][0]) == 2
        assert await instance.commit() == at
        assert len(await instance.history()) == at, "a read made a commit"
        await instance.do(upsert("c"))
        after = await instance.records()
    assert set(after) == {"a", "b", "c"}

    async with Instance(tmp_path, bucket, name="c", durability=durability) as instance:
        old, migration, write = (await entries(instance))[at - 1 :]
        assert (migration.summary.migrated, migration.summary.added) == (True, 0)
        assert (write.summary.migrated, write.summary.added) == (False, 1)
        assert old.stamp is not None and migration.stamp is not None
        assert old.stamp != migration.stamp == write.stamp
        assert (migration.stamp.fingerprint, migration.stamp.sidecar) == (TESTED_FINGERPRINT, VERSION)
        assert await instance.records() == after
        # What a reader of the migration's commit sees is what was there before it.
        past = await instance.pool.execute(USER, GetRecords(collection="notes"), at_commit(migration.seq))
        assert b'"c"' not in past.body
        assert (await instance.do(ListIngested(avatar_id="7")))["documents"][0]["embedder"] == "minilm"


async def test_a_migration_that_loses_its_number_is_made_again(tmp_path: Path) -> None:
    """Two instances write to an older state at once: one migration, both writes, in some order."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
    at = (await commit_changed(bucket, USER, instance.settings, tmp_path / "old", make_older)).seq
    async with Instance(tmp_path, bucket, name="b") as one, Instance(tmp_path, bucket, name="c") as other:
        await asyncio.gather(one.do(Hydrate()), other.do(Hydrate()))
        await asyncio.gather(one.do(upsert("a")), other.do(upsert("b")))
        assert set(await one.records()) == {"a", "b"}
        made = (await entries(one))[at:]
    assert [entry.summary.migrated for entry in made] == [True, False, False]


async def test_an_older_directory_is_adopted_as_it_is(tmp_path: Path) -> None:
    """Adoption stamps what the directory is, without a version: its files do not tell which Chroma wrote it."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        await CommitLog(bucket, USER, settings=instance.settings).export(tmp_path / "plain")
        make_older(tmp_path / "plain")
        await CommitLog(bucket, "43", settings=instance.settings, engine=ENGINE).adopt(tmp_path / "plain")
        (adopted,) = await instance.history("43")
        assert adopted.stamp is not None
        assert adopted.stamp.version == ""
        assert adopted.stamp.migrations == TESTED_MIGRATIONS | {"metadb": 5}
        await instance.do(upsert("b"), "43")
        assert set(await instance.records("43")) == {"a", "b"}
        assert [entry.summary.migrated for entry in await instance.history("43")] == [False, True, False]


# --- Newer -------------------------------------------------------------------------------------------

REFUSED: list[Command] = [
    GetRecords(collection="notes"),
    CountRecords(collection="notes"),
    upsert("z"),
    Hydrate(),
    Restore(commit=1),
    Fork(target_user_id="43"),
]


@pytest.mark.parametrize("change", [make_newer, sidecar_of_later])
async def test_a_state_of_a_later_engine_is_refused_and_left_untouched(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    """Reads, writes, restores and forks are refused by name; no object of the bucket changes."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(INGEST)
    at = (await commit_changed(bucket, USER, instance.settings, tmp_path / "new", change)).seq
    before = await everything(bucket)
    async with Instance(tmp_path, bucket, name="b") as instance:
        for command in REFUSED:
            error = await instance.refusal(command)
            assert isinstance(error, NewerEngine), command
            assert error.extra["unknown"] in (["sysdb 11"], [f"sidecar {VERSION + 1}"])
        assert await everything(bucket) == before
        # The commit before it can still be read here, and all that needs bytes only still works.
        past = await instance.pool.execute(USER, CountRecords(collection="notes"), at_commit(1))
        assert past.commit == 1
        assert (await instance.do(Verify()))["problems"] == []
        assert len((await instance.do(ListCommits(limit=10)))["commits"]) == at
        await instance.do(CreateBackup(name="kept"))
        exported = await CommitLog(bucket, USER, settings=instance.settings, engine=ENGINE).export(tmp_path / "x")
        assert exported.position.seq == at
        await instance.do(DeleteVectorstore())
        await instance.do(NOTES)
        assert await instance.records() == {}


async def test_an_open_replica_is_not_written_over_a_later_engines_commit(tmp_path: Path) -> None:
    """An instance that has the user open when a later engine migrates hears of it with its next read or write."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        await commit_changed(bucket, USER, instance.settings, tmp_path / "new", make_newer)
        before = await everything(bucket)
        assert isinstance(await instance.refusal(upsert("b")), NewerEngine)
        assert isinstance(await instance.refusal(GetRecords(collection="notes")), NewerEngine)
        local = ReadOptions(consistency="local")
        with pytest.raises(NewerEngine):
            await instance.pool.execute(USER, GetRecords(collection="notes"), RequestContext(read=local))
        assert await everything(bucket) == before


async def test_a_wedged_state_of_a_later_engine_is_not_salvaged(tmp_path: Path) -> None:
    """What this engine could not read anyway is refused before it is examined."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))

    def wedge(directory: Path) -> None:
        make_newer(directory)
        with closing(sqlite3.connect(directory / "chroma.sqlite3")) as db, db:
            db.execute("DROP TABLE segments")

    await commit_changed(bucket, USER, instance.settings, tmp_path / "new", wedge)
    before = await everything(bucket)
    async with Instance(tmp_path, bucket, name="b") as instance:
        assert isinstance(await instance.refusal(GetRecords(collection="notes")), NewerEngine)
        assert isinstance(await instance.refusal(upsert("b")), NewerEngine)
    assert await everything(bucket) == before


async def test_a_newer_state_without_a_stamp_is_refused_too(tmp_path: Path) -> None:
    """A log from before there were stamps is looked at itself, before Chroma opens it."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        log = CommitLog(bucket, USER, settings=instance.settings)
        await log.export(tmp_path / "plain")
        make_newer(tmp_path / "plain")
        await CommitLog(bucket, "43", settings=instance.settings).adopt(tmp_path / "plain")
        before = await everything(bucket)
        assert isinstance(await instance.refusal(GetRecords(collection="notes"), "43"), NewerEngine)
        assert isinstance(await instance.refusal(upsert("b"), "43"), NewerEngine)
        assert await everything(bucket) == before


async def test_what_was_acknowledged_and_not_committed_cannot_pass_a_later_engine(tmp_path: Path) -> None:
    """Under write-back an instance that is upgraded too late cannot commit: it says so, and keeps what it holds."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, durability="write-through") as instance:
        await instance.do(NOTES)
    late = Instance(tmp_path, bucket, name="b", durability="write-back")
    async with late:
        await late.do(upsert("acknowledged"))
        await commit_changed(bucket, USER, instance.settings, tmp_path / "new", make_newer)
        report = await late.drain(2.0)
    assert report.uncommitted == [USER]


# --- Parameters of an index that an older engine noted -----------------------------------------------


async def test_an_index_is_searched_by_the_parameters_that_chroma_uses(tmp_path: Path) -> None:
    """Before 1.0 the space was noted with a segment. Chroma tells its default, and searches by what is noted."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, hnsw_space="l2") as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b", "c"))

    def note_cosine(directory: Path) -> None:
        make_older(directory)
        with closing(sqlite3.connect(directory / "chroma.sqlite3")) as db, db:
            db.execute("UPDATE collections SET schema_str = NULL, config_json_str = NULL")
            db.execute(
                "INSERT INTO segment_metadata (segment_id, key, str_value) SELECT id, 'hnsw:space', 'cosine' "
                "FROM segments WHERE scope = 'VECTOR'"
            )

    await commit_changed(bucket, USER, instance.settings, tmp_path / "old", note_cosine)
    async with Instance(tmp_path, bucket, name="b") as instance:
        command = QueryRecords(collection="notes", vectors=vectors(3), n_results=3)
        results = (await instance.do(command))["results"]
    rows = np.frombuffer(vectors(3).data, "<f4").reshape(3, -1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for at, matches in enumerate(results):
        told = {match["id"]: match["distance"] for match in matches}
        np.testing.assert_allclose([told[i] for i in "abc"], 1 - unit @ unit[at], rtol=1e-4, atol=1e-5)


# --- A schema that was not tested --------------------------------------------------------------------


class _Calls:
    """Counts what the fast paths were asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        for of in (FastReader, FastWriter):
            monkeypatch.setattr(of, "__init__", self._counting(of.__name__, of.__init__))

    def _counting(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def opened(*arguments: object, **options: object) -> None:
            self.opened.append(name)
            real(*arguments, **options)

        return opened


async def test_an_untested_schema_is_left_to_chroma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads and writes go through Chroma, give the same answers, are said once, and shown in the pool's view."""
    calls = _Calls(monkeypatch)
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a", "b"))
        expected = await instance.everything()
        assert (await instance.residency())["schema"] == "tested"
        assert calls.opened == ["FastReader", "FastWriter"]
    await commit_changed(bucket, USER, instance.settings, tmp_path / "unknown", make_unknown)
    await CommitLog(bucket, USER, settings=instance.settings).fork("43")
    calls.opened.clear()
    async with Instance(tmp_path, bucket, name="b") as instance:
        assert (await instance.residency())["schema"] is None
        assert await instance.everything() == expected
        await instance.do(upsert("c"))
        assert set(await instance.records()) == {"a", "b", "c"}
        found = await instance.do(QueryRecords(collection="notes", vectors=vectors(1), n_results=1))
        assert len(found["results"][0]) == 1
        await instance.do(upsert("d"), "43")
        view = {slot.user_id: slot.schema for slot in instance.pool.view().slots}
        stamp = (await instance.history())[0].stamp
    assert view == {USER: "untested", "43": "untested"}
    assert calls.opened == []
    assert stamp is not None and stamp.fingerprint != TESTED_FINGERPRINT
    assert caplog.text.count("was not tested with") == 1


@pytest.mark.parametrize(("off", "left"), [("fast_reads", "FastWriter"), ("fast_writes", "FastReader")])
async def test_each_fast_path_can_be_turned_off(
    off: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting leaves one of them to Chroma, whatever the schema."""
    calls = _Calls(monkeypatch)
    async with Instance(tmp_path, MemoryBucket(), **{off: False}) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        assert set(await instance.records()) == {"a"}
    assert calls.opened == [left]


async def test_a_restored_older_sidecar_is_of_this_version(tmp_path: Path) -> None:
    """A restore and a fork flag the documents of a state of the first version; its stamp says what it is then."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(INGEST)
        old = (await commit_changed(bucket, USER, instance.settings, tmp_path / "old", unversion)).seq
    async with Instance(tmp_path, bucket, name="b") as instance:
        await instance.do(Restore(commit=old))
        await instance.do(Fork(target_user_id="43", commit=old))
        for user in (USER, "43"):
            (row,) = (await instance.do(ListRestored(), user))["documents"]
            assert (row["path"], row["digest"]) == ("a.txt", "")
            log = CommitLog(bucket, user, settings=instance.settings)
            (newest,) = await log.entries(limit=1)
            assert newest.stamp is not None and newest.stamp.sidecar == VERSION
            assert (await log.scrub()).problems == []
