"""Signed tokens: what is taken, and every way in which a token may be wrong, forged or confused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.tokens import (
    ISSUER,
    NOW_S,
    OTHER_SECRET,
    SECRET,
    Clock,
    claims_with,
    forged,
    jwk,
    jwks,
    opened,
    own_token,
    pem,
    private_key,
    provider_claims,
    provider_token,
    said,
    with_provider,
)
from vectorpool.errors import TokenKeysUnavailable, Unauthenticated
from vectorpool.identity.authority import MAX_TOKEN_BYTES, Authority
from vectorpool.identity.caller import Caller
from vectorpool.settings import Settings

ALGORITHMS = ["RS256", "ES256", "EdDSA"]


@pytest.fixture
def keys(tmp_path: Path) -> str:
    """The path of a JWKS document with a key of each kind."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(*(jwk(algorithm, algorithm) for algorithm in ALGORITHMS)))
    return str(file)


async def test_a_token_of_the_secret_is_taken() -> None:
    """A token of HS256 gives the caller that its claims describe; without access it reads."""
    authority = await opened(Clock(), token_secret=SECRET)
    assert await authority.identify(own_token(claims_with())) == Caller(
        "someone", frozenset({"alice"}), may_write=False
    )
    whole = claims_with(
        users="*", avatars=["7"], access="write", admin=True, limits={"requests_per_s": 5}, jti="t1", nbf=NOW_S
    )
    assert await authority.identify(own_token(whole)) == Caller(
        "someone", None, True, frozenset({"7"}), True, {"requests_per_s": 5}, "t1"
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_token_of_the_provider_is_taken(keys: str, algorithm: str) -> None:
    """Each of the three public algorithms verifies, by the key id of the header."""
    authority = await with_provider(Clock(), keys)
    token = provider_token(provider_claims(access="write"), algorithm, algorithm)
    assert await authority.identify(token) == Caller("someone", frozenset({"alice"}))


async def test_both_kinds_stand_side_by_side(keys: str) -> None:
    """With a secret and a provider both kinds of token are taken, and each by its own key alone."""
    authority = await with_provider(Clock(), keys, token_secret=SECRET)
    for token in (own_token(provider_claims()), provider_token(provider_claims(), "ES256", "ES256")):
        assert isinstance(await authority.identify(token), Caller)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", None, 7, ["HS256"], "HS512", "RS512", "PS256"]
)
async def test_other_algorithms_are_refused(keys: str, algorithm: Any, signed: bool) -> None:
    """Whatever alg says, none, an unknown one or no text at all, no token gets in by it, signed or not."""
    authority = await with_provider(Clock(), keys, token_secret=SECRET)
    header = {"alg": algorithm, "typ": "JWT", "kid": "RS256"}
    token = forged(header, provider_claims(), SECRET.encode() if signed else None)
    with pytest.raises(Unauthenticated):
        await authority.identify(token)


async def test_a_public_key_is_no_secret(keys: str) -> None:
    """A token that is signed by HS256 with any text of the public key is refused, with a secret set or without one."""
    texts = [pem(), pem().strip(), pem("ES256"), json.dumps(jwk("RS256", "RS256")).encode(), Path(keys).read_bytes()]
    for more in ({}, {"token_secret": SECRET}):
        authority = await with_provider(Clock(), keys, **more)
        for text in texts:
            for key_id in ("RS256", None):
                header = {"alg": "HS256", "typ": "JWT", "kid": key_id}
                header = {name: value for name, value in header.items() if value is not None}
                with pytest.raises(Unauthenticated):
                    await authority.identify(forged(header, provider_claims(), text))


