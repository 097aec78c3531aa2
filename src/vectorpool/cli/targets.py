"""``vectorpool export USER TARGET`` and ``import SOURCE --user USER`` where the other side is a URL."""

from __future__ import annotations

from typing import Final

from vectorpool.cli.auditing import audited
from vectorpool.cli.console import out, progress_bar, run
from vectorpool.cli.logs import open_store
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.scratch import scratch_below
from vectorpool.errors import VectorstoreExists
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.targets import runs
from vectorpool.targets.urls import Target
from vectorpool.vectorstore.compatibility import ENGINE

_SCRATCH_NAME: Final = "state"


def export(settings: Settings, user_id: str, target: Target, at: int | None) -> int:
    """Bring a target to a commit of a user."""
    return run(_export(settings, check_user_id(user_id), target, at))


async def _export(settings: Settings, user_id: str, target: Target, at: int | None) -> int:
    async with open_store(settings) as bucket:
        newest = await newest_header(bucket, user_id)
        if newest is not None and newest.header.tombstone and at is None:
            count = await runs.forget_user(user_id, target, newest.header.seq)
            out.print(
                f"{target.shown}: user {user_id} was deleted by commit {newest.header.seq}; {count} records deleted",
                markup=False,
            )
            return 0
        with progress_bar() as bar:
            task = bar.add_task("Exporting", total=None, note=user_id)
            done = await runs.export_user(
                bucket,
                settings,
                user_id,
                target,
                at=at,
                progress=lambda count, total: bar.update(task, completed=count, total=total),
            )
    told = "is there already" if done.is_current else f"{done.written} records written, {done.deleted} deleted"
    dropped = f", {done.dropped} collections dropped" if done.dropped else ""
    out.print(f"{target.shown}: commit {done.commit} of user {user_id}, {told}{dropped}", markup=False)
    return 0


def import_from(settings: Settings, target: Target, user_id: str, source_user: str | None) -> int:
    """Make what a target holds of a user the vectorstore of a user who has none."""
    return run(_import(settings, target, check_user_id(user_id), check_user_id(source_user or user_id)))


async def _import(settings: Settings, target: Target, user_id: str, source_user: str) -> int:
    async with open_store(settings) as bucket:
        await _refuse_existing(bucket, user_id)
        async with scratch_below(settings.replica_dir) as path, audited(bucket, settings, "import", user_id) as told:
            directory = path / _SCRATCH_NAME
            directory.mkdir()
            with progress_bar() as bar:
                task = bar.add_task("Importing", total=None, note=user_id)
                collections, records = await runs.read_user(
                    target, source_user, directory, lambda count, _total: bar.update(task, completed=count)
                )
            log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
            position = await log.adopt(directory)
            told["commit"] = position.seq
    out.print(
        f"{target.shown} is commit {position.seq} of user {user_id}: {collections} collections, {records} records",
        markup=False,
    )
    return 0


async def _refuse_existing(bucket: Bucket, user_id: str) -> None:
    newest = await newest_header(bucket, user_id)
    if newest is not None and not newest.header.tombstone:
        raise VectorstoreExists(
            f"User {user_id} has a vectorstore already. Delete it first, or import for another user id."
        )
