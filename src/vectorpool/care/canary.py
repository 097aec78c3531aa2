"""The canary: the service as a caller sees it. It writes a record, reads it on another connection, and deletes it.

It goes through the instance's own listener, so every stage, a shard, Chroma's files and the store take part. Its user
has a fixed id of 256, by the name of the machine: instances that come and go leave a bounded number of them, and two
that share one do not disturb each other. No caller may use such an id. The vectorstore holds a small record at a time.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from vectorpool.ids import CANARY_PREFIX
from vectorpool.notifications import Notifications
from vectorpool.operating import CanaryView
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.supervision import rest
from vectorpool.telemetry.families import CANARY, CANARY_TIME
from vectorpool.telemetry.figures import Figures

logger = logging.getLogger(__name__)

_REQUEST_S: Final = 30.0
# A round that failed is made again before it is believed.
_AGAIN_S: Final = 2.0
_COLLECTION: Final = "canary"
_DIMENSION: Final = 8


def canary_id(host: str) -> str:
    """Return the id of a machine's canary."""
    return CANARY_PREFIX + hashlib.sha256(host.encode("utf-8", "surrogatepass")).hexdigest()[:2]


class Canary:
    """The canary of an instance. ``url`` returns where it listens; ``key`` is its token."""

    def __init__(
        self,
        url: Callable[[], str],
        key: str,
        notifications: Notifications,
        settings: Settings,
        sources: Sources,
        figures: Figures,
    ) -> None:
        self._url = url
        self._key = key
        self._notifications = notifications
        self._settings = settings
        self._sources = sources
        self._figures = figures
        self._host = socket.gethostname()
        self._view = CanaryView("waiting", canary_id(self._host))

    def view(self) -> CanaryView:
        """Return how the last round ended."""
        return self._view

    async def watch(self) -> None:
        """Go round every interval, until cancelled."""
        while True:
            await rest(self._sources, self._settings.health_interval_s * (0.75 + 0.5 * self._sources.random()))
            await self.round()

    async def round(self) -> CanaryView:
        """Write, read and delete; once more before a failure is believed. Return how it ended."""
        fault = await self._try()
        if fault:
            await self._sources.sleep(_AGAIN_S)
            fault = await self._try()
        self._figures.counter(CANARY, "failed" if fault else "ok").add()
        if fault:
            logger.error("the canary failed: %s", fault)
            self._view.reason, self._view.state = fault, "failed"
            self._view.remedy = "Look at GET /admin/ready, and at the log of the instance."
            await self._notifications.tell(
                "canary-failed", subject=self._host, reason=fault, remedy=self._view.remedy, detail={"host": self._host}
            )
        else:
            self._view.reason, self._view.remedy, self._view.state = "", "", "ok"
            await self._notifications.settle("canary-failed", subject=self._host)
        self._view.at_ms = self._sources.now_ms()
        return self._view

    async def _try(self) -> str:
        """Return what went wrong; empty if nothing did."""
        # Another process pays for the import, until the first round.
        httpx: Any = importlib.import_module("httpx")
        record = self._sources.uuid()
        vector = [self._sources.random() + 0.1 for _ in range(_DIMENSION)]
        collections = f"{self._url()}/users/{self._view.user_id}/collections"
        path = f"{collections}/{_COLLECTION}"
        options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {self._key}"},
            "timeout": _REQUEST_S,
            "trust_env": False,
        }
        began_s = self._sources.monotonic_s()
        try:
            # Two clients share no connection.
            async with httpx.AsyncClient(**options) as one, httpx.AsyncClient(**options) as other:
                there = {"name": _COLLECTION, "get_or_create": True}
                await self._step("write", one.post(collections, json=there))
                body = {"records": [{"id": record, "embedding": vector}]}
                await self._step("write", one.put(f"{path}/records", json=body))
                found = await self._step("read", other.post(f"{path}/query", json={"embeddings": [vector]}))
                if record not in [match["id"] for match in found["results"][0]]:
                    return "A record that was written was not found by a query on another connection."
                deleted = await self._step("delete", one.request("DELETE", f"{path}/records", json={"ids": [record]}))
                if deleted["deleted"] != 1:
                    return "A record that was written could not be deleted."
        except _Failed as error:
            return str(error)
        except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
            return f"The instance does not answer its own requests: {type(error).__name__}."
        self._view.took_ms = round((self._sources.monotonic_s() - began_s) * 1000, 1)
        return ""

    async def _step(self, step: str, request: Any) -> Any:
        began_s = self._sources.monotonic_s()
        response = await request
        self._figures.histogram(CANARY_TIME, step).observe(self._sources.monotonic_s() - began_s)
        if response.status_code >= 400:
            raise _Failed(f"The {step} of the canary was answered with {response.status_code}: {_detail(response)}")
        return response.json()


class _Failed(Exception):
    """A request of the canary was refused."""


def _detail(response: Any) -> str:
    try:
        return str(response.json().get("detail", ""))[:500]
    except (ValueError, AttributeError):
        return ""
