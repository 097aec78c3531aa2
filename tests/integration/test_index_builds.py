"""Indexes that are built in the background, in a process of its own, and put into the newest state."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.test_fast_writes import DATABASE, DIMENSION, Twins, row
from tests.integration.test_squeezed_queues import IDS, History
from tests.support.instances import USER, HookedBucket, Instance, upsert, vectors
from tests.support.plain_chroma import PlainChroma
from tests.support.queues import THRESHOLD, queue, take_as_usual
from vectorpool.commands import CreateCollection, DeleteRecords, DeleteVectorstore, Hnsw, QueryRecords, Restore
from vectorpool.engine import index_needs
from vectorpool.engine.collection_ids import wait_until_closed
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.engine.index_build import build_indexes, install_indexes
from vectorpool.engine.index_files import read_labels
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import VECTOR_SCOPE, Operation
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool import index_builds

COUNT = 1200
# Searches of 600 records and less need no index.
EXACT_BYTES = 600 * 4 * 4


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the threshold with a few records."""
    take_as_usual(monkeypatch)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an index due after a few searches."""
    monkeypatch.setattr(index_needs, "_BYTES_AN_OPERATION", 40)
    monkeypatch.setattr(index_builds, "_REST_S", 0.0)


def indexed(directory: Path) -> set[str]:
    """Return the ids of the records in the index files of a directory with one collection that has any."""
    found = [labels for path in directory.iterdir() if (labels := read_labels(path).keys())]
    assert len(found) <= 1
    return set(found[0]) if found else set()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so, for a minute at the most."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


async def load(instance: Instance, user: str = USER) -> None:
    """Fill a collection above the bound of exact search."""
    await instance.do(CreateCollection(name="notes", hnsw=Hnsw(space="l2")), user)
    for start in range(0, COUNT, 300):
        ids = [f"r{n}" for n in range(start, start + 300)]
        await instance.do(upsert(*ids, vectors=vectors(300, seed=start)), user)


async def nearest(instance: Instance, seed: int = 7, user: str = USER) -> list[str]:
    """Return the ids that a query finds."""
    found = await instance.do(QueryRecords(collection="notes", vectors=vectors(1, seed=seed), n_results=5), user)
    return [match["id"] for match in found["results"][0]]


async def search_until_due(instance: Instance) -> None:
    """Search until an index is due."""
    store = instance.pool._residency.slots[USER].store
    assert store is not None
    for _ in range(1000):
        if store.edits.is_index_due() or instance.pool._index_builds._current is not None:
            return
        await nearest(instance)
    raise AssertionError("no index got due")


@pytest.mark.usefixtures("soon")
async def test_an_index_is_built_once_it_pays(tmp_path: Path) -> None:
    """A load has none; after some searches there is one, as a commit of its own, and answers are the same."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket, exact_bytes=EXACT_BYTES) as instance:
        await load(instance)
        [directory] = instance.working_directories()
        before, records, commit = await nearest(instance), await instance.records(), await instance.commit()
        assert not indexed(directory) and len(queue(directory)) == COUNT
        await search_until_due(instance)

        async def is_built() -> bool:
            return await instance.commit() > commit

        await until(is_built)
        [directory] = instance.working_directories()
        assert indexed(directory) == set(records) and len(queue(directory)) == 1
        assert await nearest(instance) == before and await instance.records() == records
        newest = (await instance.history())[0]
        assert newest.summary.indexed and not newest.summary.added
        # Chroma answers now, and the next write is one like any other.
        await instance.do(upsert("later", vectors=vectors(1, seed=7)))
        assert (await nearest(instance))[0] == "later"
        await instance.do(DeleteRecords(collection="notes", ids=["later"]))
        assert await nearest(instance) == before
    async with Instance(tmp_path, bucket, name="b", exact_bytes=EXACT_BYTES) as other:
        assert await nearest(other) == before and await other.records() == records


