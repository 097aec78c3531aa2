"""The audit: two entries around a change, one after an operation; never overwritten; read by day, user and action."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from tests.support.tokens import NOW_S, Clock
from vectorpool import names
from vectorpool.audit import Audit, AuditPage, Query, Who, cursor_at, day_of
from vectorpool.errors import InvalidRequest, OutcomeUnknown, StoreUnavailable, UserNotFound
from vectorpool.objects.bucket import BucketDenied, BucketUnavailable
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings

WHO = Who("alice", "request-1", "token-1")
TODAY = day_of(NOW_S * 1000)


class Moody(MemoryBucket):
    """A bucket that refuses writes, or does not answer them, when it is told to."""

    error: Exception | None = None

    async def create(self, key: str, data: bytes) -> str:
        if self.error is not None:
            raise self.error
        return await super().create(key, data)


def audit(bucket: MemoryBucket | None = None, clock: Clock | None = None, **settings: float) -> Audit:
    return Audit(bucket if bucket is not None else MemoryBucket(), Settings(**settings), clock or Clock())


async def read(log: Audit, limit: int = 100, **query: str) -> list[tuple[str, str, str | None]]:
    page = await log.page(Query(**query), limit=limit)
    return [(entry.action, entry.outcome, entry.user_id) for entry in page.entries]


async def test_a_change_has_two_entries_of_one_id() -> None:
    """The first is there before the block runs; the second has what the block added."""
    log = audit()
    async with log.recorded("delete", WHO, user_id="42", detail={"documents": True}) as added:
        assert await read(log) == [("delete", "begun", "42")]
        added["objects"] = 7
    begun, ended = (await log.page(Query(), limit=10)).entries
    assert begun.id == ended.id and (begun.detail, ended.detail) == (
        {"documents": True},
        {"documents": True, "objects": 7},
    )
    assert (ended.caller, ended.request_id, ended.token_id, ended.outcome) == ("alice", "request-1", "token-1", "done")


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (UserNotFound("Nobody."), "failed", "user-not-found"),
        (OutcomeUnknown("Perhaps."), "unknown", "outcome-unknown"),
        (ValueError("A defect."), "failed", "ValueError"),
    ],
)
async def test_how_it_ended_is_told(error: Exception, outcome: str, code: str) -> None:
    """An error passes on, and its code is in the second entry; what may have happened is unknown."""
    log = audit()
    with pytest.raises(type(error)):
        async with log.recorded("restore", WHO, user_id="42"):
            raise error
    ended = (await log.page(Query(), limit=10)).entries[-1]
    assert (ended.outcome, ended.error) == (outcome, code)


async def test_a_caller_that_leaves_does_not_take_the_second_entry_with_it() -> None:
    """A cancelled change is told as unknown."""
    log, started = audit(), asyncio.Event()

    async def change() -> None:
        async with log.recorded("fork", WHO, user_id="42"):
            started.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(change())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await log.close()
    assert await read(log) == [("fork", "begun", "42"), ("fork", "unknown", "42")]


@pytest.mark.parametrize("error", [BucketUnavailable("no answer"), BucketDenied("AccessDenied")])
async def test_a_change_that_cannot_be_noted_does_not_begin(error: Exception) -> None:
    """It is refused with store-unavailable before its block runs."""
    bucket = Moody()
    bucket.error = error
    with pytest.raises(StoreUnavailable, match="audit"):
        async with audit(bucket).recorded("delete", WHO, user_id="42"):
            pytest.fail("the block ran")
    assert await bucket.list_objects("", limit=10) == []


async def test_an_operation_is_done_without_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """Its entry is then a line at ERROR, whole."""
    bucket = Moody()
    bucket.error = BucketUnavailable("no answer")
    with caplog.at_level(logging.ERROR):
        await audit(bucket).record("restart-shard", WHO, detail={"shard": 1})
    (line,) = caplog.messages
    assert '"action":"restart-shard"' in line and '"shard":1' in line and '"caller":"alice"' in line


async def test_entries_are_never_overwritten() -> None:
    """A second write of the same key changes nothing and is no error: it is an earlier attempt of the same entry."""
    bucket, clock = MemoryBucket(), Clock()
    await audit(bucket, clock).record("evict", WHO, user_id="42")
    (info,) = await bucket.list_objects("", limit=10)
    before = (await bucket.get(info.key)).data
    clock.ids = 0
    await audit(bucket, clock).record("evict", Who("mallory"), user_id="42")
    assert (await bucket.get(info.key)).data == before


async def test_readers_choose_by_day_user_and_action() -> None:
    """Each alone and together; a day without entries has none, and only chosen entries are read."""
    bucket, clock = MemoryBucket(), Clock()
    log = audit(bucket, clock)
    for action, user in (("evict", "42"), ("flush", "43"), ("evict", "43")):
        await log.record(action, WHO, user_id=user)
        clock.now_s += 86_400
    assert await read(log, user_id="43") == [("flush", "done", "43"), ("evict", "done", "43")]
    assert await read(log, user_id="43", action="evict") == [("evict", "done", "43")]
    tomorrow = day_of((NOW_S + 86_400) * 1000)
    assert await read(log, since=TODAY, until=TODAY) == [("evict", "done", "42")]
    assert await read(log, since=tomorrow, until=tomorrow) == [("flush", "done", "43")]
    assert await read(log, since="2100-01-01") == [] and await read(log, until="1999-01-01") == []
    assert len((await log.page(Query(), limit=10, cursor=cursor_at((NOW_S + 86_400) * 1000))).entries) == 2


async def test_pages_show_each_entry_once() -> None:
    """The cursor of a page leads to the next, whatever foreign objects lie between."""
    bucket, clock = MemoryBucket(), Clock()
    log = audit(bucket, clock)
    for number in range(7):
        await log.record("evict", WHO, user_id=str(number))
        clock.now_s += 1
        await bucket.put(names.audit_prefix(TODAY) + f"{int(clock.now_s * 1000)}-foreign \x7f"[:-1], b"not ours")
    found, cursor = list[str | None](), None
    for _ in range(10):
        page = await log.page(Query(), limit=2, cursor=cursor)
        found += [entry.user_id for entry in page.entries]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == [str(number) for number in range(7)]


async def test_foreign_objects_are_counted_and_not_shown() -> None:
    """Another name, another content, or the content of another entry under a name."""
    bucket = MemoryBucket()
    log = audit(bucket)
    await log.record("evict", WHO, user_id="42")
    (info,) = await bucket.list_objects("", limit=10)
    entry = (await bucket.get(info.key)).data
    await bucket.put(names.audit_prefix() + "notes.txt", b"hello")
    await bucket.put(names.audit_prefix(TODAY) + "x", entry)
    for number, content in (("1", entry), ("2", b"\xff{"), ("3", msgspec.json.encode({"id": 5}))):
        await bucket.put(names.audit_key(TODAY, NOW_S * 1000 + 5, number * 32, "42", "evict", "ended"), content)
    page = await log.page(Query(), limit=10)
    assert (len(page.entries), page.unreadable) == (1, 5)


@pytest.mark.parametrize("cursor", ["", "???", "YQ=", "YQ==", "é", "A" * 3000, "YR"])
async def test_a_wrong_cursor_is_refused(cursor: str) -> None:
    """What is no cursor of a page is named as that."""
    with pytest.raises(InvalidRequest, match="cursor"):
        await audit().page(Query(), limit=1, cursor=cursor)


@pytest.mark.parametrize("day", ["", "today", "2026-13-01", "2026-02-30", "../..", "2026-11-21/"])
async def test_a_wrong_day_is_refused(day: str) -> None:
    """What is no day is named as that."""
    with pytest.raises(InvalidRequest, match="no day"):
        await audit().page(Query(since=day), limit=1)


async def test_old_entries_are_removed_and_nothing_else() -> None:
    """Days that ended longer ago than audit_retention_s go; foreign objects and younger days stay."""
    bucket, clock = MemoryBucket(), Clock()
    log = audit(bucket, clock, audit_retention_s=10 * 86_400)
    await log.record("evict", WHO, user_id="old")
    await bucket.put(names.audit_prefix(TODAY) + "foreign", b"")
    clock.now_s += 11 * 86_400
    await log.record("evict", WHO, user_id="new")
    assert await log.remove_old() == 1
    assert await read(log) == [("evict", "done", "new")]
    assert await log.remove_old() == 0
    assert len(await bucket.list_objects("", limit=10)) == 2


async def test_a_long_text_is_cut() -> None:
    """A member of the details has a bound, and a text that is no UTF-8 is written all the same."""
    log = audit()
    await log.record("evict", Who("a" * 5000), user_id="42", detail={"why": "\ud800" + "b" * 5000})
    page: AuditPage = await log.page(Query(), limit=1)
    assert len(page.entries[0].caller) < 1100 and len(page.entries[0].detail["why"]) < 1100
