"""The check of the bucket before an instance serves: may it be read and written, and is ``create`` conditional?

The commit log is safe only on a store whose ``create`` lets one writer win, so a store that ignores the
condition is refused at start. The error is one sentence that says what to change. The
probe writes outside ``users/``, at a key of its own, and deletes the object again.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from vectorpool.errors import StoreRefused
from vectorpool.objects.bucket import (
    Bucket,
    BucketDenied,
    BucketElsewhere,
    BucketMissing,
    BucketUnavailable,
    ObjectExists,
    ObjectMissing,
)
from vectorpool.objects.refusals import remedy
from vectorpool.sources import SYSTEM, Sources

PROBE_PREFIX: Final = ".vectorpool-probe/"
PROBE_TIMEOUT_S: Final = 8.0


async def probe(bucket: Bucket, *, timeout_s: float = PROBE_TIMEOUT_S, sources: Sources = SYSTEM) -> None:
    """Return if the bucket can be used; raise StoreRefused within about ``timeout_s`` seconds if it cannot."""
    try:
        async with asyncio.timeout(timeout_s):
            await _probe(bucket, PROBE_PREFIX + sources.uuid())
    except TimeoutError as error:
        raise StoreRefused(
            f"The store {bucket.url} did not answer within {timeout_s:g} s. Check VECTORPOOL_STORE, "
            "VECTORPOOL_S3_ENDPOINT and the network."
        ) from error
    except BucketMissing as error:
        raise StoreRefused(
            f"The bucket of {bucket.url} does not exist. Create it, or name another in VECTORPOOL_STORE."
        ) from error
    except BucketElsewhere as error:
        raise StoreRefused(f"The store refuses ({error}). {remedy(error)}") from error
    except BucketDenied as error:
        raise StoreRefused(
            f"The store refuses ({error}). Check the credentials, and that they may get, list, put and delete objects."
        ) from error
    except BucketUnavailable as error:
        raise StoreRefused(
            f"The store does not answer ({error}). Check VECTORPOOL_STORE, VECTORPOOL_S3_ENDPOINT and the network."
        ) from error
    except ObjectMissing as error:
        raise StoreRefused(
            f"The store {bucket.url} does not show what was just written to it ({error}). Use a store with strong "
            "read-after-write consistency."
        ) from error


async def _probe(bucket: Bucket, key: str) -> None:
    try:
        await _ask_twice(bucket, key)
    except (StoreRefused, ObjectMissing):
        await _forget(bucket, key)
        raise
    # No delete is sent to a store that stopped answering: the refusal would wait for it.
    await _forget(bucket, key)


async def _ask_twice(bucket: Bucket, key: str) -> None:
    first, second = b"first " + key.encode(), b"second " + key.encode()
    # A retried request may find its own first attempt. No other process uses this key.
    with contextlib.suppress(ObjectExists):
        await bucket.create(key, first)
    try:
        await bucket.create(key, second)
    except ObjectExists:
        refused = True
    else:
        refused = False
    body = await bucket.get(key)
    if not refused or body.data != first:
        raise StoreRefused(
            f"The store {bucket.url} ignores create-if-absent (If-None-Match: *): a second create of one key was "
            "not refused. Two instances could overwrite each other's commits, so use a store that keeps it."
        )
    listed = await bucket.list_objects(PROBE_PREFIX, limit=1000)
    if len(listed) < 1000 and key not in {info.key for info in listed}:
        raise ObjectMissing(f"{key!r} is not listed")


async def _forget(bucket: Bucket, key: str) -> None:
    """Delete the probe's object; if that fails it stays, tiny and outside ``users/``."""
    with contextlib.suppress(BucketDenied, BucketUnavailable):
        await bucket.delete(key)
