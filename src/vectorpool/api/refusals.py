"""The responses of refused requests, in the form of the path's protocol.

Below ``/api/`` an error is Chroma's JSON, whose name Chroma's clients turn into an exception; below ``/vectorflow/`` it
is VectorFlow's. Everywhere else it is a problem. Only this module chooses between them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.exceptions import MethodNotAllowedException, NotFoundException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import ExceptionHandlersMap, HTTPResponseStartEvent, HTTPScope, Send

from vectorpool.api.problems import (
    PROBLEM_MEDIA_TYPE,
    as_error,
    methods_of,
    problem_body,
    problem_headers,
    problem_response,
)
from vectorpool.errors import ChromaRefusal, QuotaExceeded, RateLimited, VectorpoolError

# The routes on which Chroma's server says in plain text that a body is too large.
_BULK_WRITES: Final = ("/add", "/upsert", "/update")

_logger = logging.getLogger("vectorpool.api")

# What Chroma's clients know by status; every other status is a plain ChromaError to them.
_CHROMA_NAMES: Final = {
    400: "InvalidArgumentError",
    401: "AuthError",
    403: "AuthorizationError",
    404: "NotFoundError",
    429: "RateLimitError",
    500: "InternalError",
}


def is_chromas(path: str) -> bool:
    """Return whether a decoded path is of Chroma's protocol."""
    return path.lstrip("/").partition("/")[0] == "api"


def is_vectorflows(path: str) -> bool:
    """Return whether a decoded path is of VectorFlow's protocol."""
    return path.lstrip("/").partition("/")[0] == "vectorflow"


def vectorflow_error(error: VectorpoolError) -> bytes:
    """Return an error as VectorFlow's JSON, which has one member, and our code beside it."""
    return msgspec.json.encode({"error": error.detail.encode("utf-8", "replace").decode(), "code": error.code})


def chroma_status(error: VectorpoolError) -> int:
    """Return the status of an error below ``/api/``."""
    return int(error.extra["status"]) if isinstance(error, ChromaRefusal) else error.status


def chroma_error(error: VectorpoolError) -> bytes:
    """Return an error as Chroma's JSON."""
    status = chroma_status(error)
    # Chroma's own refusals have four names; those of tokens and rates are for what is ours.
    is_plain = isinstance(error, ChromaRefusal) and status not in (400, 404, 500)
    name = "ChromaError" if is_plain else _CHROMA_NAMES.get(status, "ChromaError")
    return msgspec.json.encode({"error": name, "message": error.detail.encode("utf-8", "replace").decode()})


def to_response(request: Request[Any, Any, Any], exception: Exception) -> Response[bytes]:
    """Return the response of an exception that a route raised, or that no route was there to raise."""
    if is_vectorflows(request.scope["path"]):
        return _to_vectorflow(exception)
    if not is_chromas(request.scope["path"]):
        return problem_response(request, exception)
    if isinstance(exception, NotFoundException):
        return Response(content=b"", status_code=404, media_type="text/plain")
    if isinstance(exception, MethodNotAllowedException):
        allow = ", ".join(methods_of(request))
        return Response(content=b"", status_code=405, media_type="text/plain", headers={"Allow": allow})
    error = as_error(exception)
    if isinstance(exception, RequestEntityTooLarge):
        if request.scope["path"].endswith(_BULK_WRITES):
            return Response(content=b"Payload too large", status_code=413, media_type="text/plain")
        error = ChromaRefusal("Failed to buffer the request body: length limit exceeded", status=413)
    status = chroma_status(error)
    if status >= 500 and error.retry_after_s is None and not isinstance(error, (ChromaRefusal, QuotaExceeded)):
        _logger.error("%s %s failed: %s", request.method, error.code, error.detail, exc_info=exception)
    headers = problem_headers(error)
    return Response(content=chroma_error(error), status_code=status, media_type="application/json", headers=headers)


def _to_vectorflow(exception: Exception) -> Response[bytes]:
    error = as_error(exception)
    if error.status >= 500 and error.retry_after_s is None and not isinstance(error, QuotaExceeded):
        _logger.error("a request of VectorFlow failed: %s: %s", error.code, error.detail, exc_info=exception)
    body, headers = vectorflow_error(error), problem_headers(error)
    return Response(content=body, status_code=error.status, media_type="application/json", headers=headers)


EXCEPTION_HANDLERS: Final[ExceptionHandlersMap] = {Exception: to_response}


def refusal_of(error: VectorpoolError, path: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an error as the whole response to a decoded path."""
    if is_chromas(path):
        media_type, body = "application/json", chroma_error(error)
    elif is_vectorflows(path):
        media_type, body = "application/json", vectorflow_error(error)
    else:
        media_type, body = PROBLEM_MEDIA_TYPE, problem_body(error, path)
    return {"content-type": media_type, "content-length": str(len(body)), **problem_headers(error)}, body


def refusal_bytes(error: VectorpoolError, path: str, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return an error as a whole HTTP response that ends its connection, with further header fields."""
    headers, body = refusal_of(error, path)
    status = HTTPStatus(error.status)
    lines = [b"HTTP/1.1 %d %s" % (status.value, status.phrase.encode()), b"connection: close"]
    lines += [name + b": " + value for name, value in fields]
    lines += [f"{name.lower()}: {value}".encode("latin-1") for name, value in headers.items()]
    return b"\r\n".join([*lines, b"", body])


async def send_refusal(error: VectorpoolError, scope: HTTPScope, send: Send) -> None:
    """Send an error as the whole response."""
    headers, body = refusal_of(error, scope["path"])
    if error.retry_after_s is not None and not isinstance(error, RateLimited):
        # The caller's next attempt should reach another instance, not this connection. One beyond its rate is to wait,
        # and a new connection would cost more than another refusal on this one.
        headers["connection"] = "close"
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
