"""What a worker keeps between two exports: the next one reads what was committed since, and is as right as another."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from tests.support.instances import NOTES, upsert
from tests.support.postgres import Postgres
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.commands import (
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    DeleteVectorstore,
    Restore,
    UpdateRecords,
)
from vectorpool.commitlog.deletions import segment_digest
from vectorpool.commitlog.log import CommitLog
from vectorpool.context import BACKGROUND
from vectorpool.errors import UserNotFound
from vectorpool.local_paths import local_segment
from vectorpool.settings import Settings
from vectorpool.targets import runs
from vectorpool.targets.kept import Kept, KeptSinks, KeptStates
from vectorpool.targets.named import named_targets
from vectorpool.targets.transfer import Exported

SEVERAL = 12


@pytest.fixture
async def service(tmp_path: Path, postgres: Postgres) -> AsyncIterator[Service]:
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS vectorpool CASCADE")
    settings = Settings(
        store=str(tmp_path / "store"),
        replica_dir=str(tmp_path / "replicas"),
        shards=-1,
        health_interval_s=0,
        targets=f"main={postgres.url} files=parquet://{tmp_path}/files",
    )
    async with open_service(settings) as made:
        yield made


class Worker:
    """What a worker has between its jobs, and how often it built a state."""

    def __init__(self, service: Service, patch: pytest.MonkeyPatch, max_bytes: int = 2**30) -> None:
        self.service = service
        self.kept = Kept(KeptStates(service.settings.replica_dir, max_bytes), KeptSinks())
        self.built = self.opened = 0
        build, open_sink = CommitLog.export, runs.registry.open_sink

        async def counted(log: CommitLog, *arguments: Any, **named: Any) -> Any:
            self.built += 1
            return await build(log, *arguments, **named)

        def opened(*arguments: Any) -> Any:
            self.opened += 1
            return open_sink(*arguments)

        patch.setattr(CommitLog, "export", counted)
        patch.setattr(runs.registry, "open_sink", opened)

    async def export(self, user: str = "42", target: str = "main") -> Exported:
        named = named_targets(self.service.settings)[target]
        bucket = self.service.library.bucket
        return await runs.export_user(bucket, self.service.settings, user, named, kept=self.kept)

    async def do(self, *commands: Any, user: str = "42") -> None:
        for command in commands:
            await self.service.router.execute(user, command, BACKGROUND)

    @property
    def directories(self) -> int:
        return len(list((Path(self.service.settings.replica_dir) / "scratch").iterdir()))


def _rows(url: str, user: str) -> dict[tuple[str, str], Any]:
    sql = (
        "SELECT c.name, r.id, r.document, r.embedding, r.metadata FROM vectorpool.records r "
        "JOIN vectorpool.collections c USING (user_id, collection_id) WHERE r.user_id = %s"
    )
    with psycopg.connect(url) as db:
        return {(row[0], row[1]): row[2:] for row in db.execute(sql, (user,))}


async def _assert_right(worker: Worker, tmp_path: Path, user: str = "42") -> None:
    """What the target has is what an export without anything kept writes into an empty target."""
    target = named_targets(worker.service.settings)["main"]
    found = _rows(target.url, user)
    with psycopg.connect(target.url, autocommit=True) as db:
        db.execute("ALTER SCHEMA vectorpool RENAME TO looked_at")
    try:
        await runs.export_user(worker.service.library.bucket, worker.service.settings, user, target)
        assert found == _rows(target.url, user)
    finally:
        with psycopg.connect(target.url, autocommit=True) as db:
            db.execute("DROP SCHEMA vectorpool CASCADE")
            db.execute("ALTER SCHEMA looked_at RENAME TO vectorpool")


async def test_increments_follow_the_commits(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random changes, several commits an export: one state is built and one connection opened for all of them."""
    worker, rng = Worker(service, monkeypatch), random.Random(7)
    await worker.do(NOTES, upsert("steady", *(f"r{number}" for number in range(50))))
    assert (await worker.export()).written == 51
    # One more for the question what the target has, before anything is read.
    assert (worker.built, worker.opened) == (1, 2)
    for turn in range(SEVERAL):
        for _ in range(rng.randrange(1, 4)):
            ids = [f"r{number}" for number in rng.sample(range(50), 3)]
            await worker.do(
                rng.choice(
                    (
                        upsert(*ids, text=f"turn {turn}"),
                        upsert(f"new-{turn}-{rng.random()}"),
                        DeleteRecords(collection="notes", ids=ids),
                        UpdateRecords(collection="notes", ids=["steady"], documents=[f"turn {turn}"]),
                        CreateCollection(name=f"made-{turn}", get_or_create=True),
                    )
                )
            )
        if turn == SEVERAL // 2:
            await worker.do(CreateCollection(name="going"), upsert("x", collection="going"))
            await worker.export()
            await worker.do(DeleteCollection(name="going"))
        await worker.export()
    assert (worker.built, worker.opened) == (1, 2)
    await _assert_right(worker, tmp_path)
    # The same state serves another target.
    assert (await worker.export(target="files")).collections >= 1
    assert worker.built == 1 + 1, "the comparison built one of its own"
    assert worker.directories == 1


