"""A damaged vectorstore is recovered from what an export left at a target, if that loses the least."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import pytest
from qdrant_client import QdrantClient

from tests.integration.test_recovery import LONG, _damage, _fill, _ids, _key, _of_report, _pair, _recover, care_of
from tests.support.chroma_server import ChromaServer
from tests.support.instances import vectors
from tests.support.postgres import Postgres
from vectorpool import names
from vectorpool.answers import Collection, RecordPage
from vectorpool.api.service import Service
from vectorpool.care import copies as care_copies
from vectorpool.care.copies import CopyReader
from vectorpool.commands import (
    CreateCollection,
    DeleteVectorstore,
    GetCollection,
    GetRecords,
    Hnsw,
    UpsertRecords,
)
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.errors import NothingToRecoverFrom, UserNotFound
from vectorpool.settings import RecoverInto, Settings
from vectorpool.targets import copies, qdrant, runs
from vectorpool.targets.named import named_targets

NEWEST = 5


@pytest.fixture
async def settings(tmp_path: Path, postgres: Postgres) -> Settings:
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS vectorpool CASCADE")
    url = postgres.url.replace("test@", "test:s3cretword@")
    away = "postgresql://u:s3cretword@127.0.0.1:1/d"
    return Settings(
        store=str(tmp_path / "store"),
        shards=-1,
        health_interval_s=0,
        targets=f"main={url} files=parquet://{tmp_path}/folder away={away}",
    )


@pytest.fixture
async def services(settings: Settings, tmp_path: Path) -> AsyncIterator[list[Service]]:
    """Two instances over one store; the second has nothing open or cached unless a test asks it."""
    async with _pair(settings, tmp_path) as pair:
        yield pair


async def _export(settings: Settings, service: Service, name: str, at: int | None = None, user: str = "42") -> None:
    await runs.export_user(service.library.bucket, settings, user, named_targets(settings)[name], at=at)


async def _break(service: Service, *numbers: int) -> None:
    for number in numbers:
        await _damage(service.library.bucket, _key(number), "changed")


async def test_the_copy_with_the_newest_commit_is_taken(settings: Settings, services: list[Service]) -> None:
    """Every exported record comes back; the plan shows what each copy would lose, and the target that is away."""
    one, cold = services
    await _fill(one, "42")
    await _export(settings, one, "files", at=3)
    await _export(settings, one, "main")
    await _break(cold, 4, NEWEST)
    plan = await care_of(cold).recoveries.plan("42", RequestContext())
    shown = [(source.kind, source.name, source.commit, source.lost_commits) for source in plan.sources]
    assert shown[0] == ("copy", "main", NEWEST, 0)
    assert ("commit", None, 3, 2) in shown and ("copy", "files", 3, 2) in shown
    assert plan.sources[0].records == NEWEST - 1
    assert plan.faults.keys() == {"away"}
    assert "s3cretword" not in msgspec.json.encode(plan).decode()

    before = {info.key: info.etag for info in await cold.library.bucket.list_objects("users/", limit=1000)}
    report = await _recover(cold)
    assert (report.source.kind, report.source.name, report.commit) == ("copy", "main", NEWEST + 1)
    wanted = {f"n{number}" for number in range(NEWEST - 1)}
    assert await _ids(cold) == wanted == await _of_report(cold, report.commit)
    assert await _ids(one) == wanted
    after = {info.key: info.etag for info in await cold.library.bucket.list_objects("users/", limit=1000)}
    assert {key: after.get(key) for key in before} == before
    told = await care_of(cold).notifications.find("recovered", user_id="42", subject=str(report.commit))
    assert told is not None and "copy" in told.reason
    # The recovered commit is exported like any other.
    await _export(settings, cold, "main")


ODD: list[dict[str, Any] | None] = [
    {"n": 2**63 - 1, "x": 0.1, "flag": True, "text": "ü\n\"'\\"},
    {"n": -(2**63), "zero": -0.0, "huge": 1e300, "whole": 3.0},
    {"tags": ["a", "b"], "nested.key": "x"},
    None,
]
COSINE, L2 = Hnsw(space="cosine"), Hnsw(space="l2")


async def _fill_oddly(service: Service, user: str) -> None:
    """Write what targets convert: odd metadata, missing documents, two distances and dimensions, an avatar's too."""
    for avatar, name, hnsw, dimension in (("7", "notes", COSINE, 8), (None, "notes", L2, 3), (None, "empty", L2, 0)):
        metadata = {"owner": name, "kept": 1}
        create = CreateCollection(avatar_id=avatar, name=name, metadata=metadata, hnsw=hnsw)
        await service.router.execute(user, create, BACKGROUND)
        if not dimension:
            continue
        records = UpsertRecords(
            avatar_id=avatar,
            collection=name,
            ids=[f"r{number} ü" for number in range(60)],
            vectors=vectors(60, dimension),
            documents=[None if number % 7 == 3 else f"the text of {number}" for number in range(60)],
            metadatas=[ODD[number % len(ODD)] for number in range(60)],
        )
        await service.router.execute(user, records, BACKGROUND)


