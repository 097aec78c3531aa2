"""What all stages share: the state that a request carries in its scope, and what its first lines say."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.call import CONTEXT_KEY
from vectorpool.context import RequestContext

_HEAD: Final = "head"
# A length of more digits is none.
_DIGITS: Final = 20


class Stage(Protocol):
    """A stage, or the application behind the last one.

    A stage that has nothing to do after the answer returns what the next stage returns: a coroutine less for each.
    """

    def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request, or pass it on."""
        ...


class Head:
    """What the path and the headers of a request say, read once for all stages.

    ``segments`` are those of the path as the application's router reads them: decoded, without empty ones. ``fields``
    are the headers by their names in lower case; of several with one name it has the last. ``length`` is that of the
    body as announced, in bytes: 0 if there is none, None if it is not known.
    """

    __slots__ = ("_headers", "fields", "length", "segments")

    def __init__(self, scope: HTTPScope) -> None:
        path = scope["path"]
        if root := scope.get("root_path"):
            path = path.split(root, maxsplit=1)[-1]
        self.segments = path[1:].split("/")
        if "" in self.segments or path[:1] != "/":
            self.segments = [segment for segment in path.split("/") if segment]
        self._headers = list(scope["headers"])
        self.fields = fields = dict(self._headers)
        length = fields.get(b"content-length", b"0")
        is_known = b"transfer-encoding" not in fields and length.isdigit() and len(length) < _DIGITS
        self.length = int(length) if is_known else None

    def has_several(self, name: bytes) -> bool:
        """Return whether more than one header has a name."""
        return self.has_repeated and sum(other == name for other, _ in self._headers) > 1

    @property
    def has_repeated(self) -> bool:
        """Whether any two headers have the same name."""
        return len(self.fields) != len(self._headers)


def head_of(scope: HTTPScope) -> Head:
    """Return what the first lines of the request say."""
    try:
        head: Head = scope["state"][_HEAD]
    except KeyError:
        head = state_of(scope)[_HEAD] = Head(scope)
    return head


def state_of(scope: HTTPScope) -> dict[str, Any]:
    """Return what the stages keep for one request."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state


def context_of(scope: HTTPScope) -> RequestContext:
    """Return the context of the request."""
    context: RequestContext = scope["state"][CONTEXT_KEY]
    return context


def segments_of(scope: HTTPScope) -> list[str]:
    """Return the segments of the path; see ``Head``."""
    return head_of(scope).segments


def user_of(scope: HTTPScope) -> str | None:
    """Return the user that the path is about, or None if it is about none."""
    match segments_of(scope):
        case ["users", user_id, *_] | ["api", "v2", "tenants", user_id, *_] | ["vectorflow", "users", user_id, *_]:
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
    """Return the length of the body as the headers announce it; see ``Head``."""
    return head_of(scope).length
