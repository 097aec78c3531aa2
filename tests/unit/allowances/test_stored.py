"""Limits that are stored for users: read, changed, broken, foreign, and known to other instances."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from tests.support.tokens import Clock
from vectorpool.allowances import stored as module
from vectorpool.allowances.allowances import Allowances
from vectorpool.errors import LimitExceeded, StoreUnavailable
from vectorpool.limits import Limits
from vectorpool.names import limits_key, limits_prefix
from vectorpool.objects.bucket import Body, BucketUnavailable, ObjectInfo
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.supervision import Supervisor

DEFAULTS = Settings(limit_records=10)


class Counting(MemoryBucket):
    """A bucket that counts reads, and fails while a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.reads = 0

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        if self.fails:
            raise BucketUnavailable("no answer")
        return await super().list_objects(prefix, limit=limit, after=after)

    async def get(self, key: str) -> Body:
        self.reads += 1
        return await super().get(key)


async def opened(bucket: MemoryBucket, settings: Settings = DEFAULTS) -> Allowances:
    allowances = Allowances(settings, Clock())
    await allowances.open(bucket)
    return allowances


def body(**limits: Any) -> bytes:
    return json.dumps({"limits": limits}).encode()


async def test_another_instance_honours_a_change_within_a_minute() -> None:
    """Set, changed and deleted on one instance, known on another within a minute; only what changed is read."""
    bucket = Counting()
    here, there = await opened(bucket), await opened(bucket)
    supervisor = Supervisor(there._sources)
    there.watch(supervisor)
    clock = there._sources
    assert isinstance(clock, Clock)
    for given, records in (({"records": 5}, 5), ({"records": None}, None), (None, 10)):
        if given is None:
            assert await here.stored.delete("alice")
        else:
            await here.stored.put("alice", given)
        assert here.limits_of("alice").records == records
        began_s = clock.now_s
        while there.limits_of("alice").records != records:
            assert clock.now_s - began_s < 60
            await asyncio.sleep(0)
    reads = bucket.reads
    await there.stored.load()
    assert bucket.reads == reads == 2
    await supervisor.stop(1.0)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"not json",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps({"limits": 5}).encode(),
        body(recods=5),
        body(records=-1),
        body(records="many"),
        b'{"limits": {"records": NaN}}',
        body(records=1) + b" " * 20_000,
    ],
)
async def test_a_broken_object_is_reported_and_keeps_the_last_good_one(
    broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The defaults if there was none, else what was read before; the log and the view say which, and it heals."""
    bucket = Counting()
    await bucket.put(limits_key("bad"), broken)
    await bucket.put(limits_key("good"), body(records=5))
    allowances = await opened(bucket)
    assert allowances.limits_of("bad").records == 10
    assert "the defaults are in force" in caplog.text
    await bucket.put(limits_key("good"), broken)
    await allowances.stored.load()
    assert allowances.limits_of("good").records == 5
    assert "those that were read before are in force" in caplog.text
    assert "good" not in caplog.text.replace(limits_key("good"), ""), "no id is logged"
    for user, said in (("bad", "the defaults are"), ("good", "those that were read before are")):
        stored = allowances.stored_for(user)
        assert stored is not None and stored.problem is not None
        assert limits_key(user) in stored.problem and said in stored.problem
    reads = bucket.reads
    await allowances.stored.load()
    assert bucket.reads == reads, "it is read once"
    await bucket.put(limits_key("bad"), body(records=7))
    await allowances.stored.load()
    stored = allowances.stored_for("bad")
    assert allowances.limits_of("bad").records == 7 and stored is not None and stored.problem is None


async def test_foreign_objects_are_passed_over_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Names that are no user's limit no user."""
    bucket = Counting()
    for name in ("a/b", "x" * 200, " ", "not\u200bseen"):
        await bucket.put(limits_prefix() + name, body(records=1))
    allowances = await opened(bucket)
    await allowances.stored.load()
    assert len(allowances.stored) == 0
    assert [r.levelno for r in caplog.records if "of no user" in r.message] == [logging.WARNING]


async def test_without_the_store_what_was_known_stays_known() -> None:
    """A listing that fails changes nothing; a start without one begins with the defaults."""
    bucket = Counting()
    await bucket.put(limits_key("alice"), body(records=5))
    allowances = await opened(bucket)
    bucket.fails = True
    with pytest.raises(StoreUnavailable):
        await allowances.stored.load()
    assert allowances.limits_of("alice").records == 5
    late = await opened(bucket)
    assert late.limits_of("alice").records == 10
    bucket.fails = False
    await late.stored.load()
    assert late.limits_of("alice").records == 5


async def test_a_listing_that_began_before_a_change_does_not_undo_it() -> None:
    """While objects are listed and read, a change is made here: it stays."""
    bucket = Counting()
    await bucket.put(limits_key("alice"), body(records=5))
    await bucket.put(limits_key("bob"), body(records=6))
    allowances = Allowances(DEFAULTS, Clock())

    class Slow(Counting):
        async def get(self, key: str) -> Body:
            found = await bucket.get(key)
            if not changed:
                changed.append(key)
                allowances.stored._bucket = bucket
                await allowances.stored.put("alice", {"records": 1})
                await allowances.stored.delete("bob")
            return found

        async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
            return await bucket.list_objects(prefix, limit=limit, after=after)

    changed: list[str] = []
    await allowances.open(Slow())
    assert (allowances.limits_of("alice").records, allowances.limits_of("bob").records) == (1, 10)
    await allowances.stored.load()
    assert (allowances.limits_of("alice").records, allowances.limits_of("bob").records) == (1, 10)


async def test_users_with_limits_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of one more user are refused; those of the others can be changed."""
    allowances = await opened(Counting())
    monkeypatch.setattr(module, "MAX_USERS", 1)
    await allowances.stored.put("alice", {})
    await allowances.stored.put("alice", {"burst": 1})
    with pytest.raises(LimitExceeded):
        await allowances.stored.put("bob", {})
    assert allowances.limits_of("bob") == Limits(records=10)
    assert await allowances.stored.delete("alice") and not await allowances.stored.delete("alice")
