"""What is refused before a route is looked for.

The router joins repeated slashes and sees a path already decoded: without this guard, ``DELETE /users//collections``
would be about a user called "collections", and ``%2F`` in an id would name another route.
"""

from __future__ import annotations

from typing import Final

from litestar.types import Scope

from vectorpool.errors import InvalidId, VectorpoolError

_SCOPED: Final = (b"/users/", b"/admin/")
# Below this segment a slash belongs to the document's path, encoded or not.
_DOCUMENTS: Final = b"/documents/"


def refuse_path(scope: Scope) -> VectorpoolError | None:
    """Return why a path cannot name anything of a user's, or None if the routes may decide."""
    raw: bytes = scope.get("raw_path") or b""
    if not raw.startswith(_SCOPED):
        return None
    if b"//" in raw:
        return InvalidId(
            "The path has an empty segment, so an id in it is empty. Give every id at least one character."
        )
    head = raw.partition(_DOCUMENTS)[0].lower()
    if b"%2f" in head or b"%5c" in head:
        return InvalidId("An id in the path holds an encoded slash. Remove it, or encode it your own way.")
    return None
