"""A wrapper that injects the faults of networks and stores, drawn from injected sources.

It is part of the product so that every layer above can be tested against it. With a seeded ``Sources``, one
seed is one history. The most important fault is *the write happened, the answer was lost*. The next is
*the write happens later*, after its writer gave it up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from vectorpool.objects.bucket import (
    Body,
    Bucket,
    BucketDenied,
    BucketUnavailable,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
)
from vectorpool.sources import SYSTEM, Sources

T = TypeVar("T")

Chance = Annotated[float, Meta(ge=0, le=1)]


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """How likely each fault is in one call (0 never, 1 always), and how long waits may be, in seconds.

    The faults are drawn in the order of the fields, and at most one of them happens to a call.
    """

    # The connection is refused or reset before the request has any effect.
    before: Chance = 0.0
    # The store refuses because a permission is missing, before the request has any effect.
    denied: Chance = 0.0
    # 503 Slow Down, or another 5xx that says truthfully that nothing happened.
    throttled: Chance = 0.0
    # Writes only: the caller gets no answer, and the write lands up to ``delay_s`` later.
    delayed: Chance = 0.0
    # The effect happens, then the connection breaks.
    after: Chance = 0.0
    # Reads of bytes only: the body ends early, and the layers below do not detect it.
    truncated: Chance = 0.0
    # The longest wait before each call.
    latency_s: float = 0.0
    delay_s: float = 0.0
    # Only these operations fail; None: all of them.
    operations: frozenset[str] | None = None


_WRITES = frozenset({"create", "put", "copy", "delete"})
_BODIES = frozenset({"get", "get_range"})


class FaultyBucket:
    """Another bucket, behind a bad network. ``faults`` may be replaced at any time."""

    def __init__(self, inner: Bucket, faults: Faults, *, sources: Sources = SYSTEM) -> None:
        self._inner = inner
        self._sources = sources
        self._pending: set[asyncio.Task[None]] = set()
        self.faults = faults

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def pending(self) -> int:
        """The number of delayed writes that have not landed yet."""
        return len(self._pending)

    def _draw(self, operation: str) -> str | None:
        faults = self.faults
        if faults.operations is not None and operation not in faults.operations:
            return None
        kinds = [
            ("before", faults.before),
            ("denied", faults.denied),
            ("throttled", faults.throttled),
            ("after", faults.after),
        ]
        if operation in _WRITES:
            kinds.insert(3, ("delayed", faults.delayed))
        if operation in _BODIES:
            kinds.append(("truncated", faults.truncated))
        for kind, chance in kinds:
            # Chances of 0 draw no number, so that a history does not depend on faults that are switched off.
            if chance > 0 and self._sources.random() < chance:
                return kind
        return None

    async def _call(
        self,
        operation: str,
        key: str,
        effect: Callable[[], Awaitable[T]],
        cut: Callable[[T], T] | None = None,
    ) -> T:
        kind = self._draw(operation)
        if self.faults.latency_s > 0:
            await self._sources.sleep(self._sources.random() * self.faults.latency_s)
        where = f"{operation} of {key!r} in {self.url}"
        if kind == "before":
            raise BucketUnavailable(f"{where}: the connection was reset before the request was sent")
        if kind == "denied":
            raise BucketDenied(f"{where}: 403 AccessDenied")
        if kind == "throttled":
            raise BucketUnavailable(f"{where}: 503 Slow Down")
        if kind == "delayed":
            self._land_later(effect)
            raise BucketUnavailable(f"{where}: the request timed out")
        answer = await effect()
        if kind == "after":
            raise BucketUnavailable(f"{where}: the connection was reset while the answer was awaited")
        if kind == "truncated" and cut is not None:
            return cut(answer)
        return answer

    def _land_later(self, effect: Callable[[], Awaitable[T]]) -> None:
        wait_s = self._sources.random() * self.faults.delay_s

        async def land() -> None:
            await self._sources.sleep(wait_s)
            try:
                await effect()
            except (ObjectExists, ObjectMissing, ObjectChanged, BucketUnavailable, BucketDenied):
                return  # The caller gave the request up and gets no answer.

        task = asyncio.ensure_future(land())
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def settle(self) -> None:
        """Wait until every delayed write has landed."""
        while self._pending:
            await asyncio.gather(*self._pending)

    def _shorter(self, data: bytes) -> bytes:
        return data[: int(self._sources.random() * len(data))]

    async def get(self, key: str) -> Body:
        return await self._call(
            "get", key, lambda: self._inner.get(key), lambda body: Body(self._shorter(body.data), body.etag)
        )

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        return await self._call("get_range", key, lambda: self._inner.get_range(key, start, end), self._shorter)

    def is_surely_absent(self, key: str) -> bool:
        # The question itself may fail.
        return False

    async def head(self, key: str) -> ObjectInfo:
        return await self._call("head", key, lambda: self._inner.head(key))

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self._call(
            "list_objects", prefix, lambda: self._inner.list_objects(prefix, limit=limit, after=after)
        )

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        return await self._call(
            "list_prefixes", prefix, lambda: self._inner.list_prefixes(prefix, limit=limit, after=after)
        )

    async def create(self, key: str, data: bytes) -> str:
        return await self._call("create", key, lambda: self._inner.create(key, data))

    async def put(self, key: str, data: bytes) -> str:
        return await self._call("put", key, lambda: self._inner.put(key, data))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        return await self._call("put", key, lambda: self._inner.replace(key, data, etag))

    async def remove(self, key: str, etag: str) -> None:
        await self._call("delete", key, lambda: self._inner.remove(key, etag))

    async def copy(self, source: str, target: str) -> None:
        await self._call("copy", target, lambda: self._inner.copy(source, target))

    async def upload_url(self, key: str, expires_s: int) -> str:
        return await self._inner.upload_url(key, expires_s)

    async def delete(self, key: str) -> None:
        await self._call("delete", key, lambda: self._inner.delete(key))

    async def delete_listed(self, key: str) -> None:
        await self._call("delete", key, lambda: self._inner.delete_listed(key))

    async def close(self) -> None:
        """Drop the delayed writes that have not landed, as a power cut would, and close the bucket below."""
        for task in list(self._pending):
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        await self._inner.close()
