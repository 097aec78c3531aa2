"""A router that reads in one way: as fresh as a request asks, or from a past commit."""

from __future__ import annotations

from collections.abc import AsyncIterator

from vectorpool.answers import Answer, PoolView
from vectorpool.chroma_bodies import Target
from vectorpool.commands import Command, Reading
from vectorpool.shard.router import Router


class ReadingRouter:
    """A router that reads as one request asks; everything else goes through as it is."""

    def __init__(self, router: Router, reading: Reading) -> None:
        self._router = router
        self._reading = reading

    async def start(self) -> None:
        """Start the router behind it."""
        await self._router.start()

    async def stop(self, budget_s: float | None = None) -> None:
        """Stop the router behind it."""
        await self._router.stop(budget_s)

    def is_ready(self) -> bool:
        """Whether the router behind it is ready."""
        return self._router.is_ready()

    async def execute(self, user_id: str, command: Command, reading: Reading | None = None) -> Answer:
        """Answer one command as the request asks."""
        return await self._router.execute(user_id, command, reading or self._reading)

    async def execute_body(
        self, user_id: str, target: Target, body: AsyncIterator[bytes], reading: Reading | None = None
    ) -> Answer:
        """Answer the command of a body as the request asks."""
        return await self._router.execute_body(user_id, target, body, reading or self._reading)

    async def pool_view(self) -> PoolView:
        """Return every slot of the instance."""
        return await self._router.pool_view()
