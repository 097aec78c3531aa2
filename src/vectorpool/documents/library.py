"""The source documents of avatars, in the bucket: bytes below ``users/<u>/avatars/<a>/vectorstore_data/``.

Other programs put documents there too, so a listing shows what is there, and nothing here keeps a list of its own.
Objects whose names are no document paths (empty segments, ``..``, control characters) are listed as refused, and are
deleted with their avatar. Directory markers, which end with a slash, are no documents. Besides that prefix, only the
kept bytes of documents are read and written (``kept_documents``); ``names`` refuses what could leave either.

*Keeping.* The bytes of a document are kept before they are replaced or deleted here; what another program replaces or
deletes is not. Only a replacement that names what it replaces is on a condition. If two other writers replace the same
document within the same moment, the bytes of the first may not be kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import msgspec

from vectorpool.answers import Refused
from vectorpool.errors import (
    DocumentConflict,
    DocumentNotFound,
    InvalidId,
    LimitExceeded,
    OutcomeUnknown,
    PathTaken,
    UploadUrlUnavailable,
)
from vectorpool.extraction.formats import content_type_of
from vectorpool.kept_documents import KeptDocuments, KeptSize
from vectorpool.names import (
    avatars_prefix,
    check_avatar_id,
    check_document_path,
    document_key,
    documents_prefix,
    split_user_ids,
    users_prefix,
)
from vectorpool.objects.bucket import (
    Bucket,
    BucketDenied,
    BucketUnavailable,
    KeyTaken,
    KeyTooLong,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    UploadUrlsUnknown,
)
from vectorpool.objects.refusals import refusal_of, unavailable
from vectorpool.objects.unusable import printable
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources

PAGE: Final = 1000
# Objects deleted at the same time.
_DELETES: Final = 16
# How often a document that others change meanwhile is looked at before it is replaced.
_LOOKS = 4


class Document(msgspec.Struct, frozen=True, omit_defaults=True):
    """A source document: its path, bytes, the store's ETag and time (ms since 1970), and its content type.

    ``missing`` says that a restore or fork brought its records, and that its bytes are not kept. Size and ETag are then
    those of the bytes that its records were made of, and the time is 0.
    """

    path: str
    size: int
    etag: str
    modified_ms: int
    content_type: str
    missing: bool = False


class DocumentPage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Documents by path. ``next_after`` asks for the next page, or is None on the last.

    ``refused`` are objects among them that no request can name, at most 1,000 a page: rename them where they are, or
    delete the avatar with its documents.
    """

    documents: list[Document]
    next_after: str | None
    refused: list[Refused] = []


class DocumentBody(msgspec.Struct, frozen=True):
    """A document's bytes, the ETag they were read at, and the content type of its suffix."""

    data: bytes
    etag: str
    content_type: str


@contextmanager
def store_errors(bucket: Bucket, what: str) -> Iterator[None]:
    """Raise the bucket's errors as errors for the caller."""
    try:
        yield
    except KeyTooLong as error:
        raise InvalidId(f"The store cannot hold this path: {refusal_of(bucket.url, error)}") from error
    except KeyTaken as error:
        raise PathTaken(f"The store cannot hold this path: {refusal_of(bucket.url, error)}") from error
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, what, error) from error


