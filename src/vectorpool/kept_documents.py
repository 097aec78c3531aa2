"""Bytes of documents that were replaced or deleted through the API, kept for restores and forks.

Below ``users/<u>/vectorstore/kept/<avatar>/`` there are three kinds of objects, see ``names``. *Content* is named by
its SHA-256. A *mark* says that the service wrote the object of an ETag to a path; what has no mark was written by
another program, and a restore leaves it alone. A *copy* is a large document on its way to become content.

*Consistency.* The last segment of a name is the day on which the object was written. Content that is kept again on
another day gets another name, so a name older than ``retention_s`` is not written again: an instance that removes
expired objects does not hit what another keeps at that moment, however old its listing is, and a deletion that arrives
late hits what was expired before. (A keeper would have to be paused for all of ``retention_s`` between choosing a name
and writing it.) An object stays ``retention_s`` after its day ended, by the clock of its writer and by the store's.

*Crash.* Content is durable before its document is replaced or deleted. What a crash leaves behind is content that
is not asked for, or a copy; both expire.

*Bounds.* A document of at most ``WHOLE_BYTES`` passes through memory. A larger one is copied by the store, and read in
parts for its digest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.objects.bucket import Bucket, ObjectInfo
from vectorpool.settings import Settings
from vectorpool.sources import Sources

WHOLE_BYTES: Final = 8 * 1024**2
_PAGE: Final = 1000
_DELETES: Final = 16
# Pages that are counted for one answer: 100,000 objects.
_COUNTED_PAGES: Final = 100


class KeptSize(msgspec.Struct, frozen=True):
    """Kept documents of a user, and their bytes; ``complete`` is False if there are more than were counted."""

    documents: int = 0
    bytes: int = 0
    complete: bool = True


class Expiry(msgspec.Struct, frozen=True):
    """Expired objects that one call deleted, and whether none is left."""

    deleted: int = 0
    complete: bool = True


def digest_of(data: bytes) -> str:
    """Return the name of content: its SHA-256, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class KeptDocuments:
    """Keeps, finds and deletes the bytes of documents. Raises what the bucket raises."""

    def __init__(self, bucket: Bucket, settings: Settings, sources: Sources) -> None:
        self._bucket = bucket
        self._sources = sources
        self._retention_ms = int(settings.retention_s * 1000)

    @property
    def is_on(self) -> bool:
        """Whether anything is kept: not with ``retention_s`` 0."""
        return self._retention_ms > 0

    def _today(self) -> str:
        return names.day_name(self._sources.now_ms())

    # --- Keeping -------------------------------------------------------------------------------------

    async def keep(self, user_id: str, avatar_id: str, info: ObjectInfo) -> str:
        """Keep the bytes of a document's object; return the ETag of what was kept. Raises ObjectMissing.

        If the object changes meanwhile, that may be another one than ``info.etag``, or ``info.etag`` with other bytes:
        look at the object again, and keep it again if its ETag is not the returned one.
        """
        if info.size <= WHOLE_BYTES:
            body = await self._bucket.get(info.key)
            # Eight megabytes take some milliseconds, which the event loop has for others.
            digest = await asyncio.to_thread(digest_of, body.data)
            key = names.kept_content_prefix(user_id, avatar_id, digest) + self._today()
            await self._bucket.put(key, body.data)
            return body.etag
        copy = names.kept_copy_prefix(user_id, avatar_id, self._sources.uuid()) + self._today()
        try:
            # The digest is that of the copy, which no one else changes.
            await self._bucket.copy(info.key, copy)
            digest = await self._digest(copy)
            await self._bucket.copy(copy, names.kept_content_prefix(user_id, avatar_id, digest) + self._today())
        finally:
            await self._bucket.delete(copy)
        return info.etag

    async def _digest(self, key: str) -> str:
        """Return the SHA-256 of an object, reading a part at a time. Raises ObjectMissing."""
        size, digest = (await self._bucket.head(key)).size, hashlib.sha256()
        for start in range(0, size, WHOLE_BYTES):
            part = await self._bucket.get_range(key, start, min(start + WHOLE_BYTES, size))
            await asyncio.to_thread(digest.update, part)
        return digest.hexdigest()

    async def mark(self, user_id: str, avatar_id: str, path: str, etag: str) -> None:
        """Note that the service wrote the object of this ETag to a document's path."""
        if self.is_on:
            await self._bucket.put(names.kept_mark_prefix(user_id, avatar_id, path, etag) + self._today(), b"")

    # --- Finding -------------------------------------------------------------------------------------

    async def is_ours(self, user_id: str, avatar_id: str, path: str, etag: str) -> bool:
        """Whether the service wrote the object of this ETag to a document's path, as far as is still known."""
        prefix = names.kept_mark_prefix(user_id, avatar_id, path, etag)
        return bool(await self._bucket.list_objects(prefix, limit=1))

    async def find(self, user_id: str, avatar_id: str, digest: str) -> ObjectInfo | None:
        """Return the newest object that holds content, or None if it is not kept."""
        if not digest:
            return None
        prefix = names.kept_content_prefix(user_id, avatar_id, digest)
        found = await self._bucket.list_objects(prefix, limit=_PAGE)
        return found[-1] if found else None

    async def has(self, info: ObjectInfo, digest: str) -> bool:
        """Whether an object holds the content of this digest. Reads all of it; raises ObjectMissing."""
        return await self._digest(info.key) == digest

    async def size(self, user_id: str) -> KeptSize:
        """Return how much is kept for a user, of all avatars."""
        prefix, documents, stored, after = names.kept_prefix(user_id), 0, 0, None
        for _ in range(_COUNTED_PAGES):
            page = await self._bucket.list_objects(prefix, limit=_PAGE, after=after)
            for info in page:
                documents += _is_content(info)
                stored += info.size
            if len(page) < _PAGE:
                return KeptSize(documents, stored)
            after = page[-1].key
        return KeptSize(documents, stored, complete=False)

    # --- Deleting ------------------------------------------------------------------------------------

    async def delete(self, user_id: str, avatar_id: str | None = None) -> int:
        """Delete all that is kept of an avatar, or of a user; return how many documents there were."""
        deleted = 0
        async for page in self._pages(names.kept_prefix(user_id, avatar_id)):
            await self._delete([info.key for info in page])
            deleted += sum(_is_content(info) for info in page)
        return deleted

    async def remove_expired(self, user_id: str, *, most: int = _PAGE) -> Expiry:
        """Delete at most ``most`` of a user's expired objects, from all avatars. Harmless twice, anywhere."""
        now_ms = self._sources.now_ms()
        deleted = 0
        async for page in self._pages(names.kept_prefix(user_id)):
            expired = [info.key for info in page if self._is_expired(info, now_ms)]
            room = most - deleted
            await self._delete(expired[:room])
            deleted += len(expired[:room])
            if len(expired) > room:
                return Expiry(deleted, complete=False)
        return Expiry(deleted)

    def _is_expired(self, info: ObjectInfo, now_ms: int) -> bool:
        parsed = names.parse_kept_key(info.key)
        # Two clocks must agree: a writer's that is far behind would name a day that is over for others.
        return parsed is not None and max(parsed[1], info.modified_ms) + self._retention_ms <= now_ms

    async def _pages(self, prefix: str) -> AsyncIterator[list[ObjectInfo]]:
        after: str | None = None
        while True:
            page = await self._bucket.list_objects(prefix, limit=_PAGE, after=after)
            yield page
            if len(page) < _PAGE:
                return
            after = page[-1].key

    async def _delete(self, keys: list[str]) -> None:
        for start in range(0, len(keys), _DELETES):
            await asyncio.gather(*(self._bucket.delete_listed(key) for key in keys[start : start + _DELETES]))


def _is_content(info: ObjectInfo) -> bool:
    parsed = names.parse_kept_key(info.key)
    return parsed is not None and parsed[0] == "content"
