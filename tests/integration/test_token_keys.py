"""A provider's keys over HTTP: rotated, and safe from a provider that is down, hangs, changes or lies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.tokens import (
    Clock,
    Provider,
    claims_with,
    jwk,
    jwks,
    provider_claims,
    provider_token,
    said,
    with_provider,
)
from vectorpool.identity import jwks as module
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import Caller
from vectorpool.identity.jwks import COOLDOWN_S, MAX_AGE_S, MAX_BYTES, ProviderKeys


def token(key_id: str | None = "k", number: int = 0, **claims: Any) -> bytes:
    return provider_token(provider_claims(exp=4e9, **claims), "RS256", key_id, number)


def keys_of(authority: Authority) -> ProviderKeys:
    verifier = authority._verifier
    assert verifier is not None and verifier.provider is not None
    return verifier.provider


async def test_a_new_key_is_fetched_when_a_token_names_it() -> None:
    """The provider rotates: the first token of the new key causes one fetch, and is taken."""
    clock = Clock()
    async with Provider() as provider:
        authority = await with_provider(clock, provider.url)
        assert isinstance(await said(authority, token()), Caller)
        provider.body = jwks(jwk("RS256", "new", 1), jwk("RS256"))
        clock.now_s += COOLDOWN_S
        assert isinstance(await said(authority, token("new", 1)), Caller)
        assert isinstance(await said(authority, token(jti="2")), Caller)
        assert provider.asked == 2
        # A key that is taken out no longer verifies, not even a token that it verified before.
        provider.body = jwks(jwk("RS256", "new", 1))
        clock.now_s += COOLDOWN_S
        assert "not known" in str(await said(authority, token("unknown")))
        assert "not known" in str(await said(authority, token()))
        assert isinstance(await said(authority, token("new", 1)), Caller)


async def test_unknown_keys_cause_few_fetches() -> None:
    """Any number of invented key ids causes one fetch in ten seconds, and known keys go on."""
    clock = Clock()
    async with Provider() as provider:
        authority = await with_provider(clock, provider.url)
        for round_number in range(3):
            clock.now_s += COOLDOWN_S
            answers = [str(await said(authority, token(f"x{number}"))) for number in range(20)]
            assert all("not known" in answer for answer in answers)
            assert provider.asked == 2 + round_number
        assert isinstance(await said(authority, token()), Caller)


async def test_an_outage_is_lived_through() -> None:
    """The known keys serve for a day of outage; beyond it a token is 503, and known again when the provider is back."""
    clock = Clock()
    async with Provider() as provider:
        authority = await with_provider(clock, provider.url)
        url, keys = provider.url, keys_of(authority)
    clock.now_s += COOLDOWN_S
    assert isinstance(await said(authority, token()), Caller)
    assert "not known" in str(await said(authority, token("unknown")))
    clock.now_s += MAX_AGE_S
    assert str(await said(authority, token(jti="new"))).startswith("TokenKeysUnavailable")
    async with Provider() as provider:
        keys._location = provider.url
        assert url != provider.url
        clock.now_s += COOLDOWN_S
        assert isinstance(await said(authority, token(jti="new")), Caller)


async def test_a_start_during_an_outage() -> None:
    """An instance starts without its provider, answers 503 to its tokens, and takes them once it is there."""
    clock = Clock()
    async with Provider() as provider:
        url = provider.url
    authority = await with_provider(clock, url)
    assert str(await said(authority, token())).startswith("TokenKeysUnavailable")
    async with Provider() as provider:
        keys_of(authority)._location = provider.url
        assert str(await said(authority, token())).startswith("TokenKeysUnavailable"), "asked again too soon"
        clock.now_s += COOLDOWN_S
        assert isinstance(await said(authority, token()), Caller)


LIES: list[tuple[str, bytes, bytes]] = [
    ("an error", b"HTTP/1.1 500 No\r\n", b""),
    ("a redirect", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n", b""),
    ("a page", b"HTTP/1.1 200 OK\r\n", b"<html>sign in</html>"),
    ("no keys", b"HTTP/1.1 200 OK\r\n", b'{"keys": []}'),
    ("a flood", b"HTTP/1.1 200 OK\r\n", b" " * (MAX_BYTES + 1)),
    ("no HTTP", b"SSH-2.0\r\n", b""),
    ("a bomb", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n", b"\x1f\x8b\x08\x00broken"),
]


@pytest.mark.parametrize(("head", "body"), [lie[1:] for lie in LIES], ids=[lie[0] for lie in LIES])
async def test_a_provider_that_lies_changes_nothing(head: bytes, body: bytes) -> None:
    """Errors, redirects, pages, empty sets and floods leave the known keys as they are."""
    clock = Clock()
    async with Provider() as provider:
        authority = await with_provider(clock, provider.url)
        provider.head, provider.body = head, body
        clock.now_s += COOLDOWN_S
        assert "not known" in str(await said(authority, token("unknown")))
        assert provider.asked == 2
        assert isinstance(await said(authority, token()), Caller)


async def test_a_provider_that_hangs_delays_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch ends at its time limit though bytes drip; known keys do not wait for it, and few requests do."""
    monkeypatch.setattr(module, "FETCH_S", 0.5)
    clock = Clock()
    async with Provider() as provider:
        authority = await with_provider(clock, provider.url)
        provider.hangs = True
        clock.now_s += COOLDOWN_S
        waiting = [asyncio.create_task(said(authority, token(f"x{number}"))) for number in range(module.MAX_WAITERS)]
        while provider.asked < 2:
            await asyncio.sleep(0.01)
        assert isinstance(await said(authority, token()), Caller)
        assert "not known" in str(await said(authority, token("one-more")))
        assert not any(task.done() for task in waiting)
        # One that leaves does not end the fetch of the others.
        waiting.pop().cancel()
        assert all("not known" in str(answer) for answer in await asyncio.gather(*waiting))
        assert provider.asked == 2


