"""Webhooks of notifications: what waits is sent, signed, in rounds that get rarer, by whichever instance is first.

A message's id is the notification's and the time at which it opened, so a receiver knows one that two instances sent,
or that was sent again. A round is a bounded number of attempts; after ``_ROUNDS`` rounds a notification has failed, and
is shown so. Sending holds up nothing: at most ``_AT_ONCE`` messages are under way.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from vectorpool.errors import Misconfigured, VectorpoolError, WebhookRefused
from vectorpool.notifications import Notification, Notifications
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import rest
from vectorpool.webhooks.addresses import AddressGuard

logger = logging.getLogger(__name__)

_EVERY_S: Final = 60.0
_ROUNDS: Final = 8
_FIRST_WAIT_S: Final = 60.0
_LONGEST_WAIT_S: Final = 6 * 3600.0
_AT_ONCE: Final = 4
_CLEAN_EVERY_S: Final = 6 * 3600.0


class Delivery:
    """Sends the notifications of a bucket to ``notifications_url``, and removes old ones.

    Raises Misconfigured for a URL that no webhook may have.
    """

    def __init__(self, notifications: Notifications, settings: Settings, sources: Sources) -> None:
        self._notifications = notifications
        self._settings = settings
        self._sources = sources
        self._url = settings.notifications_url
        self._guard = AddressGuard(settings.webhook_networks)
        if self._url is not None:
            try:
                self._guard.target(self._url)
            except WebhookRefused as error:
                raise Misconfigured(f"notifications_url: {error.detail}") from error

    async def watch(self) -> None:
        """Send what waits, and remove what is old, until cancelled."""
        cleaned_s: float | None = None
        while True:
            self._notifications.has_news.clear()
            try:
                if self._url is not None:
                    await self.send_waiting()
                now_s = self._sources.monotonic_s()
                if cleaned_s is None or now_s - cleaned_s >= _CLEAN_EVERY_S:
                    cleaned_s = now_s
                    await self._notifications.remove_old()
            except VectorpoolError as error:
                logger.warning("notifications could not be looked through: %s", error.code)
            await self._rest()

    async def _rest(self) -> None:
        """Wait for the next look, or for news."""
        news = asyncio.create_task(self._notifications.has_news.wait())
        every_s = _EVERY_S if self._url is not None else _CLEAN_EVERY_S
        waiting = asyncio.create_task(rest(self._sources, every_s * (0.5 + self._sources.random())))
        try:
            await asyncio.wait([news, waiting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (news, waiting):
                task.cancel()
            await asyncio.gather(news, waiting, return_exceptions=True)

    async def send_waiting(self) -> int:
        """Send what may be sent now; return how many were delivered. Raises StoreUnavailable."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def send(notification: Notification) -> bool:
            async with gate:
                return await self._send(notification)

        waiting = await self._notifications.waiting()
        return sum(await asyncio.gather(*map(send, waiting)))

    async def _send(self, notification: Notification) -> bool:
        # It imports an HTTP client, which a front without notifications need not pay for.
        delivery: Any = importlib.import_module("vectorpool.webhooks.delivery")
        shown = msgspec.to_builtins(notification)
        for ours in ("webhook", "webhook_reason", "rounds", "next_ms"):
            shown.pop(ours, None)
        told = datetime.fromtimestamp(notification.last_ms / 1000, UTC)
        body = {"type": notification.event, "timestamp": told.isoformat(timespec="milliseconds"), "data": shown}
        event = delivery.Event(f"msg_{notification.id}_{notification.first_ms}", msgspec.json.encode(body))
        secret = self._settings.webhook_secret
        outcome = await delivery.deliver(self._url, event, secret, guard=self._guard, sources=self._sources)
        # Meanwhile it may have been acknowledged, or told again: only what is ours changes.
        now = await self._notifications.get(notification.id)
        rounds = notification.rounds + 1
        wait_s = min(_FIRST_WAIT_S * 4**notification.rounds, _LONGEST_WAIT_S)
        now.webhook = "sent" if outcome.delivered else "failed" if rounds >= _ROUNDS else "waiting"
        now.webhook_reason = "" if outcome.delivered else outcome.reason
        now.rounds = rounds
        now.next_ms = 0 if outcome.delivered else self._sources.now_ms() + int(wait_s * 1000)
        await self._notifications.save(now)
        return bool(outcome.delivered)
