"""Minting: a token allows what was asked for, and a grant that cannot be meant makes none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tokens import ISSUER, NOW_S, SECRET, Clock, opened
from vectorpool.errors import InvalidId, InvalidRequest, NoTokenSecret, Unauthenticated
from vectorpool.identity.caller import Caller
from vectorpool.identity.grants import MAX_TTL_S, Grant


async def test_a_minted_token_allows_what_was_asked_for() -> None:
    """Every instance with the secret takes it until its time is over; it has the issuer and audience that are set."""
    for settings in ({}, {"token_issuer": ISSUER, "token_audience": "b, a"}):
        clock = Clock()
        authority = await opened(clock, token_secret=f"k1:{SECRET}", **settings)
        minted = authority.mint(Grant(users=["alice"], avatars=["7"], access="write", limits={"requests_per_s": 5}))
        assert (minted.token_id, minted.expires_at_ms, minted.key_id) == ("id-1", (NOW_S + 3600) * 1000, "k1")
        another = await opened(clock, token_secret=f"k1:{SECRET}", **settings)
        assert await another.identify(minted.token.encode()) == Caller(
            "token", frozenset({"alice"}), False, frozenset({"7"}), True, {"requests_per_s": 5}, "id-1"
        )
        clock.now_s += 3600 + 60
        with pytest.raises(Unauthenticated, match="expired"):
            await another.identify(minted.token.encode())
        operator = authority.mint(Grant(is_admin=True, ttl_s=MAX_TTL_S, name="ops"))
        assert await authority.identify(operator.token.encode()) == Caller(
            "ops", frozenset(), is_admin=True, may_write=False, token_id="id-2"
        )
        everybody = authority.mint(Grant(users="*"))
        assert (await authority.identify(everybody.token.encode())).users is None


@pytest.mark.parametrize(
    "grant",
    [
        {},
        {"users": ["*"]},
        {"users": ["a/b"]},
        {"users": [""]},
        {"users": ["a"], "avatars": [".."]},
        {"users": ["a"], "ttl_s": 0},
        {"users": ["a"], "ttl_s": MAX_TTL_S + 1},
        {"users": ["a"], "name": ""},
        {"users": ["a"], "name": "x" * 65},
        {"users": ["a"] * 1001},
        {"users": ["a"], "avatars": ["7"] * 1001},
        {"users": [str(number).zfill(100) for number in range(1000)]},
        {"users": ["a"], "limits": {"a": float("nan")}},
        {"users": ["a"], "limits": {"a": -1.0}},
    ],
)
async def test_a_grant_that_cannot_be_meant_makes_no_token(grant: dict[str, Any]) -> None:
    """Each is refused with a sentence, so no token is made that the service would refuse later."""
    authority = await opened(Clock(), token_secret=SECRET)
    with pytest.raises((InvalidRequest, InvalidId)):
        authority.mint(Grant(**grant))


async def test_without_a_secret_nothing_is_minted() -> None:
    """An admin key alone signs nothing; the error names the setting."""
    authority = await opened(Clock(), admin_key=SECRET)
    with pytest.raises(NoTokenSecret, match="VECTORPOOL_TOKEN_SECRET"):
        authority.mint(Grant(users=["a"]))