async def test_the_document_is_fetched_at_its_interval() -> None:
    """Without any token, a changed document is known after the interval, and a failed fetch is made again sooner."""
    clock = Clock()
    async with Provider() as provider:
        authority = await with_provider(clock, provider.url, token_jwks_refresh_s=100)
        keys = keys_of(authority)
        watching = asyncio.create_task(keys.watch(10))
        while provider.asked < 3:
            await asyncio.sleep(0.01)
        assert set(clock.slept) == {100.0}
        provider.head, asked = b"HTTP/1.1 500 No\r\n", provider.asked
        while provider.asked < asked + 3:
            await asyncio.sleep(0.01)
        watching.cancel()
        assert COOLDOWN_S in clock.slept


async def test_a_token_without_a_key_id() -> None:
    """It is verified if the provider has one key of its algorithm; of two, none is guessed."""
    async with Provider() as provider:
        provider.body = jwks(jwk("RS256", None), jwk("ES256"))
        authority = await with_provider(Clock(), provider.url)
        assert isinstance(await said(authority, token(None)), Caller)
        assert isinstance(await said(authority, provider_token(provider_claims(), "ES256", None)), Caller)
        provider.body = jwks(jwk("RS256"), jwk("RS256", "l", 1))
        authority = await with_provider(Clock(), provider.url)
        assert "not known" in str(await said(authority, token(None)))


async def test_a_provider_signs_for_many_projects() -> None:
    """A token of the same keys for another project, or of another issuer, is refused: iss and aud are checked."""
    async with Provider() as provider:
        authority = await with_provider(Clock(), provider.url)
        for claims in (
            provider_claims() | {"aud": "project-2"},
            provider_claims() | {"iss": "https://other/"},
            claims_with(),
        ):
            refused = str(await said(authority, provider_token(claims)))
            assert refused.startswith("Unauthenticated") and ("iss" in refused or "audience" in refused)
