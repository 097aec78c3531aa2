"""Blocking work in threads, for callers that may be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class CallerLeft(Exception):
    """The caller was cancelled before a thread had begun its work."""


async def run_to_end(workers: Executor | None, function: Callable[..., T], *arguments: object) -> T:
    """Return what ``function`` returns in a thread of ``workers``, or of the loop's own.

    A thread cannot be stopped. So a cancelled caller waits until the thread ends, because the thread still uses its
    arguments. Work that no thread has begun by then is dropped.
    """
    has_left = False

    def work() -> T:
        if has_left:
            raise CallerLeft
        return function(*arguments)

    future = asyncio.get_running_loop().run_in_executor(workers, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        has_left = True
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        # The exception is read, so that the event loop does not report it.
        future.exception()
        raise
