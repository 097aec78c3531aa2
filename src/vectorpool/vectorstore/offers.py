"""The commit that is offered to the log, until its outcome is known."""

from __future__ import annotations

import asyncio

from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import LostRace, PendingCommit, Position
from vectorpool.errors import OutcomeUnknown
from vectorpool.telemetry.families import REBASES


class Offers:
    """At most one pending commit. ``replays`` says that its writes were acknowledged, so that it is never given up."""

    def __init__(self, log: CommitLog, *, replays: bool) -> None:
        self._log = log
        self._replays = replays
        self.pending: PendingCommit | None = None
        # How many of the uncommitted writes, from the first on, are in the pending commit.
        self.count = 0
        # The pending commit if its last offer ended with an unknown outcome, else None.
        self._doubted: PendingCommit | None = None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the outcome of the pending commit's last offer is unknown."""
        return self.pending is not None and self.pending is self._doubted

    def begin(self, pending: PendingCommit, count: int) -> None:
        """Make a commit of ``count`` writes the pending one."""
        self.pending, self.count = pending, count

    def forget(self) -> None:
        """Offer the pending commit no more."""
        self.pending, self.count = None, 0

    async def offer(self) -> Position | None:
        """Offer the pending commit; return its position, or None if another writer won. Raises what ``append`` does."""
        pending = self.pending
        assert pending is not None
        try:
            position = await self._log.append(pending, in_doubt=self.is_in_doubt)
        except LostRace:
            self.forget()
            self._log.figures.counter(REBASES).add()
            return None
        except (OutcomeUnknown, asyncio.CancelledError):
            self._doubted = pending
            raise
        except BaseException:
            # Nothing was written. Under write-through the callers get a refusal, so the commit must not be offered
            # again. Under write-back its writes were acknowledged, so it must be.
            if not self.is_in_doubt and not self._replays:
                self.forget()
            raise
        self.forget()
        return position
