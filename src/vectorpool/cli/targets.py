"""``vectorpool export USER TARGET`` and ``import SOURCE --user USER`` where the other side is a URL."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from vectorpool.cli.auditing import audited
from vectorpool.cli.console import out, progress_bar, run
from vectorpool.cli.logs import open_store
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.scratch import make_scratch
from vectorpool.errors import VectorstoreExists
from vectorpool.local_paths import scratch_dir
from vectorpool.names import check_user_id
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.targets import registry, transfer
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.lineage import Lineage
from vectorpool.targets.urls import Target
from vectorpool.vectorstore.compatibility import ENGINE

_SCRATCH_NAME: Final = "state"


@asynccontextmanager
async def _scratch(settings: Settings) -> AsyncIterator[Path]:
    path = await asyncio.to_thread(make_scratch, scratch_dir(Path(settings.replica_dir)))
    try:
        yield path
    finally:
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


def export(settings: Settings, user_id: str, target: Target, at: int | None) -> int:
    """Bring a target to a commit of a user."""
    return run(_export(settings, check_user_id(user_id), target, at))


async def _export(settings: Settings, user_id: str, target: Target, at: int | None) -> int:
    async with open_store(settings) as bucket:
        newest = await newest_header(bucket, user_id)
        if newest is not None and newest.header.tombstone and at is None:
            count = await asyncio.to_thread(_forget, target, user_id, newest.header.seq)
            out.print(
                f"{target.shown}: user {user_id} was deleted by commit {newest.header.seq}; {count} records deleted",
                markup=False,
            )
            return 0
        async with _scratch(settings) as path:
            directory = path / _SCRATCH_NAME
            directory.mkdir()
            # A state of a later engine is refused, because it is opened.
            log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
            hydrated = await log.export(directory, at=at)
            position = hydrated.position
            lineage = Lineage(bucket, user_id, position.seq, asyncio.get_running_loop())
            with progress_bar() as bar:
                task = bar.add_task("Exporting", total=None, note=user_id)
                done = await asyncio.to_thread(
                    _export_directory,
                    directory,
                    target,
                    user_id,
                    position.seq,
                    position.commit_hash.hex(),
                    lineage,
                    lambda count, total: bar.update(task, completed=count, total=total),
                )
    told = "is there already" if done.is_current else f"{done.written} records written, {done.deleted} deleted"
    dropped = f", {done.dropped} collections dropped" if done.dropped else ""
    out.print(f"{target.shown}: commit {done.commit} of user {user_id}, {told}{dropped}", markup=False)
    return 0


def _export_directory(
    directory: Path,
    target: Target,
    user_id: str,
    commit: int,
    commit_hash: str,
    lineage: Lineage,
    progress: transfer.Progress,
) -> transfer.Exported:
    sink = registry.open_sink(target)
    try:
        source = DirectorySource(directory)
        try:
            return transfer.export(
                source,
                sink,
                user_id=user_id,
                commit=commit,
                commit_hash=commit_hash,
                lineage=lineage,
                shown=target.shown,
                progress=progress,
            )
        finally:
            source.close()
    finally:
        sink.close()


def _forget(target: Target, user_id: str, commit: int) -> int:
    sink = registry.open_sink(target)
    try:
        state = sink.state(user_id)
        transfer.check_order(state, commit, target.shown)
        return 0 if state is None else sink.forget(user_id, commit)
    finally:
        sink.close()


def import_from(settings: Settings, target: Target, user_id: str, source_user: str | None) -> int:
    """Make what a target holds of a user the vectorstore of a user who has none."""
    return run(_import(settings, target, check_user_id(user_id), check_user_id(source_user or user_id)))


async def _import(settings: Settings, target: Target, user_id: str, source_user: str) -> int:
    async with open_store(settings) as bucket:
        await _refuse_existing(bucket, user_id)
        async with _scratch(settings) as path, audited(bucket, settings, "import", user_id) as told:
            directory = path / _SCRATCH_NAME
            directory.mkdir()
            with progress_bar() as bar:
                task = bar.add_task("Importing", total=None, note=user_id)
                collections, records = await asyncio.to_thread(
                    _import_directory,
                    directory,
                    target,
                    source_user,
                    lambda count, _total: bar.update(task, completed=count),
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


def _import_directory(
    directory: Path, target: Target, source_user: str, progress: transfer.Progress
) -> tuple[int, int]:
    source = registry.open_source(target, source_user)
    try:
        writer = DirectoryWriter(directory)
        try:
            return transfer.read_all(source, writer, progress)
        finally:
            writer.close()
    finally:
        source.close()
