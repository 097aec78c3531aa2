"""What is refused before a route is looked for: paths that say two things, and callers that may not go there.

The router joins repeated slashes and sees a path already decoded: without this guard, ``DELETE /users//collections``
would be about a user called "collections", and ``%2F`` in an id would name another route.

Whom a request is about is read from the decoded path in the router's own way, segment by segment, so that there is no
second reading to slip through. What only a body names (the target of a fork, a new tenant) its handler asks the caller
about: see ``By``.
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from litestar.types import HTTPScope

from vectorpool.api.callers import NOBODY, Caller, Callers
from vectorpool.errors import Forbidden, InvalidId, Unauthenticated, VectorpoolError

# How a handler asks who calls.
By = NamedDependency[SkipValidation[Caller]]

_CALLER: Final = "caller"
_SCOPED: Final = frozenset({"users", "admin", "api"})
# Asked without a token: what load balancers and people new to the service ask, and what Chroma's servers leave open.
_OPEN_FAMILIES: Final = frozenset({"health", "schema"})
_OPEN: Final = frozenset(
    {
        ("api", "v2"),
        ("api", "v2", "heartbeat"),
        ("api", "v2", "version"),
        ("api", "v2", "healthcheck"),
        ("api", "v2", "pre-flight-checks"),
    }
)
# /users/{user_id}/avatars/{avatar_id}/documents: below these segments a slash belongs to the document's path.
_ABOVE_DOCUMENT: Final = 5


def refuse(scope: HTTPScope, callers: Callers) -> VectorpoolError | None:
    """Return why a request is refused, or None if the routes may decide; note its caller for ``provide_caller``."""
    segments = _segments(scope)
    caller = NOBODY
    if not _is_open(segments):
        try:
            caller = callers.identify(scope["headers"])
        except Unauthenticated as error:
            return error
    scope.setdefault("state", {})[_CALLER] = caller
    return _refuse_path(scope, segments) or _refuse_caller(segments, caller)


def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    """Return who calls: the value of a handler's ``caller``."""
    caller: Caller = request.scope["state"][_CALLER]
    return caller


def _segments(scope: HTTPScope) -> list[str]:
    """Return the path's segments as the router will see them: decoded, and empty ones left out."""
    path = scope["path"]
    if root := scope.get("root_path"):
        path = path.split(root, maxsplit=1)[-1]
    return [segment for segment in path.split("/") if segment]


def _is_open(segments: list[str]) -> bool:
    return bool(segments) and (segments[0] in _OPEN_FAMILIES or tuple(segments) in _OPEN)


def _refuse_path(scope: HTTPScope, segments: list[str]) -> InvalidId | None:
    if not segments or segments[0] not in _SCOPED:
        return None
    if "//" in scope["path"]:
        return InvalidId(
            "The path has an empty segment, so an id in it is empty. Give every id at least one character."
        )
    head: bytes = (scope.get("raw_path") or b"").lower()
    if b"%2f" not in head and b"%5c" not in head:
        return None
    match segments:
        case ["users", _, "avatars", _, "documents", _, *_]:
            # The first part is empty: the path begins with a slash.
            head = b"/".join(head.split(b"/")[: _ABOVE_DOCUMENT + 1])
    if b"%2f" in head or b"%5c" in head:
        return InvalidId("An id in the path holds an encoded slash. Remove it, or encode it your own way.")
    return None


def _refuse_caller(segments: list[str], caller: Caller) -> Forbidden | None:
    match segments:
        case ["users", user_id, *_] | ["api", "v2", "tenants", user_id, *_]:
            if not caller.may_touch(user_id):
                return Forbidden("This token may not touch the user in the path. Send one that may.")
        case ["admin", *_] | ["users"]:
            if not caller.is_admin:
                return Forbidden("This token may not operate the service. Send one with admin = true.")
    return None
