"""Turns at the work that large bodies make: one thread of a process does it, a step of one user after one of another.

Decoding holds the interpreter lock, and an event loop that competes for it with several threads waits for all of them:
30 to 70 ms were measured with four. With one thread it waits for one step at most, which the work keeps short. The
steps of one user's bodies are done in the order in which they came, so that a user with many of them waits for itself.

What waits is bounded where bodies arrive, by their bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

Work = Generator[None, None, Any]


class _Waiting:
    """One user's work, the oldest first, each with the future of its result."""

    def __init__(self) -> None:
        self.works: deque[tuple[Work, asyncio.Future[Any]]] = deque()


class Turns:
    """The work that waits for its turns. Belongs to one event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        # Users in the order of their next turns.
        self._users: dict[str, _Waiting] = {}
        self._running: asyncio.Task[None] | None = None

    async def run(self, user_id: str, work: Generator[None, None, T]) -> T:
        """Return what ``work`` returns, or raise what it raises. If the caller leaves, the work ends with its step."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        self._users.setdefault(user_id, _Waiting()).works.append((work, result))
        if self._running is None:
            self._running = loop.create_task(self._run(loop))
        return await result

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._users:
                user_id = next(iter(self._users))
                waiting = self._users.pop(user_id)
                work, result = waiting.works[0]
                # Steps that came while the thread was busy must find the user's others.
                self._users[user_id] = waiting
                is_done = result.done() or await self._take_step(loop, work, result)
                if is_done:
                    work.close()
                    waiting.works.popleft()
                    if not waiting.works:
                        del self._users[user_id]
        finally:
            self._running = None

    async def _take_step(self, loop: asyncio.AbstractEventLoop, work: Work, result: asyncio.Future[Any]) -> bool:
        """Let the thread do one step; return whether it was the last."""
        try:
            is_done, value = await loop.run_in_executor(self._thread, step, work)
        except Exception as error:
            if not result.done():
                result.set_exception(error)
            return True
        if is_done and not result.done():
            result.set_result(value)
        return is_done


def step(work: Work) -> tuple[bool, Any]:
    """Do one step; return whether it was the last, and then its result."""
    # A StopIteration cannot cross from a thread to a coroutine.
    try:
        next(work)
    except StopIteration as ended:
        return True, ended.value
    return False, None


def at_once(work: Generator[None, None, T]) -> T:
    """Return the result of ``work``, whose steps are done here."""
    while True:
        is_done, result = step(work)
        if is_done:
            found: T = result
            return found
