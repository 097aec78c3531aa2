"""The interface of a bucket, and its errors.

``create`` is the one primitive on which the commit log's safety rests: it writes an object only if the key is
free, and of any number of concurrent callers exactly one returns normally.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from vectorpool.names import MAX_KEY_BYTES


class ObjectInfo(msgspec.Struct, frozen=True):
    """One object of a listing. ``modified_ms`` is the store's clock, milliseconds since 1970.

    Other programs may have made the object, so its key may be one that only ``delete_listed`` takes: see ``unusable``.
    """

    key: str
    size: int
    etag: str
    modified_ms: int


class Body(msgspec.Struct, frozen=True):
    """An object's bytes, and the ETag they were read at."""

    data: bytes
    etag: str


class ObjectMissing(Exception):
    """No object has this key."""


class ObjectExists(Exception):
    """The key is taken. After a retried create, the object may be the caller's own first attempt."""


class UploadUrlsUnknown(Exception):
    """The store has no URLs that carry their own permission, or the credentials cannot make them."""


class ObjectChanged(Exception):
    """The object is not the one that the caller named by its ETag: another, or none. Nothing was changed."""


class BucketUnavailable(Exception):
    """No usable answer, after bounded retries. A write may or may not have happened."""


class BucketDenied(Exception):
    """The store refuses: credentials, permissions, or a bucket that is not there. A retry does not help.

    The call has no effect, now or later. If an earlier attempt may have an effect, a store raises BucketUnavailable.
    """


class BucketFull(BucketDenied):
    """The store has no room for the object, and nothing of it was written."""


class BucketMissing(BucketDenied):
    """The bucket itself does not exist."""


class BucketElsewhere(BucketDenied):
    """The bucket is in another region than the one that was asked."""


class KeyTooLong(BucketDenied):
    """The store cannot hold an object of this key, because a segment of it is too long."""


class KeyTaken(BucketDenied):
    """On a directory as store, the key is a folder of other objects, or lies below an object."""


# What a key may not hold anywhere; most other characters that cannot be printed are allowed.
_NO_CHARACTER: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_NO_SEGMENTS: Final = frozenset({"", ".", ".."})


def check_key(key: str) -> str:
    """Return ``key`` if every store can hold it verbatim; raise ValueError otherwise.

    ``vectorpool.names`` builds keys and refuses bad ids with an error for the caller. This is a second check, the
    same for every store: 1 to 1,024 bytes of non-empty segments, none of them ``.`` or ``..``, and no control
    characters.
    """
    if not key or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise ValueError(f"an object key has 1 to 1,024 bytes, not {len(key)} characters")
    if not _NO_SEGMENTS.isdisjoint(key.split("/")):
        raise ValueError(f"the object key {key!r} has a segment that is empty, '.' or '..'")
    if not key.isprintable() and _NO_CHARACTER.search(key):
        raise ValueError(f"the object key {key!r} holds a control character")
    return key


def check_prefix(prefix: str) -> str:
    """Return a listing's prefix if it is empty or a clean key followed by one slash; raise ValueError otherwise."""
    if prefix:
        if not prefix.endswith("/"):
            raise ValueError(f"the prefix {prefix!r} does not end with a slash")
        check_key(prefix[:-1])
    return prefix


def page_of(names: Iterable[str], limit: int, after: str | None) -> list[str]:
    """Return a page of ``Bucket.list_prefixes`` of all names, in memory for the page alone."""
    later = (name + "/" for name in names if after is None or name + "/" > after + "/")
    return [name[:-1] for name in heapq.nsmallest(limit, later)]


def check_range(start: int, end: int) -> None:
    """Raise ValueError unless ``0 <= start < end``: stores disagree about empty ranges, so they are refused here."""
    if not 0 <= start < end:
        raise ValueError(f"a range needs 0 <= start < end, not {start} to {end}")


class Bucket(Protocol):
    """A flat, key-ordered set of immutable byte strings. Keys are relative to the bucket's own prefix.

    Key order is the order of the keys' UTF-8 bytes. A prefix is empty or ends with a slash. A call may raise
    BucketUnavailable or BucketDenied besides the errors that its docstring names, and ValueError for a key that
    ``vectorpool.names`` cannot build.
    """

    @property
    def url(self) -> str:
        """The bucket's URL without secrets, for messages."""
        ...

    async def get(self, key: str) -> Body:
        """Return a whole object; raise ObjectMissing."""
        ...

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        """Return bytes ``start`` up to, not including, ``end``; raise ObjectMissing.

        What lies beyond the object's end is left out, so a range wholly beyond it is empty.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Return an object's size in bytes, ETag and time without reading it; raise ObjectMissing."""
        ...

    def is_surely_absent(self, key: str) -> bool:
        """Return whether the store shows at once, without waiting, that a key is free now; False says nothing."""
        ...

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        """Return at most ``limit`` objects below ``prefix`` in ascending key order, after key ``after``.

        Keys that other programs made are shown as they are, and ``after`` may be such a key.
        """
        ...

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        """Return the names of the "directories" directly below ``prefix``, sorted, without slashes.

        With ``limit``, 1 to 1,000, at most so many of them, after the name ``after``, in the order of their keys, in
        which the slash behind a name counts: a page takes the same time and memory, however many there are.

        A name that another program made may be empty, ``.``, or hold a control character.
        """
        ...

    async def create(self, key: str, data: bytes) -> str:
        """Write an object whose key is free and return its ETag; raise ObjectExists if it is not."""
        ...

    async def put(self, key: str, data: bytes) -> str:
        """Write an object, replacing any other of that key, and return its ETag."""
        ...

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        """Write an object in place of the one with an ETag, and return the new ETag; raise ObjectChanged.

        Of several that replace the same one, one returns normally, as far as the store itself compares: see ``remote``.
        """
        ...

    async def remove(self, key: str, etag: str) -> None:
        """Delete the object with an ETag; raise ObjectChanged.

        Only a directory and memory compare and delete in one step. Remote stores are asked right before.
        """
        ...

    async def copy(self, source: str, target: str) -> None:
        """Copy an object, replacing any other of key ``target``; raise ObjectMissing if there is no ``source``.

        The store copies it: no byte passes through the caller, whatever its size.
        """
        ...

    async def upload_url(self, key: str, expires_s: int) -> str:
        """Return a URL that takes a PUT of this one object for ``expires_s`` seconds, without credentials.

        Raises UploadUrlsUnknown if the store has none.
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete an object; a missing object is no error."""
        ...

    async def delete_listed(self, key: str) -> None:
        """Delete an object that a listing showed, whatever its key; it is no error if it is not there."""
        ...

    async def close(self) -> None:
        """Close connections and end threads."""
        ...


class WithoutUploadUrls:
    """The part of a bucket in files or in memory, which signs nothing."""

    async def upload_url(self, key: str, expires_s: int) -> str:
        """Raise UploadUrlsUnknown."""
        raise UploadUrlsUnknown("a store of files, or of memory, has none")