async def test_a_key_of_one_type_verifies_no_other(keys: str) -> None:
    """The key id of another type's key, and a symmetric key in the document, verify nothing."""
    authority = await with_provider(Clock(), keys)
    for algorithm, key_id in (("RS256", "ES256"), ("ES256", "EdDSA"), ("EdDSA", "RS256")):
        with pytest.raises(Unauthenticated, match="not known"):
            await authority.identify(provider_token(provider_claims(), algorithm, key_id))
    symmetric = {"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "kid": "s", "alg": "HS256"}
    Path(keys).write_bytes(jwks(symmetric, jwk("RS256")))
    authority = await with_provider(Clock(), keys)
    with pytest.raises(Unauthenticated):
        await authority.identify(own_token(provider_claims(), "0123456789abcdef0123456789abcdef", "s"))


async def test_keys_in_a_header_are_not_used(keys: str) -> None:
    """A token brings no key of its own: jwk, jku and x5u of its header mean nothing."""
    authority = await with_provider(Clock(), keys)
    for headers in (
        {"jwk": jwk("RS256", "mine", 1)},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
    ):
        for key_id in ("RS256", "mine"):
            with pytest.raises(Unauthenticated):
                await authority.identify(provider_token(provider_claims(), "RS256", key_id, 1, **headers))


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": None}, "no exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": [NOW_S + 600]}, "exp"),
        ({"exp": 1e16}, "exp"),
        ({"exp": NOW_S - 60}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "expired"),
        ({"nbf": NOW_S + 61}, "nbf"),
        ({"iat": NOW_S + 61}, "iat"),
        ({"iat": "now"}, "iat"),
        ({"iss": None}, "iss"),
        ({"iss": "https://issuer.example"}, "iss"),
        ({"iss": [ISSUER]}, "iss"),
        ({"aud": None}, "aud"),
        ({"aud": "another"}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": ["another", "vectorpool2"]}, "aud"),
        ({"aud": {"vectorpool": 1}}, "aud"),
    ],
)
async def test_claims_about_the_token_itself(keys: str, claims: dict[str, Any], why: str) -> None:
    """A token needs an exp that is to come, and the issuer and an audience that are set; either key says so."""
    authority = await with_provider(Clock(), keys, token_secret=SECRET)
    wrong = provider_claims() | claims
    wrong = {name: value for name, value in wrong.items() if value is not None}
    for token in (own_token(wrong), provider_token(wrong, "RS256", "RS256")):
        with pytest.raises(Unauthenticated, match=why):
            await authority.identify(token)


async def test_clocks_may_differ_by_a_minute(keys: str) -> None:
    """A token is taken up to a minute after its exp and before its nbf and iat; each request checks the time."""
    clock = Clock()
    authority = await with_provider(clock, keys)
    early = provider_token(provider_claims(iat=NOW_S + 60, nbf=NOW_S + 60), "RS256", "RS256")
    late = provider_token(provider_claims(exp=NOW_S - 59), "RS256", "RS256")
    for token in (early, late, late):
        assert isinstance(await said(authority, token), Caller)
    clock.now_s += 1
    assert "expired" in str(await said(authority, late))
    assert isinstance(await said(authority, early), Caller)


async def test_an_audience_is_not_ignored_where_none_is_set() -> None:
    """A token for another service that shares the secret is refused; one of several audiences is enough."""
    authority = await opened(Clock(), token_secret=SECRET)
    with pytest.raises(Unauthenticated, match="audience"):
        await authority.identify(own_token(claims_with(aud="billing")))
    authority = await opened(Clock(), token_secret=SECRET, token_audience="web, app")
    assert isinstance(await authority.identify(own_token(claims_with(aud=["other", "app"]))), Caller)
    with pytest.raises(Unauthenticated):
        await authority.identify(own_token(claims_with(aud="web, app")))


async def test_an_unknown_key_is_refused(keys: str) -> None:
    """A key id that is not known, or another secret, or another private key, verifies nothing."""
    authority = await with_provider(Clock(), keys, token_secret=f"a:{SECRET}")
    for token in (
        own_token(provider_claims(), SECRET, "b"),
        own_token(provider_claims(), OTHER_SECRET, "a"),
        provider_token(provider_claims(), "RS256", "unknown"),
        provider_token(provider_claims(), "RS256", "RS256", 1),
        provider_token(provider_claims(), "ES256", "ES256", 1),
        provider_token(provider_claims(), "EdDSA", "EdDSA", 1),
    ):
        with pytest.raises(Unauthenticated):
            await authority.identify(token)


async def test_a_kind_that_is_not_configured_is_refused(keys: str) -> None:
    """Without a provider no public key verifies, and without a secret no HS256 does."""
    authority = await opened(Clock(), token_secret=SECRET)
    with pytest.raises(Unauthenticated):
        await authority.identify(provider_token(claims_with(), "RS256", "RS256"))
    authority = await with_provider(Clock(), keys)
    with pytest.raises(Unauthenticated):
        await authority.identify(own_token(provider_claims()))


