"""Callers and the users that they may touch, as the tokens file says.

The file is TOML, with a table for each token::

    [tokens.alice]
    sha256 = "..."           # of the token, in hex: the file holds no secret
    users = ["42", "43"]     # or "*", all users
    admin = false            # true: may use /admin

A token is known by its SHA-256 alone; neither the token nor what was sent instead of one is kept, logged or repeated.
Without a file no token is needed, and every caller may do everything. This module knows only two headers of HTTP, so
that the command line can check the file before the web framework is loaded.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from vectorpool.environment import check_writers
from vectorpool.errors import InvalidId, Misconfigured, Unauthenticated
from vectorpool.identity.authority import unknown_token
from vectorpool.identity.caller import ALL_USERS, ANY_CALLER, Caller
from vectorpool.names import check_user_id, excerpt
from vectorpool.spelling import meant

MAX_FILE_BYTES: Final = 16 * 1024**2

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_OF_NOTHING: Final = hashlib.sha256(b"").digest()


class Callers:
    """All callers by the digests of their tokens; None if no token is needed."""

    def __init__(self, by_digest: Mapping[bytes, Caller] | None) -> None:
        self._by_digest = by_digest

    def __eq__(self, other: object) -> bool:
        """Two are equal if they know the same tokens, and these allow the same."""
        return isinstance(other, Callers) and self._by_digest == other._by_digest

    __hash__ = None  # type: ignore[assignment]

    @property
    def count(self) -> int | None:
        """Number of known tokens; None if no token is needed."""
        return None if self._by_digest is None else len(self._by_digest)

    def identify(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Return the caller of raw headers, whose names are in lower case. Raises Unauthenticated.

        The token is looked up by its digest. The time of that depends on digests alone, and a sender cannot steer a
        digest towards a known one. So the time tells nothing about a token.
        """
        if self._by_digest is None:
            return ANY_CALLER
        caller = self.find(token_of(headers))
        if caller is None:
            raise unknown_token()
        return caller

    def find(self, token: bytes) -> Caller | None:
        """Return the caller of a token, None if the file does not list it."""
        return None if self._by_digest is None else self._by_digest.get(hashlib.sha256(token).digest())


def token_of(headers: Iterable[tuple[bytes, bytes]], *, is_plain: bool = False) -> bytes:
    """Return the token of a request; raise Unauthenticated if there is none, or if there are several that differ.

    ``is_plain``: as VectorFlow's clients send it: alone in Authorization, or in VectorFlowKey.
    """
    tokens = _tokens(headers, is_plain)
    if not tokens:
        raise Unauthenticated("No token. Send it as `Authorization: Bearer TOKEN` or as `X-Chroma-Token: TOKEN`.")
    if len(tokens) > 1:
        raise Unauthenticated("The request has several tokens that differ. Send one.")
    return tokens.pop()


def _tokens(headers: Iterable[tuple[bytes, bytes]], is_plain: bool) -> set[bytes]:
    """Return the different tokens of a request. A scheme other than Bearer may be a proxy's and is ignored."""
    tokens = set()
    for name, value in headers:
        if name == b"x-chroma-token":
            tokens.add(value.strip())
        elif name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                tokens.add(token.strip())
            elif is_plain and not token:
                tokens.add(scheme)
        elif is_plain and name == b"vectorflowkey":
            tokens.add(value.strip())
    tokens.discard(b"")
    return tokens


# --- The file ----------------------------------------------------------------------------------------


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One table of the file."""

    sha256: str
    users: list[str] | Literal["*"] = []
    admin: bool = False


def read_callers(tokens_file: str | None) -> Callers:
    """Read the tokens file, a path; with None or empty text no token is needed.

    Raises Misconfigured with a sentence that names the file and the token's table, and repeats no digest.
    """
    if not tokens_file:
        return Callers(None)
    found = _read_toml(Path(tokens_file))
    tables = found.pop("tokens", None)
    if found:
        raise Misconfigured(
            f"The tokens file {tokens_file} holds {excerpt(next(iter(found)))}, which means nothing there. Write a "
            "table [tokens.NAME] for each token, and nothing beside them."
        )
    if not isinstance(tables, dict) or not tables:
        raise Misconfigured(
            f"The tokens file {tokens_file} names no token, so nobody could call. `vectorpool token NAME` makes one."
        )
    by_digest: dict[bytes, Caller] = {}
    for name, table in tables.items():
        digest, caller = _caller(name, table, tokens_file)
        if digest in by_digest:
            raise Misconfigured(
                f"The tokens {by_digest[digest].name} and {name} in {tokens_file} are the same token. Give each its "
                "own, or put what it allows into one table."
            )
        by_digest[digest] = caller
    return Callers(by_digest)


def check_token_name(name: str) -> str:
    """Return ``name`` if a token's table can be called so, without quotes; raise Misconfigured otherwise."""
    if not _NAME.fullmatch(name):
        raise Misconfigured(f"{excerpt(name)} cannot name a token. Use 1 to 64 of [A-Za-z0-9_-].")
    return name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            check_writers("tokens file", path, file.fileno())
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Misconfigured(
            f"The tokens file {path} cannot be read: {error.strerror}. Correct tokens_file, or leave it out to ask "
            "nobody for a token."
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise Misconfigured(f"The tokens file {path} is larger than {MAX_FILE_BYTES} bytes. Name fewer users in it.")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise Misconfigured(f"The tokens file {path} is not UTF-8. Write it anew as TOML in UTF-8.") from None
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"The tokens file {path} is not valid TOML: {error}.") from None


def _caller(name: str, table: Any, tokens_file: str) -> tuple[bytes, Caller]:
    where = f"The token {check_token_name(name)} in {tokens_file}"
    try:
        entry = msgspec.convert(table, _Entry)
    except msgspec.ValidationError as error:
        known = _Entry.__struct_fields__
        unknown = next((key for key in table if key not in known), "") if isinstance(table, dict) else ""
        hint = meant(unknown, known) if unknown else ""
        raise Misconfigured(f"{where} is not valid: {error}.{hint} Give it sha256, users and admin.") from None
    if not _SHA256.fullmatch(entry.sha256):
        # Not repeated: it may be the token itself.
        raise Misconfigured(
            f"{where} has a sha256 that is not 64 hex digits. `vectorpool token NAME` prints a right one."
        )
    digest = bytes.fromhex(entry.sha256)
    if digest == _OF_NOTHING:
        raise Misconfigured(f"{where} is empty text. `vectorpool token NAME` makes one that nobody guesses.")
    if not entry.users and not entry.admin:
        raise Misconfigured(f'{where} allows nothing. Give it users, a list of ids or "*", or admin = true.')
    if entry.users == ALL_USERS:
        return digest, Caller(name, None, entry.admin)
    if ALL_USERS in entry.users:
        raise Misconfigured(f'{where} has "*" in a list. Write users = "*" for everybody, or only ids.')
    try:
        return digest, Caller(name, frozenset(map(check_user_id, entry.users)), entry.admin)
    except InvalidId as error:
        raise Misconfigured(f"{where} names a user that cannot be: {error.detail}") from None
