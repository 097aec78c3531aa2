"""Webhooks of notifications, to a real server: signed, sent again after a failure, and once."""

from __future__ import annotations

import asyncio
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

from vectorpool.care.delivery import Delivery
from vectorpool.names import notification_id
from vectorpool.notifications import Notification, Notifications
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.webhooks.signatures import is_genuine

SECRET = "a secret of a receiver"


async def _all(notifications: Notifications) -> list[Notification]:
    return (await notifications.page(limit=100)).notifications


class _Later(Sources):
    """The clock of a later day."""

    def __init__(self) -> None:
        super().__init__()
        self.more_ms = 0

    def now_ms(self) -> int:
        return SYSTEM.now_ms() + self.more_ms


class _Receiver:
    """A server that notes messages, and refuses the first ``refuses`` of them."""

    def __init__(self, refuses: int = 0) -> None:
        self.messages: list[tuple[dict[str, str], bytes]] = []
        receiver, left = self, [refuses]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.messages.append((dict(self.headers), body))
                left[0] -= 1
                self.send_response(400 if left[0] >= 0 else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


async def test_webhooks_are_signed_and_sent_once_and_again_after_a_failure() -> None:
    """A refused one waits for its next round with the same id; a delivered one is not sent again."""
    receiver, clock = _Receiver(refuses=1), _Later()
    settings = Settings(notifications_url=receiver.url, webhook_secret=SECRET, webhook_networks="127.0.0.1")
    told = Notifications(MemoryBucket(), settings, clock)
    delivery = Delivery(told, settings, clock)
    try:
        await told.tell("damage-found", user_id="42", reason="cut")
        assert told.has_news.is_set()
        assert await delivery.send_waiting() == 0
        (waiting,) = await _all(told)
        assert waiting.webhook == "waiting" and waiting.rounds == 1 and waiting.webhook_reason
        assert await delivery.send_waiting() == 0 and len(receiver.messages) == 1
        clock.more_ms = 61_000
        assert await delivery.send_waiting() == 1
        assert await delivery.send_waiting() == 0 and len(receiver.messages) == 2
        (first, _), (headers, body) = receiver.messages
        names = {name.lower(): value for name, value in headers.items()}
        assert is_genuine(SECRET, names, body, clock.now_ms() // 1000)
        assert {name.lower(): value for name, value in first.items()}["webhook-id"] == names["webhook-id"]
        message = json.loads(body)
        assert (message["type"], message["data"]["user_id"], message["data"]["reason"]) == ("damage-found", "42", "cut")
        assert message["data"]["id"] == notification_id("damage-found", "42", "")
        assert (await _all(told))[0].webhook == "sent"
    finally:
        await asyncio.to_thread(receiver.close)
