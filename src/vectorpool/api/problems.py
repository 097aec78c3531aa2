"""Every failure as an RFC 9457 problem: one map from exceptions to HTTP.

A problem's ``type`` is ``https://vectorpool.dev/problems/<code>``; the codes are those of ``vectorpool.errors`` and
stable. ``code`` repeats the last part for programs, and further members come from the error's ``extra``. What was
not raised on purpose becomes ``internal-error`` without its message, which may hold anything; the log has it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    SerializationException,
    ValidationException,
)
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.routes import HTTPRoute
from litestar.types.internal_types import PathParameterDefinition

from vectorpool.errors import (
    InternalError,
    InvalidRequest,
    LimitExceeded,
    MalformedJson,
    MethodNotAllowed,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
    VectorpoolError,
)

PROBLEM_BASE: Final = "https://vectorpool.dev/problems/"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
COMMIT_HEADER: Final = "X-Vectorpool-Commit"

# An instance helps people who read a log. A path of megabytes does not.
_MAX_INSTANCE_CHARS: Final = 256

_logger = logging.getLogger("vectorpool.api")


class Problem(msgspec.Struct):
    """An RFC 9457 problem. Some problems have further members, such as ``limit`` and ``count``."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str


_RESERVED: Final = frozenset(Problem.__struct_fields__)


def problem_type(error: VectorpoolError | type[VectorpoolError]) -> str:
    """Return the URI of a kind of problem."""
    return PROBLEM_BASE + error.code


def problem_body(error: VectorpoolError, instance: str) -> bytes:
    """Return a problem as JSON. ``instance`` is the request's path."""
    if len(instance) > _MAX_INSTANCE_CHARS:
        instance = instance[:_MAX_INSTANCE_CHARS] + "…"
    problem = Problem(
        type=problem_type(error),
        title=error.title,
        status=error.status,
        detail=_printable(error.detail),
        instance=_printable(instance),
        code=error.code,
    )
    members: dict[str, Any] = msgspec.structs.asdict(problem)
    members.update((name, _clean(value)) for name, value in error.extra.items() if name not in _RESERVED)
    return msgspec.json.encode(members)


def problem_headers(error: VectorpoolError) -> dict[str, str]:
    """Return the headers that go with a problem: Retry-After, Allow, WWW-Authenticate, the commit if it is known."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, MethodNotAllowed) and isinstance(allow := error.extra.get("allow"), list):
        headers["Allow"] = ", ".join(allow)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(commit := error.extra.get("commit"), int):
        headers[COMMIT_HEADER] = str(commit)
    return headers


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _clean(value: Any) -> Any:
    return _printable(value) if isinstance(value, str) else value


def as_error(exception: Exception) -> VectorpoolError:
    """Return the project's own error for any exception."""
    if isinstance(exception, VectorpoolError):
        return exception
    if isinstance(exception, RequestEntityTooLarge):
        return LimitExceeded("The body is larger than the limit (max_body_bytes). Split the request.")
    if isinstance(exception, ValidationException):
        return InvalidRequest(_validation_detail(exception))
    if isinstance(exception, NotFoundException):
        return NotFound("There is nothing at this path. /schema lists what there is.")
    if isinstance(exception, MethodNotAllowedException):
        return MethodNotAllowed("The path does not take this method. /schema lists what it takes.")
    if isinstance(exception, SerializationException):
        return MalformedJson("The body is not valid JSON. Send JSON.")
    if isinstance(exception, ClientException):
        return InvalidRequest(_sentence(exception.detail))
    if isinstance(exception, HTTPException) and exception.status_code < 500:
        return InvalidRequest(_sentence(exception.detail))
    return InternalError("The request failed through a defect of ours, not of yours. The log of the service says more.")


def _sentence(text: str) -> str:
    return (text[:300].rstrip(".") or "The request is not valid") + "."


def _validation_detail(exception: ValidationException) -> str:
    parts = []
    for entry in exception.extra if isinstance(exception.extra, list) else []:
        if isinstance(entry, dict):
            key, message = entry.get("key"), str(entry.get("message", "not valid"))
            parts.append(f"{key}: {message}" if key else message)
    if not parts:
        return _sentence(exception.detail)
    return _sentence("A parameter is not valid: " + "; ".join(part[:200] for part in parts[:5]))


def problem_response(request: Request[Any, Any, Any], exception: Exception) -> Response[bytes]:
    """Return the problem response of an exception, and log defects."""
    error = as_error(exception)
    if isinstance(exception, RequestEntityTooLarge):
        limit = request.app.request_max_body_size
        error = LimitExceeded(
            f"The body is larger than {limit} bytes (max_body_bytes). Split the request.",
            extra={"limit": limit, "limit_name": "max_body_bytes", "count": request.content_length},
        )
    if isinstance(exception, MethodNotAllowedException):
        allowed = methods_of(request)
        error = MethodNotAllowed(
            f"The path does not take {request.method}. It takes {', '.join(allowed)}.", extra={"allow": allowed}
        )
    if error.status >= 500 and error.retry_after_s is None and not isinstance(error, QuotaExceeded):
        # The traceback belongs to the log; a person's ids, which the path holds, do not.
        _logger.error("%s %s failed: %s", request.method, error.code, error.detail, exc_info=exception)
    return Response(
        content=problem_body(error, request.scope["path"]),
        status_code=error.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers=problem_headers(error),
    )


def methods_of(request: Request[Any, Any, Any]) -> list[str]:
    """Return the methods of a path, for the Allow header that a 405 must carry. The framework does not offer them."""
    segments = [segment for segment in request.scope["path"].split("/") if segment]
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, HTTPRoute) and _matches(route.path_components, segments):
            methods.update(route.methods)
    return sorted(methods)


def _matches(pattern: Sequence[str | PathParameterDefinition], segments: Sequence[str]) -> bool:
    for at, part in enumerate(pattern):
        if not isinstance(part, str) and part.type is Path:
            return len(segments) > at
        if at >= len(segments) or (isinstance(part, str) and part != segments[at]):
            return False
    return len(pattern) == len(segments)
