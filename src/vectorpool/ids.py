"""Ids of users and avatars, and paths of documents, as other systems chose them: what could leave a prefix is refused.

``names`` has these functions too, beside the keys that it builds of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from vectorpool.errors import InvalidId

MAX_ID_BYTES: Final = 128
# What every store can hold. A document's whole key may have so many, so its path fewer by the ids before it.
MAX_KEY_BYTES: Final = 1024
# Users of the service itself, which write and read to see whether it works.
CANARY_PREFIX: Final = "vectorpool-canary-"
_PLAIN_SEGMENT: Final = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]*")


def excerpt(text: str) -> str:
    """Return ``text`` fit for an error message: short, and without control characters."""
    shown = text if len(text) <= 40 else text[:40] + "…"
    return ascii(shown)


def _check_segment(kind: str, value: str, max_bytes: int) -> str:
    if len(value) <= max_bytes and _PLAIN_SEGMENT.fullmatch(value):
        # Nearly every id: no character needs a look.
        return value
    if not value:
        raise InvalidId(f"The {kind} is empty. Give 1 to {max_bytes} bytes of printable text.")
    if len(value) > max_bytes or len(value.encode("utf-8", "surrogatepass")) > max_bytes:
        raise InvalidId(f"The {kind} {excerpt(value)} is longer than {max_bytes} bytes. Use a shorter one.")
    if value in (".", ".."):
        raise InvalidId(f"The {kind} may not be {value!r}: it would leave its prefix. Use another one.")
    for char in value:
        if char in "/\\":
            raise InvalidId(f"The {kind} {excerpt(value)} holds a slash. Remove it, or encode it your own way.")
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"):
            raise InvalidId(f"The {kind} {excerpt(value)} holds a control or unassigned character. Use printable text.")
    if value != value.strip():
        raise InvalidId(f"The {kind} {excerpt(value)} begins or ends with a space. Remove it.")
    return value


def check_user_id(user_id: str) -> str:
    """Return ``user_id`` if it is one path segment of 1 to 128 bytes; raise InvalidId otherwise."""
    return _check_segment("user id", user_id, MAX_ID_BYTES)


def is_reserved(user_id: str) -> bool:
    """Return whether an id is the service's own: a canary's, which no caller may use."""
    return user_id.startswith(CANARY_PREFIX)


def split_user_ids(found: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return (ids, refused) of the names found below ``users/``: other programs may have put any name there."""
    ids, refused = list[str](), list[str]()
    for name in found:
        try:
            ids.append(check_user_id(name))
        except InvalidId:
            refused.append(name)
    return ids, refused


def split_avatar_ids(found: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return (ids, refused) of the names found below a user's avatars."""
    ids, refused = list[str](), list[str]()
    for name in found:
        try:
            ids.append(check_avatar_id(name))
        except InvalidId:
            refused.append(name)
    return ids, refused


def check_avatar_id(avatar_id: str) -> str:
    """Return ``avatar_id`` if it is one path segment of 1 to 128 bytes; raise InvalidId otherwise."""
    return _check_segment("avatar id", avatar_id, MAX_ID_BYTES)


def check_document_path(path: str) -> str:
    """Return a document's path if every store can hold it and it stays below its prefix; raise InvalidId otherwise.

    People name files in every script, so all else is taken: joiners, emoji, backslashes, spaces at either end.
    """
    if len(path) > MAX_KEY_BYTES or len(path.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise InvalidId(f"The document path {excerpt(path)} is longer than {MAX_KEY_BYTES} bytes. Use a shorter one.")
    for segment in path.split("/"):
        if not segment:
            raise InvalidId(f"The document path {excerpt(path)} has an empty segment. Name every part between slashes.")
        if segment in (".", ".."):
            raise InvalidId(f"The document path {excerpt(path)} has a segment {segment!r}. Use another name.")
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in path):
        raise InvalidId(f"The document path {excerpt(path)} holds a control character or no UTF-8. Use text.")
    return path