def malformed() -> list[bytes]:
    whole = own_token(claims_with())
    head, body, signature = whole.split(b".")
    other = own_token(claims_with(users="*")).split(b".")[1]
    return [
        b"",
        b".",
        b"..",
        b"...",
        b"a.b.c",
        head + b"." + body,
        head + b"." + body + b".",
        head + b"." + other + b"." + signature,
        whole[:-2],
        whole + b"x",
        whole + b".x",
        b" " + whole,
        whole.replace(b".", b"!", 1),
        b"\xff\xfe." + body + b"." + signature,
        forged(b"not json", claims_with(), SECRET.encode()),
        forged([], claims_with(), SECRET.encode()),
        forged(b"[" * 5000, claims_with(), SECRET.encode()),
        forged({"alg": "HS256"}, b"not json", SECRET.encode()),
        forged({"alg": "HS256"}, [], SECRET.encode()),
        forged({"alg": "HS256"}, b'{"exp": NaN}', SECRET.encode()),
        forged({"alg": "HS256"}, b'{"exp": 1e999}', SECRET.encode()),
        forged({"alg": "HS256"}, b"\xff", SECRET.encode()),
        forged({"alg": "HS256"}, b'{"a":' * 2000, SECRET.encode()),
        forged({"alg": "HS256", "kid": 7}, claims_with(), SECRET.encode()),
        forged({"alg": "HS256", "kid": ["a"]}, claims_with(), SECRET.encode()),
        forged({"alg": "HS256", "kid": "a" * 300}, claims_with(), SECRET.encode()),
        forged({"alg": "HS256", "typ": "logout+jwt"}, claims_with(), SECRET.encode()),
        forged({"alg": "HS256", "typ": 7}, claims_with(), SECRET.encode()),
        forged({"alg": "HS256", "crit": ["x"], "x": 1}, claims_with(), SECRET.encode()),
        forged({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims_with(), SECRET.encode()),
    ]


@pytest.mark.parametrize("token", malformed(), ids=range(len(malformed())))
async def test_what_is_no_token_is_refused(token: bytes) -> None:
    """Half tokens, other JSON, other types and changed claims are refused, and none is an error of the service."""
    authority = await opened(Clock(), token_secret=SECRET)
    with pytest.raises(Unauthenticated) as refused:
        await authority.identify(token)
    assert len(refused.value.detail) < 300
    if len(token) > 8:
        assert token[:40].decode("latin-1") not in refused.value.detail


async def test_a_huge_token_is_refused_unread() -> None:
    """Beyond the bound a token is not even decoded, though its signature would hold; up to it, it is taken."""
    authority = await opened(Clock(), token_secret=SECRET)
    token = own_token(claims_with(note="x" * MAX_TOKEN_BYTES))
    with pytest.raises(Unauthenticated, match="longer than"):
        await authority.identify(token)
    token = own_token(claims_with(note="x" * (MAX_TOKEN_BYTES * 3 // 4 - 400)))
    assert MAX_TOKEN_BYTES - 400 < len(token) <= MAX_TOKEN_BYTES
    assert isinstance(await authority.identify(token), Caller)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
async def test_a_changed_token_is_no_token(data: st.DataObject) -> None:
    """Whatever bytes of a token are changed, left out or put in, it is refused, or still says the same."""
    authority = await opened(Clock(), token_secret=SECRET)
    token = bytearray(own_token(claims_with()))
    for _ in range(data.draw(st.integers(1, 3))):
        at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(token))] * 2)))
        token[at : min(end, at + 3)] = data.draw(st.binary(max_size=3))
    told = await said(authority, bytes(token))
    assert str(told).startswith("Unauthenticated") or told == await said(authority, own_token(claims_with()))


async def test_before_the_keys_are_read_a_token_may_be_sent_again() -> None:
    """A signed token that comes before the authority is open is 503, not 401: its sender keeps it."""
    with pytest.raises(TokenKeysUnavailable):
        await Authority(Settings(token_secret=SECRET), Clock()).identify(own_token(claims_with()))


async def test_a_verified_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is verified once; another token of the same claims is another token."""
    from vectorpool.identity import signed_tokens

    verified: list[bytes] = []
    real = signed_tokens.verify

    def counted(token: bytes, algorithm: str, key: Any) -> dict[str, Any]:
        verified.append(token)
        return real(token, algorithm, key)

    monkeypatch.setattr(signed_tokens, "verify", counted)
    authority = await opened(Clock(), token_secret=SECRET)
    token, other = own_token(claims_with()), own_token(claims_with(jti="x"))
    for each in (token, token, other, token):
        await authority.identify(each)
    assert verified == [token, other]
    wrong = own_token(claims_with(), OTHER_SECRET)
    for _ in range(2):
        assert "signature" in str(await said(authority, wrong))
    assert verified[2:] == [wrong, wrong]


async def test_the_admin_key_operates_and_reads_no_user() -> None:
    """The key opens /admin alone; it works with and without signed tokens, and nothing near to it does."""
    for more in ({}, {"token_secret": SECRET}):
        authority = await opened(Clock(), admin_key=OTHER_SECRET, **more)
        assert await authority.identify(OTHER_SECRET.encode()) == Caller("admin-key", frozenset(), is_admin=True)
        for wrong in (OTHER_SECRET[:-1], OTHER_SECRET + "x", OTHER_SECRET.upper(), SECRET):
            with pytest.raises(Unauthenticated, match="not known"):
                await authority.identify(wrong.encode())


def test_private_keys_of_the_tests_differ() -> None:
    """The other number is another key, so the refusals above are about the signature."""
    numbers = [private_key("RS256", number).private_numbers().p for number in (0, 1)]
    assert numbers[0] != numbers[1]