async def _table(service: Service, user: str, end: str = "") -> dict[tuple[str | None, str], dict[str, Any]]:
    """Return every record of the user by collection and id; ``end`` is that of the collections' names."""
    found: dict[tuple[str | None, str], dict[str, Any]] = {}
    for avatar, name in (("7", "notes"), (None, "notes"), (None, "empty")):
        shown = await service.router.execute(user, GetCollection(avatar_id=avatar, name=name + end), BACKGROUND)
        collection = msgspec.json.decode(shown.body, type=Collection)
        include = ("documents", "metadatas", "embeddings")
        get = GetRecords(avatar_id=avatar, collection=name + end, include=include)
        answer = await service.router.execute(user, get, BACKGROUND)
        rows = {each.id: each for each in msgspec.json.decode(answer.body, type=RecordPage).records}
        found[avatar, name] = {"#": (collection.metadata, collection.dimension, collection.space), **rows}
    return found


def _assert_same(found: Any, wanted: Any) -> None:
    assert found.keys() == wanted.keys()
    for place, rows in wanted.items():
        assert found[place].keys() == rows.keys(), place
        assert found[place]["#"] == rows["#"], place
        for record_id in rows.keys() - {"#"}:
            came, was = found[place][record_id], rows[record_id]
            assert (came.document, came.metadata) == (was.document, was.metadata), record_id
            assert repr(came.metadata) == repr(was.metadata) or came.metadata.keys() == was.metadata.keys()
            # Vectors of a cosine collection are made of length 1, there and here.
            np.testing.assert_allclose(came.embedding, was.embedding, rtol=1e-5, atol=1e-6)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a real target of a kind."""
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute("DROP SCHEMA IF EXISTS vectorpool CASCADE")
        return server.url
    if request.param == "chroma":
        return f"chroma+{request.getfixturevalue('chroma').url.rstrip('/')}"
    if request.param == "qdrant":
        # The client's local mode is the same client over a directory, which one process opens: the copy is read here.
        monkeypatch.setattr(qdrant, "connect", lambda _: QdrantClient(path=str(tmp_path / "qdrant")))

        async def ask(wanted: copies.Ask, _: float) -> copies.Told:
            return await asyncio.to_thread(copies.answer, wanted)

        monkeypatch.setattr(care_copies, "_ask", ask)
        return "qdrant+http://127.0.0.1:1"
    return f"parquet://{tmp_path}/folder"


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromaServer]:
    server = ChromaServer(tmp_path_factory.mktemp("chroma")).start()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("target", "into"),
    [
        ("parquet", "new"),
        pytest.param("chroma", "same", marks=LONG),
        pytest.param("qdrant", "same", marks=LONG),
        pytest.param("postgresql", "same", marks=LONG),
        pytest.param("postgresql", "new", marks=LONG),
        pytest.param("parquet", "same", marks=LONG),
        pytest.param("chroma", "new", marks=LONG),
        pytest.param("qdrant", "new", marks=LONG),
    ],
    indirect=["target"],
)
async def test_every_record_comes_back_from_every_kind_of_target(
    target: str, into: RecoverInto, tmp_path: Path
) -> None:
    """Values, metadata, distances and names; and the recovered state is exported to the same target again."""
    settings = Settings(store=str(tmp_path / "store"), shards=-1, health_interval_s=0, targets=f"main={target}")
    # A server of Chroma, which the tests share, wants three characters of a tenant.
    user = f"user-{into}"
    async with _pair(settings, tmp_path) as (one, cold):
        await _fill_oddly(one, user)
        wanted = await _table(one, user)
        await _export(settings, one, "main", user=user)
        objects = await cold.library.bucket.list_objects(names.log_prefix(user), limit=100)
        newest = len(objects)
        for info in objects:
            await _damage(cold.library.bucket, info.key, "changed")
        plan = await care_of(cold).recoveries.plan(user, RequestContext(), into)
        assert plan.chosen is not None and not plan.faults
        assert [(each.kind, each.name, each.commit) for each in plan.sources] == [("copy", "main", newest)]
        end = f"-recovered-{newest + 1}" if into == "new" else ""
        places = [("avatar-7", "notes"), ("default_database", "empty"), ("default_database", "notes")]
        assert [(each.database, each.collection) for each in plan.chosen.collections] == places
        assert [each.recovered_as for each in plan.collections] == [name + end for _, name in places if end]
        report = await _recover(cold, user, into)
        assert (report.source.kind, report.commit, report.records) == ("copy", newest + 1, 120)
        _assert_same(await _table(cold, user, end), wanted)
        _assert_same(await _table(one, user, end), wanted)
        page = await care_of(cold).recoveries.records(user, report.commit, None)
        listed = {(each.avatar_id, each.collection, each.id) for each in page.records}
        assert listed == {
            (place[0], place[1] + end, each) for place, rows in wanted.items() for each in rows if each != "#"
        }
        # What is exported next has no record twice.
        await _export(settings, cold, "main", user=user)
        (copy,) = (await CopyReader(cold.library.bucket, settings).find(user)).found.values()
        assert copy.commit == newest + 1 and copy.records in (None, 120)


@LONG
async def test_a_commit_comes_before_an_older_copy(settings: Settings, services: list[Service]) -> None:
    """What loses less is taken, whatever it is; of equal ones the log's."""
    one, cold = services
    await _fill(one, "42")
    await _export(settings, one, "files", at=3)
    await _export(settings, one, "main", at=4)
    await _break(cold, NEWEST)
    plan = await care_of(cold).recoveries.plan("42", RequestContext())
    assert [(source.kind, source.commit) for source in plan.sources] == [("commit", 4), ("copy", 4), ("copy", 3)]


