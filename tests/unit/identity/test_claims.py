"""Claims: what a verified token allows, under this service's names and under a provider's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.tokens import NOW_S
from vectorpool.errors import Unauthenticated
from vectorpool.identity.caller import Caller
from vectorpool.identity.claims import MAX_IDS, OWN_NAMES, ClaimNames, read_claims

PROVIDERS = ClaimNames(
    "sub", "https://app.example/avatars", "realm_access.vectorpool", "is:admin", "limits", "client_id"
)


def read(claims: dict[str, Any], names: ClaimNames = OWN_NAMES, **checks: Any) -> Caller:
    checks = {"issuer": None, "audiences": frozenset(), **checks}
    return read_claims({"exp": NOW_S + 1, **claims}, names, now_s=NOW_S, **checks).caller


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({}, Caller("jwt", frozenset(), may_write=False)),
        ({"users": "alice"}, Caller("jwt", frozenset({"alice"}), may_write=False)),
        ({"users": ["a", "b", "a"]}, Caller("jwt", frozenset({"a", "b"}), may_write=False)),
        ({"users": []}, Caller("jwt", frozenset(), may_write=False)),
        ({"users": "*"}, Caller("jwt", None, may_write=False)),
        ({"users": ["a"], "avatars": []}, Caller("jwt", frozenset({"a"}), avatars=frozenset(), may_write=False)),
        ({"users": "a", "avatars": "*"}, Caller("jwt", frozenset({"a"}), avatars=frozenset({"*"}), may_write=False)),
        ({"access": "read"}, Caller("jwt", frozenset(), may_write=False)),
        ({"access": "write"}, Caller("jwt", frozenset())),
        ({"admin": False}, Caller("jwt", frozenset(), may_write=False)),
        ({"admin": True}, Caller("jwt", frozenset(), is_admin=True, may_write=False)),
        ({"sub": "s" * 99, "jti": "x"}, Caller("s" * 64, frozenset(), may_write=False, token_id="x")),
    ],
)
def test_what_claims_allow(claims: dict[str, Any], allowed: Caller) -> None:
    """Each claim allows what it says, and one that is not there allows the least."""
    assert read(claims) == allowed


@pytest.mark.parametrize(
    "claims",
    [
        {"users": 7},
        {"users": {"a": 1}},
        {"users": [7]},
        {"users": [["a"]]},
        {"users": ["*"]},
        {"users": ["a", "*"]},
        {"users": ["a/b"]},
        {"users": [".."]},
        {"users": ""},
        {"users": ["a"] * (MAX_IDS + 1)},
        {"avatars": 7},
        {"avatars": [None]},
        {"avatars": ["../7"]},
        {"access": "admin"},
        {"access": "Write"},
        {"access": ["write"]},
        {"access": True},
        {"admin": "true"},
        {"admin": 1},
        {"admin": []},
        {"jti": 7},
        {"jti": ""},
        {"jti": "x" * 257},
        {"limits": 7},
        {"limits": {"a": "b"}},
        {"limits": {"a": -1}},
        {"limits": {"a": True}},
        {"limits": {str(number): 1 for number in range(33)}},
    ],
)
def test_claims_of_another_shape_are_refused(claims: dict[str, Any]) -> None:
    """A claim that cannot be meant refuses the whole token: it is not read as the least, nor as the most."""
    with pytest.raises(Unauthenticated, match=next(iter(claims))):
        read(claims)


def test_a_providers_names_are_mapped() -> None:
    """A name is found as it is, with slashes and colons, or as a path; this service's own names then mean nothing."""
    claims = {
        "sub": "alice",
        "https://app.example/avatars": ["7"],
        "realm_access": {"vectorpool": "write"},
        "is:admin": True,
        "client_id": "app",
        "users": "*",
        "access": "read",
        "admin": False,
        "avatars": ["8"],
    }
    allowed = read(claims, PROVIDERS, audiences=frozenset({"app"}))
    assert allowed == Caller("alice", frozenset({"alice"}), True, frozenset({"7"}), True)
    with pytest.raises(Unauthenticated, match="audience"):
        read({"sub": "alice", "aud": "app"}, PROVIDERS, audiences=frozenset({"app"}))
    for nested in ({"realm_access": "write"}, {"realm_access": ["vectorpool"]}, {"realm_access": {}}):
        assert read({"sub": "alice", "client_id": "app", **nested}, PROVIDERS, audiences=frozenset({"app"})) == Caller(
            "alice", frozenset({"alice"}), may_write=False
        )


def test_a_person_who_is_called_star_is_not_everybody() -> None:
    """ "*" means every user only in a claim that is named users: another may hold what a person chose."""
    for names in (ClaimNames("sub"), ClaimNames("preferred_username")):
        with pytest.raises(Unauthenticated, match="no user"):
            read({names.users: "*"}, names)
        with pytest.raises(Unauthenticated, match="no user"):
            read({names.users: ["*"]}, names)
