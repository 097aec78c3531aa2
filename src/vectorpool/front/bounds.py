"""The bounds of paths and headers: a path that two readers could read differently, or headers that mean nothing.

The application's router joins repeated slashes and sees a path that is already decoded. Without this stage,
``DELETE /users//collections`` would be about a user called "collections", and ``%2F`` in an id would name another
route. The HTTP server replaces bytes that are not UTF-8 by one and the same character. Without this stage, ``J%F6rg``
and ``J%E4rg`` would be one user.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final
from urllib.parse import unquote_to_bytes

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.read_options import read_options_of
from vectorpool.api.refusals import send_refusal
from vectorpool.errors import InvalidId, InvalidRequest
from vectorpool.front.stages import Place, Stage, context_of, head_of

# The first segments of paths that name users or operate the service.
_SCOPED: Final = frozenset({"users", "admin", "api", "vectorflow"})
# /users/{user_id}/avatars/{avatar_id}/documents: below these segments a slash belongs to the document's path.
_ABOVE_DOCUMENT: Final = 5


class BoundsStage:
    """Refuses ambiguous paths, and puts the read options of the headers and the query into the context."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on, or refuse it."""
        head = head_of(scope)
        raw, query = scope.get("raw_path") or b"", scope["query_string"]
        try:
            if query or b"%" in raw or not raw.isascii():
                check_utf8(scope)
            if head.place.family in _SCOPED:
                check_path(head.place, raw)
                if (options := read_options_of(head.fields, query)) is not None:
                    context_of(scope).read = options
        except InvalidRequest as error:
            return send_refusal(error, scope, send)
        return self._inner(scope, receive, send)


def check_utf8(scope: HTTPScope) -> None:
    """Raise InvalidId if the decoded path is not UTF-8, InvalidRequest if the decoded query is not."""
    if not _is_utf8(scope.get("raw_path") or b""):
        raise InvalidId("The path holds bytes that are not UTF-8. Write each id in UTF-8, then percent-encode it.")
    if not _is_utf8(scope["query_string"]):
        raise InvalidRequest("The query holds bytes that are not UTF-8. Write it in UTF-8, then percent-encode it.")


def _is_utf8(raw: bytes) -> bool:
    if raw.isascii() and b"%" not in raw:
        return True
    try:
        unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False
    return True


def check_path(place: Place, raw: bytes) -> None:
    """Raise InvalidId if the path has an empty segment, or an encoded slash in an id."""
    if place.has_gap:
        raise InvalidId("The path has an empty segment, so an id in it is empty. Give every id at least one character.")
    if b"%" not in raw:
        return
    head = raw.lower()
    if b"%2f" not in head and b"%5c" not in head:
        return
    match place.segments:
        case ["users", _, "avatars", _, "documents", _, *_]:
            # The first part is empty: the path begins with a slash.
            head = b"/".join(head.split(b"/")[: _ABOVE_DOCUMENT + 1])
    if b"%2f" in head or b"%5c" in head:
        raise InvalidId("An id in the path holds an encoded slash. Remove it, or encode it your own way.")
