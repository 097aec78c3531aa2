"""Keys that other programs put into a bucket and that no request here can name: found by a listing, reported by name.

A listing shows them verbatim, so that the rest of it stays usable, and ``delete_listed`` takes them, so that a deletion
leaves nothing behind. Every other call refuses them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final

from vectorpool.names import MAX_KEY_BYTES

_log = logging.getLogger(__name__)

# So many keys are remembered as logged; beyond that, keys are no longer named in the log.
_MOST: Final = 1000
# Every listed key is looked at, so that has to be quick.
_NO_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NO_SEGMENTS: Final = frozenset({"", ".", ".."})


def unusable_because(key: str) -> str | None:
    """Return why no call but ``delete_listed`` takes a listed key, fit to follow "it"; None if every call does."""
    is_text = key.isprintable() or _NO_CHARACTER.search(key) is None
    if is_text and len(key) * 4 <= MAX_KEY_BYTES and _NO_SEGMENTS.isdisjoint(key.split("/")):
        return None
    if not 1 <= len(key.encode("utf-8", "surrogatepass")) <= MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    if any(char < " " or char == "\x7f" for char in key):
        return "holds a control character"
    if any("\ud800" <= char <= "\udfff" for char in key):
        return "is not valid UTF-8"
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            return "has an empty segment" if not segment else f"has a segment {segment!r}"
    return None


def printable(text: str) -> str:
    """Return text for people and for JSON: control characters and bytes that are no UTF-8 are written as escapes."""
    escaped = "".join(f"\\x{ord(char):02x}" if char < " " or char == "\x7f" else char for char in text)
    return escaped.encode("utf-8", "backslashreplace").decode()


class UnusableLog:
    """Logs each unusable key once, at WARNING, up to a bound."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._told: set[str] = set()

    def note(self, keys: Iterable[str]) -> None:
        """Log those of the listed keys that are unusable. Directory markers, which end with a slash, are not told."""
        for key in keys:
            if key in self._told or key.endswith("/") or (because := unusable_because(key)) is None:
                continue
            if len(self._told) < _MOST:
                self._told.add(key)
                _log.warning("a key in %s %s, and is passed over: %s", self._url, because, printable(key))
