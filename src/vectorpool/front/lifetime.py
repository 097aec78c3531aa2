"""The lifetime of a request: its deadline starts with the last byte of its body, and its work ends with its caller.

The parts below answer at the deadline by themselves: the embedder's queue, the shard, calls of the store. This stage is
the last resort, a little later. It watches the connection only of requests that take long, since most requests end
before a watch would pay.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Final, Literal, cast

from litestar.types import HTTPReceiveMessage, HTTPScope, Message, Receive, Send

from vectorpool.api.refusals import send_refusal
from vectorpool.context import RequestContext
from vectorpool.front.stages import Stage, announced_length, context_of

# A request that takes longer is watched.
_LOOK_S: Final = 0.05
# How long after the deadline the parts below may still answer.
_GRACE_S: Final = 2.0
# Bytes of a body that are kept for a handler which has not asked for them.
_KEPT_BYTES: Final = 64 * 1024


class LifetimeStage:
    """Starts the deadline, ends what exceeds it, and cancels the work for a caller that is gone."""

    def __init__(self, inner: Stage) -> None:
        self._inner = inner

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Pass the request on. It gets no response if its caller is gone."""
        context = context_of(scope)
        if announced_length(scope) == 0:
            context.start()
        lifetime = _Lifetime(context, receive, send)
        try:
            await self._inner(scope, lifetime.receive, lifetime.send)
        except asyncio.CancelledError:
            if not lifetime.uncancel():
                raise
        finally:
            lifetime.uncancel()
            lifetime.close()
        if lifetime.reason == "deadline" and not lifetime.has_answered:
            is_safe = scope["method"] in ("GET", "HEAD")
            refusal = context.deadline_exceeded() if is_safe else context.outcome_unknown()
            await send_refusal(refusal, scope, send)


class _Lifetime:
    """One request: passes its messages on, and cancels its task when its caller is gone or its time is over."""

    # Defaults are the class's own: most requests end before any of them changes.
    has_answered = False
    reason: Literal["gone", "deadline"] | None = None
    _is_receiving = False
    _is_uncancelled = False
    _watcher: asyncio.Task[None] | None = None
    _changed: asyncio.Event | None = None
    _kept: deque[HTTPReceiveMessage] | None = None
    _kept_bytes = 0

    def __init__(self, context: RequestContext, receive: Receive, send: Send) -> None:
        self._context = context
        self._receive = receive
        self._send = send
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def uncancel(self) -> bool:
        """Take back the cancellation that came from here, once; return whether there was one, and no other."""
        if self.reason is None or self._is_uncancelled:
            return False
        self._is_uncancelled = True
        return self._task.uncancel() <= self._cancelling

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def send(self, message: Message) -> Awaitable[None]:
        """Pass a message of the response on. From its start on, the deadline is met."""
        self.has_answered = True
        return self._send(message)

    async def receive(self) -> HTTPReceiveMessage:
        """Return the next part of the body. If the caller is gone, the task is cancelled here."""
        while self._watcher is not None and not self._kept:
            await self._wait_for_change()
        if self._kept:
            message = self._kept.popleft()
            if message["type"] == "http.request":
                self._kept_bytes -= len(message["body"])
            self._wake()
            return message
        self._is_receiving = True
        try:
            message = self._note(cast(HTTPReceiveMessage, await self._receive()))
        finally:
            self._is_receiving = False
        if message["type"] == "http.disconnect":
            self._cancel("gone")
            await asyncio.sleep(0)
        return message

    def _note(self, message: HTTPReceiveMessage) -> HTTPReceiveMessage:
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._context.start()
        return message

    def _cancel(self, reason: Literal["gone", "deadline"]) -> None:
        if self.reason is None and not self.has_answered:
            self.reason = reason
            self._task.cancel()

    # --- Requests that take long ---------------------------------------------------------------------

    def _look(self) -> None:
        if self._is_receiving:
            # The handler itself notices when the caller leaves.
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._look)
            return
        self._changed = asyncio.Event()
        self._kept = deque()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._check_deadline)

    def _check_deadline(self) -> None:
        remaining_s = self._context.remaining_s()
        if remaining_s is None or not self._context.has_started:
            # The body is still arriving.
            self._timer = asyncio.get_running_loop().call_later(_LOOK_S, self._check_deadline)
        elif remaining_s > 0.0:
            # The time limit may have been raised since the last look.
            self._timer = asyncio.get_running_loop().call_later(remaining_s + _GRACE_S, self._check_deadline)
        else:
            self._cancel("deadline")

    async def _watch(self) -> None:
        """Receive in place of the handler, and keep for it what it may still ask for."""
        while True:
            message = self._note(cast(HTTPReceiveMessage, await self._receive()))
            assert self._kept is not None
            self._kept.append(message)
            if message["type"] == "http.disconnect":
                self._cancel("gone")
                self._wake()
                return
            self._kept_bytes += len(message["body"])
            self._wake()
            while self._kept_bytes > _KEPT_BYTES:
                await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        assert self._changed is not None
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
