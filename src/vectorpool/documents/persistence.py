"""Repeated attempts: what may pass later is tried again, a bounded number of times."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from vectorpool.context import RequestContext
from vectorpool.errors import CommitConflict, DeadlineExceeded, Draining, RateLimited, TryAgain
from vectorpool.sources import Sources

T = TypeVar("T")

ATTEMPTS: Final = 12
_RATE_WAITS: Final = 1000
_LONGEST_WAIT_S: Final = 5.0


class Persistence:
    """Repeats for one run. Everything that it repeats is idempotent."""

    def __init__(self, context: RequestContext, sources: Sources) -> None:
        self._context = context
        self._sources = sources

    async def __call__(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``attempt``. Raises its error if it is no temporary one, or the last one."""
        # Who embeds more than it may a minute waits for its tokens, and fails only at its time limit.
        left = {False: ATTEMPTS, True: _RATE_WAITS}
        while True:
            try:
                return await self._context.within(attempt())
            except (Draining, DeadlineExceeded):
                raise
            except (TryAgain, CommitConflict) as error:
                left[isinstance(error, RateLimited)] -= 1
                if not all(left.values()):
                    raise
                wait_s = min(max(error.retry_after_s or 0.0, 0.2), _LONGEST_WAIT_S)
                await self._sources.sleep(wait_s * (0.5 + self._sources.random()))
