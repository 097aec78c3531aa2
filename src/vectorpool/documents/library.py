"""The source documents of avatars, in the bucket: bytes below ``users/<u>/avatars/<a>/vectorstore_data/``.

Other programs put documents there too, so a listing shows what is there, and this module keeps no list of its own.
Objects whose names are no document paths (directory markers, control characters) are skipped. Nothing outside
that prefix is read or written; ``names`` refuses every path that could leave it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec

from vectorpool.documents.formats import content_type_of
from vectorpool.errors import DocumentNotFound, InvalidId, LimitExceeded
from vectorpool.names import (
    avatars_prefix,
    check_avatar_id,
    check_document_path,
    document_key,
    documents_prefix,
    users_prefix,
)
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectInfo, ObjectMissing
from vectorpool.objects.refusals import unavailable
from vectorpool.settings import Settings

PAGE = 1000


class Document(msgspec.Struct, frozen=True):
    """A source document: its path, size in bytes, the store's ETag and time (ms since 1970), and its content type."""

    path: str
    size: int
    etag: str
    modified_ms: int
    content_type: str


class DocumentPage(msgspec.Struct, frozen=True):
    """Documents by path. ``next_after`` is the ``after`` of the next page, or None on the last page."""

    documents: list[Document]
    next_after: str | None


class DocumentBody(msgspec.Struct, frozen=True):
    """A document's bytes, the ETag they were read at, and the content type of its suffix."""

    data: bytes
    etag: str
    content_type: str


@contextmanager
def _store_errors(bucket: Bucket, what: str) -> Iterator[None]:
    """Raise the bucket's errors as errors for the caller."""
    try:
        yield
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, what, error) from error


class DocumentLibrary:
    """Reads and writes source documents, and nothing else in the bucket."""

    def __init__(self, bucket: Bucket, settings: Settings) -> None:
        self._bucket = bucket
        self._max_bytes = settings.max_document_bytes

    def _check_size(self, path: str, size: int) -> None:
        if size > self._max_bytes:
            raise LimitExceeded(
                f"The document {path!r} has {size} bytes, and the limit is {self._max_bytes}. Split it, or raise "
                "VECTORPOOL_MAX_DOCUMENT_BYTES.",
                extra={"limit": self._max_bytes},
            )

    async def put(self, user_id: str, avatar_id: str, path: str, data: bytes) -> str:
        """Write a document, replacing any other of that path, and return its ETag; raise LimitExceeded, InvalidId."""
        key = document_key(user_id, avatar_id, path)
        self._check_size(path, len(data))
        with _store_errors(self._bucket, "writing a document"):
            return await self._bucket.put(key, data)

    async def head(self, user_id: str, avatar_id: str, path: str) -> Document:
        """Return a document's size, ETag and time without reading it; raise DocumentNotFound."""
        key = document_key(user_id, avatar_id, path)
        with _store_errors(self._bucket, "looking at a document"):
            try:
                return _document(path, await self._bucket.head(key))
            except ObjectMissing:
                raise _missing(avatar_id, path) from None

    async def get(self, user_id: str, avatar_id: str, path: str) -> DocumentBody:
        """Return a document; raise DocumentNotFound, or LimitExceeded before bytes over the limit are read."""
        self._check_size(path, (await self.head(user_id, avatar_id, path)).size)
        key = document_key(user_id, avatar_id, path)
        with _store_errors(self._bucket, "reading a document"):
            try:
                body = await self._bucket.get(key)
            except ObjectMissing:
                raise _missing(avatar_id, path) from None
        return DocumentBody(body.data, body.etag, content_type_of(path))

    async def delete(self, user_id: str, avatar_id: str, path: str) -> None:
        """Delete a document; raise DocumentNotFound. Its records stay until the document is forgotten."""
        await self.head(user_id, avatar_id, path)
        with _store_errors(self._bucket, "deleting a document"):
            await self._bucket.delete(document_key(user_id, avatar_id, path))

    async def list_documents(
        self, user_id: str, avatar_id: str, *, limit: int = PAGE, after: str | None = None
    ) -> DocumentPage:
        """Return at most ``limit`` documents by path, after path ``after``; none if the avatar is not there."""
        assert limit >= 1, "a page holds one document at least"
        prefix = documents_prefix(user_id, avatar_id)
        at = prefix + check_document_path(after) if after is not None else None
        found: list[Document] = []
        while True:
            # One more than the limit shows whether there is another page.
            asked = limit + 1 - len(found)
            with _store_errors(self._bucket, "listing documents"):
                infos = await self._bucket.list_objects(prefix, limit=asked, after=at)
            for info in infos:
                path = info.key.removeprefix(prefix)
                if _is_document(path):
                    found.append(_document(path, info))
            if len(found) > limit:
                return DocumentPage(found[:limit], found[limit - 1].path)
            if len(infos) < asked:
                return DocumentPage(found, None)
            at = infos[-1].key

    async def iterate(self, user_id: str, avatar_id: str) -> AsyncIterator[Document]:
        """Yield every document of an avatar by path, a page in memory at a time."""
        after: str | None = None
        while True:
            page = await self.list_documents(user_id, avatar_id, after=after)
            for document in page.documents:
                yield document
            if (after := page.next_after) is None:
                return

    async def list_users(self) -> list[str]:
        """Return the ids of the users that have anything in the bucket, documents or a vectorstore, sorted."""
        with _store_errors(self._bucket, "listing the users"):
            return sorted(await self._bucket.list_prefixes(users_prefix()))

    async def list_avatars(self, user_id: str) -> list[str]:
        """Return the ids of the avatars that have anything in the bucket, sorted."""
        with _store_errors(self._bucket, "listing avatars"):
            names = await self._bucket.list_prefixes(avatars_prefix(user_id))
        return [name for name in names if _is_avatar(name)]


def _document(path: str, info: ObjectInfo) -> Document:
    return Document(path, info.size, info.etag, info.modified_ms, content_type_of(path))


def _missing(avatar_id: str, path: str) -> DocumentNotFound:
    return DocumentNotFound(f"Avatar {avatar_id!r} has no document {path!r}. List its documents to see their paths.")


def _is_document(path: str) -> bool:
    try:
        check_document_path(path)
    except InvalidId:
        return False
    return True


def _is_avatar(name: str) -> bool:
    try:
        check_avatar_id(name)
    except InvalidId:
        return False
    return True
