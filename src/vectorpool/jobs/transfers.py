"""Exports, imports and deletions of a worker, at targets that the operator named.

An export has the instance that owns the user commit what it acknowledged, and then reads the log of the bucket: what
is exported is a commit, whatever is written meanwhile. An import builds a directory and sends it to the service, whose
instance commits it. Both may be cut off anywhere: an export may be repeated, and an import whose answer was lost finds
its own commit. What a target holds of a deleted user is deleted before anything is read there, so no deleted user
comes back from one that was away when the user was deleted.

What blocks runs in a thread, which ends with its next batch once the run is over. Drivers and the engine are imported
by the first transfer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from vectorpool.answers import Deletion, TargetDeletion
from vectorpool.commitlog.deletions import load_receipt, save_receipt
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.format import Header
from vectorpool.commitlog.scratch import scratch_below
from vectorpool.errors import TargetUnavailable, UserNotFound, VectorpoolError, VectorstoreExists
from vectorpool.jobs.rows import Work
from vectorpool.jobs.service import ServiceRouter
from vectorpool.jobs.views import Transfer
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.targets.named import named_targets, pick
from vectorpool.targets.urls import Target

if TYPE_CHECKING:
    from vectorpool.targets.kept import Kept
    from vectorpool.targets.transfer import Progress

T = TypeVar("T")

# How long a thread may take to notice that its run is over: a batch, which a driver bounds by itself.
_LEAVE_S: Final = 60.0
# Tries of a deletion at a target. The next round asks again, so the user's other jobs do not wait for one that is away.
_FORGET_TRIES: Final = 3
_FORGET_AGAIN_S: Final = 2.0
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
        self._kept: Kept | None = None

    async def drop(self, digest: str) -> None:
        """Remove what is kept of a deleted user, who is named as marks of deletions name one."""
        if self._kept is not None:
            await self._kept.states.drop(digest)

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

        steps = {"import": self._import, "forget": self._forget}
        step = steps.get(work.kind, self._export)
        return await _ended(step(work, transfer, progress), stopping)

    async def _export(self, work: Work, transfer: Transfer, progress: Progress) -> int:
        from vectorpool.targets import kept, runs  # noqa: PLC0415 - the engine is for workers that move something

        if self._kept is None:
            states = kept.KeptStates(self._settings.replica_dir, self._settings.export_kept_bytes)
            self._kept = kept.Kept(states, kept.KeptSinks())
        target = pick(self._targets, transfer.target)
        await self._router.flush(work.user_id)
        done = await runs.export_user(
            self._bucket, self._settings, work.user_id, target, at=transfer.at, progress=progress, kept=self._kept
        )
        asyncio.get_running_loop().call_later(kept.IDLE_S + 1, self._kept.sinks.close_idle)
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
            source_user = transfer.source_user or work.user_id
            await self._forget_first(source_user, transfer.target, target)
            directory = path / "state"
            directory.mkdir()
            found = await runs.read_user(target, source_user, directory, progress)
            transfer.collections, transfer.records = found
            transfer.total = transfer.records
            return await self._router.adopt(work.user_id, directory)

    async def _forget(self, work: Work, transfer: Transfer, progress: Progress) -> int:
        target = pick(self._targets, transfer.target)
        receipt = await load_receipt(self._bucket, work.user_id)
        if receipt is None:
            raise UserNotFound(f"User {work.user_id} was not deleted, or there is no receipt of it.")
        for left in reversed(range(_FORGET_TRIES)):
            try:
                transfer.deleted = await self._forget_at(receipt, transfer.target, target)
                break
            except TargetUnavailable:
                if not left:
                    raise
                await asyncio.sleep(_FORGET_AGAIN_S)
        return receipt.commit

    async def _forget_first(self, user_id: str, name: str, target: Target) -> None:
        """Delete what a target has of a user from before a deletion, unless the receipt says that it was done."""
        receipt = await load_receipt(self._bucket, user_id)
        if receipt is None or any(each.target == name and each.deleted_at_ms for each in receipt.targets):
            return
        await self._forget_at(receipt, name, target)

    async def _forget_at(self, receipt: Deletion, name: str, target: Target) -> int:
        """Delete a user at a target, and note in the receipt what came of it; return the number of records."""
        from vectorpool.targets import runs  # noqa: PLC0415 - the engine is for workers that move something

        try:
            records = await runs.forget_user(receipt.user_id, target, receipt.commit)
        except VectorpoolError as error:
            await self._receive(receipt, TargetDeletion(name, reason=error.detail))
            raise
        before = next((each.records for each in receipt.targets if each.target == name), 0)
        await self._receive(receipt, TargetDeletion(name, before + records, SYSTEM.now_ms()))
        return records

    async def _receive(self, of: Deletion, came: TargetDeletion) -> None:
        """Put what became of a user at a target into the receipt of that deletion."""
        receipt = await load_receipt(self._bucket, of.user_id)
        if receipt is None or receipt.commit != of.commit:
            # Deleted again meanwhile: that deletion goes on to the target too.
            return
        others = [each for each in receipt.targets if each.target != came.target]
        targets = sorted([*others, came], key=lambda each: each.target)
        await save_receipt(self._bucket, msgspec.structs.replace(receipt, targets=targets))


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
