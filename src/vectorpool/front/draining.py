"""Draining: an instance that shuts down refuses new requests and waits for those under way."""

from __future__ import annotations

import asyncio
from typing import Final

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.refusals import send_refusal
from vectorpool.errors import Draining
from vectorpool.front.stages import Stage

# A supervisor would restart an instance that does not answer the first, in the middle of its commits. The others say
# that it drains.
_ANSWERED: Final = frozenset({"/health/live", "/health/ready", "/admin/ready"})


class DrainingStage:
    """Counts the requests under way. After ``leave`` it refuses all but the questions whether it lives and is ready."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner
        self._is_leaving = False
        self._under_way = 0
        self._idle = asyncio.Event()

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if self._is_leaving and scope["path"] in _ANSWERED:
            # The end does not wait for those.
            await self._inner(scope, receive, send)
            return
        if self._is_leaving:
            refusal = Draining("The instance is shutting down. Send the request to another one.")
            await send_refusal(refusal, scope, send)
            return
        self._under_way += 1
        try:
            await self._inner(scope, receive, send)
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                self._idle.set()

    @property
    def is_leaving(self) -> bool:
        """Whether new requests are refused."""
        return self._is_leaving

    async def leave(self, timeout_s: float) -> int:
        """Refuse new requests from now on; wait for those under way, and return the number that did not end."""
        self._is_leaving = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._under_way:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            pass
        return self._under_way
