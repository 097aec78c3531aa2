"""A deterministic event loop with virtual time, shared by domains that can freeze and die.

A domain stands for a process, a machine or the network: its callbacks run in their own order,
and at each step the seed chooses the domain that runs. No real time passes: when nothing can run, time jumps to the
next timer. Threads are steps of the domain that started them. The same seed gives the same steps; ``digest`` shows it.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

# How often a thread takes some virtual time instead of none, and at most how much.
_SLOW_THREADS = 0.15
_SLOW_THREAD_S = 0.03
_MAX_STEPS = 500_000


class Deadlock(Exception):
    """A task waits for an event that cannot happen any more."""


_DOMAIN: contextvars.ContextVar[Domain] = contextvars.ContextVar("domain")


class Domain:
    """A group of callbacks that stop together. ``context`` is what their tasks are created in."""

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.ready: deque[asyncio.Handle] = deque()
        self.frozen_until_s = 0.0
        self.is_dead = False
        self.context = contextvars.copy_context()
        self.context.run(_DOMAIN.set, self)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. ``interrupts`` maps a step's number to what is called with the domain that would run then."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._dice = random.Random(seed)
        self._now_s = 0.0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._numbers = itertools.count()
        self.domains: list[Domain] = []
        self.world = self.new_domain("world")
        self.steps = 0
        self.digest = seed
        self.interrupts: dict[int, Callable[[Domain], None]] = {}
        self.set_exception_handler(lambda loop, context: None)

    def new_domain(self, name: str) -> Domain:
        """Return a new domain with its own tasks."""
        domain = Domain(name, len(self.domains))
        self.domains.append(domain)
        return domain

    def release(self) -> None:
        """Thaw and revive every domain, so that their tasks can be cancelled."""
        self.interrupts.clear()
        self.steps = 0
        for domain in self.domains:
            domain.is_dead, domain.frozen_until_s = False, 0.0

    # --- What asyncio calls --------------------------------------------------------------------------

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._queue(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + max(delay, 0.0), callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Run ``func`` as one step of the caller's domain, now or a little later."""
        future = self.create_future()

        def work() -> None:
            # Like a thread that has begun, it runs to its end although its caller has left.
            try:
                result = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
                return
            if not future.done():
                future.set_result(result)

        if self._dice.random() < _SLOW_THREADS:
            self.call_later(self._dice.random() * _SLOW_THREAD_S, work)
        else:
            self.call_soon(work)
        return future

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass  # A cancelled timer is skipped when its time comes.

    def _queue(self, handle: asyncio.Handle) -> None:
        handle._context.get(_DOMAIN, self.world).ready.append(handle)  # type: ignore[attr-defined]

    # --- One step ------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        domain = self._choose()
        while domain is None:
            self._jump()
            domain = self._choose()
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise Deadlock(f"{_MAX_STEPS} steps were not enough: somebody works without getting on")
        if (interrupt := self.interrupts.pop(self.steps, None)) is not None:
            interrupt(domain)
            if domain.is_dead or domain.frozen_until_s > self._now_s:
                return
        self.digest = (self.digest * 1_000_003 + domain.index + 1) & 0xFFFF_FFFF_FFFF
        handle = domain.ready.popleft()
        if not handle.cancelled():
            handle._run()

    def _choose(self) -> Domain | None:
        now_s = self._now_s
        able = [d for d in self.domains if d.ready and d.frozen_until_s <= now_s and not d.is_dead]
        if not able:
            return None
        return able[0] if len(able) == 1 else able[int(self._dice.random() * len(able))]

    def _jump(self) -> None:
        """Move the time to the next timer that can run, and make it ready."""
        moments = [d.frozen_until_s for d in self.domains if d.ready and not d.is_dead]
        if self._timers:
            moments.append(self._timers[0][0])
        if not moments:
            raise Deadlock("nothing is left that could happen, and somebody still waits")
        self._now_s = max(self._now_s, min(moments))
        while self._timers and self._timers[0][0] <= self._now_s:
            _, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled():
                self._queue(timer)
