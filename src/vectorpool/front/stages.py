"""What all stages share: the state that a request carries in its scope, and how a stage refuses a request."""

from __future__ import annotations

from typing import Any, Final, Protocol

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.call import CONTEXT_KEY
from vectorpool.context import RequestContext

SEGMENTS_KEY: Final = "segments"


class Stage(Protocol):
    """A stage, or the application behind the last one."""

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        ...


def state_of(scope: HTTPScope) -> dict[str, Any]:
    """Return what the stages keep for one request."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state


def context_of(scope: HTTPScope) -> RequestContext:
    """Return the context of the request."""
    context: RequestContext = scope["state"][CONTEXT_KEY]
    return context


def segments_of(scope: HTTPScope) -> list[str]:
    """Return the path's segments as the application's router reads them: decoded, without empty ones."""
    state = state_of(scope)
    segments: list[str] | None = state.get(SEGMENTS_KEY)
    if segments is None:
        path = scope["path"]
        if root := scope.get("root_path"):
            path = path.split(root, maxsplit=1)[-1]
        segments = state[SEGMENTS_KEY] = [segment for segment in path.split("/") if segment]
    return segments


def user_of(scope: HTTPScope) -> str | None:
    """Return the user that the path is about, or None if it is about none."""
    match segments_of(scope):
        case ["users", user_id, *_] | ["api", "v2", "tenants", user_id, *_]:
            return user_id
    return None


def is_stream(scope: HTTPScope) -> bool:
    """Return whether the body is a stream of records, which is written while it arrives."""
    if scope["method"] != "PUT":
        return False
    match segments_of(scope):
        case ["users", _, "collections", _, "records", "stream"] | [
            "users",
            _,
            "avatars",
            _,
            "collections",
            _,
            "records",
            "stream",
        ]:
            return True
    return False


def announced_length(scope: HTTPScope) -> int | None:
    """Return the length of the body as the headers announce it, 0 if there is none; None if it is not known."""
    length = 0
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            if not value.isdigit() or len(value) >= 20:
                return None
            length = int(value)
    return length
