"""Exports and imports of a worker: between a target that the operator named and a user's vectorstore.

An export has the instance that owns the user commit what it acknowledged, and then reads the log of the bucket: what
is exported is a commit, whatever is written meanwhile. An import builds a directory and sends it to the service, whose
instance commits it. Both may be cut off anywhere: an export may be repeated, and an import whose answer was lost finds
its own commit.

What blocks runs in a thread, which ends with its next batch once the run is over. Drivers and the engine are imported
by the first transfer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.format import Header
from vectorpool.commitlog.scratch import scratch_below
from vectorpool.errors import VectorstoreExists
from vectorpool.jobs.rows import Work
from vectorpool.jobs.service import ServiceRouter
from vectorpool.jobs.views import Transfer
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.targets.named import named_targets, pick

if TYPE_CHECKING:
    from vectorpool.targets.transfer import Progress

T = TypeVar("T")

# How long a thread may take to notice that its run is over: a batch, which a driver bounds by itself.
_LEAVE_S: Final = 60.0
# By how much the clocks of a worker and of an instance may differ.
_SKEW_MS: Final = 60_000


class Stopped(Exception):
    """The run is over, and its thread ends."""


class Transfers:
    """The exports and imports of one worker. Belongs to one event loop."""

    def __init__(self, bucket: Bucket, router: ServiceRouter, settings: Settings) -> None:
        """Raise Misconfigured for targets that cannot be meant."""
        self._bucket = bucket
        self._router = router
        self._settings = settings
        self._targets = named_targets(settings)

    async def run(self, work: Work, transfer: Transfer, changed: Callable[[], None]) -> int:
        """Run an export or import; return the commit that the target has, or that was made.

        ``transfer`` is kept current, and ``changed`` is called whenever it changed, from a thread too. Raises
        UnknownTarget and what ``targets.runs`` raises; for an import VectorstoreExists too.
        """
        stopping = threading.Event()

        def progress(records: int, total: int) -> None:
            if stopping.is_set():
                raise Stopped
            transfer.records, transfer.total = records, total
            changed()

        step = self._import if work.kind == "import" else self._export
        return await _ended(step(work, transfer, progress), stopping)

    async def _export(self, work: Work, transfer: Transfer, progress: Progress) -> int:
        from vectorpool.targets import runs  # noqa: PLC0415 - the engine is for workers that move something

        target = pick(self._targets, transfer.target)
        await self._router.flush(work.user_id)
        done = await runs.export_user(
            self._bucket, self._settings, work.user_id, target, at=transfer.at, progress=progress
        )
        transfer.records = transfer.total = done.written
        transfer.deleted, transfer.dropped = done.deleted, done.dropped
        transfer.collections, transfer.is_current = done.collections, done.is_current
        return done.commit

    async def _import(self, work: Work, transfer: Transfer, progress: Progress) -> int:
        from vectorpool.targets import runs  # noqa: PLC0415 - the engine is for workers that move something

        target = pick(self._targets, transfer.target)
        newest = await newest_header(self._bucket, work.user_id)
        if newest is not None and not newest.header.tombstone:
            if work.run > 1 and _is_of_earlier_run(newest.header, work):
                return newest.header.seq
            raise VectorstoreExists(
                f"User {work.user_id} has a vectorstore already. Delete it first, or import for another user id."
            )
        async with scratch_below(self._settings.replica_dir) as path:
            directory = path / "state"
            directory.mkdir()
            found = await runs.read_user(target, transfer.source_user or work.user_id, directory, progress)
            transfer.collections, transfer.records = found
            transfer.total = transfer.records
            return await self._router.adopt(work.user_id, directory)


def _is_of_earlier_run(header: Header, work: Work) -> bool:
    """Whether a log begins with a directory that was adopted since the job began: the answer of its commit was lost."""
    return header.self_contained and header.summary.adopted and header.time_ms >= work.started_ms - _SKEW_MS


async def _ended(step: Coroutine[Any, Any, T], stopping: threading.Event) -> T:
    """Return what a step returns; if it is cancelled, its thread has ended before its files are removed."""
    task = asyncio.create_task(step)
    try:
        return await asyncio.shield(task)
    finally:
        if not task.done():
            stopping.set()
            await asyncio.wait([task], timeout=_LEAVE_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
