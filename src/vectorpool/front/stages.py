"""What all stages share: the state that a request carries in its scope, and what its first lines say."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, Protocol

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.call import CONTEXT_KEY
from vectorpool.api.refusals import is_chromas
from vectorpool.context import RequestContext
from vectorpool.identity.access import is_open
from vectorpool.names import is_reserved

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


class Place:
    """What a path says, with any method and of any caller.

    ``segments`` are those of the path as the application's router reads them: decoded, without empty ones; they are
    shared, and not to be changed. ``family`` is the first of them. ``user`` is the user that the path is about, None if
    it is about none; ``is_reserved`` says that it is one of the service's own. A PUT brings a stream of records to a
    place that ``takes_stream``, and an archive to one that ``takes_archive``.
    """

    __slots__ = (
        "family",
        "has_gap",
        "is_chromas",
        "is_open",
        "is_reserved",
        "segments",
        "takes_archive",
        "takes_stream",
        "user",
    )

    def __init__(self, path: str) -> None:
        self.segments = [segment for segment in path.split("/") if segment]
        self.family = self.segments[0] if self.segments else ""
        self.has_gap = "//" in path
        self.is_chromas = is_chromas(path)
        self.is_open = is_open(self.segments)
        self.user: str | None = None
        match self.segments:
            case ["users", user_id, *_] | ["api", "v2", "tenants", user_id, *_] | ["vectorflow", "users", user_id, *_]:
                self.user = user_id
        self.is_reserved = self.user is not None and is_reserved(self.user)
        self.takes_stream = self.takes_archive = False
        match self.segments:
            case ["users", _, "collections", _, "records", "stream"]:
                self.takes_stream = True
            case ["users", _, "avatars", _, "collections", _, "records", "stream"]:
                self.takes_stream = True
            case ["admin", "users", _, "import"] | ["users", _, "directory"]:
                self.takes_archive = True


# Callers send to few paths again and again. One too many makes the memory begin anew.
_MAX_PLACES: Final = 1024
_MAX_REMEMBERED: Final = 512
_places: dict[str, Place] = {}


def place_of(path: str) -> Place:
    """Return what a decoded path says."""
    place = _places.get(path)
    if place is None:
        place = Place(path)
        if len(path) <= _MAX_REMEMBERED:
            if len(_places) >= _MAX_PLACES:
                _places.clear()
            _places[path] = place
    return place


class Head:
    """What the path and the headers of a request say, read once for all stages.

    ``fields`` are the headers by their names in lower case; of several with one name it has the last. ``length`` is
    that of the body as announced, in bytes: 0 if there is none, None if it is not known. ``has_repeated`` says that two
    headers have the same name.
    """

    __slots__ = ("_headers", "fields", "has_repeated", "length", "place", "segments")

    def __init__(self, scope: HTTPScope) -> None:
        path = scope["path"]
        if root := scope.get("root_path"):
            path = path.split(root, maxsplit=1)[-1]
        self.place = place = place_of(path)
        self.segments = place.segments
        self._headers = headers = list(scope["headers"])
        self.fields = fields = dict(headers)
        self.has_repeated = len(fields) != len(headers)
        length = fields.get(b"content-length", b"0")
        is_known = b"transfer-encoding" not in fields and length.isdigit() and len(length) < _DIGITS
        self.length = int(length) if is_known else None

    def has_several(self, name: bytes) -> bool:
        """Return whether more than one header has a name."""
        return self.has_repeated and sum(other == name for other, _ in self._headers) > 1


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
    return head_of(scope).place.user


def announced_length(scope: HTTPScope) -> int | None:
    """Return the length of the body as the headers announce it; see ``Head``."""
    return head_of(scope).length
