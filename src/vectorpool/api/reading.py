"""How fresh a request's reads must be, from its headers: consistency, and the least commit that it accepts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from litestar import Request

from vectorpool.answers import Answer, PoolView
from vectorpool.api.service import Service
from vectorpool.commands import Command, Reading
from vectorpool.documents.ingest import Ingestor
from vectorpool.errors import InvalidRequest
from vectorpool.names import MAX_SEQ, excerpt
from vectorpool.shard.router import Router

CONSISTENCY_HEADER: Final = "X-Vectorpool-Consistency"
MIN_COMMIT_HEADER: Final = "X-Vectorpool-Min-Commit"

_MAX_BOUND_MS: Final = 86_400_000
_CONSISTENCY = re.compile(r"(strong|local|bounded)(?:\(([0-9]{1,8})\))?")


class ReadingRouter:
    """A router that reads as one request asks; everything else goes through as it is."""

    def __init__(self, router: Router, reading: Reading) -> None:
        self._router = router
        self._reading = reading

    async def start(self) -> None:
        """Start the router behind it."""
        await self._router.start()

    async def stop(self) -> None:
        """Stop the router behind it."""
        await self._router.stop()

    def is_ready(self) -> bool:
        """Whether the router behind it is ready."""
        return self._router.is_ready()

    async def execute(self, user_id: str, command: Command, reading: Reading | None = None) -> Answer:
        """Answer one command as the request asks."""
        return await self._router.execute(user_id, command, reading or self._reading)

    async def pool_view(self) -> PoolView:
        """Return every slot of the instance."""
        return await self._router.pool_view()


def reading_of(request: Request[Any, Any, Any]) -> Reading | None:
    """Return what the headers ask for, or None if they ask for nothing. Raises InvalidRequest."""
    consistency = request.headers.get(CONSISTENCY_HEADER)
    least = request.headers.get(MIN_COMMIT_HEADER)
    if consistency is None and least is None:
        return None
    reading = Reading()
    if consistency is not None:
        reading = _consistency(consistency.strip())
    if least is not None:
        if not (least.isascii() and least.isdigit() and int(least[:13]) <= MAX_SEQ):
            raise InvalidRequest(
                f"{MIN_COMMIT_HEADER} is {excerpt(least)}. Send the number that a response carried in "
                "X-Vectorpool-Commit."
            )
        reading = Reading(reading.consistency, reading.bound_ms, int(least))
    return reading


def _consistency(text: str) -> Reading:
    match = _CONSISTENCY.fullmatch(text)
    if match is None or (match[2] and match[1] != "bounded") or (match[2] and int(match[2]) > _MAX_BOUND_MS):
        raise InvalidRequest(
            f"{CONSISTENCY_HEADER} is {excerpt(text)}. Send strong, local, bounded, or bounded(milliseconds) with at "
            f"most {_MAX_BOUND_MS}."
        )
    name = match[1]
    if name == "strong":
        return Reading("strong")
    if name == "local":
        return Reading("local")
    return Reading("bounded", int(match[2]) if match[2] else None)


def for_request(service: Service, request: Request[Any, Any, Any]) -> Service:
    """Return the service as this request's handlers use it."""
    reading = reading_of(request)
    if reading is None:
        return service
    router = ReadingRouter(service.router, reading)
    ingestor = Ingestor(service.library, service.embedder, router, service.settings)
    return replace(service, router=router, ingestor=ingestor)
