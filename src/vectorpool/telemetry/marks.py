"""Marks of users in log lines: a keyed hash, so that lines of one user are found together and name no one.

Without the key, a mark cannot be computed from an id. Two of a million users share a mark of 48
bits by a chance of one in five hundred.
"""

from __future__ import annotations

import hashlib
from typing import Final

_BYTES: Final = 6


class UserMarks:
    """The marks under one key."""

    def __init__(self, key: str) -> None:
        self._key = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()

    def mark(self, user_id: str) -> str:
        """Return the mark of a user, 12 hexadecimal digits."""
        # What a path holds may be no id, and no valid text either.
        named = user_id.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(named, key=self._key, digest_size=_BYTES).hexdigest()
