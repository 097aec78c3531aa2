"""A damaged vectorstore is recovered from what an export left at a target, if that loses the least."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from tests.integration.test_recovery import LONG, _damage, _fill, _ids, _key, _of_report, _pair, _recover, care_of
from tests.support.postgres import Postgres, postgres_server
from vectorpool.api.service import Service
from vectorpool.commands import DeleteVectorstore
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.errors import NothingToRecoverFrom, UserNotFound
from vectorpool.settings import Settings
from vectorpool.targets import runs
from vectorpool.targets.named import named_targets

NEWEST = 5


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


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