async def test_what_does_not_follow_is_built_anew(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore, a deleted user, and a bucket that was put back to an earlier state."""
    worker = Worker(service, monkeypatch)
    url = named_targets(service.settings)["main"].url
    await worker.do(NOTES, upsert("a"), upsert("b"))
    await worker.export()
    await worker.do(Restore(commit=2))
    await worker.export()
    assert worker.built == 2 and _rows(url, "42").keys() == {("notes", "a")}
    await worker.do(DeleteVectorstore())
    with pytest.raises(UserNotFound):
        await worker.export()
    await worker.do(NOTES, upsert("anew"))
    await worker.export()
    assert _rows(url, "42").keys() == {("notes", "anew")}
    assert worker.directories == 1
    # Another history with the same number: the newest commit is replaced behind the worker's back.
    state = worker.kept.states._states["42"]
    state.position = msgspec.structs.replace(state.position, commit_hash=b"\0" * 16)
    before = worker.built
    await worker.do(upsert("later"))
    await worker.export()
    assert worker.built == before + 1 and _rows(url, "42").keys() == {("notes", "anew"), ("notes", "later")}


async def test_what_is_kept_is_bounded_and_goes_with_its_user(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least recently used go first; a mark of a deletion drops at once; 0 keeps nothing."""
    worker = Worker(service, monkeypatch)
    for user in ("a", "b", "c"):
        await worker.do(NOTES, upsert("r"), user=user)
        await worker.export(user)
    states = worker.kept.states
    assert list(states._states) == ["a", "b", "c"] and worker.directories == 3
    states._max_bytes = 2 * states._states["a"].size + 4096
    await worker.export("a")
    assert list(states._states) == ["c", "a"] and worker.directories == 2
    await states.drop(segment_digest(local_segment("c")))
    assert list(states._states) == ["a"] and worker.directories == 1
    states._max_bytes = 0
    await worker.do(upsert("s"), user="a")
    await worker.export("a")
    assert worker.directories == 0


async def test_a_connection_that_died_is_opened_again(
    service: Service, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was restarted between two exports; an idle connection is closed."""
    worker = Worker(service, monkeypatch)
    await worker.do(NOTES, upsert("a"))
    await worker.export()
    postgres.kill()
    postgres.start()
    await worker.do(upsert("b"))
    assert (await worker.export()).written == 1
    assert worker.opened == 3
    worker.kept.sinks.close_idle(0.0)
    await worker.do(upsert("c"))
    assert (await worker.export()).written == 1
    assert worker.opened == 4


async def test_a_state_that_chroma_was_opened_on_is_not_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chroma may have written into the directory."""
    worker = Worker(service, monkeypatch)
    await worker.do(NOTES, upsert("a"))
    monkeypatch.setattr("vectorpool.targets.directory.RestingVectors.of", lambda *_: None)
    monkeypatch.setattr("vectorpool.engine.fast_reads.FastReader.get", lambda *_, **__: None)
    assert (await worker.export()).written == 1
    assert worker.directories == 0
