"""``vectorpool token``: a new token, and its lines of the tokens file."""

from __future__ import annotations

import hashlib
import json

# Not ``vectorpool.sources``: a value that a seed can replay is no secret.
import secrets

import click

from vectorpool.api.callers import ALL_USERS, check_token_name
from vectorpool.names import check_user_id

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
