"""The network between an instance and the store: requests arrive although their sender froze or died."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tests.simulation.loop import Domain, VirtualLoop
from vectorpool.objects.bucket import Body, Bucket, BucketUnavailable, ObjectInfo
from vectorpool.objects.faulty import Faults, FaultyBucket

T = TypeVar("T")


class VirtualSources:
    """Time of the loop, and dice and ids of a seed."""

    def __init__(self, loop: VirtualLoop, dice: random.Random, *, start_ms: int = 1_700_000_000_000) -> None:
        self._loop = loop
        self._dice = dice
        self._start_ms = start_ms
        self._asked = 0

    def now_ms(self) -> int:
        return self._start_ms + int(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        # Each call returns a later time, as with a real clock.
        self._asked += 1
        return self._loop.time() + self._asked * 1e-9

    def random(self) -> float:
        return self._dice.random()

    def uuid(self) -> str:
        return f"{self._dice.getrandbits(64):016x}"

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Network:
    """Every request is a task of the network's own domain: neither cancelled nor frozen with its sender."""

    def __init__(self, loop: VirtualLoop, sources: VirtualSources) -> None:
        self.loop = loop
        self.sources = sources
        self.domain: Domain = loop.new_domain("network")
        self.under_way: set[asyncio.Task[object]] = set()
        self.is_down = False

    async def settle(self) -> None:
        """Wait until no request is under way."""
        while self.under_way:
            await asyncio.wait(list(self.under_way))


class Wire:
    """The bucket as one instance sees it. ``faults`` may be replaced at any time."""

    def __init__(self, store: Bucket, network: Network, faults: Faults) -> None:
        self._far = FaultyBucket(store, faults, sources=network.sources)
        self._network = network

    @property
    def faults(self) -> Faults:
        return self._far.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._far.faults = faults

    @property
    def url(self) -> str:
        return self._far.url

    async def _send(self, request: Callable[[], Awaitable[T]]) -> T:
        network = self._network
        if network.is_down:
            raise BucketUnavailable("the network is down")

        async def travel() -> T:
            answer = await request()
            if self._far.faults.latency_s > 0:
                await network.sources.sleep(network.sources.random() * self._far.faults.latency_s)
            return answer

        task = network.loop.create_task(travel(), context=network.domain.context)
        network.under_way.add(task)  # type: ignore[arg-type]
        # In the context of the network: the sender may be dead when the answer comes.
        task.add_done_callback(self._arrived, context=network.domain.context)
        return await asyncio.shield(task)

    def _arrived(self, task: asyncio.Task[T]) -> None:
        self._network.under_way.discard(task)  # type: ignore[arg-type]
        if not task.cancelled():
            task.exception()  # Its sender may be dead; then no other code reads the exception.

    async def settle(self) -> None:
        """Wait until every delayed write has landed."""
        await self._far.settle()

    async def get(self, key: str) -> Body:
        return await self._send(lambda: self._far.get(key))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        return await self._send(lambda: self._far.get_range(key, start, end))

    def is_surely_absent(self, key: str) -> bool:
        return False

    async def head(self, key: str) -> ObjectInfo:
        return await self._send(lambda: self._far.head(key))

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self._send(lambda: self._far.list_objects(prefix, limit=limit, after=after))

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        return await self._send(lambda: self._far.list_prefixes(prefix, limit=limit, after=after))

    async def create(self, key: str, data: bytes) -> str:
        return await self._send(lambda: self._far.create(key, data))

    async def put(self, key: str, data: bytes) -> str:
        return await self._send(lambda: self._far.put(key, data))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        return await self._send(lambda: self._far.replace(key, data, etag))

    async def remove(self, key: str, etag: str) -> None:
        await self._send(lambda: self._far.remove(key, etag))

    async def copy(self, source: str, target: str) -> None:
        await self._send(lambda: self._far.copy(source, target))

    async def upload_url(self, key: str, expires_s: int) -> str:
        return await self._far.upload_url(key, expires_s)

    async def delete(self, key: str) -> None:
        await self._send(lambda: self._far.delete(key))

    async def delete_listed(self, key: str) -> None:
        await self._send(lambda: self._far.delete_listed(key))

    async def close(self) -> None:
        pass