@pytest.mark.usefixtures("soon")
async def test_writes_go_on_while_an_index_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added, changed and deleted meanwhile is there with the index, and searches find it."""
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES) as instance:
        await load(instance)
        build, commit = index_builds._build_in, 0

        async def build_in(directory: Path) -> int:
            nonlocal commit
            count = await build(directory)
            await instance.do(upsert("new", "r1", vectors=vectors(2, seed=99), text="changed"))
            await instance.do(DeleteRecords(collection="notes", ids=["r2", "r3"]))
            commit = await instance.commit()
            return count

        monkeypatch.setattr(index_builds, "_build_in", build_in)
        await search_until_due(instance)

        async def is_built() -> bool:
            return 0 < commit < await instance.commit()

        await until(is_built)
        [directory] = instance.working_directories()
        assert len(queue(directory)) == 4 and {"r2", "r3"} < indexed(directory)
        records = await instance.records()
        assert "r2" not in records and records["r1"][0] == "changed of r1" and len(records) == COUNT - 1
        assert set((await nearest(instance, seed=99))[:1]) == {"new"}


@pytest.mark.usefixtures("soon")
async def test_another_instance_that_commits_first_wins(tmp_path: Path) -> None:
    """Nothing of the build stays, nothing is lost, and the next search may have it built again."""
    bucket = HookedBucket(MemoryBucket())
    async with (
        Instance(tmp_path, bucket, exact_bytes=EXACT_BYTES) as instance,
        Instance(tmp_path, bucket, name="b", exact_bytes=EXACT_BYTES) as other,
    ):
        await load(instance)
        await search_until_due(instance)
        is_won = False

        async def commit_first() -> None:
            nonlocal is_won
            await other.do(upsert("theirs", vectors=vectors(1, seed=5)))
            is_won = True

        bucket.before_create = commit_first

        async def is_over() -> bool:
            return is_won and instance.pool._index_builds._current is None

        await until(is_over)
        assert not any(each.summary.indexed for each in await instance.history())
        assert len(await instance.records()) == COUNT + 1 and (await nearest(instance, seed=5))[0] == "theirs"
        commit = await instance.commit()
        await search_until_due(instance)

        async def is_built() -> bool:
            return await instance.commit() > commit

        await until(is_built)
        assert (await instance.history())[0].summary.indexed
        assert (await nearest(other, seed=5))[0] == "theirs"


@pytest.mark.usefixtures("soon")
async def test_a_build_that_dies_is_told_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process is killed: answers go on, the log says what is missing, and it is not tried at once."""
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES) as instance:
        await load(instance)
        before = await nearest(instance)
        spawn = asyncio.create_subprocess_exec

        async def killed(*arguments: Any, **options: Any) -> Any:
            process = await spawn(*arguments, **options)
            process.kill()
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", killed)
        with caplog.at_level(logging.WARNING):
            await search_until_due(instance)

            async def is_told() -> bool:
                return "could not be built" in caplog.text

            await until(is_told)
        assert await nearest(instance) == before
        await search_until_due(instance)
        assert instance.pool._index_builds.next_slot() is None
        assert not list(Path(instance.settings.replica_dir).rglob("state"))
        failures = {task.name: task.failures for task in instance.pool._supervisor.view()}
        assert failures[index_builds.INDEX_BUILD] == 1


