"""One user's export, import or deletion at a target, from and to the bucket: each opens the target and closes it.

A target that has the newest commit is left before anything is read from the log. An export that a deletion overtook
takes back what it wrote. What blocks runs in a thread; it ends with the next batch if ``progress`` raises.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from vectorpool.commitlog.deletions import load_receipt
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.format import Decoded
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Position
from vectorpool.errors import TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.targets import registry, transfer
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.kept import Kept, KeptSinks, KeptStates, State
from vectorpool.targets.lineage import Lineage
from vectorpool.targets.records import Sink
from vectorpool.targets.transfer import Exported, Progress, no_progress
from vectorpool.targets.urls import Target
from vectorpool.vectorstore.compatibility import ENGINE


async def export_user(
    bucket: Bucket,
    settings: Settings,
    user_id: str,
    target: Target,
    *,
    at: int | None = None,
    progress: Progress = no_progress,
    kept: Kept | None = None,
) -> Exported:
    """Bring a target to a commit of a user, the newest or ``at``. ``kept`` is what earlier exports left.

    Raises UserNotFound for a user who has no vectorstore, or was deleted, also meanwhile: then nothing of the user is
    at the target. Raises CommitNotFound, NotExportable, TargetRefused, TargetUnavailable, StoreUnavailable.
    """
    newest = await newest_header(bucket, user_id)
    if newest is None:
        raise UserNotFound(f"User {user_id} has no vectorstore, so there is nothing to export.")
    if newest.header.tombstone:
        await forget_user(user_id, target, newest.header.seq)
        raise _deleted(user_id)
    states, sinks = (KeptStates(settings.replica_dir, 0), None) if kept is None else kept
    # What the target has is asked before anything is read from the log; little is read where a state is kept.
    if at is None and user_id not in states and await asyncio.to_thread(_has, target, user_id, newest):
        return Exported(newest.header.seq, is_current=True)
    # A state of a later engine is refused, because it is opened.
    log = CommitLog(bucket, user_id, settings=settings, engine=ENGINE)
    async with states.state(user_id, log, Position(newest.header.seq, newest.commit_hash), at) as state:
        position = state.position
        lineage = Lineage(bucket, user_id, position.seq, asyncio.get_running_loop())
        try:
            done = await asyncio.to_thread(_export, state, target, user_id, lineage, progress, sinks)
        except TargetRefused:
            # The target may have the deletion, which is above the commit.
            await _check_not_deleted(bucket, user_id, position.seq, target)
            raise
        await _check_not_deleted(bucket, user_id, position.seq, target)
    return done


async def _check_not_deleted(bucket: Bucket, user_id: str, commit: int, target: Target) -> None:
    """Raise UserNotFound if the user was deleted after a commit, and take back what was exported of it.

    The user may have been made anew since; the receipt tells of the deletion then.
    """
    newest = await newest_header(bucket, user_id)
    if newest is not None and newest.header.tombstone:
        ended = newest.header.seq
    else:
        receipt = await load_receipt(bucket, user_id)
        ended = 0 if receipt is None else receipt.commit
    if ended > commit:
        await forget_user(user_id, target, ended)
        raise _deleted(user_id)


def _deleted(user_id: str) -> UserNotFound:
    return UserNotFound(f"User {user_id} was deleted, so nothing is exported, and nothing is left at the target.")


def _has(target: Target, user_id: str, newest: Decoded) -> bool:
    sink = registry.open_sink(target)
    try:
        state = sink.state(user_id)
        wanted = (newest.header.seq, newest.commit_hash.hex())
        return state is not None and (state.commit, state.commit_hash) == wanted
    finally:
        sink.close()


def _export(
    state: State, target: Target, user_id: str, lineage: Lineage, progress: Progress, sinks: KeptSinks | None
) -> Exported:
    sink = None if sinks is None else sinks.take(target)
    if sink is not None:
        try:
            return _export_to(sink, state, target, user_id, lineage, progress, sinks)
        except TargetUnavailable:
            # The connection may have died since the export before; nothing is lost by another try.
            pass
    return _export_to(registry.open_sink(target), state, target, user_id, lineage, progress, sinks)


def _export_to(
    sink: Sink,
    state: State,
    target: Target,
    user_id: str,
    lineage: Lineage,
    progress: Progress,
    sinks: KeptSinks | None,
) -> Exported:
    is_well = False
    try:
        source = DirectorySource(state.directory)
        try:
            done = transfer.export(
                source,
                sink,
                user_id=user_id,
                commit=state.position.seq,
                commit_hash=state.position.commit_hash.hex(),
                lineage=lineage,
                shown=target.shown,
                progress=progress,
            )
            # What is current was only looked at, in a transaction that holds the user.
            is_well = not done.is_current
            return done
        finally:
            state.is_touched |= source.is_touched
            source.close()
    finally:
        if is_well and sinks is not None:
            sinks.give(target, sink)
        else:
            sink.close()


async def forget_user(user_id: str, target: Target, commit: int) -> int:
    """Delete what a target has of a user whom ``commit`` deleted; return how many records that were.

    A user who has vectors there of a later commit was made anew: that export deleted what was there before.
    """
    return await asyncio.to_thread(_forget, target, user_id, commit)


def _forget(target: Target, user_id: str, commit: int) -> int:
    sink = registry.open_sink(target)
    try:
        state = sink.state(user_id)
        if state is None or state.commit > commit:
            return 0
        return sink.forget(user_id, commit)
    finally:
        sink.close()


async def read_user(
    target: Target, source_user: str, directory: Path, progress: Progress = no_progress
) -> tuple[int, int]:
    """Write what a target has of a user into a new directory, to be adopted; return (collections, records).

    Raises UserNotFound, NotExportable, InvalidRequest, TargetRefused, TargetUnavailable.
    """
    return await asyncio.to_thread(_read, target, source_user, directory, progress)


def _read(target: Target, source_user: str, directory: Path, progress: Progress) -> tuple[int, int]:
    source = registry.open_source(target, source_user)
    try:
        writer = DirectoryWriter(directory)
        try:
            return transfer.read_all(source, writer, progress)
        finally:
            writer.close()
    finally:
        source.close()
