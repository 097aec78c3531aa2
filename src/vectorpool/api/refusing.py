"""The answer to a request that is refused outside of the routes, in the form that the path's protocol has.

Below ``/api/`` an error is Chroma's JSON, whose name Chroma's clients turn into an exception; everywhere else it is a
problem. Here alone is decided which.
"""

from __future__ import annotations

from typing import Final

import msgspec
from litestar.types import HTTPResponseStartEvent, HTTPScope, Send

from vectorpool.api.problems import PROBLEM_MEDIA_TYPE, problem_body, problem_headers
from vectorpool.errors import VectorpoolError

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


def chroma_error(error: VectorpoolError) -> bytes:
    """Return an error as Chroma's JSON."""
    name = _CHROMA_NAMES.get(error.status, "ChromaError")
    return msgspec.json.encode({"error": name, "message": error.detail.encode("utf-8", "replace").decode()})


async def send_refusal(error: VectorpoolError, scope: HTTPScope, send: Send) -> None:
    """Send an error as the whole response."""
    if is_chromas(scope["path"]):
        media_type, body = "application/json", chroma_error(error)
    else:
        media_type, body = PROBLEM_MEDIA_TYPE, problem_body(error, scope["path"])
    headers = {"content-type": media_type, "content-length": str(len(body)), **problem_headers(error)}
    if error.retry_after_s is not None:
        # Whoever comes back should find another instance, not this connection.
        headers["connection"] = "close"
    start: HTTPResponseStartEvent = {
        "type": "http.response.start",
        "status": error.status,
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body, "more_body": False})
