"""HEAD in Chroma's protocol: Chroma's server answers it wherever it answers GET."""

from __future__ import annotations

from typing import cast

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.refusals import is_chromas
from vectorpool.front.stages import Stage


class HeadStage:
    """Passes HEAD below ``/api`` on as GET. The HTTP server leaves the body out."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["method"] != "HEAD" or not is_chromas(scope["path"]):
            await self._inner(scope, receive, send)
            return
        # A copy: the HTTP server still reads the method from its own scope.
        as_get = cast(HTTPScope, {**scope, "method": "GET"})
        try:
            await self._inner(as_get, receive, send)
        finally:
            if (template := as_get.get("path_template")) is not None:
                scope["path_template"] = template
