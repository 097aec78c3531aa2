"""Threads in an order from a seed: one runs at a time, and switches only at a lock, a condition, a sleep or a pause.

``Schedule.threading`` stands in for the module ``threading`` in the code under test, so that its
locks are those of the schedule. Time is virtual, and moves only when every thread waits. A wait that nothing can end is
a Deadlock.
"""

from __future__ import annotations

import random
import threading
import types
from collections.abc import Callable
from typing import Any

JOIN_S = 10


class Deadlock(AssertionError):
    """Every thread waits, and no timeout is left that could end it."""


class _Abandoned(BaseException):
    """The schedule ended before this thread did."""


class _Thread:
    def __init__(self, name: str) -> None:
        self.name = name
        self.go = threading.Semaphore(0)
        self.ready: Callable[[], bool] = lambda: True
        self.deadline: float | None = None
        self.is_done = False
        self.error: BaseException | None = None


class Schedule:
    """One run of threads. ``spawn`` them all, then ``run``."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.now = 0.0
        self.steps = 0
        self.threading = types.SimpleNamespace(Lock=lambda: Lock(self), Condition=lambda: Condition(self))
        self._threads: list[_Thread] = []
        self._current: _Thread | None = None
        self._baton = threading.Semaphore(0)
        self._is_abandoned = False

    def spawn(self, name: str, body: Callable[[], None]) -> None:
        """Add a thread, which begins once the schedule runs."""
        made = _Thread(name)

        def start() -> None:
            made.go.acquire()
            try:
                if not self._is_abandoned:
                    body()
            except _Abandoned:
                pass
            except BaseException as error:
                made.error = error
            made.is_done = True
            self._baton.release()

        self._threads.append(made)
        threading.Thread(target=start, name=name, daemon=True).start()

    def run(self) -> None:
        """Run all threads to their ends; raise the first error of one, or Deadlock."""
        try:
            while waiting := [each for each in self._threads if not each.is_done]:
                chosen = self._choose(waiting)
                self._current = chosen
                self.steps += 1
                chosen.go.release()
                assert self._baton.acquire(timeout=JOIN_S), f"{chosen.name} waits for something outside the schedule"
                if chosen.error is not None:
                    raise chosen.error
        except BaseException:
            # The remaining threads end at their next step, and release their locks.
            self._is_abandoned = True
            for each in self._threads:
                each.go.release()
            raise
        finally:
            self._current = None

    def _choose(self, waiting: list[_Thread]) -> _Thread:
        able = [each for each in waiting if self._is_able(each)]
        if not able:
            deadlines = [each.deadline for each in waiting if each.deadline is not None]
            if not deadlines:
                raise Deadlock(f"all of {', '.join(each.name for each in waiting)} wait")
            self.now = min(deadlines)
            able = [each for each in waiting if self._is_able(each)]
        return self.dice.choice(able)

    def _is_able(self, each: _Thread) -> bool:
        return each.ready() or (each.deadline is not None and each.deadline <= self.now)

    def pause(self, ready: Callable[[], bool] | None = None, timeout_s: float | None = None) -> None:
        """Switch; continue once ``ready`` is true or the time is over. Threads outside the run return at once."""
        if self._is_abandoned:
            raise _Abandoned
        thread = self._current
        if thread is None:
            return
        thread.ready = ready or (lambda: True)
        thread.deadline = None if timeout_s is None else self.now + timeout_s
        self._baton.release()
        thread.go.acquire()
        if self._is_abandoned:
            raise _Abandoned

    def sleep(self, seconds: float) -> None:
        """Switch, and continue after a virtual time."""
        self.pause(lambda: False, seconds)


class Lock:
    """A lock of the schedule; the next owner is drawn among the waiting threads."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._is_held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._schedule.pause()
        if self._is_held and blocking:
            self._schedule.pause(lambda: not self._is_held, None if timeout < 0 else timeout)
        if self._is_held:
            return False
        self._is_held = True
        return True

    def release(self) -> None:
        assert self._is_held, "a lock is released that is not held"
        self._is_held = False

    def locked(self) -> bool:
        return self._is_held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class _Waiter:
    """One wait for a notification."""

    is_notified = False


class Condition(Lock):
    """A condition with a lock of its own. A waiting thread continues only when it is notified or its time is over."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self._waiting: list[_Waiter] = []

    def wait(self, timeout: float | None = None) -> bool:
        waiter = _Waiter()
        self._waiting.append(waiter)
        self.release()
        try:
            self._schedule.pause(lambda: waiter.is_notified, timeout)
        finally:
            if not waiter.is_notified:
                self._waiting.remove(waiter)
            # Whatever ended the wait, the caller's ``with`` expects the lock.
            if self._schedule._is_abandoned:
                self._is_held = True
            else:
                self.acquire()
        return waiter.is_notified

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        end = None if timeout is None else self._schedule.now + timeout
        while not (result := predicate()):
            left = None if end is None else end - self._schedule.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        assert self._is_held, "a condition is notified without its lock"
        for waiter in self._waiting[:n]:
            waiter.is_notified = True
        del self._waiting[:n]

    def notify_all(self) -> None:
        self.notify(len(self._waiting))
