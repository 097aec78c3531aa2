"""How fresh a request's reads must be, from its headers: consistency, and the least commit that it accepts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

from litestar import Request

from vectorpool.api.service import Service
from vectorpool.commands import Reading
from vectorpool.documents.ingest import Ingestor
from vectorpool.errors import InvalidRequest
from vectorpool.names import MAX_SEQ, excerpt
from vectorpool.shard.reading import ReadingRouter

CONSISTENCY_HEADER: Final = "X-Vectorpool-Consistency"
MIN_COMMIT_HEADER: Final = "X-Vectorpool-Min-Commit"
# A query parameter of reads: the past commit to read from.
AT_PARAMETER: Final = "at"

_MAX_BOUND_MS: Final = 86_400_000
_CONSISTENCY = re.compile(r"(strong|local|bounded)(?:\(([0-9]{1,8})\))?")


def reading_of(request: Request[Any, Any, Any]) -> Reading | None:
    """Return what the headers ask for, or None if they ask for nothing. Raises InvalidRequest."""
    consistency = request.headers.get(CONSISTENCY_HEADER)
    least = request.headers.get(MIN_COMMIT_HEADER)
    at = request.query_params.get(AT_PARAMETER)
    if consistency is None and least is None and at is None:
        return None
    reading = Reading()
    if consistency is not None:
        reading = _consistency(consistency.strip())
    if least is not None:
        reading = Reading(reading.consistency, reading.bound_ms, _commit_number(MIN_COMMIT_HEADER, least))
    if at is not None:
        reading = Reading(at=_commit_number(AT_PARAMETER, at))
    return reading


def _commit_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:13]) <= MAX_SEQ):
        raise InvalidRequest(
            f"{name} is {excerpt(text)}. Send the number of a commit, as a response carried it in X-Vectorpool-Commit."
        )
    return int(text)


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
