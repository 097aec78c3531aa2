"""Signatures of webhooks, as https://www.standardwebhooks.com has them, so that receivers can verify by its libraries.

The text ``{id}.{seconds since 1970}.{body}`` is signed by HMAC-SHA256. A receiver refuses a message whose time is far
from its own, and one whose id it has seen: repeats of a message have the id of the first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
_PREFIX: Final = "whsec_"
_TOLERANCE_S: Final = 300


def _key(secret: str) -> bytes:
    if secret.startswith(_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            return secret.encode()
    return secret.encode()


def signature(secret: str, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the header's value. ``secret``: any text, or ``whsec_`` and base64 of the key."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def headers_of(secret: str | None, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message; without a secret it is not signed."""
    headers = {ID: message_id, TIMESTAMP: str(timestamp_s)}
    if secret:
        headers[SIGNATURE] = signature(secret, message_id, timestamp_s, body)
    return headers


def is_genuine(secret: str, headers: Mapping[str, str], body: bytes, now_s: int) -> bool:
    """Return whether a message was signed with the secret, within five minutes of ``now_s``. What a receiver asks."""
    given = {name.lower(): value for name, value in headers.items()}
    try:
        timestamp_s = int(given[TIMESTAMP])
        expected = signature(secret, given[ID], timestamp_s, body)
        signed = given[SIGNATURE].split(" ")
    except (KeyError, ValueError):
        return False
    if abs(now_s - timestamp_s) > _TOLERANCE_S:
        return False
    return any(hmac.compare_digest(expected.encode(), each.encode()) for each in signed)
