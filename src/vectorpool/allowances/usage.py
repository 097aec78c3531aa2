"""What a user has in the bucket, counted by listing it, and how a limit on source documents is kept.

Other programs put documents too, so only a listing knows how many there are. It is asked at most once in ``FRESH_S``
for a user with a limit, and sooner only if the user seems to have as many as it may: what was deleted elsewhere makes
room after ``FULL_S``. Instances that put documents of one user at once may exceed the limit by what they put meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from vectorpool.errors import QuotaExceeded
from vectorpool.names import avatars_prefix, documents_prefix, log_prefix, split_avatar_ids
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectInfo
from vectorpool.objects.refusals import unavailable
from vectorpool.sources import Sources

FRESH_S: Final = 60.0
FULL_S: Final = 2.0
# Users whose counts are remembered, and objects that are counted for one answer.
_MAX_USERS: Final = 10_000
MOST_COUNTED: Final = 100_000
_PAGE: Final = 1000


class StoredSize(msgspec.Struct, frozen=True):
    """Objects and their bytes; ``complete`` is False if there are more than were counted."""

    objects: int = 0
    bytes: int = 0
    complete: bool = True


async def log_size(bucket: Bucket, user_id: str) -> StoredSize:
    """Return the size of a user's log: the commits that are kept, and what is derived. Raises StoreUnavailable."""
    return await _size(bucket, [log_prefix(user_id)], MOST_COUNTED)


async def documents_size(bucket: Bucket, user_id: str, most: int = MOST_COUNTED) -> StoredSize:
    """Return the size of the source documents of all avatars, counted up to ``most``. Raises StoreUnavailable."""
    try:
        found = await bucket.list_prefixes(avatars_prefix(user_id))
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, "listing avatars", error) from error
    prefixes = [documents_prefix(user_id, avatar_id) for avatar_id in split_avatar_ids(found)[0]]
    return await _size(bucket, prefixes, most)


async def _size(bucket: Bucket, prefixes: list[str], most: int) -> StoredSize:
    objects = size = 0
    try:
        for prefix in prefixes:
            async for page in _pages(bucket, prefix):
                # Directory markers, which end with a slash, are nothing that is stored.
                found = [info for info in page if not info.key.endswith("/")]
                objects += len(found)
                size += sum(info.size for info in found)
                if objects >= most:
                    return StoredSize(objects, size, complete=False)
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, "counting what is stored", error) from error
    return StoredSize(objects, size)


async def _pages(bucket: Bucket, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
    after: str | None = None
    while True:
        page = await bucket.list_objects(prefix, limit=_PAGE, after=after)
        yield page
        if len(page) < _PAGE:
            return
        after = page[-1].key


class _Known(msgspec.Struct):
    """A count, when it was made, and the limit up to which it counted."""

    documents: int
    at_s: float
    most: int


class DocumentCounts:
    """The counts of users with a limit. Belongs to one event loop; nothing is known before ``open``."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._bucket: Bucket | None = None
        self._known: dict[str, _Known] = {}

    def open(self, bucket: Bucket) -> None:
        """Set where the documents are."""
        self._bucket = bucket

    async def take(self, user_id: str, limit: int) -> None:
        """Count one more document of a user. Raises QuotaExceeded, StoreUnavailable."""
        assert self._bucket is not None, "it is opened"
        known, now_s = self._known.get(user_id), self._sources.monotonic_s()
        is_full = known is not None and known.documents >= min(limit, known.most)
        fresh_s = FULL_S if is_full else FRESH_S
        if known is None or known.most < limit or not 0 <= now_s - known.at_s < fresh_s:
            counted = await documents_size(self._bucket, user_id, max(1, limit))
            if len(self._known) >= _MAX_USERS:
                del self._known[next(iter(self._known))]
            known = self._known[user_id] = _Known(counted.objects, now_s, limit)
        if known.documents >= limit:
            raise QuotaExceeded(
                f"The user's limit of documents is {limit}, and as many are there. Delete some, or ask for a "
                "higher limit. Reading and deleting go on.",
                extra={"limit_name": "documents", "limit": limit, "count": known.documents + 1},
            )
        known.documents += 1

    def give_back(self, user_id: str) -> None:
        """Tell that a document was not written, or was deleted."""
        known = self._known.get(user_id)
        if known is not None and known.documents:
            known.documents -= 1
