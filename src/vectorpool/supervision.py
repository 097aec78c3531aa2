"""Supervised background tasks: a loop that fails is restarted with backoff, counted, logged by name, and shown.

A loop is a coroutine function that runs until it is cancelled. One exception must not end it for good: an idle time-out
or a periodic commit that silently stopped would be noticed days later. A task that failed ``DOWN_AFTER`` times in a row
is *down*. The loops that requests depend on are *essential*: while one is down, the instance is not ready.

Work that runs once (a compaction, a scheduled commit) is counted under a name with ``record``; it is not restarted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Final, TypeAlias

from vectorpool.answers import TaskView
from vectorpool.sources import Sources

logger = logging.getLogger(__name__)

Loop: TypeAlias = Callable[[], Awaitable[None]]

# The wait before a restart: it doubles with each failure in a row, up to a bound, with jitter.
FIRST_BACKOFF_S: Final = 0.5
LONGEST_BACKOFF_S: Final = 30.0
# Failures in a row after which a task is down.
DOWN_AFTER: Final = 5
# A task that ran this long without a failure has recovered.
RECOVERED_AFTER_S: Final = 60.0


class _Task:
    """One name: its counts, and for a loop the asyncio task that runs it."""

    def __init__(self, name: str, *, is_essential: bool) -> None:
        self.name = name
        self.is_essential = is_essential
        self.starts = 0
        self.failures = 0
        self.failures_in_a_row = 0
        self.last_error: str | None = None
        self.last_failure_ms: int | None = None
        self.is_waiting = False
        self.running: asyncio.Task[None] | None = None
        # When a loop that rests goes on, ms since 1970; None while it works, or does not say.
        self.next_run_ms: int | None = None

    def fail(self, error: BaseException, now_ms: int) -> None:
        self.failures += 1
        self.failures_in_a_row += 1
        self.last_error = type(error).__name__
        self.last_failure_ms = now_ms


# The task that runs the present loop.
_CURRENT: ContextVar[_Task | None] = ContextVar("_CURRENT", default=None)


async def rest(sources: Sources, seconds: float) -> None:
    """Wait, as a supervised loop does between two runs, and let the time of the next one be shown."""
    task = _CURRENT.get()
    if task is not None:
        task.next_run_ms = sources.now_ms() + int(seconds * 1000)
    try:
        await sources.sleep(seconds)
    finally:
        if task is not None:
            task.next_run_ms = None


class Supervisor:
    """The background tasks of one owner. Belongs to one event loop. ``shard`` is shown with each task."""

    def __init__(self, sources: Sources, *, shard: int | None = None) -> None:
        self._sources = sources
        self._shard = shard
        self._tasks: dict[str, _Task] = {}

    def start(self, name: str, loop: Loop, *, is_essential: bool = False) -> None:
        """Run a loop until ``stop``; a loop that returns has ended by itself and is not restarted."""
        assert name not in self._tasks, f"the task {name} is started already"
        task = self._tasks[name] = _Task(name, is_essential=is_essential)
        task.running = asyncio.create_task(self._run(task, loop))

    def record(self, name: str, error: BaseException | None) -> None:
        """Count one-shot work under a name, and its failure, if ``error`` is one."""
        task = self._tasks.setdefault(name, _Task(name, is_essential=False))
        task.starts += 1
        if error is None:
            task.failures_in_a_row = 0
        else:
            task.fail(error, self._sources.now_ms())

    def record_failure(self, name: str, error: BaseException) -> None:
        """Count the failure of work whose start was recorded before: a process that died, for example."""
        self._tasks.setdefault(name, _Task(name, is_essential=False)).fail(error, self._sources.now_ms())

    def forget(self, names: Iterable[str]) -> None:
        """Forget tasks that were stopped, and counted work that will not come again."""
        for name in names:
            self._tasks.pop(name, None)

    async def stop(self, timeout_s: float, names: Iterable[str] | None = None) -> None:
        """Cancel the loops, all or those named, and wait for their ends."""
        chosen = self._tasks.values() if names is None else [t for n in names if (t := self._tasks.get(n))]
        running = [task.running for task in chosen if task.running is not None]
        for each in running:
            each.cancel()
        if running:
            await asyncio.wait(running, timeout=timeout_s)

    def view(self) -> list[TaskView]:
        """Return the state of every task, by name."""
        return [self._view(task) for _, task in sorted(self._tasks.items())]

    def _view(self, task: _Task) -> TaskView:
        return TaskView(
            name=task.name,
            state=_state_of(task),
            is_essential=task.is_essential,
            starts=task.starts,
            failures=task.failures,
            failures_in_a_row=task.failures_in_a_row,
            last_error=task.last_error,
            last_failure_ms=task.last_failure_ms,
            shard=self._shard,
            next_run_ms=task.next_run_ms,
        )

    async def _run(self, task: _Task, loop: Loop) -> None:
        _CURRENT.set(task)
        while True:
            task.starts += 1
            began_s = self._sources.monotonic_s()
            recovery = asyncio.get_running_loop().create_task(self._recover(task))
            try:
                await loop()
                return
            except Exception as error:
                if self._sources.monotonic_s() - began_s >= RECOVERED_AFTER_S:
                    task.failures_in_a_row = 0
                task.fail(error, self._sources.now_ms())
                backoff_s = min(FIRST_BACKOFF_S * 2 ** (task.failures_in_a_row - 1), LONGEST_BACKOFF_S)
                backoff_s *= 0.5 + self._sources.random()
                logger.exception(
                    "the background task %r failed %d times in a row, it is started again in %.1f s",
                    task.name,
                    task.failures_in_a_row,
                    backoff_s,
                )
            finally:
                recovery.cancel()
            task.is_waiting = True
            try:
                await rest(self._sources, backoff_s)
            finally:
                task.is_waiting = False

    async def _recover(self, task: _Task) -> None:
        """Note that a restarted loop has run long enough, so that it is shown as running again."""
        if task.failures_in_a_row:
            await self._sources.sleep(RECOVERED_AFTER_S)
            task.failures_in_a_row = 0


def _state_of(task: _Task) -> str:
    if task.failures_in_a_row >= DOWN_AFTER:
        return "down"
    if task.is_waiting:
        return "restarting"
    if task.running is not None and task.running.done():
        return "ended"
    return "running"


def down(tasks: Iterable[TaskView]) -> list[TaskView]:
    """Return the essential tasks that are down: while there is one, the instance is not ready."""
    return [task for task in tasks if task.is_essential and task.state == "down"]
