"""Identity: the caller of a request, and whether it may go where the path leads.

The user that a path is about is read from the decoded path in the router's own way, segment by segment, so that there
is no second interpretation of a path. A user that only a body names (the target of a fork, a new tenant) is checked by
its handler: see ``Caller.check``.
"""

from __future__ import annotations

from typing import Final

from litestar.types import HTTPScope, Receive, Send

from vectorpool.api.call import CALLER_KEY
from vectorpool.api.callers import NO_CALLER, Caller, Callers
from vectorpool.api.refusals import send_refusal
from vectorpool.errors import Forbidden, Unauthenticated
from vectorpool.front.stages import Stage, context_of, segments_of, state_of

# Open without a token: what load balancers and new callers ask, and what Chroma's servers leave open.
_OPEN_FAMILIES: Final = frozenset({"health", "schema"})
_OPEN: Final = frozenset(
    {
        ("api", "v2"),
        ("api", "v2", "heartbeat"),
        ("api", "v2", "version"),
        ("api", "v2", "healthcheck"),
        ("api", "v2", "pre-flight-checks"),
    }
)


class IdentityStage:
    """Finds the caller by its token. Refuses a missing or unknown token, and a path that the token does not allow."""

    def __init__(self, inner: Stage, callers: Callers) -> None:
        self._inner = inner
        self.callers = callers

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on with its caller, or refuse it."""
        segments = segments_of(scope)
        try:
            caller = NO_CALLER if _is_open(segments) else self.callers.identify(scope["headers"])
            state_of(scope)[CALLER_KEY] = caller
            context_of(scope).caller = caller.name
            _check_caller(segments, caller)
        except (Unauthenticated, Forbidden) as error:
            await send_refusal(error, scope, send)
            return
        await self._inner(scope, receive, send)


def _is_open(segments: list[str]) -> bool:
    return bool(segments) and (segments[0] in _OPEN_FAMILIES or tuple(segments) in _OPEN)


def _check_caller(segments: list[str], caller: Caller) -> None:
    match segments:
        case ["users", user_id, *_] | ["api", "v2", "tenants", user_id, *_]:
            if not caller.may_touch(user_id):
                raise Forbidden("This token may not touch the user in the path. Send one that may.")
        case ["admin", *_] | ["users"]:
            if not caller.is_admin:
                raise Forbidden("This token may not operate the service. Send one with admin = true.")
