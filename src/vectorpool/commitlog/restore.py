"""Restore and fork: the state of an old commit as a new commit, in this log or as the first of another.

Both are made of log objects in a scratch directory, never of an open one. Each is one conditional create, so it is
there as a whole or not at all.

Both take a state's files as they were, but for what ``edit`` changes: the caller notes there that it is a copy.

*Restore.* If the newest state can be read, and the difference is small, the new commit is a delta over it. Otherwise
the commit is self-contained and rests on the newest *number*. It has the parent's hash if at least the header could be
read, and none otherwise, as a tombstone. Replicas of the damaged state lose their next number and hydrate, as after
any commit. A state of a later engine is neither restored nor replaced: only that engine may go back from it.

*Fork.* The state is copied as one self-contained commit, through this process. Copies made by the store would save the
transfer. But a log is many objects, and no store copies several at once. S3's copy does not reliably refuse to replace
an object. The names and headers have numbers that must be free in the target's log, and after a deletion they are not.
One create is atomic and has one winner. It brings no history that its new owner should not see, and shares no object
with the source, so garbage removal of the source need not know of the fork.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.commitlog import append
from vectorpool.commitlog.adoption import has_plain_directory
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.ending import newest_header, newest_object
from vectorpool.commitlog.fetch import Reader, Vanished, store_errors
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.hydrate import PAGE, hydrate
from vectorpool.commitlog.image import EMPTY, Extent, Image, capture_into
from vectorpool.commitlog.outcomes import ORIGIN, Hydrated, LostRace, PendingCommit, Position
from vectorpool.commitlog.plan import LogObject, is_grave, parse_object
from vectorpool.commitlog.stamp import Engine
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import (
    BrokenLog,
    CommitConflict,
    CommitNotFound,
    CorruptObject,
    NewerFormat,
    UserNotFound,
    VectorstoreExists,
)
from vectorpool.objects.bucket import Bucket
from vectorpool.sources import Sources

Scratch = Callable[[], AbstractAsyncContextManager[Path]]
# Changes the files of a state before it is committed; returns whether it changed any. Blocking.
Edit = Callable[[Path], bool]

_TRIES: Final = 8
# A larger share of the state is committed as a whole: with a delta, the next hydrate would read both.
_SMALL: Final = 0.5


class _Below:
    """What a restored commit rests on: a position, the checksum there, and the image, if it could be read."""

    def __init__(self, position: Position, checksum: bytes, image: Image | None) -> None:
        self.position = position
        self.checksum = checksum
        self.image = image


async def restore(
    bucket: Bucket,
    user_id: str,
    warm: WarmTier | None,
    at: int,
    sources: Sources,
    scratch: Scratch,
    engine: Engine,
    budget_s: float,
    edit: Edit | None = None,
) -> tuple[PendingCommit, str]:
    """Make the state of commit ``at`` the newest, by a new commit; return it, durable, and its ETag (or "").

    Raises CommitNotFound (also for a tombstone, or after one), UserNotFound, CorruptObject or BrokenLog for an ``at``
    that is damaged, StoreUnavailable, OutcomeUnknown, CommitConflict if others kept committing. Raises NewerEngine if a
    later engine wrote the newest state or that of ``at``; nothing is appended then. ``budget_s`` is the time limit
    of an append, in seconds. ``edit`` may change the files of the state first.
    """
    async with scratch() as directory:
        old = await _state(bucket, user_id, warm, directory, at, engine, edit)
        for _ in range(_TRIES):
            below = await _newest(bucket, user_id, warm, engine)
            pending = await asyncio.to_thread(_pack, user_id, below, directory, old, sources)
            try:
                etag = await append.append(bucket, user_id, pending, sources, budget_s=budget_s)
            except LostRace:
                continue
            return pending, etag
    raise CommitConflict(f"Others kept committing to the vectorstore of user {user_id}. Send the request again.")


async def fork(
    bucket: Bucket,
    user_id: str,
    warm: WarmTier | None,
    target: str,
    at: int | None,
    sources: Sources,
    scratch: Scratch,
    engine: Engine,
    budget_s: float,
    edit: Edit | None = None,
) -> Position:
    """Make the state of commit ``at``, or the newest, the vectorstore of user ``target``; return its first position.

    Raises VectorstoreExists, UserNotFound, CommitNotFound, CorruptObject, BrokenLog, StoreUnavailable, OutcomeUnknown,
    NewerEngine if a later engine wrote the state. ``edit`` may change the files of the state first.
    """
    exists = VectorstoreExists(f"User {target} has a vectorstore already. Delete it first, or fork to another user id.")
    newest = await newest_header(bucket, target)
    if newest is None and await has_plain_directory(bucket, target):
        raise exists
    if newest is not None and not newest.header.tombstone:
        raise exists
    parent = ORIGIN if newest is None else Position(newest.header.seq, newest.commit_hash)
    async with scratch() as directory:
        state = await _state(bucket, user_id, warm, directory, at, engine, edit)
        whole = _Below(parent, EMPTY.checksum(), None)
        pending = await asyncio.to_thread(_pack, target, whole, directory, state, sources, Summary())
        try:
            await append.append(bucket, target, pending, sources, budget_s=budget_s)
        except LostRace:
            raise exists from None
    return pending.position


async def seq_at(bucket: Bucket, user_id: str, time_ms: int) -> int:
    """Return the newest commit that was not made after ``time_ms``, milliseconds since 1970.

    Times are those in the commits, by the clocks of their writers. Where these disagree, a commit of that time whose
    successor is later is found. A listing, and a header for each halving of the history. Raises CommitNotFound.
    """
    commits = await _commits(bucket, user_id)
    reader = Reader(bucket, user_id, None)
    # commits[:newer] are later than time_ms, commits[older:] are not.
    newer, older = 0, len(commits)
    while newer < older:
        middle = (newer + older) // 2
        if await _time_of(reader, commits[middle]) > time_ms:
            newer = middle + 1
        else:
            older = middle
    if older == len(commits):
        raise CommitNotFound(
            f"The log of user {user_id} holds no commit as old as that. `vectorpool log` lists what there is."
        )
    return commits[older].seq


async def _commits(bucket: Bucket, user_id: str) -> list[LogObject]:
    """Return the commits, newest first, down to a page of nothing but graves: below that, only backups have any."""
    prefix = names.log_prefix(user_id)
    commits: list[LogObject] = []
    after: str | None = None
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=PAGE, after=after)
        found = [obj for obj in map(parse_object, page) if obj is not None and not is_grave(obj)]
        commits += [obj for obj in found if obj.kind == "commit"]
        if len(page) < PAGE or not found:
            return commits
        after = page[-1].key


async def _time_of(reader: Reader, commit: LogObject) -> int:
    try:
        return (await reader.header(commit)).header.time_ms
    except (CorruptObject, NewerFormat, Vanished):
        return commit.modified_ms


async def _state(
    bucket: Bucket,
    user_id: str,
    warm: WarmTier | None,
    directory: Path,
    at: int | None,
    engine: Engine,
    edit: Edit | None,
) -> Hydrated:
    newest = await newest_object(bucket, user_id)
    if newest is None:
        raise UserNotFound(f"Nothing is stored for user {user_id}.")
    found = await hydrate(bucket, user_id, warm, directory, at=at, engine=engine)
    if found is None or (found.tombstone and at is None):
        raise UserNotFound(f"Nothing is stored for user {user_id}.")
    if found.tombstone:
        raise CommitNotFound(f"Commit {at} is the end of a vectorstore of user {user_id}: there is no state in it.")
    return found if edit is None else await asyncio.to_thread(_edited, found, directory, engine, edit)


def _edited(state: Hydrated, directory: Path, engine: Engine, edit: Edit) -> Hydrated:
    """Return the state of a directory after its files were changed."""
    if not edit(directory):
        return state
    image, _, _ = capture_into(directory, state.image, lambda extents: None)
    stamp = engine.stamp_of(directory)
    if stamp is None or state.stamp is None:
        stamp = stamp or state.stamp
    else:
        # A directory does not tell the version that wrote it.
        stamp = msgspec.structs.replace(stamp, version=state.stamp.version)
    return msgspec.structs.replace(state, image=image, stamp=stamp)


async def _newest(bucket: Bucket, user_id: str, warm: WarmTier | None, engine: Engine) -> _Below:
    """Return what the next commit rests on, as far as it can be read. Raises CommitNotFound for a tombstone.

    Raises NewerEngine if a later engine wrote it.
    """
    for _ in range(_TRIES):
        newest = await newest_object(bucket, user_id)
        if newest is None:
            raise UserNotFound(f"Nothing is stored for user {user_id}.")
        try:
            decoded = await Reader(bucket, user_id, None).header(newest)
        except Vanished:
            continue
        except (CorruptObject, NewerFormat):
            return _Below(Position(newest.seq, b""), EMPTY.checksum(), None)
        if decoded.header.tombstone:
            raise CommitNotFound(f"The vectorstore of user {user_id} was deleted, and its commits with it.")
        engine.check(decoded.header.stamp)
        position = Position(newest.seq, decoded.commit_hash)
        try:
            state = await hydrate(bucket, user_id, warm, None, at=newest.seq)
        except (CorruptObject, BrokenLog, NewerFormat, CommitNotFound):
            return _Below(position, decoded.header.state_after, None)
        if state is not None and state.position == position:
            return _Below(position, decoded.header.state_after, state.image)
    raise CommitConflict(f"The log of user {user_id} keeps changing while it is read. Send the request again.")


def _pack(
    user_id: str,
    below: _Below,
    directory: Path,
    state: Hydrated,
    sources: Sources,
    summary: Summary | None = None,
) -> PendingCommit:
    """Return the commit of ``directory`` over ``below``: the difference where that is small, else all of it."""
    summary = Summary(restored_from=state.position.seq) if summary is None else summary
    if below.image is not None and below.image.files:
        body, changed = BodyBuilder(), 0

        def take(extents: list[Extent]) -> None:
            nonlocal changed
            changed += sum(len(extent.data) for extent in extents)
            if changed <= _SMALL * state.image.size:
                body.add(extents)

        image, removed, _ = capture_into(directory, below.image, take)
        assert image == state.image
        if changed <= _SMALL * state.image.size:
            return append.build_commit(
                user_id, below.position, below.checksum, image, removed, body, summary, sources, stamp=state.stamp
            )
    body = BodyBuilder()
    image, _, _ = capture_into(directory, EMPTY, body.add)
    assert image == state.image
    return append.build_commit(
        user_id,
        below.position,
        below.checksum,
        image,
        [],
        body,
        summary,
        sources,
        self_contained=True,
        stamp=state.stamp,
    )
