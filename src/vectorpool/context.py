"""The context of one request: its id, its caller, its read options and its deadline.

The front makes one context for each request. The context is passed to everything that works for the request, and a
shard's frame carries it to the pool. Work that no request asked for (the command line, background tasks) uses
``BACKGROUND``, which has no deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import msgspec

from vectorpool.commands import ReadOptions
from vectorpool.errors import DeadlineExceeded, OutcomeUnknown, VectorpoolError
from vectorpool.limits import Given, Quota
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.parts import Step, Timing

T = TypeVar("T")

AS_SET = ReadOptions()


class CarriedContext(msgspec.Struct, frozen=True, array_like=True):
    """A context as it crosses to a shard. The deadline crosses as the time that remains, in seconds; None: no limit.

    ``quota`` is what the user may have stored; None: no limit.
    """

    request_id: str = ""
    caller: str = ""
    read: ReadOptions | None = None
    remaining_s: float | None = None
    traceparent: str = ""
    quota: Quota | None = None


class Limit:
    """Cancels a block at a deadline, as ``asyncio.timeout`` does, at half of its cost: every warm read has one."""

    __slots__ = ("_cancelling", "_changes", "_context", "_has_expired", "_task", "_timer")

    def __init__(self, context: RequestContext, changes: bool) -> None:
        self._context = context
        self._changes = changes
        self._timer: asyncio.TimerHandle | None = None
        self._has_expired = False

    def __enter__(self) -> None:
        remaining_s = self._context.remaining_s()
        if remaining_s is not None:
            task = asyncio.current_task()
            assert task is not None
            self._task, self._cancelling = task, task.cancelling()
            self._timer = asyncio.get_running_loop().call_later(remaining_s, self._expire)

    def _expire(self) -> None:
        self._has_expired = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        # Another cancellation of the same task passes.
        if (
            self._has_expired
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            context = self._context
            raise (context.outcome_unknown() if self._changes else context.deadline_exceeded()) from None


class RequestContext:
    """What belongs to one request. ``read`` holds the read options; ``caller`` is the name of the caller's token.

    ``is_confined`` says that the caller may reach only the database of its path, and ``claimed`` are the limits of its
    token. Neither crosses to a shard: the commands carry the first, and the quota follows from the second.

    ``commit`` and ``shard`` are those of the last answer, ``timing`` is what its commands took, for the log.
    ``traceparent`` names the span that further spans belong to, as W3C's header does; empty if there is no trace.

    The deadline counts from ``start``, which is called when the last byte of the request's body has arrived. Work that
    begins before that has the whole time limit. Times are those of ``Sources.monotonic_s``.
    """

    __slots__ = (
        "_sources",
        "_started_s",
        "_timeout_s",
        "caller",
        "claimed",
        "commit",
        "is_confined",
        "read",
        "request_id",
        "shard",
        "timing",
        "traceparent",
    )

    def __init__(
        self,
        request_id: str = "",
        *,
        caller: str = "",
        read: ReadOptions = AS_SET,
        timeout_s: float | None = None,
        sources: Sources = SYSTEM,
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self.claimed: Given | None = None
        self.is_confined = False
        self.read = read
        self.commit: int | None = None
        self.shard = ""
        self.timing: Timing | None = None
        self.traceparent = ""
        self._timeout_s = timeout_s
        self._started_s: float | None = None
        self._sources = sources

    # --- The deadline --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the deadline. A second call does nothing."""
        if self._started_s is None:
            self._started_s = self._sources.monotonic_s()

    @property
    def has_started(self) -> bool:
        """Whether the body is complete, so that the deadline counts."""
        return self._started_s is not None

    def allow(self, timeout_s: float) -> None:
        """Give this request at least this time limit, in seconds from the last byte of its body."""
        if self._timeout_s is not None:
            self._timeout_s = max(self._timeout_s, timeout_s)

    def remaining_s(self) -> float | None:
        """Return the time that remains, in seconds, at least 0; None if there is no time limit."""
        if self._timeout_s is None or self._started_s is None:
            return self._timeout_s
        return max(self._started_s + self._timeout_s - self._sources.monotonic_s(), 0.0)

    def check(self) -> None:
        """Raise DeadlineExceeded if no time remains."""
        if self.remaining_s() == 0.0:
            raise self.deadline_exceeded()

    async def within(self, work: Awaitable[T], *, changes: bool = False, part: int | None = None) -> T:
        """Return what ``work`` returns, or cancel it at the deadline. Its time counts to ``part``, if one is given.

        Raises DeadlineExceeded then, or, if ``work`` ``changes`` what is stored, OutcomeUnknown.
        """
        start_s = self._sources.monotonic_s()
        try:
            with self.limit(changes=changes):
                return await work
        finally:
            if part is not None:
                self.timed().add(part, start_s, self._sources.monotonic_s())

    def limit(self, *, changes: bool = False) -> Limit:
        """Return a context manager that cancels its block at the deadline. It raises as ``within`` does."""
        return Limit(self, changes)

    @staticmethod
    def deadline_exceeded() -> VectorpoolError:
        """Return the error of a request whose time is over and that changed nothing."""
        return DeadlineExceeded(
            "The request was not answered within its time limit (request_timeout_s), and changed nothing. Send it "
            "again, or ask for less."
        )

    @staticmethod
    def outcome_unknown() -> VectorpoolError:
        """Return the error of a change that had begun when the time was over."""
        return OutcomeUnknown(
            "The change was not finished within its time limit (request_timeout_s). It goes on, and may or may not be "
            "stored. Read it back, or send an idempotent write (PUT, DELETE by ids) again."
        )

    # --- Times ---------------------------------------------------------------------------------------

    def timed(self) -> Timing:
        """Return the times of this request, to add to."""
        if self.timing is None:
            self.timing = Timing(is_traced=bool(self.traceparent))
        return self.timing

    def took(self, parts: Sequence[float], steps: Sequence[Step], shard: str, commit: int | None = None) -> None:
        """Record what a command of this request took in a shard, and the commit that it saw."""
        self.shard = shard
        if commit is not None:
            self.commit = commit
        if not parts:
            return
        if self.timing is None:
            self.timing = Timing(is_traced=bool(self.traceparent), parts=parts)
            if steps:
                self.timing.include((), steps)
        else:
            self.timing.include(parts, steps)

    # --- Between processes ---------------------------------------------------------------------------

    def carried(self, quota: Quota | None = None) -> CarriedContext:
        """Return the context as it crosses to a shard, with the limits on what the user stores."""
        return CarriedContext(
            self.request_id,
            self.caller,
            None if self.read is AS_SET else self.read,
            self.remaining_s(),
            self.traceparent,
            quota,
        )

    @classmethod
    def arrived(cls, carried: CarriedContext, sources: Sources = SYSTEM) -> RequestContext:
        """Return the context that ``carried`` describes, with a deadline on this process's clock."""
        context = cls(
            carried.request_id,
            caller=carried.caller,
            read=carried.read or AS_SET,
            timeout_s=carried.remaining_s,
            sources=sources,
        )
        context.traceparent = carried.traceparent
        context.start()
        return context


BACKGROUND = RequestContext()
