"""Steps over a stream of items that overlap, each with a bound on how many items it works on at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def prepared_ahead(
    items: AsyncGenerator[T], prepare: Callable[[T], Coroutine[Any, Any, R]], most: int
) -> AsyncGenerator[R]:
    """Yield the result of each item in order, while at most ``most`` of those after it are prepared."""
    tasks: deque[asyncio.Task[R]] = deque()
    more = True
    try:
        while True:
            while more and len(tasks) <= most:
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    more = False
                else:
                    tasks.append(asyncio.create_task(prepare(item)))
            if not tasks:
                return
            yield await tasks[0]
            tasks.popleft()
    finally:
        await _ended(tasks)
        await items.aclose()


async def finish_at_once(
    items: AsyncGenerator[T],
    finish: Callable[[T], Coroutine[Any, Any, None]],
    most: int,
    is_alone: Callable[[], bool],
) -> None:
    """Finish the items, at most ``most`` at once; an item goes alone while ``is_alone`` says so.

    The first error ends the rest, and is raised.
    """
    tasks = set[asyncio.Task[None]]()
    try:
        async for item in items:
            if is_alone():
                await finish(item)
                continue
            tasks.add(asyncio.create_task(finish(item)))
            if len(tasks) == most:
                finished, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*finished)
        await asyncio.gather(*tasks)
    finally:
        await _ended(tasks)


async def _ended(tasks: deque[asyncio.Task[R]] | set[asyncio.Task[R]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
