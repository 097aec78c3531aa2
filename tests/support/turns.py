"""Interleavings from a seed: a bucket that runs one call at a time, so that any actor may freeze between two calls.

Below a ``FaultyBucket``, a delayed write also waits to be chosen, and lands at any later time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar
from unittest import mock

from vectorpool.objects.bucket import Body, Bucket, ObjectInfo

T = TypeVar("T")
_SPINS = 40


class TurnBucket:
    """Another bucket, each of whose calls waits before its effect and before its answer, until it is chosen."""

    def __init__(self, inner: Bucket, dice: random.Random) -> None:
        self._inner = inner
        self._dice = dice
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []
        self.turns = 0

    @property
    def url(self) -> str:
        return self._inner.url

    async def _turn(self) -> None:
        # One call in eight is frozen: it continues only when no other call can.
        frozen = self._dice.random() < 0.125
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._dice.random() + (1.0 if frozen else 0.0), future))
        await future

    async def run(self, *actors: Coroutine[Any, Any, T]) -> list[T | BaseException]:
        """Run actors to their ends, one call of one of them at a time; return the result or the error of each."""
        tasks = [asyncio.ensure_future(actor) for actor in actors]
        while True:
            for _ in range(_SPINS):
                await asyncio.sleep(0)
            self._waiting = [(rank, future) for rank, future in self._waiting if not future.done()]
            if self._waiting:
                self.turns += 1
                min(self._waiting, key=lambda each: each[0])[1].set_result(None)
            elif all(task.done() for task in tasks):
                return await asyncio.gather(*tasks, return_exceptions=True)

    async def _call(self, effect: Callable[[], Awaitable[T]]) -> T:
        await self._turn()
        answer = await effect()
        await self._turn()
        return answer

    async def get(self, key: str) -> Body:
        return await self._call(lambda: self._inner.get(key))

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        return await self._call(lambda: self._inner.get_range(key, start, end))

    def is_surely_absent(self, key: str) -> bool:
        return False

    async def head(self, key: str) -> ObjectInfo:
        return await self._call(lambda: self._inner.head(key))

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        return await self._call(lambda: self._inner.list_objects(prefix, limit=limit, after=after))

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        return await self._call(lambda: self._inner.list_prefixes(prefix, limit=limit, after=after))

    async def create(self, key: str, data: bytes) -> str:
        return await self._call(lambda: self._inner.create(key, data))

    async def put(self, key: str, data: bytes) -> str:
        return await self._call(lambda: self._inner.put(key, data))

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        return await self._call(lambda: self._inner.replace(key, data, etag))

    async def remove(self, key: str, etag: str) -> None:
        await self._call(lambda: self._inner.remove(key, etag))

    async def copy(self, source: str, target: str) -> None:
        await self._call(lambda: self._inner.copy(source, target))

    async def upload_url(self, key: str, expires_s: int) -> str:
        return await self._inner.upload_url(key, expires_s)

    async def delete(self, key: str) -> None:
        await self._call(lambda: self._inner.delete(key))

    async def delete_listed(self, key: str) -> None:
        await self._call(lambda: self._inner.delete_listed(key))

    async def close(self) -> None:
        await self._inner.close()


def without_threads() -> Any:
    """Return a context in which ``asyncio.to_thread`` runs its function at once, so that a seed gives one history."""

    async def at_once(function: Callable[..., T], *args: Any, **named: Any) -> T:
        return function(*args, **named)

    return mock.patch.object(asyncio, "to_thread", at_once)
