"""Notifications: told once, counted, acknowledged, opened again, bounded, sent and removed."""

from __future__ import annotations

from typing import Any

import pytest

from vectorpool import notifications as module
from vectorpool.care.delivery import Delivery
from vectorpool.errors import InvalidId, Misconfigured, NotificationNotFound
from vectorpool.names import notification_key, notifications_prefix
from vectorpool.notifications import Notification, Notifications
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources


async def _all(notifications: Notifications, **chosen: Any) -> list[Notification]:
    return (await notifications.page(limit=100, **chosen)).notifications


async def test_the_same_event_is_one_notification() -> None:
    """It is counted while it is open, and opens again after it was acknowledged or settled; others are apart."""
    told = Notifications(MemoryBucket(), Settings())
    for _ in range(3):
        await told.tell("damage-found", user_id="42", reason="cut")
    await told.tell("damage-found", user_id="43", reason="cut")
    await told.tell("quota-near", user_id="42", subject="records")
    (first,) = await _all(told, event="damage-found", user_id="42")
    assert (first.count, first.state, first.webhook) == (3, "open", "off")
    assert len(await _all(told)) == 3 and len(await _all(told, state="open")) == 3

    seen = await told.acknowledge(first.id, "operator")
    assert (seen.state, seen.acknowledged_by) == ("acknowledged", "operator")
    assert await told.acknowledge(first.id, "another") == seen
    await told.settle("damage-found", user_id="42")
    assert (await told.get(first.id)).state == "acknowledged"
    await told.tell("damage-found", user_id="42", reason="again")
    again = await told.get(first.id)
    assert (again.state, again.count, again.reason) == ("open", 1, "again")
    await told.settle("damage-found", user_id="42")
    assert (await told.get(first.id)).state == "settled"


async def test_pages_and_foreign_objects() -> None:
    """A cursor goes on where a page ended; what is no notification is counted; ids that are none are refused."""
    bucket = MemoryBucket()
    told = Notifications(bucket, Settings())
    for number in range(25):
        await told.tell("job-dead", subject=str(number))
    await bucket.put(notifications_prefix() + "foreign", b"x")
    await bucket.put(notification_key("0" * 32), b"{}")
    found, cursor, unreadable = list[str](), None, 0
    while True:
        page = await told.page(limit=7, cursor=cursor)
        found += [each.id for each in page.notifications]
        unreadable += page.unreadable
        if (cursor := page.next_cursor) is None:
            break
    assert len(found) == len(set(found)) == 25 and unreadable == 2
    with pytest.raises(InvalidId):
        await told.get("../limits/42")
    with pytest.raises(NotificationNotFound):
        await told.acknowledge("f" * 32, "operator")


async def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One more than the bound is logged whole, and not stored; one that is there is still counted."""
    monkeypatch.setattr(module, "MOST", 3)
    monkeypatch.setattr(module, "_PAGE", 3)
    told = Notifications(MemoryBucket(), Settings())
    for number in range(4):
        await told.tell("job-dead", subject=str(number))
    await told.tell("job-dead", subject="0")
    page = await told.page(limit=10)
    assert sorted(each.subject for each in page.notifications) == ["0", "1", "2"]
    assert '"subject":"3"' in caplog.text


class _Later(Sources):
    """The clock of a later day."""

    def __init__(self) -> None:
        super().__init__()
        self.more_ms = 0

    def now_ms(self) -> int:
        return SYSTEM.now_ms() + self.more_ms


async def test_what_is_over_is_removed_after_a_time_and_with_its_user() -> None:
    """Open ones stay, however old they are."""
    clock = _Later()
    told = Notifications(MemoryBucket(), Settings(notifications_retention_s=3600), clock)
    await told.tell("damage-found", user_id="42")
    await told.tell("damage-found", user_id="43")
    await told.settle("damage-found", user_id="43")
    assert await told.remove_old() == 0
    clock.more_ms = 3_700_000
    assert await told.remove_old() == 1
    assert [each.user_id for each in await _all(told)] == ["42"]
    assert await told.forget("42") == 1 and await _all(told) == []


def test_a_url_that_no_webhook_may_have_is_refused_at_the_start() -> None:
    """As are addresses of this network that are not allowed."""
    for url in ("ftp://example.org/", "http://127.0.0.1/hook", "https://name:password@example.org/"):
        with pytest.raises(Misconfigured, match="notifications_url"):
            settings = Settings(notifications_url=url)
            Delivery(Notifications(MemoryBucket(), settings), settings, SYSTEM)
