"""A wrapper that tells a clock when calls are under way: those of one vectorstore, over the bucket of all."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from vectorpool.objects.bucket import Body, Bucket, ObjectInfo
from vectorpool.objects.metered import outcome_of
from vectorpool.sources import Sources
from vectorpool.telemetry.parts import StoreClock

T = TypeVar("T")


class ClockedBucket:
    """Another bucket, whose calls ``clock`` measures."""

    def __init__(self, inner: Bucket, clock: StoreClock, sources: Sources) -> None:
        self._inner = inner
        self._clock = clock
        self._sources = sources

    @property
    def url(self) -> str:
        return self._inner.url

    async def _time(self, name: str, call: Awaitable[T]) -> T:
        began_s, outcome = self._sources.monotonic_s(), "ok"
        self._clock.begin(began_s)
        try:
            return await call
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._clock.end(name, began_s, self._sources.monotonic_s(), outcome)

    async def get(self, key: str) -> Body:
        return await self._time("get", self._inner.get(key))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        return await self._time("get_range", self._inner.get_range(key, start, end))

    def is_surely_absent(self, key: str) -> bool:
        began_s = self._sources.monotonic_s()
        is_absent = self._inner.is_surely_absent(key)
        if is_absent:
            self._clock.begin(began_s)
            self._clock.end("head", began_s, self._sources.monotonic_s(), "missing")
        return is_absent

    async def head(self, key: str) -> ObjectInfo:
        return await self._time("head", self._inner.head(key))

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self._time("list_objects", self._inner.list_objects(prefix, limit=limit, after=after))

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        return await self._time("list_prefixes", self._inner.list_prefixes(prefix, limit=limit, after=after))

    async def create(self, key: str, data: bytes) -> str:
        return await self._time("create", self._inner.create(key, data))

    async def put(self, key: str, data: bytes) -> str:
        return await self._time("put", self._inner.put(key, data))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        return await self._time("put", self._inner.replace(key, data, etag))

    async def remove(self, key: str, etag: str) -> None:
        await self._time("delete", self._inner.remove(key, etag))

    async def copy(self, source: str, target: str) -> None:
        await self._time("copy", self._inner.copy(source, target))

    async def upload_url(self, key: str, expires_s: int) -> str:
        # Nothing is sent to the store.
        return await self._inner.upload_url(key, expires_s)

    async def delete(self, key: str) -> None:
        await self._time("delete", self._inner.delete(key))

    async def delete_listed(self, key: str) -> None:
        await self._time("delete", self._inner.delete_listed(key))

    async def close(self) -> None:
        await self._inner.close()
