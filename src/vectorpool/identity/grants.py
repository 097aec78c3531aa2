"""What a new token is to allow, and the claims that say so."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from vectorpool.errors import InvalidRequest, Unauthenticated
from vectorpool.identity.caller import ALL_USERS
from vectorpool.identity.claims import MAX_IDS, MAX_NAME_CHARS, check_limits
from vectorpool.names import check_avatar_id, check_user_id

MAX_TTL_S: Final = 366 * 86_400
DEFAULT_TTL_S: Final = 3600

Access: TypeAlias = Literal["read", "write"]


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a token is to allow. ``users`` may be "*", every user; ``avatars`` narrows it; ``ttl_s`` is in seconds."""

    name: str = "token"
    users: list[str] | Literal["*"] = []
    avatars: list[str] | None = None
    access: Access = "read"
    is_admin: bool = False
    limits: dict[str, float] | None = None
    ttl_s: int = DEFAULT_TTL_S

    def too_large(self, limit: int) -> InvalidRequest:
        """Return the error of a grant whose token would be longer than ``limit`` bytes."""
        return InvalidRequest(f"The token would be longer than {limit} bytes. Name fewer users and avatars in it.")


class Minted(msgspec.Struct, frozen=True):
    """A new token. ``token_id`` revokes it; ``key_id`` is of the secret that signed it, None if that has none."""

    token: str
    token_id: str
    expires_at_ms: int
    key_id: str | None


def claims_of(grant: Grant, token_id: str, now_s: int) -> dict[str, Any]:
    """Return the claims of a grant. Raises InvalidRequest or InvalidId for one that cannot be meant."""
    if not grant.users and not grant.is_admin:
        raise InvalidRequest('The token would allow nothing. Give it users, a list of ids or "*", or admin.')
    if not 1 <= grant.ttl_s <= MAX_TTL_S:
        raise InvalidRequest(f"The token's ttl_s must be 1 to {MAX_TTL_S} seconds. Choose a time between them.")
    if not 1 <= len(grant.name) <= MAX_NAME_CHARS:
        raise InvalidRequest(f"The token's name must have 1 to {MAX_NAME_CHARS} characters. Choose another one.")
    if len(grant.users) > MAX_IDS or len(grant.avatars or ()) > MAX_IDS:
        raise InvalidRequest(f'The token names more than {MAX_IDS} ids. Name fewer, or give it users = "*".')
    claims: dict[str, Any] = {"sub": grant.name, "jti": token_id, "iat": now_s, "exp": now_s + grant.ttl_s}
    if grant.users == ALL_USERS:
        claims["users"] = ALL_USERS
    else:
        if ALL_USERS in grant.users:
            raise InvalidRequest('The token\'s users hold "*" in a list. Write "*" alone for every user, or only ids.')
        claims["users"] = [check_user_id(user_id) for user_id in grant.users]
    if grant.avatars is not None:
        claims["avatars"] = [check_avatar_id(avatar_id) for avatar_id in grant.avatars]
    claims["access"] = grant.access
    if grant.is_admin:
        claims["admin"] = True
    if grant.limits is not None:
        try:
            check_limits(grant.limits)
        except Unauthenticated as error:
            raise InvalidRequest(error.detail) from None
        claims["limits"] = grant.limits
    return claims
