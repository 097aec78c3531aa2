"""A provider's keys: which of a document's keys are taken, and a document that is a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.tokens import Clock, jwk, jwks, private_key, provider_claims, provider_token, said, with_provider
from vectorpool.errors import Misconfigured
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import Caller
from vectorpool.identity.jwks import MAX_AGE_S, MAX_BYTES, MAX_KEYS, ProviderKeys, Unusable, parse


def token(key_id: str | None = "k", number: int = 0, **claims: Any) -> bytes:
    return provider_token(provider_claims(exp=4e9, **claims), "RS256", key_id, number)


def keys_of(authority: Authority) -> ProviderKeys:
    verifier = authority._verifier
    assert verifier is not None and verifier.provider is not None
    return verifier.provider


def test_only_keys_that_verify_are_taken() -> None:
    """Symmetric, private, short and foreign keys, and those for other uses, are passed over."""
    good = jwk("ES256", "good")
    private = {**jwk("RS256", "private"), "d": "AQAB"}
    bad = [
        {"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "kid": "s"},
        private,
        jwk("RS256", "enc", use="enc"),
        jwk("RS256", "ops", key_ops=["encrypt"]),
        jwk("RS256", "512", alg="RS512"),
        jwk("RS256", "confused", alg="HS256"),
        jwk("ES256", "confused", alg="RS256"),
        {**jwk("RS256", "short"), "n": "AQAB" * 20},
        {**jwk("RS256", "noise"), "n": "!!"},
        {**jwk("ES256", "curve"), "crv": "P-384"},
        {**jwk("ES256", "point"), "x": jwk("ES256", "k", 1)["y"]},
        {"kty": "RSA", "kid": "empty"},
        {"kty": ["RSA"], "kid": "list"},
        jwk("RS256", "long" * 100),
        {**jwk("RS256"), "kid": 7},
        {},
    ]
    assert list(parse(jwks(*bad, good))) == [("good", "ES256")]
    assert list(parse(jwks(jwk("RS256", alg=None, use=None)))) == [("k", "RS256")]
    for each in bad:
        with pytest.raises(Unusable, match="no key"):
            parse(jwks(each))


@pytest.mark.parametrize(
    "document",
    [b"", b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [7]}', b'{"keys": []}', b"\xff", b"[" * 100_000],
)
def test_another_document_is_refused(document: bytes) -> None:
    """What is no JWKS with a key is an error, whatever it is."""
    with pytest.raises(Unusable):
        parse(document)


def test_the_keys_of_a_document_are_bounded() -> None:
    """More keys than the bound are refused before any is read."""
    with pytest.raises(Unusable, match="more than"):
        parse(jwks(*[{}] * (MAX_KEYS + 1)))


async def test_two_keys_of_one_id_do_not_confuse() -> None:
    """Of two keys with one id and one algorithm the first counts; of two algorithms each verifies its own."""
    found = parse(jwks(jwk("RS256"), jwk("RS256", "k", 1), jwk("ES256")))
    assert found["k", "RS256"].key.public_numbers() == private_key("RS256").public_key().public_numbers()
    assert set(found) == {("k", "RS256"), ("k", "ES256")}


async def test_a_file_of_keys(tmp_path: Path) -> None:
    """A file is read at the start, and again when it changes; one that breaks later changes nothing."""
    clock, file = Clock(), tmp_path / "keys.json"
    for content in (None, b"{}", b" " * (MAX_BYTES + 1)):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(Misconfigured, match="token_jwks"):
            await with_provider(clock, str(file))
    file.write_bytes(jwks(jwk("RS256")))
    file.chmod(0o606)
    with pytest.raises(Misconfigured, match="other accounts"):
        await with_provider(clock, str(file))
    file.chmod(0o600)
    authority = await with_provider(clock, str(file))
    assert isinstance(await said(authority, token()), Caller)
    keys = keys_of(authority)
    file.write_bytes(b"half")
    clock.now_s += MAX_AGE_S * 2
    assert "not known" in str(await said(authority, token("unknown")))
    assert isinstance(await said(authority, token()), Caller)
    file.write_bytes(jwks(jwk("RS256", "new", 1)))
    watching = asyncio.create_task(keys.watch(10))
    while keys.generation < 2:
        await asyncio.sleep(0.01)
    watching.cancel()
    assert isinstance(await said(authority, token("new", 1)), Caller)
    assert "not known" in str(await said(authority, token()))


def test_the_public_half_alone_is_in_the_documents_of_the_tests() -> None:
    """The documents above hold no private member, so none is passed over for that reason unseen."""
    assert "d" not in json.loads(jwks(jwk("RS256"), jwk("EdDSA")))["keys"][0]