@pytest.mark.usefixtures("soon")
async def test_a_build_that_has_nothing_to_write_is_not_repeated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Chroma refuses stays due: another vectorstore has its turn, and this one is not hydrated every time."""
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES) as instance:
        await load(instance)
        begun = 0

        async def build_in(_directory: Path) -> int:
            nonlocal begun
            begun += 1
            return 0

        monkeypatch.setattr(index_builds, "_build_in", build_in)
        await search_until_due(instance)

        async def is_over() -> bool:
            return begun > 0 and instance.pool._index_builds._current is None

        await until(is_over)
        await search_until_due(instance)
        assert instance.pool._index_builds.next_slot() is None and begun == 1


@pytest.mark.usefixtures("soon")
async def test_a_drain_ends_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is gone, and so is its directory."""
    instance = Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES)
    spawned: list[Any] = []
    spawn = asyncio.create_subprocess_exec

    async def stopped(*arguments: Any, **options: Any) -> Any:
        # It waits for ever.
        process = await spawn("sleep", "infinity", **options)
        spawned.append(process)
        return process

    async with instance:
        await load(instance)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", stopped)
        await search_until_due(instance)

        async def has_begun() -> bool:
            return bool(spawned)

        await until(has_begun)
        await instance.drain()
    assert spawned[0].returncode is not None
    assert not list(Path(instance.settings.replica_dir).rglob("state"))


@pytest.mark.usefixtures("soon")
async def test_an_index_of_a_deleted_user_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user is deleted while the index is built: nothing comes back, and no failure is counted."""
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES) as instance:
        await load(instance)
        build, is_deleted = index_builds._build_in, False

        async def build_in(directory: Path) -> int:
            nonlocal is_deleted
            count = await build(directory)
            await instance.do(DeleteVectorstore())
            is_deleted = True
            return count

        monkeypatch.setattr(index_builds, "_build_in", build_in)
        await search_until_due(instance)

        async def is_over() -> bool:
            return is_deleted and instance.pool._index_builds._current is None

        await until(is_over)
        assert (await instance.refusal(QueryRecords(collection="notes", vectors=vectors(1), n_results=1))).status == 404
        assert all(not task.failures for task in instance.pool._supervisor.view())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 40))])
def test_an_installed_index_is_the_same_to_chroma(tmp_path: Path, space: str, seed: int) -> None:
    """After random writes before, during and after a build, with squeezes, answers are those of Chroma's own twin."""
    history = History(tmp_path, space, seed)
    twins, random = history.twins, history.random
    ones = np.ones((3, DIMENSION), "<f4")
    twins.put(Operation.UPSERT, twins.info, IDS[:3], ones, [{"n": 1}] * 3, ["text"] * 3, None)

    def write(count: int) -> None:
        for _ in range(count):
            history.write(Operation(random.choice([0, 1, 2, 2, 3], p=[0.15, 0.3, 0.2, 0.15, 0.2])))

    built, counts = tmp_path / "built", Counter[bool]()
    for round_ in range(4):
        write(int(random.integers(5, 30)))
        twins.close()
        shutil.rmtree(built, ignore_errors=True)
        shutil.copytree(twins.ours, built)
        twins.open()
        written, squeezed = build_indexes(built), history.squeezed
        write(int(random.integers(0, 40)))
        twins.close()
        if written:
            is_installed = install_indexes(twins.ours, built)
            # What a squeeze took away may be what the index was built from.
            assert is_installed or history.squeezed > squeezed
            counts[is_installed] += 1
        twins.open()
        history.check()
        if round_ % 2:
            twins.assert_same([1, 2, 3, 4])
    assert counts
    write(20)
    history.check()
    twins.assert_same([1, 2, 3, 4])
    twins.close()
    twins.open()
    twins.assert_same([4, 3, 2, 1])
    twins.close()


