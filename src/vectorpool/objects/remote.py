"""A bucket in S3, GCS or Azure, through obstore.

Consistency. The stores are strongly consistent, and ``create`` is their conditional PUT (``If-None-Match: *``,
or the store's own form of it) in a single request, never a multipart upload, whose condition is checked late.

Retries. A call is repeated after 5xx, throttling, broken connections and S3's "try again" (409): a bounded number of
times, with exponential backoff and jitter, within one time limit for all attempts. obstore itself repeats nothing, so
that each answer is seen here. A refusal after an attempt without an answer is BucketUnavailable, since that attempt
may still have its effect. ``create`` may meet its own earlier attempt and raise ObjectExists although it won. A caller
that needs the outcome reads the object back, as the commit log does by the writer id.

Conditions. ``replace`` is the store's conditional PUT (``If-Match``, or a version on Google Cloud Storage): of several
that replace the same object, the store lets one win, if it compares. ``remove`` compares before it deletes, since
obstore has no conditional deletion.

Cancellation. A cancelled write may still happen: treat it as BucketUnavailable.

Crash consistency. A PUT is atomic, and a killed process leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import msgspec
import obstore
from obstore.exceptions import BaseError

from vectorpool.objects.bucket import (
    Body,
    BucketDenied,
    BucketElsewhere,
    BucketUnavailable,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    UploadUrlsUnknown,
    check_key,
    check_prefix,
    check_range,
)
from vectorpool.objects.meanings import NoAnswer, excerpt, meaning
from vectorpool.objects.prefix_pages import prefix_page
from vectorpool.objects.regions import BARE_REDIRECT, own_words
from vectorpool.objects.unusable import UnusableLog, unusable_because
from vectorpool.sources import SYSTEM, Sources

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

    from vectorpool.objects.s3_keys import S3Keys

T = TypeVar("T")

CONNECT_TIMEOUT_S: Final = 3.0
# How obstore says that it cannot take a key apart: one of a page, or the one to begin after.
_UNUSABLE: Final = ("object with invalid path", "Could not parse path", "Error parsing Path")
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0


def client_options(*, timeout_s: float, allow_http: bool, ca_bundle: bytes | None = None) -> ClientConfig:
    """Return obstore's client options: time-outs for connecting and for the whole request, further roots of trust."""
    options: ClientConfig = {
        "timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, timeout_s)),
        "allow_http": allow_http,
    }
    if ca_bundle is not None:
        options["root_certificate"] = ca_bundle
    return options


def retry_config() -> RetryConfig:
    """Return obstore's retry bounds: it makes one attempt, and ``RemoteBucket`` repeats it."""
    return {
        "max_retries": 0,
        "retry_timeout": timedelta(seconds=0),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=2),
            "base": 2,
        },
    }


def _condition(etag: str, version: str | None) -> UpdateVersion:
    return {"e_tag": etag} if version is None else {"e_tag": etag, "version": version}


