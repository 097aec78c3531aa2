"""Small JSON objects beside a log that may be lost: what is damaged counts as missing."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from vectorpool.commitlog.fetch import store_errors
from vectorpool.errors import UNDECODABLE
from vectorpool.objects.bucket import Bucket, ObjectMissing

T = TypeVar("T")


async def save_json(bucket: Bucket, key: str, value: object) -> None:
    """Store a value, in the place of an earlier one. Raises StoreUnavailable."""
    with store_errors(bucket, f"writing {key}"):
        await bucket.put(key, msgspec.json.encode(value))


async def load_json(bucket: Bucket, key: str, kind: type[T]) -> T | None:
    """Return the stored value, or None if there is none that can be read. Raises StoreUnavailable."""
    with store_errors(bucket, f"reading {key}"):
        try:
            body = await bucket.get(key)
        except ObjectMissing:
            return None
    try:
        return msgspec.json.decode(body.data, type=kind)
    except UNDECODABLE:
        return None
