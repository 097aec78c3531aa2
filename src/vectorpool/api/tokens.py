"""Signed tokens: making one, and revoking one."""

from __future__ import annotations

from typing import Any, Final

from litestar import Controller, Response, post

from vectorpool.api.auditing import audited
from vectorpool.api.call import Call
from vectorpool.api.documentation import documented
from vectorpool.api.requests import MintTokenBody, RevokeTokenBody, decode
from vectorpool.api.responses import respond
from vectorpool.errors import InvalidId, InvalidRequest, LimitExceeded, NoTokenSecret, StoreUnavailable
from vectorpool.identity.grants import Grant, Minted
from vectorpool.identity.revocations import Revocation

_MAX_BODY_BYTES: Final = 256 * 1024
# Ids of a token that its entry of the audit has.
_MOST_SHOWN: Final = 100


class Tokens(Controller):
    """JSON web tokens of this service's own secret."""

    path = "/admin/tokens"
    tags = ("admin",)

    @post(
        status_code=201,
        summary="Make a token",
        request_max_body_size=_MAX_BODY_BYTES,
        operation_class=documented(
            takes=MintTokenBody,
            gives=Minted,
            problems=(InvalidRequest, InvalidId, LimitExceeded, NoTokenSecret),
            with_commit=False,
        ),
    )
    async def mint_token(self, request: Call) -> Response[Any]:
        """Make a JSON web token, signed by the first secret. Any instance with that secret takes it."""
        body = decode(await request.body(), MintTokenBody)
        grant = Grant(
            name=body.name,
            users=body.users,
            avatars=body.avatars,
            access=body.access,
            is_admin=body.admin,
            limits=body.limits,
            ttl_s=body.ttl_s,
        )
        asked = {"name": body.name, "users": _shown(body.users), "avatars": _shown(body.avatars)}
        rights = {"access": body.access, "admin": body.admin, "ttl_s": body.ttl_s}
        async with audited(request, "mint-token", asked={**asked, **rights}) as added:
            minted = request.authority.mint(grant)
            added["token_id"] = minted.token_id
        response = respond(minted, status=201)
        response.headers["Cache-Control"] = "no-store"
        return response

    @post(
        "/revoke",
        status_code=200,
        summary="Revoke a token",
        request_max_body_size=_MAX_BODY_BYTES,
        operation_class=documented(
            takes=RevokeTokenBody,
            gives=Revocation,
            problems=(InvalidRequest, LimitExceeded, NoTokenSecret, StoreUnavailable),
            with_commit=False,
        ),
    )
    async def revoke_token(self, request: Call) -> Response[Any]:
        """Revoke a token by its id, on this instance at once and on every other one within a minute."""
        body = decode(await request.body(), RevokeTokenBody)
        expires_s = None if body.expires_at_ms is None else body.expires_at_ms / 1000
        async with audited(request, "revoke-token", token_id=body.token_id):
            revoking = request.authority.revoke(body.token_id, expires_s)
            revocation = await request.context.within(revoking, changes=True)
        return respond(revocation)


def _shown(ids: list[str] | str | None) -> list[str] | str | None:
    """Return ids for the audit, of many the first ones."""
    return (
        [*ids[:_MOST_SHOWN], f"and {len(ids) - _MOST_SHOWN} more"]
        if isinstance(ids, list) and ids[_MOST_SHOWN:]
        else ids
    )