class RemoteBucket:
    """Objects below ``prefix`` (empty, or ending with a slash) of an obstore store.

    A call makes at most ``1 + retries`` attempts and takes at most ``timeout_s`` seconds, attempts and pauses together.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        url: str,
        timeout_s: float,
        retries: int,
        prefix: str = "",
        sources: Sources = SYSTEM,
        keys: S3Keys | None = None,
    ) -> None:
        """``keys`` lists and deletes by verbatim keys, where the store has such a way."""
        self._keys = keys
        self._unusable = UnusableLog(url)
        self._store = store
        self._url = url
        self._prefix = check_prefix(prefix)
        self._timeout_s = timeout_s
        self._retries = retries
        self._sources = sources
        # What S3 says of a bucket in another region.
        self._elsewhere: str | None = None

    @property
    def url(self) -> str:
        return self._url

    async def _ask(self, key: str, call: Callable[[], Awaitable[T]], *, writes: bool = False) -> T:
        """Return the answer of the first attempt that has one, within the time limit; raise the bucket's own errors."""
        deadline_s = self._sources.monotonic_s() + self._timeout_s
        for attempt in itertools.count():
            try:
                async with asyncio.timeout(max(deadline_s - self._sources.monotonic_s(), 0.0)):
                    return await call()
            except TimeoutError:
                raise NoAnswer(f"{self._url}: {key!r}: no answer within {self._timeout_s:g} s") from None
            except Exception as cause:
                error = meaning(self._url, key, cause)
                if isinstance(error, BucketElsewhere) and BARE_REDIRECT in str(cause):
                    error = await self._explain(key, str(cause))
                if not isinstance(error, NoAnswer):
                    if writes and attempt and isinstance(error, BucketDenied):
                        # An earlier attempt without an answer may still have its effect.
                        raise BucketUnavailable(f"{error} (after an attempt without an answer)") from cause
                    raise error from cause
                pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * (0.5 + self._sources.random())
                if attempt >= self._retries or self._sources.monotonic_s() + pause_s >= deadline_s:
                    raise error from cause
            await self._sources.sleep(pause_s)
        raise AssertionError("the loop ends by an answer or an error")

    async def _explain(self, key: str, text: str) -> BucketElsewhere:
        """Return the error of a redirect with S3's own words, which are asked for once."""
        if self._elsewhere is None:
            self._elsewhere = await asyncio.to_thread(own_words, text)
        return BucketElsewhere(f"{self._url}: {key!r}: {self._elsewhere}")

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    async def get(self, key: str) -> Body:
        path = self._key(key)
        return await self._ask(key, lambda: self._get(path))

    async def _get(self, path: str) -> Body:
        answer = await obstore.get_async(self._store, path)
        data = await answer.bytes_async()
        return Body(bytes(data), answer.meta["e_tag"] or "")

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        check_range(start, end)
        path = self._key(key)
        try:
            return await self._ask(key, lambda: self._get_range(path, start, end))
        except NoAnswer:
            raise
        except (BucketUnavailable, BucketDenied):
            # Stores refuse a range beyond the end (416) in different texts, so the object's size decides.
            info = await self.head(key)
            if info.size <= start:
                return b""
            raise

    async def _get_range(self, path: str, start: int, end: int) -> bytes:
        return bytes(await obstore.get_range_async(self._store, path, start=start, end=end))

    def is_surely_absent(self, key: str) -> bool:
        return False

    async def head(self, key: str) -> ObjectInfo:
        path = self._key(key)
        try:
            meta = await self._ask(key, lambda: obstore.head_async(self._store, path))
        except BucketDenied:
            # The answer to a HEAD has no body. The answer to a GET has the store's own text.
            await self._ask(key, lambda: self._get_range(path, 0, 1))
            raise
        return self._info(meta)

    def _info(self, meta: obstore.ObjectMeta) -> ObjectInfo:
        modified_ms = int(meta["last_modified"].timestamp() * 1000)
        return ObjectInfo(meta["path"][len(self._prefix) :], meta["size"], meta["e_tag"] or "", modified_ms)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        check_prefix(prefix)
        return await self._ask(prefix, lambda: self._list(prefix, limit, after))

    async def _list(self, prefix: str, limit: int, after: str | None) -> list[ObjectInfo]:
        if limit <= 0:
            return []
        offset = None if after is None else self._prefix + after
        path = (self._prefix + prefix) or None
        # One chunk is at most one page of the store: the stream is dropped before another page is asked for.
        try:
            stream = obstore.list(self._store, path, offset=offset, chunk_size=min(limit, 1000))
            found: list[ObjectInfo] = []
            async for chunk in stream:
                found.extend(self._info(meta) for meta in chunk)
                if len(found) >= limit:
                    break
        except (BaseError, ValueError) as error:
            self._check_readable(error)
            return await self._list_verbatim(path or "", limit, offset)
        if all(info.size for info in found):
            return found[:limit]
        # An object without bytes may be a directory marker, which obstore shows without its slash.
        if self._keys is not None:
            return await self._list_verbatim(path or "", limit, offset)
        return [info for info in found[:limit] if info.size or await self._is_there(self._prefix + info.key)]

    def _check_readable(self, error: Exception) -> None:
        """Return if an error is about a key that can be read verbatim; raise it, or what it means, otherwise."""
        if not any(said in str(error) for said in _UNUSABLE):
            raise error
        if self._keys is None:
            raise BucketUnavailable(
                f"{self._url}: the listing holds a key that cannot be used: {excerpt(error)}. Rename or delete it with "
                "the tools of the store"
            ) from error

    async def _is_there(self, path: str) -> bool:
        try:
            await obstore.head_async(self._store, path)
        except FileNotFoundError:
            return False
        return True

    async def _list_verbatim(self, path: str, limit: int, offset: str | None) -> list[ObjectInfo]:
        assert self._keys is not None
        found: list[ObjectInfo] = []
        while len(found) < limit:
            asked = min(limit - len(found), 1000)
            page = await asyncio.to_thread(self._keys.page, path, asked, offset)
            found += [msgspec.structs.replace(info, key=info.key[len(self._prefix) :]) for info in page]
            if len(page) < asked:
                break
            offset = page[-1].key
        self._unusable.note(info.key for info in found)
        return found

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        path = self._prefix + check_prefix(prefix)
        if limit is not None:
            return await prefix_page(self, self._keys, self._ask, self._prefix, prefix, limit, after)
        names = await self._ask(prefix, lambda: self._list_prefixes(path))
        return sorted(name.rpartition("/")[2] for name in names)

    async def _list_prefixes(self, path: str) -> list[str]:
        try:
            answer = await obstore.list_with_delimiter_async(self._store, path or None)
        except (BaseError, ValueError) as error:
            self._check_readable(error)
            assert self._keys is not None
            found = [name.removesuffix("/") for name in await asyncio.to_thread(self._keys.prefixes, path)]
            self._unusable.note(found)
            return found
        return [name.rstrip("/") for name in answer["common_prefixes"]]

    async def create(self, key: str, data: bytes) -> str:
        return await self._put(key, data, "create")

    async def put(self, key: str, data: bytes) -> str:
        return await self._put(key, data, "overwrite")

    async def _put(self, key: str, data: bytes, mode: PutMode) -> str:
        path = self._key(key)
        answer = await self._ask(
            key, lambda: obstore.put_async(self._store, path, data, mode=mode, use_multipart=False), writes=True
        )
        return answer["e_tag"] or ""

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        path = self._key(key)
        # radosgw takes an ETag without its quotes only.
        for told in dict.fromkeys((etag, etag.strip('"'))):
            try:
                # Google Cloud Storage compares a version, which only the store tells.
                seen = await self._ask(key, lambda: obstore.head_async(self._store, path))
                if seen["e_tag"] != etag:
                    raise self._changed(key)
                return await self._put(key, data, _condition(told, seen["version"]))
            except ObjectMissing:
                raise self._changed(key) from None
            except ObjectExists:
                # Also if an attempt without an answer was this caller's own.
                found = await self.get(key)
                if found.data == data:
                    return found.etag
                if found.etag != etag:
                    raise self._changed(key) from None
        raise BucketDenied(f"{self._url}: {key!r}: the store refuses a write on condition of the ETag that it told")

    async def remove(self, key: str, etag: str) -> None:
        try:
            if (await self.head(key)).etag != etag:
                raise self._changed(key)
        except ObjectMissing:
            raise self._changed(key) from None
        await self.delete(key)

    def _changed(self, key: str) -> ObjectChanged:
        return ObjectChanged(f"{self._url}: {key!r} is another object now, or none")

    async def copy(self, source: str, target: str) -> None:
        old, new = self._key(source), self._key(target)
        await self._ask(source, lambda: obstore.copy_async(self._store, old, new), writes=True)

    async def upload_url(self, key: str, expires_s: int) -> str:
        expires_in, path = timedelta(seconds=expires_s), self._key(key)
        signing = partial(obstore.sign_async, cast(Any, self._store), "PUT", path, expires_in)
        try:
            return await self._ask(key, signing)
        except (TypeError, ValueError, BucketDenied) as error:
            # Each store of the cloud has them, but not all credentials can sign: those of a GCS instance cannot.
            reason = excerpt(error.__cause__ or error)
            raise UploadUrlsUnknown(f"{self._url}: {reason}") from error

    async def delete(self, key: str) -> None:
        path = self._key(key)
        await self._delete(key, lambda: obstore.delete_async(self._store, path))

    async def delete_listed(self, key: str) -> None:
        keys = self._keys
        if keys is None or unusable_because(key) is None:
            await self.delete(key)
        else:
            await self._delete(key, lambda: asyncio.to_thread(keys.delete, self._prefix + key))

    async def _delete(self, key: str, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await self._ask(key, call, writes=True)
        except ObjectMissing:
            return

    async def close(self) -> None:
        """Do nothing: obstore closes its connections when the store is no longer referenced."""
