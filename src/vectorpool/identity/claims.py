"""From the claims of a verified token to its caller.

Tokens of this service's own secrets have the claims ``users``, ``avatars``, ``access``, ``admin`` and ``limits``. For
tokens of an identity provider the settings map these names to the provider's: ``sub`` may be the user. A mapped name
is first looked up as it is, and then as a path whose parts are separated by dots (``realm_access.user``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from vectorpool.errors import InvalidId, InvalidRequest, Unauthenticated
from vectorpool.identity.caller import ALL_USERS, Caller
from vectorpool.limits import read_limits
from vectorpool.names import check_avatar_id, check_user_id, excerpt
from vectorpool.settings import Settings

# Clocks of issuers and of this service may differ by this much.
LEEWAY_S: Final = 60
MAX_IDS: Final = 1000
MAX_LIMITS: Final = 32
MAX_TOKEN_ID_CHARS: Final = 256
# Of the caller's name, which goes with each of its requests to the shards.
MAX_NAME_CHARS: Final = 64


class ClaimNames(msgspec.Struct, frozen=True):
    """The names of the claims in the tokens of one issuer."""

    users: str = "users"
    avatars: str = "avatars"
    access: str = "access"
    admin: str = "admin"
    limits: str = "limits"
    audience: str = "aud"


OWN_NAMES: Final = ClaimNames()


def names_of(settings: Settings) -> ClaimNames:
    """Return the names of the claims in tokens of the identity provider."""
    return ClaimNames(
        settings.token_claim_users,
        settings.token_claim_avatars,
        settings.token_claim_access,
        settings.token_claim_admin,
        settings.token_claim_limits,
        settings.token_claim_audience,
    )


class Verified(msgspec.Struct, frozen=True):
    """A token whose signature and claims hold, and the time, in seconds since 1970, at which it expires."""

    caller: Caller
    expires_s: float


def read_claims(
    claims: Mapping[str, Any],
    names: ClaimNames,
    *,
    issuer: str | None,
    audiences: frozenset[str],
    now_s: float,
) -> Verified:
    """Return what a token's claims allow.

    ``issuer`` is checked if it is given, ``audiences`` if they or the token's are. Raises Unauthenticated with a
    sentence that names the claim and repeats no value of it.
    """
    expires_s = _time(claims, "exp")
    if expires_s is None:
        raise Unauthenticated("The token has no exp, so it would never expire. Issue one with exp.")
    if now_s >= expires_s + LEEWAY_S:
        raise Unauthenticated("The token has expired. Send a new one.")
    for name in ("nbf", "iat"):
        begins_s = _time(claims, name)
        if begins_s is not None and begins_s > now_s + LEEWAY_S:
            raise Unauthenticated(
                f"The token's {name} is in the future. Check the clocks of its issuer and of this host."
            )
    if issuer is not None and claims.get("iss") != issuer:
        raise Unauthenticated("The token's iss is not this service's issuer. Send a token of the issuer that is set.")
    told = _texts(claims, names.audience, max_count=MAX_IDS)
    # RFC 7519, 4.1.3: a token that names audiences is refused unless this service is one of them.
    if (audiences or told) and audiences.isdisjoint(told or ()):
        raise Unauthenticated("The token is meant for another audience. Send one whose aud is this service.")
    return Verified(_caller(claims, names), expires_s)


def _caller(claims: Mapping[str, Any], names: ClaimNames) -> Caller:
    token_id = claims.get("jti")
    if token_id is not None and not (isinstance(token_id, str) and 0 < len(token_id) <= MAX_TOKEN_ID_CHARS):
        raise _invalid("jti", f"must be text of 1 to {MAX_TOKEN_ID_CHARS} characters")
    subject = claims.get("sub")
    access = find(claims, names.access)
    if access not in (None, "read", "write"):
        raise _invalid(names.access, 'must be "read" or "write"')
    is_admin = find(claims, names.admin)
    if is_admin is not None and not isinstance(is_admin, bool):
        raise _invalid(names.admin, "must be true or false")
    limits = find(claims, names.limits)
    return Caller(
        name=subject[:MAX_NAME_CHARS] if isinstance(subject, str) and subject else "jwt",
        users=_users(claims, names.users),
        is_admin=bool(is_admin),
        avatars=_ids(_texts(claims, names.avatars, max_count=MAX_IDS), check_avatar_id, names.avatars),
        may_write=access == "write",
        limits=None if limits is None else check_limits(limits, names.limits),
        token_id=token_id,
    )


def _users(claims: Mapping[str, Any], name: str) -> frozenset[str] | None:
    """Return the users of a claim, None for all of them.

    "*" means every user only under the name of this service's own claim. Under another name the claim may hold what
    a person chose at the provider, and a person may be called "*".
    """
    if name == OWN_NAMES.users and find(claims, name) == ALL_USERS:
        return None
    texts = _texts(claims, name, max_count=MAX_IDS)
    if texts is not None and ALL_USERS in texts:
        raise _invalid(name, 'holds "*", which is no user')
    return _ids(texts, check_user_id, name) or frozenset()


def check_limits(limits: Any, name: str = "limits") -> dict[str, float | None]:
    """Return the limits of a claim. Raises Unauthenticated unless it is an object of known limits within their ranges.

    A limit that is not known is refused, because its token would be less limited than its issuer thinks.
    """
    if not isinstance(limits, dict) or len(limits) > MAX_LIMITS:
        raise _invalid(name, f"must be an object of at most {MAX_LIMITS} numbers")
    try:
        return read_limits(limits, nulls=False)
    except InvalidRequest as error:
        raise _invalid(name, f"holds no limits ({error.detail.rstrip('.')})") from None


def find(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by the path that the name spells; None if there is none."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def _texts(claims: Mapping[str, Any], name: str, *, max_count: int) -> list[str] | None:
    """Return a claim that is a text or a list of texts; None if there is none."""
    found = find(claims, name)
    if found is None:
        return None
    texts = [found] if isinstance(found, str) else found
    if not isinstance(texts, list) or len(texts) > max_count or not all(isinstance(text, str) for text in texts):
        raise _invalid(name, f"must be a text or a list of at most {max_count} texts")
    return texts


def _ids(texts: Iterable[str] | None, check: Any, name: str) -> frozenset[str] | None:
    if texts is None:
        return None
    try:
        return frozenset(check(text) for text in texts)
    except InvalidId:
        raise _invalid(name, "holds an id that cannot be") from None


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a claim that is a time in seconds since 1970; None if there is none."""
    found = claims.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) < 1e15:
        raise _invalid(name, "must be a time in seconds since 1970")
    return float(found)


def _invalid(name: str, why: str) -> Unauthenticated:
    return Unauthenticated(f"The token's claim {excerpt(name)} {why}. Issue a token that is right.")
