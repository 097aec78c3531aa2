"""Notifications: what operators should know, as one object for each event, with a state.

An event is one object below ``.vectorpool/notifications/``, named by a digest of its kind, its user and its subject. So
an event that is told again, by any instance, is the same notification with a higher count. Its state is ``open`` until
an operator acknowledges it, or until what it told of is over (``settled``). One that is told again after that opens
again. Two instances that tell the same event at once may count it once; nothing else is lost.

What a notification holds is for operators: ids of users are in it, secrets and contents are not. At most ``MOST``
notifications are kept. If there are as many, a new one is logged and not stored. Those that are acknowledged or settled
are removed ``notifications_retention_s`` after they were told last.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Literal, TypeAlias

import msgspec

from vectorpool import names
from vectorpool.cursors import from_cursor, to_cursor
from vectorpool.errors import UNDECODABLE, NotificationNotFound, VectorpoolError
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectMissing
from vectorpool.objects.refusals import unavailable
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.families import NOTIFICATIONS
from vectorpool.telemetry.figures import Figures

Event: TypeAlias = Literal[
    "damage-found", "recovered", "recovery-failed", "export-failed", "quota-near", "job-dead", "canary-failed"
]
State: TypeAlias = Literal["open", "acknowledged", "settled"]
# ``off``: no URL is set; ``failed``: every attempt of every round failed.
Sent: TypeAlias = Literal["off", "waiting", "sent", "failed"]

MOST: Final = 10_000
_MAX_TEXT: Final = 1000
_PAGE: Final = 1000
_AT_ONCE: Final = 16
_REMOVALS: Final = 10

_log = logging.getLogger(__name__)


class Notification(msgspec.Struct, omit_defaults=True):
    """One event: what happened, to whom, why, and what to do. Times are ms since 1970.

    ``count`` is how often it was told since it opened. ``rounds`` are rounds of attempts of its webhook, ``next_ms`` is
    when the next one may begin.
    """

    id: str
    event: Event
    state: State
    first_ms: int
    last_ms: int
    count: int = 1
    user_id: str | None = None
    subject: str = ""
    reason: str = ""
    remedy: str = ""
    detail: dict[str, Any] = {}
    webhook: Sent = "off"
    webhook_reason: str = ""
    rounds: int = 0
    next_ms: int = 0
    acknowledged_by: str | None = None
    acknowledged_ms: int | None = None


class NotificationPage(msgspec.Struct):
    """Notifications in the order of their ids. ``next_cursor`` asks for the next page; None: this was the last one.

    A page may hold fewer than were asked for before the end. ``unreadable`` counts objects that are no notifications.
    """

    notifications: list[Notification]
    next_cursor: str | None = None
    unreadable: int = 0


class Notifications:
    """The notifications of one bucket. Belongs to one event loop; any number may exist, in any process."""

    def __init__(
        self, bucket: Bucket, settings: Settings, sources: Sources = SYSTEM, figures: Figures | None = None
    ) -> None:
        self._bucket = bucket
        self._settings = settings
        self._sources = sources
        self._figures = Figures() if figures is None else figures
        # Set when something waits to be sent.
        self.has_news = asyncio.Event()

    # --- Telling -------------------------------------------------------------------------------------

    async def tell(
        self,
        event: Event,
        *,
        user_id: str | None = None,
        subject: str = "",
        reason: str = "",
        remedy: str = "",
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Tell an event. Never raises: one that cannot be stored is logged whole, at ERROR.

        ``subject`` tells events of the same user apart: those of the same subject are one notification.
        """
        notification = names.notification_id(event, user_id, subject)
        now_ms = self._sources.now_ms()
        fresh = Notification(
            notification,
            event,
            "open",
            now_ms,
            now_ms,
            user_id=user_id,
            subject=_short(subject),
            reason=_short(reason),
            remedy=_short(remedy),
            detail={name: _short(value) if isinstance(value, str) else value for name, value in (detail or {}).items()},
            webhook="waiting" if self._settings.notifications_url else "off",
        )
        try:
            there = await self._read(names.notification_key(notification))
            if there is None and await self._is_full():
                _log.error("%d notifications are kept, the most there may be; not kept: %s", MOST, _text(fresh))
                return
            if there is not None and there.state == "open":
                fresh = msgspec.structs.replace(
                    fresh,
                    first_ms=there.first_ms,
                    count=there.count + 1,
                    webhook=there.webhook,
                    webhook_reason=there.webhook_reason,
                    rounds=there.rounds,
                    next_ms=there.next_ms,
                )
            else:
                self._figures.counter(NOTIFICATIONS, event).add()
            await self.save(fresh)
        except VectorpoolError as error:
            _log.error("a notification could not be stored (%s): %s", error.code, _text(fresh))
        if fresh.webhook == "waiting":
            self.has_news.set()

    async def settle(self, event: Event, *, user_id: str | None = None, subject: str = "") -> None:
        """Note that what an event told of is over. Never raises."""
        try:
            there = await self._read(names.notification_key(names.notification_id(event, user_id, subject)))
            if there is not None and there.state == "open":
                await self.save(msgspec.structs.replace(there, state="settled", last_ms=self._sources.now_ms()))
        except VectorpoolError as error:
            _log.warning("a notification could not be settled: %s", error.code)

    async def find(self, event: Event, *, user_id: str | None = None, subject: str = "") -> Notification | None:
        """Return what was told of an event, None for nothing. Raises StoreUnavailable."""
        return await self._read(names.notification_key(names.notification_id(event, user_id, subject)))

    async def acknowledge(self, notification: str, caller: str) -> Notification:
        """Note that an operator has seen a notification. Raises InvalidId, NotificationNotFound, StoreUnavailable."""
        there = await self.get(notification)
        if there.state == "acknowledged":
            return there
        seen = msgspec.structs.replace(
            there, state="acknowledged", acknowledged_by=_short(caller), acknowledged_ms=self._sources.now_ms()
        )
        await self.save(seen)
        return seen

    async def save(self, notification: Notification) -> None:
        """Store a notification in its place. Raises StoreUnavailable."""
        try:
            await self._bucket.put(names.notification_key(notification.id), msgspec.json.encode(notification))
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "writing a notification", error) from error

    # --- Reading -------------------------------------------------------------------------------------

    async def get(self, notification: str) -> Notification:
        """Return a notification. Raises InvalidId, NotificationNotFound, StoreUnavailable."""
        there = await self._read(names.notification_key(notification))
        if there is None:
            raise NotificationNotFound("There is no notification of this id. GET /admin/notifications lists them.")
        return there

    async def page(
        self,
        *,
        limit: int,
        cursor: str | None = None,
        state: State | None = None,
        event: Event | None = None,
        user_id: str | None = None,
    ) -> NotificationPage:
        """Return at most ``limit`` notifications after a cursor. Raises InvalidRequest, StoreUnavailable."""
        prefix = names.notifications_prefix()
        after = None if cursor is None else prefix + from_cursor(cursor)
        page = NotificationPage([])
        try:
            found = await self._bucket.list_objects(prefix, limit=_PAGE, after=after)
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "listing the notifications", error) from error
        for start in range(0, len(found), _AT_ONCE):
            chunk = found[start : start + _AT_ONCE]
            for info, each in zip(chunk, await asyncio.gather(*(self._read(info.key) for info in chunk)), strict=True):
                if len(page.notifications) >= limit:
                    page.next_cursor = to_cursor((after or "").removeprefix(prefix))
                    return page
                after = info.key
                if each is None:
                    page.unreadable += 1
                elif state in (None, each.state) and event in (None, each.event) and user_id in (None, each.user_id):
                    page.notifications.append(each)
        if len(found) == _PAGE:
            page.next_cursor = to_cursor((after or "").removeprefix(prefix))
        return page

    async def waiting(self) -> list[Notification]:
        """Return those whose webhook may be tried now, the oldest first. Raises StoreUnavailable."""
        now_ms, cursor, found = self._sources.now_ms(), None, list[Notification]()
        for _ in range(MOST // _PAGE):
            page = await self.page(limit=_PAGE, cursor=cursor)
            found += [each for each in page.notifications if each.webhook == "waiting" and each.next_ms <= now_ms]
            if (cursor := page.next_cursor) is None:
                break
        return sorted(found, key=lambda each: each.first_ms)

    async def _read(self, key: str) -> Notification | None:
        """Return a notification; None for what is gone, or what another program put there."""
        if names.parse_notification_key(key) is None:
            return None
        try:
            body = await self._bucket.get(key)
            there = msgspec.json.decode(body.data, type=Notification)
        except (ObjectMissing, *UNDECODABLE):
            return None
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "reading a notification", error) from error
        return there if names.notification_key(there.id) == key else None

    async def _is_full(self) -> bool:
        after, count = None, 0
        try:
            while count < MOST:
                page = await self._bucket.list_objects(names.notifications_prefix(), limit=_PAGE, after=after)
                count += len(page)
                if len(page) < _PAGE:
                    return False
                after = page[-1].key
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "listing the notifications", error) from error
        return True

    # --- The end -------------------------------------------------------------------------------------

    async def remove_old(self) -> int:
        """Remove those that are over and old, a bounded number; return how many. Raises StoreUnavailable."""
        before = self._sources.now_ms() - int(self._settings.notifications_retention_s * 1000)
        removed, cursor = 0, None
        for _ in range(_REMOVALS):
            page = await self.page(limit=_PAGE, cursor=cursor)
            old = [each.id for each in page.notifications if each.state != "open" and each.last_ms < before]
            await self._delete(old)
            removed += len(old)
            if (cursor := page.next_cursor) is None:
                break
        return removed

    async def forget(self, user_id: str) -> int:
        """Remove those of a user, who was deleted; return how many. Raises StoreUnavailable."""
        removed, cursor = 0, None
        for _ in range(MOST // _PAGE):
            page = await self.page(limit=_PAGE, cursor=cursor, user_id=user_id)
            await self._delete([each.id for each in page.notifications])
            removed += len(page.notifications)
            if (cursor := page.next_cursor) is None:
                break
        return removed

    async def _delete(self, ids: list[str]) -> None:
        try:
            for start in range(0, len(ids), _AT_ONCE):
                await asyncio.gather(*map(self._bucket.delete, map(names.notification_key, ids[start : start + 16])))
        except (BucketUnavailable, BucketDenied) as error:
            raise unavailable(self._bucket.url, "removing notifications", error) from error


def _short(text: str) -> str:
    shown = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return shown.encode("utf-8", "replace").decode()


def _text(notification: Notification) -> str:
    return msgspec.json.encode(notification).decode()
