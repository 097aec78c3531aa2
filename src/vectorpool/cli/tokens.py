"""``vectorpool token`` and ``revoke``: a new token with its lines of the tokens file, a signed one, a revoked one."""

from __future__ import annotations

import asyncio
import hashlib
import json

# Not ``vectorpool.sources``: a value that a seed can replay is no secret.
import secrets
from datetime import datetime

import click

from vectorpool.api.callers import check_token_name
from vectorpool.cli.auditing import audited
from vectorpool.cli.options import read_settings
from vectorpool.errors import Misconfigured, NoTokenSecret
from vectorpool.identity.authority import Authority
from vectorpool.identity.caller import ALL_USERS
from vectorpool.identity.claims import LEEWAY_S, MAX_TOKEN_ID_CHARS
from vectorpool.identity.grants import DEFAULT_TTL_S, Access, Grant
from vectorpool.identity.revocations import Revocations
from vectorpool.names import check_user_id
from vectorpool.objects.stores import open_bucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM

_TOKEN_BYTES = 32


def token(name: str, user_ids: tuple[str, ...], everybody: bool, is_admin: bool) -> None:
    """Print the token on stderr, and its table for the tokens file, which holds no secret, on stdout."""
    fresh = secrets.token_urlsafe(_TOKEN_BYTES)
    table = toml_table(name, fresh, user_ids, everybody=everybody, is_admin=is_admin)
    click.echo(f"The token, which is kept nowhere, for the caller:\n{fresh}\n", err=True)
    click.echo(table)


def toml_table(name: str, fresh: str, user_ids: tuple[str, ...], *, everybody: bool, is_admin: bool) -> str:
    """Return the table of a token in TOML. Raises Misconfigured or InvalidId for a bad name or user id."""
    # TOML reads JSON's strings only without escapes: JSON escapes some characters as two halves.
    users = json.dumps(ALL_USERS if everybody else [check_user_id(user) for user in user_ids], ensure_ascii=False)
    lines = [f"[tokens.{check_token_name(name)}]", f'sha256 = "{hashlib.sha256(fresh.encode()).hexdigest()}"']
    lines.append(f"users = {users}")
    if is_admin:
        lines.append("admin = true")
    return "\n".join(lines)


def signed_token(
    name: str,
    user_ids: tuple[str, ...],
    everybody: bool,
    is_admin: bool,
    *,
    avatar_ids: tuple[str, ...],
    access: Access | None,
    ttl_s: int | None,
    config: str | None,
) -> None:
    """Print a signed token alone on stdout, and its id on stderr. Raises Misconfigured without a secret."""
    grant = Grant(
        name=check_token_name(name),
        users="*" if everybody else list(user_ids),
        avatars=list(avatar_ids) or None,
        access=access or "read",
        is_admin=is_admin,
        ttl_s=ttl_s or DEFAULT_TTL_S,
    )
    try:
        minted = Authority(read_settings(config)).mint(grant)
    except NoTokenSecret as error:
        raise Misconfigured(error.detail) from None
    click.echo(f"The id of the token, which revokes it: {minted.token_id}", err=True)
    click.echo(minted.token)


def revoke(settings: Settings, token_id: str, until: str | None) -> None:
    """Write a token's id into the list of revoked tokens. Raises Misconfigured, StoreUnavailable, LimitExceeded."""
    if not 1 <= len(token_id) <= MAX_TOKEN_ID_CHARS:
        raise Misconfigured(
            f"The token's id must have 1 to {MAX_TOKEN_ID_CHARS} characters. It is the jti of the token."
        )
    expires_s = None if until is None else _time_s(until) + LEEWAY_S

    async def write() -> None:
        bucket = open_bucket(settings)
        try:
            revocations = Revocations(bucket, SYSTEM)
            await revocations.load()
            async with audited(bucket, settings, "revoke-token", token_id=token_id):
                await revocations.revoke(token_id, expires_s)
        finally:
            await bucket.close()

    asyncio.run(write())
    click.echo("Revoked. Every instance refuses the token within a minute.")


def _time_s(text: str) -> float:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise Misconfigured('--until is not RFC 3339 with an offset. Give a time such as "2026-11-21T09:00:00Z".')
    return when.timestamp()