class DocumentLibrary:
    """Reads and writes source documents and their kept bytes, and nothing else in the bucket."""

    def __init__(self, bucket: Bucket, settings: Settings, sources: Sources = SYSTEM) -> None:
        self.bucket = bucket
        self._max_bytes = settings.max_document_bytes
        self.kept = KeptDocuments(bucket, settings, sources)

    def _check_size(self, path: str, size: int) -> None:
        if size > self._max_bytes:
            raise LimitExceeded(
                f"The document {path!r} has {size} bytes, and the limit is {self._max_bytes}. Split it, or raise "
                "VECTORPOOL_MAX_DOCUMENT_BYTES.",
                extra={"limit": self._max_bytes},
            )

    async def put(self, user_id: str, avatar_id: str, path: str, data: bytes) -> str:
        """Write a document, replacing any other of that path, and return its ETag.

        The bytes that it replaces are kept first, see ``keep``. Raises LimitExceeded, InvalidId, DocumentConflict, and
        OutcomeUnknown if it is written and a restore would take it for another program's.
        """
        key = document_key(user_id, avatar_id, path)
        self._check_size(path, len(data))
        await self.keep(user_id, avatar_id, path)
        with store_errors(self.bucket, "writing a document"):
            etag = await self.bucket.put(key, data)
        return await self._mark(user_id, avatar_id, path, etag)

    async def replace(self, user_id: str, avatar_id: str, path: str, data: bytes, etag: str) -> str | None:
        """Write a document in place of the one with this ETag, and return its own; None if another, or none, is there.

        The store compares, so that a write of somebody else in between is not lost. The bytes that it replaces are kept
        first. Raises what ``put`` raises.
        """
        key = document_key(user_id, avatar_id, path)
        self._check_size(path, len(data))
        there = await self.keep(user_id, avatar_id, path)
        if there is None or there.etag != etag:
            return None
        with store_errors(self.bucket, "writing a document"):
            try:
                made = await self.bucket.replace(key, data, etag)
            except ObjectChanged:
                return None
        return await self._mark(user_id, avatar_id, path, made)

    async def _mark(self, user_id: str, avatar_id: str, path: str, etag: str) -> str:
        """Note that this instance wrote a document, and return its ETag. Raises OutcomeUnknown."""
        try:
            await self.kept.mark(user_id, avatar_id, path, etag)
        except (BucketUnavailable, BucketDenied) as error:
            raise OutcomeUnknown(
                f"The document {path!r} is written, but the store did not take the note of it that restores need "
                f"({error}). Put it again."
            ) from error
        return etag

    async def keep(self, user_id: str, avatar_id: str, path: str) -> ObjectInfo | None:
        """Keep the bytes that are at a path, before they are replaced or deleted; return what is there, or None.

        A document over ``max_document_bytes`` cannot become records, and is not kept. Raises DocumentConflict if others
        keep changing the document, StoreUnavailable.
        """
        key = document_key(user_id, avatar_id, path)
        with store_errors(self.bucket, "keeping the bytes of a document"):
            there = await self.look(key)
            for _ in range(_LOOKS):
                if there is None or not self.kept.is_on or there.size > self._max_bytes:
                    return there
                try:
                    kept = await self.kept.keep(user_id, avatar_id, there)
                except ObjectMissing:
                    kept = ""
                # Another instance may have replaced what was kept: then its bytes must be kept too.
                before, there = there, await self.look(key)
                if there is None or kept == there.etag == before.etag:
                    return there
        raise DocumentConflict(
            f"Others keep changing the document {path!r}. Nothing was changed; send the request again."
        )

    async def look(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, or None if it is not there. Raises what the bucket raises."""
        try:
            return await self.bucket.head(key)
        except ObjectMissing:
            return None

    async def create(self, user_id: str, avatar_id: str, path: str, data: bytes) -> str | None:
        """Write a document where there is none, and return its ETag, or None if there is one.

        Raises LimitExceeded, InvalidId, OutcomeUnknown. A retried request may find what its own first attempt wrote.
        """
        key = document_key(user_id, avatar_id, path)
        self._check_size(path, len(data))
        with store_errors(self.bucket, "writing a document"):
            try:
                etag = await self.bucket.create(key, data)
            except ObjectExists:
                body = await self.bucket.get(key)
                if body.data != data:
                    return None
                etag = body.etag
        return await self._mark(user_id, avatar_id, path, etag)

    async def upload_url(self, user_id: str, avatar_id: str, path: str, expires_s: int) -> str:
        """Return a URL for a PUT of one document, good for ``expires_s`` seconds; what is there now is kept first.

        Raises UploadUrlUnavailable, DocumentConflict. A restore takes what comes by the URL for another program's.
        """
        key = document_key(user_id, avatar_id, path)
        with store_errors(self.bucket, "making an upload URL"):
            try:
                url = await self.bucket.upload_url(key, expires_s)
            except UploadUrlsUnknown as error:
                hint = "Put the document at .../documents/PATH of this service."
                raise UploadUrlUnavailable(f"The store makes no upload URLs ({error}). {hint}") from error
        await self.keep(user_id, avatar_id, path)
        return url

    async def head(self, user_id: str, avatar_id: str, path: str) -> Document:
        """Return a document's size, ETag and time without reading it; raise DocumentNotFound."""
        key = document_key(user_id, avatar_id, path)
        with store_errors(self.bucket, "looking at a document"):
            try:
                return _document(path, await self.bucket.head(key))
            except ObjectMissing:
                raise _missing(avatar_id, path) from None

    async def get(self, user_id: str, avatar_id: str, path: str) -> DocumentBody:
        """Return a document; raise DocumentNotFound, or LimitExceeded before bytes over the limit are read."""
        self._check_size(path, (await self.head(user_id, avatar_id, path)).size)
        key = document_key(user_id, avatar_id, path)
        with store_errors(self.bucket, "reading a document"):
            try:
                body = await self.bucket.get(key)
            except ObjectMissing:
                raise _missing(avatar_id, path) from None
        return DocumentBody(body.data, body.etag, content_type_of(path))

    async def delete(self, user_id: str, avatar_id: str, path: str, *, etag: str | None = None) -> bool:
        """Delete a document, whose bytes are kept first; with ``etag`` only the one with it. Return whether it was.

        What was ingested from it stays until it is forgotten. Raises DocumentNotFound, DocumentConflict.
        """
        there = await self.keep(user_id, avatar_id, path)
        if there is None:
            raise _missing(avatar_id, path)
        key = document_key(user_id, avatar_id, path)
        with store_errors(self.bucket, "deleting a document"):
            if etag is None:
                await self.bucket.delete(key)
                return True
            if there.etag != etag:
                return False
            try:
                await self.bucket.remove(key, etag)
            except ObjectChanged:
                return False
        return True

    async def discard_kept(self, user_id: str, avatar_id: str | None = None) -> int:
        """Delete all kept bytes of an avatar, or of a user; return how many documents they were."""
        with store_errors(self.bucket, "deleting kept documents"):
            return await self.kept.delete(user_id, avatar_id)

    async def kept_size(self, user_id: str) -> KeptSize:
        """Return how much is kept for a user."""
        with store_errors(self.bucket, "listing kept documents"):
            return await self.kept.size(user_id)

    async def list_documents(
        self, user_id: str, avatar_id: str, *, limit: int = PAGE, after: str | None = None
    ) -> DocumentPage:
        """Return at most ``limit`` documents by path, after path ``after``; none if the avatar is not there."""
        assert limit >= 1, "a page holds one document at least"
        prefix = documents_prefix(user_id, avatar_id)
        at = prefix + check_document_path(after) if after is not None else None
        found: list[Document] = []
        refused: dict[str, Refused] = {}
        while True:
            # One more than the limit shows whether there is another page.
            asked = limit + 1 - len(found)
            with store_errors(self.bucket, "listing documents"):
                infos = await self.bucket.list_objects(prefix, limit=asked, after=at)
            for info in infos:
                path = info.key.removeprefix(prefix)
                if path.endswith("/") or not path:
                    continue
                if (reason := _refusal(check_document_path, path)) is None:
                    found.append(_document(path, info))
                elif len(refused) < PAGE:
                    refused[path] = Refused(printable(path), reason)
            if len(found) > limit:
                last = found[limit - 1].path
                # Those after the page's last document are the next page's.
                return DocumentPage(found[:limit], last, [refused[path] for path in refused if path < last])
            if len(infos) < asked:
                return DocumentPage(found, None, list(refused.values()))
            at = infos[-1].key

    async def delete_all(self, user_id: str, avatar_id: str) -> int:
        """Delete everything below an avatar's prefix, whatever its name; return how many documents there were."""
        return await self._delete_below(documents_prefix(user_id, avatar_id), lambda key: True)

    async def delete_of_user(self, user_id: str) -> int:
        """Delete the documents of every avatar, also of those whose names are refused; return how many there were."""
        avatar_ids, refused = await self.scan_avatars(user_id)
        deleted = 0
        for avatar_id in avatar_ids:
            deleted += await self.delete_all(user_id, avatar_id)
        if refused:
            prefix = avatars_prefix(user_id)
            deleted += await self._delete_below(prefix, lambda key: _is_below_documents(key.removeprefix(prefix)))
        return deleted

    async def _delete_below(self, prefix: str, is_meant: Callable[[str], bool]) -> int:
        deleted, after = 0, None
        while True:
            with store_errors(self.bucket, "listing documents"):
                infos = await self.bucket.list_objects(prefix, limit=PAGE, after=after)
            keys = [info.key for info in infos if is_meant(info.key)]
            for start in range(0, len(keys), _DELETES):
                with store_errors(self.bucket, "deleting a document"):
                    await asyncio.gather(*map(self.bucket.delete_listed, keys[start : start + _DELETES]))
            deleted += sum(not key.endswith("/") for key in keys)
            if len(infos) < PAGE:
                return deleted
            after = infos[-1].key

    async def iterate(self, user_id: str, avatar_id: str) -> AsyncGenerator[Document, None]:
        """Yield every document of an avatar by path, a page in memory at a time."""
        async for page in self.pages(user_id, avatar_id):
            for document in page.documents:
                yield document

    async def pages(self, user_id: str, avatar_id: str) -> AsyncGenerator[DocumentPage, None]:
        """Yield every page of an avatar's documents, with what is refused among them."""
        after: str | None = None
        while True:
            page = await self.list_documents(user_id, avatar_id, after=after)
            yield page
            if (after := page.next_after) is None:
                return

    async def list_users(self) -> list[str]:
        """Return the ids of the users that have anything in the bucket, documents or a vectorstore, sorted."""
        with store_errors(self.bucket, "listing the users"):
            found = await self.bucket.list_prefixes(users_prefix())
        return sorted(split_user_ids(found)[0])

    async def list_avatars(self, user_id: str) -> list[str]:
        """Return the ids of the avatars that have anything in the bucket, sorted."""
        return (await self.scan_avatars(user_id))[0]

    async def scan_avatars(self, user_id: str) -> tuple[list[str], list[Refused]]:
        """Return the ids of the avatars that have anything in the bucket, and the names there that are no ids."""
        with store_errors(self.bucket, "listing avatars"):
            names = await self.bucket.list_prefixes(avatars_prefix(user_id))
        reasons = {name: _refusal(check_avatar_id, name) for name in names}
        ids = [name for name, reason in reasons.items() if reason is None]
        return ids, [Refused(printable(name), reason) for name, reason in reasons.items() if reason is not None]


def _document(path: str, info: ObjectInfo) -> Document:
    return Document(path, info.size, info.etag, info.modified_ms, content_type_of(path))


def _missing(avatar_id: str, path: str) -> DocumentNotFound:
    return DocumentNotFound(f"Avatar {avatar_id!r} has no document {path!r}. List its documents to see their paths.")


def _refusal(check: Callable[[str], str], name: str) -> str | None:
    """Return why a name is refused, or None."""
    try:
        check(name)
    except InvalidId as error:
        return error.detail
    return None


def _is_below_documents(path: str) -> bool:
    """Whether a path below the avatars lies in an avatar's documents, whatever the avatar is called."""
    return path.partition("/")[2].startswith("vectorstore_data/")
