"""Where a sync sends its commands: the router of an instance, or a service at a URL."""

from __future__ import annotations

from typing import Protocol

from vectorpool.answers import Answer
from vectorpool.commands import Command
from vectorpool.context import RequestContext


class Router(Protocol):
    """Finds the user's shard and executes a command there."""

    async def execute(self, user_id: str, command: Command, context: RequestContext) -> Answer:
        """Return the answer; raise a VectorpoolError."""
        ...
