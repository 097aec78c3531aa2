"""Really damaged buckets: what is acknowledged and still held by any source comes back, and nothing else is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.instances import NOTES, upsert
from tests.support.radosgw import Radosgw
from vectorpool import names
from vectorpool.answers import CommitPage, RecordPage
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.audit import Query, Who
from vectorpool.care.parts import Care
from vectorpool.commands import (
    CreateBackup,
    CreateCollection,
    DeleteRecords,
    DeleteVectorstore,
    GetRecords,
    ListCommits,
    Verify,
)
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.errors import CollectionNotFound, Damaged, NotDamaged, NothingToRecoverFrom, UserNotFound
from vectorpool.objects.bucket import Bucket
from vectorpool.operating import RecoveredCollection, RecoveryReport
from vectorpool.settings import RecoverInto, Settings

WHO = Who("operator")
COMMITS = 4


LONG = pytest.mark.long
VALUES: dict[str, Any] = {"shards": -1, "health_interval_s": 0}


@asynccontextmanager
async def _pair(settings: Settings, tmp_path: Path) -> AsyncIterator[list[Service]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_service(msgspec.structs.replace(settings, replica_dir=str(tmp_path / name)))
            )
            for name in ("a", "b")
        ]


@pytest.fixture(params=["directory", pytest.param("radosgw", marks=LONG)])
async def services(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Service]]:
    """Two instances over one store; the second has nothing open or cached unless a test asks it."""
    if request.param == "directory":
        settings = Settings(store=str(tmp_path / "store"), **VALUES)
    else:
        server: Radosgw = request.getfixturevalue("radosgw_server")
        settings = server.settings(request.getfixturevalue("radosgw_url"), **VALUES)
    async with _pair(settings, tmp_path) as pair:
        yield pair


def care_of(service: Service) -> Care:
    assert service.care is not None
    return service.care


async def _fill(service: Service, *users: str) -> None:
    """Write a commit that creates a collection, and four of a record each."""
    for user in users:
        await service.router.execute(user, NOTES, BACKGROUND)
        for number in range(COMMITS):
            await service.router.execute(user, upsert(f"n{number}"), BACKGROUND)


async def _ids(service: Service, user: str = "42", collection: str = "notes") -> set[str]:
    answer = await service.router.execute(user, GetRecords(avatar_id=None, collection=collection), BACKGROUND)
    return {record.id for record in msgspec.json.decode(answer.body, type=RecordPage).records}


async def _rows(service: Service, collection: str, user: str = "42") -> dict[str, tuple[object, ...]]:
    command = GetRecords(collection=collection, include=("documents", "metadatas", "embeddings"))
    answer = await service.router.execute(user, command, BACKGROUND)
    found = msgspec.json.decode(answer.body, type=RecordPage).records
    return {each.id: (each.document, each.metadata, each.embedding) for each in found}


def _key(seq: int, user: str = "42") -> str:
    return names.log_prefix(user) + names.commit_name(seq)


async def _damage(bucket: Bucket, key: str, how: str) -> None:
    body = (await bucket.get(key)).data
    if how == "deleted":
        await bucket.delete(key)
    elif how == "cut":
        await bucket.put(key, body[: len(body) * 2 // 3])
    elif how == "cut to a grave":
        await bucket.put(key, body[:16])
    elif how == "changed":
        middle = len(body) - 40
        await bucket.put(key, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])
    else:
        assert how == "replaced"
        await bucket.put(key, b"something else entirely, " * 100)


async def _objects(bucket: Bucket, prefix: str = "") -> dict[str, tuple[int, str]]:
    return {info.key: (info.size, info.etag) for info in await bucket.list_objects(prefix, limit=10_000)}


async def _recover(service: Service, user: str = "42", into: RecoverInto | None = None) -> RecoveryReport:
    done = await care_of(service).recoveries.recover(user, RequestContext(), WHO, into)
    assert done.report is not None
    return done.report


async def _of_report(service: Service, commit: int) -> set[str]:
    found, cursor = set[str](), None
    while True:
        page = await care_of(service).recoveries.records("42", commit, cursor)
        found |= {record.id for record in page.records}
        if (cursor := page.next_cursor) is None:
            return found


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("cut", marks=LONG),
        "changed",
        pytest.param("replaced", marks=LONG),
        pytest.param("cut to a grave", marks=LONG),
    ],
)
async def test_a_cold_instance_recovers_from_the_newest_intact_commit(services: list[Service], how: str) -> None:
    """The plan says what is lost; a new commit recovers; the damaged object stays; no other user is touched."""
    one, cold = services
    await _fill(one, "42", "43")
    bucket = cold.library.bucket
    newest = COMMITS + 1
    await _damage(bucket, _key(newest), how)
    before = await _objects(bucket, "users/")

    with pytest.raises(Damaged):
        await _ids(cold)
    plan = await care_of(cold).recoveries.plan("42", RequestContext())
    assert plan.is_damaged and plan.reason and plan.commit == newest
    assert plan.chosen is not None and (plan.chosen.kind, plan.chosen.commit) == ("commit", newest - 1)
    assert plan.chosen.records == COMMITS - 1
    assert await _objects(bucket, "users/") == before

    report = await _recover(cold)
    assert (report.commit, report.records) == (newest + 1, COMMITS - 1)
    kept = {f"n{number}" for number in range(COMMITS - 1)}
    assert await _ids(cold) == kept == await _of_report(cold, report.commit)
    # The instance whose replica held the lost commit takes in what was decided.
    assert await _ids(one) == kept
    after = await _objects(bucket, "users/")
    assert {key: after.get(key) for key in before} == before
    added = {key for key in after if key not in before}
    assert added and all(key.startswith("users/42/vectorstore/") for key in added)
    assert (await care_of(cold).recoveries.report("42", report.commit)).source == report.source

    # Writes go on above it, on both instances, and nothing is recovered twice.
    await one.router.execute("42", upsert("later"), BACKGROUND)
    assert await _ids(cold) == {*kept, "later"}
    with pytest.raises(NotDamaged):
        await _recover(cold)
    assert await _ids(cold, "43") == {f"n{number}" for number in range(COMMITS)}
    told = (await care_of(cold).notifications.page(limit=10, event="recovered")).notifications
    assert [(each.user_id, each.detail["commit"]) for each in told] == [("42", report.commit)]
    entries = (await cold.audit.page(Query(user_id="42", action="recover"), limit=10)).entries
    assert [entry.outcome for entry in entries] == ["begun", "done"]


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("cut", marks=LONG),
        pytest.param("changed", marks=LONG),
        pytest.param("replaced", marks=LONG),
        "deleted",
    ],
)
async def test_a_warm_instance_loses_nothing(services: list[Service], how: str) -> None:
    """Its open replica is the best source: every acknowledged record is back, for an instance that was cold too."""
    warm, cold = services
    await _fill(warm, "42")
    await _damage(warm.library.bucket, _key(COMMITS + 1), how)
    plan = await care_of(warm).recoveries.plan("42", RequestContext())
    assert plan.chosen is not None and plan.chosen.kind == "replica" and plan.chosen.lost_commits == 0
    report = await _recover(warm)
    everything = {f"n{number}" for number in range(COMMITS)}
    assert report.records == COMMITS and not report.lost
    assert await _ids(cold) == await _ids(warm) == everything == await _of_report(warm, report.commit)
    await cold.router.execute("42", upsert("later"), BACKGROUND)
    assert await _ids(warm) == {*everything, "later"}


@pytest.mark.parametrize("is_warm", [True, pytest.param(False, marks=LONG)])
async def test_a_recovery_into_new_collections(services: list[Service], is_warm: bool) -> None:
    """The source comes back beside what the log alone gives; the plan shows the names; nothing is overwritten."""
    one, cold = services
    await _fill(one, "42")
    served = one if is_warm else cold
    bucket = cold.library.bucket
    rows = await _rows(one, "notes")
    await _damage(bucket, _key(COMMITS + 1), "changed")
    before = await _objects(bucket, "users/")
    plan = await care_of(served).recoveries.plan("42", RequestContext(), "new")
    name = f"notes-recovered-{COMMITS + 2}"
    named = [RecoveredCollection("default_database", "notes", name)]
    assert (plan.into, plan.base, plan.collections) == ("new", COMMITS, named)
    assert (await care_of(served).recoveries.plan("42", RequestContext())).into == "same"
    assert await _objects(bucket, "users/") == before

    report = await _recover(served, into="new")
    assert (report.into, report.base, report.collections, report.commit) == ("new", COMMITS, named, COMMITS + 2)
    log = {f"n{number}" for number in range(COMMITS - 1)}
    source = {f"n{number}" for number in range(COMMITS if is_warm else COMMITS - 1)}
    for service in services:
        assert await _ids(service) == log
        assert await _rows(service, name) == {record_id: rows[record_id] for record_id in source}
    page = await care_of(cold).recoveries.records("42", report.commit, None)
    assert {(each.collection, each.id, each.from_commit) for each in page.records} == {
        *(("notes", each, COMMITS) for each in log),
        *((name, each, COMMITS + 1 if is_warm else COMMITS) for each in source),
    }
    assert report.records == len(page.records)
    after = await _objects(bucket, "users/")
    assert {key: after.get(key) for key in before} == before
    # Both collections are written like any other, and the log is well.
    await one.router.execute("42", upsert("later"), BACKGROUND)
    await cold.router.execute("42", DeleteRecords(collection=name, ids=["n0"]), BACKGROUND)
    assert await _ids(one) == {*log, "later"} and await _ids(one, collection=name) == source - {"n0"}
    with pytest.raises(NotDamaged):
        await _recover(cold, into="new")


async def test_new_collections_where_the_log_gives_nothing(services: list[Service], tmp_path: Path) -> None:
    """By itself and by the setting: every object is damaged, and the open replica comes back under new names alone."""
    one, cold = services
    settings = msgspec.structs.replace(one.settings, recover_into="new", replica_dir=str(tmp_path / "c"))
    async with open_service(settings) as instance:
        await _fill(instance, "42")
        await instance.router.execute("42", CreateCollection(avatar_id="7", name="notes"), BACKGROUND)
        for key in await _objects(instance.library.bucket, names.log_prefix("42")):
            await _damage(instance.library.bucket, key, "replaced")
        assert await care_of(instance).recoveries.recover_by_itself("42")
        name = f"notes-recovered-{COMMITS + 3}"
        assert await _ids(cold, collection=name) == {f"n{number}" for number in range(COMMITS)}
        with pytest.raises(CollectionNotFound):
            await _ids(cold)
        report = await care_of(cold).recoveries.report("42", COMMITS + 3)
        assert (report.base, len(report.collections)) == (0, 2)


async def test_a_hole_in_the_middle_is_passed_below(services: list[Service]) -> None:
    """What stands above a damaged commit cannot be had; a backup below it is shown, and is the same state."""
    one, cold = services
    await _fill(one, "42")
    await cold.router.execute("42", CreateBackup(name="good", commit=3), BACKGROUND)
    await _damage(cold.library.bucket, _key(4), "cut")
    plan = await care_of(cold).recoveries.plan("42", RequestContext())
    assert [(each.kind, each.commit, each.lost_commits) for each in plan.sources] == [
        ("commit", 3, 2),
        ("backup", 3, 2),
    ]
    assert plan.chosen is not None and (plan.chosen.unreadable, plan.chosen.lost_added) == (1, 1)
    report = await _recover(cold)
    assert [each.commit for each in report.lost] == [5, 4]
    assert await _ids(cold) == {"n0", "n1"}


async def test_documents_come_back_where_no_commit_does(services: list[Service]) -> None:
    """With every log object damaged, the vectorstore begins anew, and a sync makes records of the documents."""
    one, cold = services
    for name in ("first", "second"):
        await one.library.put("42", "7", f"{name}.txt", f"The {name}.".encode())
    await one.ingestor.ingest("42", "7")
    bucket = cold.library.bucket
    for key in await _objects(bucket, names.log_prefix("42")):
        await _damage(bucket, key, "replaced")
    plan = await care_of(cold).recoveries.plan("42", RequestContext())
    assert plan.chosen is not None and (plan.chosen.kind, plan.chosen.documents) == ("documents", 2)
    report = await _recover(cold)
    assert report.reingested == ["7"] and report.records == 0
    outcomes = (await cold.ingestor.ingest("42", "7")).documents
    assert [outcome.status for outcome in outcomes] == ["ingested", "ingested"]


async def test_nothing_is_invented(services: list[Service]) -> None:
    """Without a source the recovery is refused, changes nothing, and operators are told by the error."""
    one, cold = services
    await _fill(one, "42")
    bucket = cold.library.bucket
    for key in await _objects(bucket, names.log_prefix("42")):
        await _damage(bucket, key, "replaced")
    before = await _objects(bucket, "users/")
    with pytest.raises(NothingToRecoverFrom):
        await _recover(cold)
    assert await _objects(bucket, "users/") == before


@pytest.mark.parametrize("tombstone", [pytest.param("intact", marks=LONG), "cut", pytest.param("replaced", marks=LONG)])
async def test_a_deleted_user_is_never_recovered(services: list[Service], tombstone: str) -> None:
    """Not from a commit that somebody put back, and not if the tombstone is damaged: the receipt is enough."""
    one, cold = services
    await _fill(one, "42")
    bucket = cold.library.bucket
    objects = {key: (await bucket.get(key)).data for key in await _objects(bucket, names.log_prefix("42"))}
    await one.router.execute("42", DeleteVectorstore(), BACKGROUND)
    for key, data in objects.items():
        await bucket.put(key, data)
    if tombstone != "intact":
        await _damage(bucket, _key(COMMITS + 2), tombstone)
    for service in services:
        with pytest.raises(UserNotFound):
            await _recover(service)
    page = (await care_of(cold).notifications.page(limit=10)).notifications
    assert not [each for each in page if each.event == "recovered"]


async def test_of_two_recoveries_one_wins(services: list[Service]) -> None:
    """Both instances recover at once: one new commit of a recovery, and the other one is refused."""
    one, cold = services
    await _fill(one, "42")
    await _damage(cold.library.bucket, _key(COMMITS + 1), "cut")
    outcomes = await asyncio.gather(_recover(one), _recover(cold), return_exceptions=True)
    done = [outcome for outcome in outcomes if isinstance(outcome, RecoveryReport)]
    assert len(done) == 1, outcomes
    answer = await cold.router.execute("42", ListCommits(limit=10), BACKGROUND)
    commits = msgspec.json.decode(answer.body, type=CommitPage).commits
    assert [each.commit for each in commits if each.restored_from] == [done[0].commit]
    assert await _ids(one) == await _ids(cold)


async def test_health_finds_damage_and_recovers_by_itself(services: list[Service]) -> None:
    """A healthy user costs little the second time; damage is believed, told once, and recovered where that is set."""
    one, cold = services
    await _fill(one, "42")
    checks = care_of(cold).health
    health = await checks.check("42")
    assert health.state == "healthy" and health.records == COMMITS and health.commit == COMMITS + 1
    assert {check.check: check.state for check in health.checks} == dict.fromkeys(
        ("log", "opens", "counts", "samples", "documents"), "ok"
    )
    assert await care_of(one).health.last("42") == health
    await _damage(cold.library.bucket, _key(COMMITS + 1), "changed")
    for _ in range(2):
        health = await checks.check("42")
        assert health.state == "damaged"
        assert any(check.reason and check.remedy for check in health.checks if check.state == "failed")
    told = (await care_of(one).notifications.page(limit=10, event="damage-found")).notifications
    assert [(each.user_id, each.state, each.count) for each in told] == [("42", "open", 2)]
    assert checks.view().checked == {"damaged": 1} and checks.view().unwell == [health]

    await care_of(cold).recoveries.recover_by_itself("42")
    assert (await checks.check("42")).state == "healthy"
    assert checks.view().unwell == []
    told = (await care_of(one).notifications.page(limit=10, event="damage-found")).notifications
    assert [each.state for each in told] == ["settled"]
    report = await cold.router.execute("42", Verify(), BACKGROUND)
    assert report.commit == COMMITS + 2


async def test_a_real_s3_is_recovered(tmp_path: Path, radosgw_server: Radosgw, radosgw_url: str) -> None:
    """On radosgw, a cold instance keeps what the log has, and a warm one all that was acknowledged; beside it too."""
    async with _pair(radosgw_server.settings(radosgw_url, **VALUES), tmp_path) as (warm, cold):
        await _fill(warm, "42", "43", "44")
        bucket = cold.library.bucket
        await _damage(bucket, _key(COMMITS + 1), "cut")
        await _damage(bucket, _key(COMMITS + 1, "43"), "deleted")
        await _damage(bucket, _key(COMMITS + 1, "44"), "cut")
        report = await _recover(cold)
        assert (report.source.kind, report.records) == ("commit", COMMITS - 1)
        report = await _recover(warm, "43")
        assert (report.source.kind, report.records) == ("replica", COMMITS)
        everything = {f"n{number}" for number in range(COMMITS)}
        assert await _ids(cold, "43") == await _ids(warm, "43") == everything
        assert await _ids(cold) == await _ids(warm) == everything - {f"n{COMMITS - 1}"}
        report = await _recover(warm, "44", "new")
        assert await _ids(cold, "44") == everything - {f"n{COMMITS - 1}"}
        assert await _ids(cold, "44", report.collections[0].recovered_as) == everything
