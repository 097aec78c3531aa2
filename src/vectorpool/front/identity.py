"""Identity: the caller of a request, and whether it may go where the path leads.

The user that a path is about is read from the decoded path in the router's own way, segment by segment, so that there
is no second interpretation of a path. What a caller may do there is decided by ``vectorpool.identity.access``.
"""

from __future__ import annotations

from collections.abc import Awaitable

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.call import CALLER_KEY, CONTEXT_KEY
from vectorpool.api.callers import Callers, token_of
from vectorpool.api.refusals import send_refusal
from vectorpool.errors import Forbidden, TokenKeysUnavailable, Unauthenticated
from vectorpool.front.stages import Stage, head_of, segments_of
from vectorpool.identity.access import check_access
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import ANY_CALLER, NO_CALLER, Caller, reserved
from vectorpool.settings import Settings


class IdentityStage:
    """Finds the caller by its token. Refuses a missing or unknown token, and a path that the token does not allow.

    ``callers`` are those of the tokens file; ``authority`` knows all other tokens.
    """

    def __init__(self, inner: Stage, callers: Callers, authority: Authority | None = None) -> None:
        self._inner = inner
        self.callers = callers
        self._authority = authority or Authority(Settings())

    @property
    def needs_token(self) -> bool:
        """Whether a request needs a token, but for the paths that are open."""
        return self.callers.count is not None or self._authority.is_configured

    def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on with its caller, or refuse it."""
        place = head_of(scope).place
        if place.is_reserved:
            return self._reserved(scope, receive, send)
        if place.is_open:
            return self._pass_on(NO_CALLER, scope, receive, send)
        if not self.needs_token:
            # The one caller that may do everything.
            return self._pass_on(ANY_CALLER, scope, receive, send)
        return self._identify(scope, receive, send)

    async def _reserved(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass a request for a user of the service itself on if the service sends it; refuse all others."""
        try:
            caller = self._authority.service_of(token_of(scope["headers"]))
        except Unauthenticated:
            caller = None
        if caller is None:
            await send_refusal(reserved(), scope, send)
            return
        await self._pass_on(caller, scope, receive, send)

    async def _identify(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        try:
            segments = segments_of(scope)
            token = token_of(scope["headers"], is_plain=segments[:1] == ["vectorflow"])
            caller = self.callers.find(token) or await self._authority.identify(token)
            check_access(caller, scope["method"], segments)
        except (Unauthenticated, Forbidden, TokenKeysUnavailable) as error:
            await send_refusal(error, scope, send)
            return
        await self._pass_on(caller, scope, receive, send)

    def _pass_on(self, caller: Caller, scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        state = scope["state"]
        state[CALLER_KEY] = caller
        context = state[CONTEXT_KEY]
        context.caller = caller.name
        context.is_confined = caller.avatars is not None
        return self._inner(scope, receive, send)
