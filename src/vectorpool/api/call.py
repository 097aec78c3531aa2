"""The request as a handler sees it: with the parts of the instance, the context and the caller.

They are properties of the request and not dependencies, because the framework runs a task for each dependency.
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request

from vectorpool.answers import Answer
from vectorpool.api.service import Service
from vectorpool.commands import Command
from vectorpool.context import RequestContext
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import Caller

# Where the front keeps what belongs to one request, in the state of the ASGI scope.
CONTEXT_KEY: Final = "context"
CALLER_KEY: Final = "caller"


class Call(Request[Any, Any, Any]):
    """The type of every handler's parameter ``request``."""

    @property
    def service(self) -> Service:
        """The parts of the instance. They are there after startup."""
        service: Service = self.app.state.service
        return service

    @property
    def context(self) -> RequestContext:
        """The context of the request."""
        context: RequestContext = self.scope["state"][CONTEXT_KEY]
        return context

    async def execute(self, user_id: str, command: Command) -> Answer:
        """Answer one command for this request. Raises VectorpoolError."""
        self.service.note_use(user_id)
        return await self.service.router.execute(user_id, command, self.context)

    @property
    def authority(self) -> Authority:
        """The authority over signed tokens."""
        authority: Authority = self.app.state.authority
        return authority

    @property
    def caller(self) -> Caller:
        """The caller of the request."""
        caller: Caller = self.scope["state"][CALLER_KEY]
        return caller
