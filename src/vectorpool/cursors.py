"""Cursors: where the next page of a listing begins, as text that a caller hands back and need not understand."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from vectorpool.errors import InvalidRequest

_MAX_CHARS: Final = 2048


def to_cursor(after: str) -> str:
    """Return the cursor of the page after a name, whatever characters that has."""
    return base64.urlsafe_b64encode(after.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def from_cursor(cursor: str) -> str:
    """Return the name that ``to_cursor`` was given; raise InvalidRequest for any other text."""
    try:
        if len(cursor) > _MAX_CHARS:
            raise ValueError("it is too long")
        after = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error, UnicodeError):
        after = ""
    if not after or to_cursor(after) != cursor:
        raise InvalidRequest("The cursor is none of this listing. Leave it out, or send the next_cursor of a page.")
    return after
