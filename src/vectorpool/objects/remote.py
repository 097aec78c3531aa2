"""A bucket in S3, GCS or Azure, through obstore.

Consistency. The stores are strongly consistent, and ``create`` is their conditional PUT (``If-None-Match: *``,
or the store's own form of it) in a single request, never a multipart upload, whose condition is checked late.

Retries. obstore repeats a request after 5xx, throttling, broken connections and, for reads, time-outs: a bounded
number of times, with exponential backoff and jitter, and no further attempt after a bounded time. It also repeats
a conditional PUT, so ``create`` may meet its own first attempt and raise ObjectExists although it won. Whoever must
know reads the object back; the commit log does, by the writer id.

Cancellation. A cancelled write may still happen: treat it as BucketUnavailable.

Crash consistency. A PUT is all or nothing; nothing is left behind by a killed process.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from vectorpool.objects.bucket import (
    Body,
    BucketDenied,
    BucketMissing,
    BucketUnavailable,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    check_key,
    check_prefix,
    check_range,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 3.0
_EXCERPT: Final = 300
# How S3, Azure and GCS say in a 404's body that the bucket itself is missing; a HEAD has no body and cannot.
_NO_BUCKET: Final = ("<Code>NoSuchBucket<", "<Code>ContainerNotFound<", "The specified bucket does not exist")
# What reqwest and hyper say deep in obstore's messages, and what an operator reads.
_NETWORK: Final = (
    ("ConnectionRefused", "connection refused"),
    ("Connection refused", "connection refused"),
    ("dns error", "the host name is not known"),
    ("certificate", "the TLS certificate is not accepted"),
    ("TimedOut", "timed out"),
    ("timed out", "timed out"),
    ("ConnectionReset", "connection reset"),
)


def client_options(*, timeout_s: float, allow_http: bool) -> ClientConfig:
    """Return obstore's client options: time-outs for connecting and for the whole request."""
    return {
        "timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)),
        "allow_http": allow_http,
    }


def retry_config(*, timeout_s: float, retries: int) -> RetryConfig:
    """Return obstore's retry bounds: ``retries`` further attempts, none after twice the request's time-out."""
    return {
        "max_retries": retries,
        "retry_timeout": timedelta(seconds=2 * timeout_s),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=2),
            "base": 2,
        },
    }


def excerpt(error: BaseException) -> str:
    """Return the telling part of one of obstore's messages: the store's own code, or what the network did."""
    text = str(error)
    if code := re.search(r"<Code>([^<]{1,80})</Code>", text):
        return code[1]
    for told, said in _NETWORK:
        if told in text:
            return said
    if status := re.search(r"status code: (\d{3} [A-Za-z -]{0,40})", text):
        return status[1].strip()
    return " ".join(text.partition("\n\nDebug source")[0].split())[:_EXCERPT]


class RemoteBucket:
    """Objects below ``prefix`` (empty, or ending with a slash) of an obstore store."""

    def __init__(self, store: ObjectStore, *, url: str, prefix: str = "") -> None:
        self._store = store
        self._url = url
        self._prefix = check_prefix(prefix)

    @property
    def url(self) -> str:
        return self._url

    async def _ask(self, key: str, call: Awaitable[T]) -> T:
        try:
            return await call
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._refuse(key, error)

    def _refuse(self, key: str, error: Exception) -> NoReturn:
        """Raise the bucket's own error for one of obstore's.

        A store answers 404 for a missing bucket and for a missing object alike; the body's code tells them apart.
        """
        text = str(error)
        where = f"{self._url}: {key!r}"
        if isinstance(error, AlreadyExistsError | PreconditionError):
            raise ObjectExists(f"{where} is taken") from error
        if any(code in text for code in _NO_BUCKET):
            raise BucketMissing(f"{self._url}: the bucket does not exist") from error
        if isinstance(error, FileNotFoundError):
            raise ObjectMissing(f"{where} is not there") from error
        # Listings carry every refusal as a generic error, so the status is read from the text as well.
        denied = "status code: 403" in text or "status code: 401" in text
        if denied or isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            raise BucketDenied(f"{where}: {excerpt(error)}") from error
        if "status code: 409" in text:
            # Another create of this key is under way: it wins, or its writer will be asked for by reading back.
            raise ObjectExists(f"{where} is being created by another") from error
        if isinstance(error, BaseError | OSError | ValueError):
            raise BucketUnavailable(f"{where}: {excerpt(error)}") from error
        raise error

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    async def get(self, key: str) -> Body:
        return await self._ask(key, self._get(self._key(key)))

    async def _get(self, path: str) -> Body:
        answer = await obstore.get_async(self._store, path)
        data = await answer.bytes_async()
        return Body(bytes(data), answer.meta["e_tag"] or "")

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        check_range(start, end)
        path = self._key(key)
        try:
            return bytes(await obstore.get_range_async(self._store, path, start=start, end=end))
        except Exception as error:
            if not isinstance(error, BaseError | OSError | ValueError):
                raise
            # Stores refuse a range beyond the end (416) in words of their own; the object's size settles it.
            info = await self.head(key)
            if info.size <= start:
                return b""
            self._refuse(key, error)

    async def head(self, key: str) -> ObjectInfo:
        meta = await self._ask(key, obstore.head_async(self._store, self._key(key)))
        return self._info(meta)

    def _info(self, meta: obstore.ObjectMeta) -> ObjectInfo:
        modified_ms = int(meta["last_modified"].timestamp() * 1000)
        return ObjectInfo(meta["path"][len(self._prefix) :], meta["size"], meta["e_tag"] or "", modified_ms)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        check_prefix(prefix)
        return await self._ask(prefix, self._list(prefix, limit, after))

    async def _list(self, prefix: str, limit: int, after: str | None) -> list[ObjectInfo]:
        if limit <= 0:
            return []
        offset = None if after is None else self._prefix + after
        path = (self._prefix + prefix) or None
        # One chunk is at most one page of the store: the stream is dropped before another page is asked for.
        stream = obstore.list(self._store, path, offset=offset, chunk_size=min(limit, 1000))
        found: list[ObjectInfo] = []
        async for chunk in stream:
            found.extend(self._info(meta) for meta in chunk)
            if len(found) >= limit:
                break
        return found[:limit]

    async def list_prefixes(self, prefix: str) -> list[str]:
        path = (self._prefix + check_prefix(prefix)) or None
        answer = await self._ask(prefix, obstore.list_with_delimiter_async(self._store, path))
        return sorted(name.rstrip("/").rpartition("/")[2] for name in answer["common_prefixes"])

    async def create(self, key: str, data: bytes) -> str:
        call = obstore.put_async(self._store, self._key(key), data, mode="create", use_multipart=False)
        return (await self._ask(key, call))["e_tag"] or ""

    async def put(self, key: str, data: bytes) -> str:
        call = obstore.put_async(self._store, self._key(key), data, mode="overwrite", use_multipart=False)
        return (await self._ask(key, call))["e_tag"] or ""

    async def delete(self, key: str) -> None:
        try:
            await self._ask(key, obstore.delete_async(self._store, self._key(key)))
        except ObjectMissing:
            return

    async def close(self) -> None:
        """obstore gives its connections back when the store is no longer referenced."""
