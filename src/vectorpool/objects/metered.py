"""A wrapper that counts: requests, outcomes, times and bytes of each operation, as the caller sees them.

It logs refusals. Retries happen below it (in ``remote``) and are not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

import msgspec

from vectorpool.answers import StoreTraffic
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
from vectorpool.objects.refusals import RefusalLog
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.families import STORE_RECEIVED, STORE_REQUESTS, STORE_SENT, STORE_TIME
from vectorpool.telemetry.figures import Counter, Figures, Sample

T = TypeVar("T")

OPERATIONS: Final = ("get", "get_range", "head", "list_objects", "list_prefixes", "create", "put", "copy", "delete")


# A missing key and a taken one are what the caller asked about.
_ANSWERS: Final = frozenset({"missing", "exists", "changed"})


class OperationCount(msgspec.Struct):
    """Counters of one operation since the start.

    ``errors`` counts refusals and calls without an answer; a missing or taken key is no error.
    """

    requests: int = 0
    errors: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


class MeteredBucket:
    """Another bucket, with counters of the calls to it."""

    def __init__(self, inner: Bucket, sources: Sources = SYSTEM, figures: Figures | None = None) -> None:
        self._inner = inner
        self._sources = sources
        self._refusals = RefusalLog(sources)
        self._counts = {name: OperationCount() for name in OPERATIONS}
        self._figures = Figures() if figures is None else figures
        self._times = {name: self._figures.histogram(STORE_TIME, name) for name in OPERATIONS}
        self._outcomes: dict[tuple[str, str], Counter] = {}
        self._figures.add_source(self._traffic_samples)

    @property
    def url(self) -> str:
        return self._inner.url

    def counts(self) -> dict[str, OperationCount]:
        """Return a copy of the counters by operation; they only grow."""
        return {name: msgspec.structs.replace(count) for name, count in self._counts.items()}

    def total(self) -> OperationCount:
        """Return the sum over all operations."""
        counts = self._counts.values()
        return OperationCount(
            requests=sum(c.requests for c in counts),
            errors=sum(c.errors for c in counts),
            bytes_sent=sum(c.bytes_sent for c in counts),
            bytes_received=sum(c.bytes_received for c in counts),
        )

    def traffic(self) -> StoreTraffic:
        """Return the counters as the admin API's struct, without the operations that were never called."""
        total = self.total()
        return StoreTraffic(
            requests={name: count.requests for name, count in self._counts.items() if count.requests},
            failed=total.errors,
            bytes_sent=total.bytes_sent,
            bytes_received=total.bytes_received,
        )

    async def _count(self, name: str, call: Awaitable[T], *, sent: int = 0) -> T:
        count = self._counts[name]
        count.requests += 1
        count.bytes_sent += sent
        outcome = "ok"
        began_s = self._sources.monotonic_s()
        try:
            return await call
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome not in _ANSWERS:
                count.errors += 1
            if isinstance(error, BucketDenied):
                self._refusals.note(name, error)
            raise
        finally:
            self._end(name, began_s, outcome)

    def _end(self, name: str, began_s: float, outcome: str) -> None:
        self._times[name].observe(self._sources.monotonic_s() - began_s)
        counter = self._outcomes.get((name, outcome))
        if counter is None:
            counter = self._outcomes[name, outcome] = self._figures.counter(STORE_REQUESTS, name, outcome)
        counter.value += 1

    def _traffic_samples(self) -> list[Sample]:
        return [
            Sample(family.name, (name,), amount)
            for name, count in self._counts.items()
            for family, amount in ((STORE_SENT, count.bytes_sent), (STORE_RECEIVED, count.bytes_received))
            if amount
        ]

    async def get(self, key: str) -> Body:
        body = await self._count("get", self._inner.get(key))
        self._counts["get"].bytes_received += len(body.data)
        return body

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        data = await self._count("get_range", self._inner.get_range(key, start, end))
        self._counts["get_range"].bytes_received += len(data)
        return data

    def is_surely_absent(self, key: str) -> bool:
        began_s = self._sources.monotonic_s()
        is_absent = self._inner.is_surely_absent(key)
        if is_absent:
            # Otherwise it is asked again, and counted then.
            self._counts["head"].requests += 1
            self._end("head", began_s, "missing")
        return is_absent

    async def head(self, key: str) -> ObjectInfo:
        return await self._count("head", self._inner.head(key))

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self._count("list_objects", self._inner.list_objects(prefix, limit=limit, after=after))

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        return await self._count("list_prefixes", self._inner.list_prefixes(prefix, limit=limit, after=after))

    async def create(self, key: str, data: bytes) -> str:
        return await self._count("create", self._inner.create(key, data), sent=len(data))

    async def put(self, key: str, data: bytes) -> str:
        return await self._count("put", self._inner.put(key, data), sent=len(data))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        return await self._count("put", self._inner.replace(key, data, etag), sent=len(data))

    async def remove(self, key: str, etag: str) -> None:
        await self._count("delete", self._inner.remove(key, etag))

    async def copy(self, source: str, target: str) -> None:
        await self._count("copy", self._inner.copy(source, target))

    async def upload_url(self, key: str, expires_s: int) -> str:
        # Nothing is sent to the store.
        return await self._inner.upload_url(key, expires_s)

    async def delete(self, key: str) -> None:
        await self._count("delete", self._inner.delete(key))

    async def delete_listed(self, key: str) -> None:
        await self._count("delete", self._inner.delete_listed(key))

    async def close(self) -> None:
        await self._inner.close()


def outcome_of(error: BaseException) -> str:
    """Return how a call ended that raised ``error``, for counts and traces."""
    match error:
        case ObjectMissing():
            return "missing"
        case ObjectExists():
            return "exists"
        case ObjectChanged():
            return "changed"
        case BucketDenied():
            return "denied"
        case BucketUnavailable():
            return "unavailable"
        case asyncio.CancelledError():
            return "cancelled"
        case _:
            return "failed"
