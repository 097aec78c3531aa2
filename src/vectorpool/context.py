"""The context of one request: its id, its caller, its read options and its deadline.

The front makes one context for each request. The context is passed to everything that works for the request, and a
shard's frame carries it to the pool. Work that no request asked for (the command line, background tasks) uses
``BACKGROUND``, which has no deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from vectorpool.commands import ReadOptions
from vectorpool.errors import DeadlineExceeded, OutcomeUnknown, VectorpoolError
from vectorpool.sources import SYSTEM, Sources

T = TypeVar("T")

AS_SET = ReadOptions()


class CarriedContext(msgspec.Struct, frozen=True, array_like=True):
    """A context as it crosses to a shard. The deadline crosses as the time that remains, in seconds; None: no limit."""

    request_id: str = ""
    caller: str = ""
    read: ReadOptions | None = None
    remaining_s: float | None = None


class RequestContext:
    """What belongs to one request. ``read`` holds the read options; ``caller`` is the name of the caller's token.

    The deadline counts from ``start``, which is called when the last byte of the request's body has arrived. Work that
    begins before that has the whole time limit. Times are those of ``Sources.monotonic_s``.
    """

    __slots__ = ("_sources", "_started_s", "_timeout_s", "caller", "read", "request_id")

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
        self.read = read
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

    async def within(self, work: Awaitable[T], *, changes: bool = False) -> T:
        """Return what ``work`` returns, or cancel it at the deadline.

        Raises DeadlineExceeded then, or, if ``work`` ``changes`` what is stored, OutcomeUnknown.
        """
        async with self.limit(changes=changes):
            return await work

    @asynccontextmanager
    async def limit(self, *, changes: bool = False) -> AsyncIterator[None]:
        """Cancel the block at the deadline. Raises as ``within`` does."""
        try:
            async with asyncio.timeout(self.remaining_s()) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise (self.outcome_unknown() if changes else self.deadline_exceeded()) from None

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

    # --- Between processes ---------------------------------------------------------------------------

    def carried(self) -> CarriedContext:
        """Return the context as it crosses to a shard."""
        return CarriedContext(
            self.request_id, self.caller, None if self.read is AS_SET else self.read, self.remaining_s()
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
        context.start()
        return context


BACKGROUND = RequestContext()
