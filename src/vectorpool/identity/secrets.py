"""Secrets of the settings: the keys that sign this service's own tokens, and the operators' key.

A secret is given as it is, or as a file that holds it. Several signing keys stand in lines of their own (in a variable,
separated by spaces), each as ``KEY-ID:SECRET``; one may have no id. The first one signs, and all of them verify. So a
key rotates: put the new one first, and take the old one out when the last token that it signed has expired.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from vectorpool.environment import check_writers, local_path
from vectorpool.errors import Misconfigured

MAX_FILE_BYTES: Final = 64 * 1024
# RFC 7518, 3.2: a key of HS256 has at least the 256 bits of its hash.
MIN_SECRET_BYTES: Final = 32
_MAX_KEYS: Final = 16

_KEY: Final = re.compile(r"(?:(?P<id>[A-Za-z0-9._-]{1,64}):)?(?P<secret>\S+)")


class SigningKeys:
    """The secrets by key id, the signing one first."""

    def __init__(self, by_id: dict[str | None, bytes]) -> None:
        self._by_id = by_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningKeys) and list(self._by_id.items()) == list(other._by_id.items())

    __hash__ = None  # type: ignore[assignment]

    @property
    def first(self) -> tuple[str | None, bytes]:
        """The id and the secret that sign."""
        return next(iter(self._by_id.items()))

    def find(self, key_id: str | None) -> bytes | None:
        """Return the secret of a token's key id; without one, the secret without an id, or the only one there is."""
        found = self._by_id.get(key_id)
        if found is None and key_id is None and len(self._by_id) == 1:
            return self.first[1]
        return found


def parse_keys(text: str, name: str) -> SigningKeys | None:
    """Return the signing keys of a setting's text, None if there are none. Raises Misconfigured, without a secret."""
    by_id: dict[str | None, bytes] = {}
    for entry in text.split():
        match = _KEY.fullmatch(entry)
        assert match is not None, "an entry holds no space"
        key_id, secret = match["id"], match["secret"].encode()
        if len(secret) < MIN_SECRET_BYTES:
            raise Misconfigured(
                f"{name} has a secret of fewer than {MIN_SECRET_BYTES} bytes, which can be guessed. Use one of "
                "`openssl rand -base64 48`."
            )
        if key_id in by_id:
            which = "without a key id" if key_id is None else f"with the key id {key_id}"
            raise Misconfigured(f"{name} has two secrets {which}. Write each as KEY-ID:SECRET, with its own id.")
        by_id[key_id] = secret
    if len(by_id) > _MAX_KEYS:
        raise Misconfigured(f"{name} has more than {_MAX_KEYS} secrets. Take out those that sign no valid token.")
    return SigningKeys(by_id) if by_id else None


def digest_of_key(text: str, name: str) -> bytes | None:
    """Return the SHA-256 of an operators' key, None if there is none. Raises Misconfigured, without the key."""
    key = text.strip().encode()
    if not key:
        return None
    if len(key) < MIN_SECRET_BYTES or len(key.split()) > 1:
        raise Misconfigured(
            f"{name} is no key: it needs at least {MIN_SECRET_BYTES} bytes without spaces. Use one of `openssl rand "
            "-base64 48`."
        )
    return hashlib.sha256(key).digest()


def read_secret(name: str, value: str | None, file: str | None) -> str:
    """Return the text of a secret's setting, or of its file, empty if neither is set. Raises Misconfigured."""
    if not file:
        return value or ""
    if value:
        raise Misconfigured(f"{name} and {name}_file are both set. Leave one of them out.")
    path = Path(local_path(f"{name}_file", file))
    try:
        with path.open("rb") as opened:
            check_writers(f"file of {name}", path, opened.fileno())
            content = opened.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise Misconfigured(f"{name}_file = {path} is larger than {MAX_FILE_BYTES} bytes. It should hold a secret.")
        text = content.decode()
    except OSError as error:
        raise Misconfigured(f"{name}_file = {path} cannot be read: {error.strerror}. Correct it.") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{name}_file = {path} is not UTF-8 text. Write the secret as text.") from None
    if not text.strip():
        raise Misconfigured(f"{name}_file = {path} is empty. Write the secret into it, or leave the setting out.")
    return text
