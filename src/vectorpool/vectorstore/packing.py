"""From the changes of a replica to the commit that is offered."""

from __future__ import annotations

from typing import Final

from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import Capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import PendingCommit
from vectorpool.vectorstore.replica import Replica

# The most changed bytes that are packed into a commit while readers still wait.
_SMALL_BYTES: Final = 256 * 1024


class Packing:
    """The next commit of ``replica``, described by ``summary``. Its methods block: run them in a thread."""

    def __init__(self, log: CommitLog, replica: Replica, summary: Summary) -> None:
        self._log = log
        self._replica = replica
        self._summary = summary

    def take(self) -> tuple[Capture, PendingCommit | None]:
        """Return the changes, and their commit if it is small. No read or write may run meanwhile.

        Raises ReplicaLost, LimitExceeded.
        """
        capture = self._replica.capture()
        # The usual commit is small, and packing it takes less time than a change of threads.
        is_small = sum(len(extent.data) for extent in capture.extents) <= _SMALL_BYTES
        return capture, self.pack(capture) if is_small else None

    def pack(self, capture: Capture) -> PendingCommit:
        """Return the commit of the changes. Raises LimitExceeded."""
        replica = self._replica
        return self._log.prepare(replica.position, replica.image, capture, self._summary, stamp=replica.stamp)