@pytest.mark.usefixtures("small")
def test_an_index_that_does_not_lead_to_the_records_is_refused(tmp_path: Path) -> None:
    """A record that neither the index nor the queue has; and an index that is older changes nothing."""
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    for n in range(THRESHOLD + 2):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], row(n, 1, 2, 3), None, None, None)
    twins.close()
    built = tmp_path / "built"
    shutil.copytree(twins.ours, built)
    assert build_indexes(built) == 1
    broken = tmp_path / "broken"
    shutil.copytree(twins.ours, broken)
    with closing(sqlite3.connect(broken / CHROMA_DATABASE_FILE)) as db:
        segment = db.execute("SELECT segment_id FROM embeddings LIMIT 1").fetchone()[0]
        db.execute("INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, 'unknown', 99)", (segment,))
        db.commit()
    with pytest.raises(BrokenReplica, match="differs in 1 record"):
        install_indexes(broken, built)
    assert install_indexes(twins.ours, built) and not install_indexes(twins.ours, built)
    with closing(sqlite3.connect(twins.ours / CHROMA_DATABASE_FILE)) as db:
        sql = "SELECT seq_id FROM max_seq_id WHERE segment_id IN (SELECT id FROM segments WHERE scope = ?)"
        assert db.execute(sql, (VECTOR_SCOPE,)).fetchall() == [(THRESHOLD + 2,)]


@pytest.mark.usefixtures("small")
def test_an_index_of_another_past_changes_nothing(tmp_path: Path) -> None:
    """After a restore, the same numbers may be other operations: the digest of what was built from tells."""
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    for n in range(THRESHOLD):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], row(n, 1, 2, 3), None, None, None)
    twins.close()
    restored, built = tmp_path / "restored", tmp_path / "built"
    for directory, last in ((built, 4), (restored, 5)):
        shutil.copytree(twins.ours, directory)
        other = PlainChroma(directory)
        writer = FastWriter(directory, other.client, threading.Lock(), keeps=True)
        for n in range(3):
            assert writer.write(Operation.UPSERT, twins.info.id, DATABASE, Batch([f"new-{n}"], row(n, 1, 2, last)))
        writer.close()
        other.close()
    wait_until_closed(built)
    wait_until_closed(restored)
    assert build_indexes(built) == 1
    before = (restored / CHROMA_DATABASE_FILE).read_bytes()
    assert not install_indexes(restored, built)
    assert (restored / CHROMA_DATABASE_FILE).read_bytes() == before


def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    """It watches its standard input, which ends when that process does, however it ends."""
    command = [sys.executable, "-m", "vectorpool.engine.index_process", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and told == b""


@pytest.mark.usefixtures("soon")
async def test_an_index_that_does_not_fit_is_not_built_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectorstore was restored to an earlier commit while its index was built: nothing is changed, and it rests."""
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES) as instance:
        await load(instance)
        earlier = await instance.commit()
        await instance.do(upsert("later", vectors=vectors(1)))
        build, is_restored = index_builds._build_in, False

        async def build_in(directory: Path) -> int:
            nonlocal is_restored
            count = await build(directory)
            await instance.do(Restore(commit=earlier))
            is_restored = True
            return count

        monkeypatch.setattr(index_builds, "_build_in", build_in)
        await search_until_due(instance)

        async def is_over() -> bool:
            return is_restored and instance.pool._index_builds._current is None

        await until(is_over)
        assert len(await instance.records()) == COUNT
        assert not any(each.summary.indexed for each in await instance.history())
        await search_until_due(instance)
        assert instance.pool._index_builds.next_slot() is None


@pytest.mark.usefixtures("soon")
async def test_vectorstores_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two whose index is due, the one that had its turn longest ago is next."""

    async def build_in(directory: Path) -> int:
        return 0

    monkeypatch.setattr(index_builds, "_build_in", build_in)
    monkeypatch.setattr(index_builds, "_PAUSE_S", 0.0)
    async with Instance(tmp_path, MemoryBucket(), exact_bytes=EXACT_BYTES) as instance:
        begun: list[str] = []
        builds, start = instance.pool._index_builds, instance.pool._index_builds.start

        def begin(slot: Any) -> None:
            begun.append(slot.user_id)
            start(slot)

        monkeypatch.setattr(builds, "start", begin)
        for user in ("42", "43"):
            await load(instance, user)

        async def had_turns() -> bool:
            for user in ("42", "43"):
                await nearest(instance, user=user)
            return len(begun) >= 6

        await until(had_turns)
    assert all(one != other for one, other in pairwise(begun))
