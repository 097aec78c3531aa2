"""What is told of deletions: a mark for instances, so that they drop what they hold, and a receipt for people.

A mark is one small object whose name says when, who (as a digest; the object has the id) and up to which commit.
Instances list the marks of the last minutes, so a look costs one request, however many users there are. A mark is
removed after ``KEPT_MS``. An instance that did not look for longer than ``LOOK_WITHIN_MS`` drops everything that it has
cached instead.

Safety does not depend on either: a vectorstore is deleted by its tombstone.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.answers import Deletion
from vectorpool.commitlog.fetch import store_errors
from vectorpool.commitlog.json_objects import load_json, save_json
from vectorpool.local_paths import local_segment
from vectorpool.objects.bucket import Bucket

_DAY_MS: Final = 24 * 3600 * 1000
KEPT_MS: Final = 30 * _DAY_MS
LOOK_WITHIN_MS: Final = 28 * _DAY_MS
_PAGE: Final = 1000
_DELETES: Final = 16
_DIGEST: Final = 16
_MARK: Final = re.compile(rf"([0-9]{{13}})-([0-9a-f]{{{_DIGEST}}})-([0-9]{{1,12}})")


class _Body(msgspec.Struct):
    """What a mark's object says, for those who look for users that they do not know. Earlier releases wrote none."""

    user_id: str


class Mark(msgspec.Struct, frozen=True):
    """A deletion: what a user's local files are called, as a digest, and the number of the tombstone."""

    digest: str
    seq: int


def segment_digest(segment: str) -> str:
    """Return by what a mark names a user: a digest of the name that the user's local files have."""
    return hashlib.sha256(segment.encode()).hexdigest()[:_DIGEST]


def mark_key(now_ms: int, user_id: str, seq: int) -> str:
    """Return the key of the mark that a vectorstore was deleted in commit ``seq``. It sorts by time."""
    return f"{names.deletion_marks_prefix()}{now_ms:013d}-{segment_digest(local_segment(user_id))}-{seq}"


def parse_mark(key: str) -> tuple[int, Mark] | None:
    """Return the time (ms since 1970) and the mark of a key, or None for a foreign one."""
    found = _MARK.fullmatch(key.removeprefix(names.deletion_marks_prefix()))
    return None if found is None else (int(found[1]), Mark(found[2], int(found[3])))


async def announce(bucket: Bucket, user_id: str, seq: int, now_ms: int) -> None:
    """Mark that a vectorstore was deleted. Raises StoreUnavailable."""
    await save_json(bucket, mark_key(now_ms, user_id, seq), _Body(user_id))


async def marks_since(bucket: Bucket, time_ms: int) -> list[Mark]:
    """Return the marks made since a time, oldest first: a request for each thousand. Raises StoreUnavailable."""
    return list((await mark_keys_since(bucket, time_ms)).values())


def time_of_mark(key: str) -> int:
    """Return when a mark was made, ms since 1970; 0 for a foreign key."""
    parsed = parse_mark(key)
    return 0 if parsed is None else parsed[0]


async def user_of_mark(bucket: Bucket, key: str) -> str | None:
    """Return whom a mark is about; None for one that is gone, or of an earlier release. Raises StoreUnavailable."""
    body = await load_json(bucket, key, _Body)
    return None if body is None else next(iter(names.split_user_ids([body.user_id])[0]), None)


async def mark_keys_since(bucket: Bucket, time_ms: int) -> dict[str, Mark]:
    """Return as ``marks_since`` does, by key."""
    prefix = names.deletion_marks_prefix()
    after, found = f"{prefix}{max(time_ms, 0):013d}", dict[str, Mark]()
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=_PAGE, after=after)
        found |= {info.key: parsed[1] for info in page if (parsed := parse_mark(info.key)) is not None}
        if len(page) < _PAGE:
            return found
        after = page[-1].key


async def remove_old_marks(bucket: Bucket, now_ms: int) -> int:
    """Remove marks older than ``KEPT_MS``, at most a thousand; return how many. Raises StoreUnavailable."""
    prefix = names.deletion_marks_prefix()
    with store_errors(bucket, f"listing {prefix}"):
        page = await bucket.list_objects(prefix, limit=_PAGE)
    marks = ((info.key, parse_mark(info.key)) for info in page)
    old = [key for key, parsed in marks if parsed is not None and parsed[0] < now_ms - KEPT_MS]
    for start in range(0, len(old), _DELETES):
        with store_errors(bucket, f"deleting below {prefix}"):
            await asyncio.gather(*map(bucket.delete, old[start : start + _DELETES]))
    return len(old)


async def save_receipt(bucket: Bucket, receipt: Deletion) -> None:
    """Store a receipt, in the place of an earlier one. Raises StoreUnavailable."""
    await save_json(bucket, names.receipt_key(receipt.user_id), receipt)


async def load_receipt(bucket: Bucket, user_id: str) -> Deletion | None:
    """Return the receipt of a user's last deletion, or None if there is none that can be read."""
    return await load_json(bucket, names.receipt_key(user_id), Deletion)


async def users_with_receipts(bucket: Bucket) -> list[str]:
    """Return the ids of the users that were deleted at some time, sorted: a request for each thousand."""
    prefix, found, after = names.receipts_prefix(), list[str](), None
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=_PAGE, after=after)
        found += [info.key.removeprefix(prefix) for info in page]
        if len(page) < _PAGE:
            return sorted(names.split_user_ids(found)[0])
        after = page[-1].key
