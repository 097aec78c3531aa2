"""HEAD is answered wherever GET is: below ``/api`` as Chroma's server does, and for probes that send no GET."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from litestar.types import HTTPScope, Receive, Send

from vectorpool.front.stages import Stage, segments_of


class HeadStage:
    """Passes HEAD on as GET, but for documents, which have a HEAD of their own. The HTTP server leaves the body out."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on."""
        if scope["method"] != "HEAD" or _is_document(scope):
            return self._inner(scope, receive, send)
        return self._answer(scope, receive, send)

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        # A copy: the HTTP server still reads the method from its own scope.
        as_get = cast(HTTPScope, {**scope, "method": "GET"})
        try:
            await self._inner(as_get, receive, send)
        finally:
            if (template := as_get.get("path_template")) is not None:
                scope["path_template"] = template


def _is_document(scope: HTTPScope) -> bool:
    """Return whether the path is one of a document, whose bytes need not be read for a HEAD."""
    match segments_of(scope):
        case ["users", _, "avatars", _, "documents", _, *_]:
            return True
    return False