async def test_copies_of_another_history_and_of_deleted_users_are_none(
    settings: Settings, services: list[Service]
) -> None:
    """A copy from before a deletion never comes back, nor one whose commit is not the log's."""
    one, cold = services
    await _fill(one, "42")
    await _export(settings, one, "main")
    url = named_targets(settings)["main"].url
    with psycopg.connect(url) as db:
        db.execute("UPDATE vectorpool.users SET commit = 3, commit_hash = 'of another history'")
    await _break(cold, NEWEST)
    plan = await care_of(cold).recoveries.plan("42", RequestContext())
    assert [source.kind for source in plan.sources] == ["commit"]
    assert "another history" in plan.faults["main"]

    await _fill(one, "43")
    await _export(settings, one, "main", user="43")
    await one.router.execute("43", DeleteVectorstore(), BACKGROUND)
    with pytest.raises(UserNotFound):
        await care_of(cold).recoveries.plan("43", RequestContext())


@LONG
async def test_a_copy_that_goes_meanwhile_changes_nothing(
    settings: Settings, services: list[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between plan and recovery the target's rows are deleted: an error by name, and the log is as it was."""
    one, cold = services
    await _fill(one, "42")
    await _export(settings, one, "main")
    await _break(cold, 4, NEWEST)
    recoveries = care_of(cold).recoveries
    plan = await recoveries.plan("42", RequestContext())
    with psycopg.connect(named_targets(settings)["main"].url) as db:
        db.execute("UPDATE vectorpool.users SET commit = 3")

    async def planned(*_: Any) -> Any:
        return plan

    monkeypatch.setattr(recoveries, "plan", planned)
    before = {info.key for info in await cold.library.bucket.list_objects("users/42/vectorstore/log/", limit=1000)}
    with pytest.raises(NothingToRecoverFrom, match="main"):
        await _recover(cold)
    after = {info.key for info in await cold.library.bucket.list_objects("users/42/vectorstore/log/", limit=1000)}
    assert after == before


async def test_an_instance_waits_for_another_that_loses_less(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``auto`` a cold instance leaves the damage to the one that has the commit open; without one it goes on."""
    auto = msgspec.structs.replace(settings, recover="auto", health_interval_s=600, targets="")
    async with _pair(auto, tmp_path) as (one, cold):
        await _fill(one, "42", "43")
        await _break(cold, NEWEST)
        await _damage(cold.library.bucket, _key(NEWEST, "43"), "changed")
        for service in (one, cold):
            for user in ("42", "43"):
                care_of(service).used.note(user)
        await care_of(cold).health.round()
        # Damage was found, and nothing done: the newest number is the damaged one's.
        assert (await care_of(cold).health.last("42")).state == "damaged"
        keys = {info.key for info in await cold.library.bucket.list_objects("users/", limit=1000)}
        assert _key(NEWEST + 1) not in keys and _key(NEWEST + 1, "43") not in keys
        # The cold one's check is fresh, and the other acts on it.
        await care_of(one).health.round()
        assert await _ids(cold) == {f"n{number}" for number in range(NEWEST - 1)}
        # Of another user nobody has the commit, and two intervals go by.
        async with _pair(auto, tmp_path / "later") as (alone, _):
            await _damage(alone.library.bucket, _key(NEWEST + 1, "43"), "changed")
            care_of(alone).used.note("43")
            recoveries = care_of(alone).recoveries
            await care_of(alone).health.check("43")
            assert not await recoveries.recover_by_itself("43")
            told = await care_of(alone).notifications.find("damage-found", user_id="43")
            assert told is not None
            await care_of(alone).notifications.save(msgspec.structs.replace(told, first_ms=told.first_ms - 1_200_001))
            assert await recoveries.recover_by_itself("43")
            # Commit 5 was damaged too, so what is left is the state of commit 4.
            assert await _ids(alone, "43") == {f"n{number}" for number in range(NEWEST - 2)}
