"""Secrets: one or several, given as they are or as files, rotated while the service runs, and told to no log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.tokens import (
    ISSUER,
    OTHER_SECRET,
    SECRET,
    Clock,
    claims_with,
    opened,
    own_token,
    said,
)
from vectorpool.errors import Misconfigured
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import Caller
from vectorpool.identity.grants import Grant
from vectorpool.settings import Settings


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"token_secret": "short"}, "fewer than 32 bytes"),
        ({"token_secret": "k:" + "x" * 31}, "fewer than 32 bytes"),
        ({"token_secret": f"a:{SECRET} a:{OTHER_SECRET}"}, "two secrets with the key id a"),
        ({"token_secret": f"{SECRET} {OTHER_SECRET}"}, "two secrets without a key id"),
        ({"token_secret": " ".join(f"k{n}:{SECRET}" for n in range(17))}, "more than 16"),
        ({"token_secret": SECRET, "token_secret_file": "/nowhere"}, "both set"),
        ({"token_secret_file": "/nowhere/at/all"}, "cannot be read"),
        ({"token_secret_file": "/dev/null"}, "may be written by other accounts"),
        ({"admin_key_file": "/dev/zero"}, "may be written by other accounts"),
        ({"admin_key": "short"}, "at least 32 bytes"),
        ({"admin_key": f"{SECRET} {SECRET}"}, "without spaces"),
        ({"admin_key_file": "/nowhere/at/all"}, "cannot be read"),
        ({"token_jwks": "/keys.json"}, "token_issuer and token_audience"),
        ({"token_jwks": "/keys.json", "token_issuer": ISSUER}, "token_issuer and token_audience"),
        ({"token_jwks": "/keys.json", "token_audience": "vectorpool"}, "token_issuer and token_audience"),
        ({"token_jwks": "/keys.json", "token_issuer": ISSUER, "token_audience": " , "}, "token_issuer and"),
        ({"token_jwks": "http://issuer.example/jwks"}, "unencrypted"),
        ({"token_jwks": "http://127.0.0.1.evil.example/jwks"}, "unencrypted"),
        ({"token_jwks": "http://localhost@evil.example/jwks"}, "unencrypted"),
        ({"token_jwks": "ftp://issuer.example/jwks"}, "unencrypted"),
        ({"token_jwks": "https:///jwks"}, "unencrypted"),
    ],
)
def test_settings_that_cannot_be_meant_stop_the_start(settings: dict[str, Any], why: str) -> None:
    """Each is one sentence, before anything is opened, and repeats no secret."""
    with pytest.raises(Misconfigured, match=why) as refused:
        Authority(Settings(**settings))
    assert SECRET not in refused.value.detail and OTHER_SECRET not in refused.value.detail


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"", 0o600, "is empty"),
        (b" \n", 0o600, "is empty"),
        (b"\xff" * 40, 0o600, "not UTF-8"),
        (b"x" * 65_537, 0o600, "larger than"),
        (SECRET.encode(), 0o602, "other accounts"),
        (SECRET.encode(), 0o666, "other accounts"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path: Path, content: bytes, mode: int, why: str) -> None:
    """A file of secrets that is empty, no text, huge, or that others may write, stops the start."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    for name in ("token_secret_file", "admin_key_file"):
        with pytest.raises(Misconfigured, match=why):
            Authority(Settings(**{name: str(file)}))


def test_without_a_key_no_token_is_asked_for() -> None:
    """Nothing is configured by the defaults, nor by empty texts; each kind alone is."""
    assert not Authority(Settings()).is_configured
    assert not Authority(Settings(token_secret="", admin_key="", token_jwks="")).is_configured
    assert Authority(Settings(token_secret=SECRET)).describe() == ["JWT by secret"]
    provider = Settings(token_jwks="/keys.json", token_issuer=ISSUER, token_audience="vectorpool")
    assert Authority(provider).describe() == ["JWT by JWKS"]
    assert Authority(Settings(admin_key=SECRET)).describe() == ["an admin key"]
    for settings in (Settings(token_secret=SECRET), provider, Settings(admin_key=SECRET)):
        assert Authority(settings).is_configured


async def test_secrets_rotate() -> None:
    """The first secret signs and each verifies; a token of one that was taken out is refused."""
    grant = Grant(users=["alice"])
    old = (await opened(Clock(), token_secret=SECRET)).mint(grant)
    both = await opened(Clock(), token_secret=f"new:{OTHER_SECRET} {SECRET}")
    new = both.mint(grant)
    assert (old.key_id, new.key_id) == (None, "new")
    for minted in (old, new):
        assert isinstance(await said(both, minted.token.encode()), Caller)
    only = await opened(Clock(), token_secret=f"new:{OTHER_SECRET}")
    assert isinstance(await said(only, new.token.encode()), Caller)
    assert "Unauthenticated" in str(await said(only, old.token.encode()))


async def test_a_key_id_chooses_one_secret() -> None:
    """A token of a key id is verified by that secret; without one, by the only secret, or the one without an id."""
    alone = await opened(Clock(), token_secret=f"a:{SECRET}")
    assert isinstance(await said(alone, own_token(claims_with())), Caller)
    two = await opened(Clock(), token_secret=f"a:{SECRET} b:{OTHER_SECRET}")
    assert isinstance(await said(two, own_token(claims_with(), SECRET, "a")), Caller)
    for token in (
        own_token(claims_with(), SECRET, "b"),
        own_token(claims_with()),
        own_token(claims_with(), SECRET, "c"),
    ):
        assert "Unauthenticated" in str(await said(two, token))


async def test_a_file_of_secrets_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed file counts within a minute, for verified tokens too; one that is wrong changes nothing."""
    file, admin, clock = tmp_path / "secret", tmp_path / "admin", Clock()
    file.write_text(f"{SECRET}\n")
    admin.write_text(f"{SECRET}\n")
    authority = await opened(clock, token_secret_file=str(file), admin_key_file=str(admin))
    first = own_token(claims_with(exp=2e9, jti="first"))
    assert isinstance(await said(authority, first), Caller)
    watching = asyncio.create_task(authority._watch_secrets())

    async def minute_passes() -> None:
        began_s = clock.now_s
        while clock.now_s - began_s < 60:
            await asyncio.sleep(0.001)

    caplog.set_level(logging.INFO)
    for wrong in ("", "short", f"{SECRET}\n{SECRET}"):
        file.write_text(wrong)
        await minute_passes()
        assert isinstance(await said(authority, own_token(claims_with(exp=2e9))), Caller)
    assert "stay" in caplog.text and SECRET not in caplog.text
    file.write_text(f"b:{OTHER_SECRET}\n")
    admin.write_text(OTHER_SECRET)
    await minute_passes()
    assert isinstance(await said(authority, own_token(claims_with(exp=2e9), OTHER_SECRET, "b")), Caller)
    assert "Unauthenticated" in str(await said(authority, own_token(claims_with(exp=2e9), SECRET, "a")))
    assert "Unauthenticated" in str(await said(authority, first)), "it was verified by the secret that is gone"
    assert isinstance(await said(authority, OTHER_SECRET.encode()), Caller)
    assert "Unauthenticated" in str(await said(authority, SECRET.encode()))
    watching.cancel()
