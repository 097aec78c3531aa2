"""What health and recovery need of a log: what is new in it, a state without damaged objects, a state in its place.

*Marks.* A log object is write-once, so its name, size and ETag tell whether an earlier look verified it. A check reads
what has another mark than it had then: what is new, and what was replaced, cut or written again.

*Replacing.* A recovered state becomes one self-contained commit on the highest number that is taken, whatever is below
it. It is offered only for the next number, so of two recoveries one wins, and nothing that was committed meanwhile is
lost. The damaged objects stay where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from vectorpool.commitlog import append
from vectorpool.commitlog.body import BodyBuilder, unpack_frame
from vectorpool.commitlog.deletions import load_receipt, marks_since, segment_digest
from vectorpool.commitlog.fetch import PART_BYTES, WINDOW, OpenObject, Reader, Vanished
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.hydrate import clear, gap, open_chain
from vectorpool.commitlog.image import EMPTY, capture_into
from vectorpool.commitlog.outcomes import Hydrated, LostRace, PendingCommit, Position
from vectorpool.commitlog.plan import Chain, Listing, LogObject, chain
from vectorpool.commitlog.replay import Replay
from vectorpool.commitlog.stamp import Engine
from vectorpool.errors import CommitConflict, CommitNotFound, CorruptObject, Damaged, NewerFormat, UserNotFound
from vectorpool.local_paths import local_segment
from vectorpool.objects.bucket import Bucket
from vectorpool.sources import Sources

# Commits beside the chain that one check verifies; the whole log is verified in the rounds of upkeep.
_MOST_COMMITS: Final = 256
# The first letter of a mark: whether the object needs nothing below it.
_WHOLE: Final = "="
_PART: Final = "-"


class Verified(NamedTuple):
    """What is verified: the marks of the objects that lead to the newest commit, and the bytes that were read."""

    known: list[str]
    read_bytes: int
    fault: str


def _mark_of(obj: LogObject) -> str:
    """Return what tells an object from every other version of it."""
    return f"{obj.key.rpartition('/')[2]} {obj.size} {obj.etag}"


def top_of(listing: Listing) -> int:
    """Return the highest number that is taken. Above the newest commit there is a grave only if one was cut."""
    return max(listing.newest, *listing.graves) if listing.graves else listing.newest


async def verify_new(
    bucket: Bucket,
    user_id: str,
    listing: Listing,
    found: Chain,
    known: Iterable[str],
    since: int,
    pause: Callable[[int], Awaitable[None]],
) -> Verified:
    """Verify the objects that the newest commit needs, and the commits after ``since`` above the lowest of them.

    Objects with a known mark are not read. ``pause`` is awaited with the bytes of each that was. What lies below a
    self-contained object is history, and may be damaged. The first fault ends the look. Raises Vanished and
    StoreUnavailable.
    """
    marks = {mark[1:]: mark[0] == _WHOLE for mark in known}
    verified, read_bytes, bottom = list[str](), 0, 0
    try:
        for obj in found.objects:
            is_whole = marks.get(_mark_of(obj))
            if is_whole is None:
                is_whole = await _verify(bucket, user_id, obj)
                read_bytes += obj.size
                await pause(obj.size)
            verified.append((_WHOLE if is_whole else _PART) + _mark_of(obj))
            bottom = obj.seq
            if is_whole:
                break
        beside = [obj for obj in listing.objects if obj.kind == "commit" and obj.seq > max(since, bottom)]
        needed = {obj.key for obj in found.objects}
        for obj in [obj for obj in beside if obj.key not in needed][:_MOST_COMMITS]:
            await _verify(bucket, user_id, obj)
            read_bytes += obj.size
            await pause(obj.size)
    except Damaged as error:
        return Verified([], read_bytes, error.detail)
    return Verified(verified, read_bytes, "")


async def _verify(bucket: Bucket, user_id: str, obj: LogObject) -> bool:
    """Read an object from the store and check every frame; return whether it needs nothing below it.

    Raises CorruptObject, NewerFormat, Vanished, StoreUnavailable.
    """
    stream = await Reader(bucket, user_id, None).open(obj, PART_BYTES, WINDOW)
    try:
        async for frames in stream.frames():
            await asyncio.to_thread(_check, stream, frames)
        return stream.header.self_contained
    finally:
        await stream.close()


def _check(stream: OpenObject, frames: list[tuple[int, memoryview]]) -> None:
    for index, stored in frames:
        unpack_frame(stream.obj.key, stream.header.frames[index], stored)


async def deleted_at(bucket: Bucket, user_id: str) -> int:
    """Return the commit of the last deletion that a receipt or a mark tells of; 0 for none. Raises StoreUnavailable."""
    receipt = await load_receipt(bucket, user_id)
    digest = segment_digest(local_segment(user_id))
    marks = [mark.seq for mark in await marks_since(bucket, 0) if mark.digest == digest]
    return max([0 if receipt is None else receipt.commit, *marks])


async def build(bucket: Bucket, user_id: str, listing: Listing, seq: int, directory: Path, engine: Engine) -> Hydrated:
    """Fill an empty directory with the state of a commit, by the objects of a listing alone.

    A listing without the damaged objects finds a way around them. The directory is empty after a failure. Raises
    CommitNotFound, CorruptObject, BrokenLog, NewerFormat, NewerEngine, StoreUnavailable.
    """
    found = chain(listing, seq)
    if found is None:
        raise CommitNotFound(f"Nothing leads to commit {seq} of user {user_id}.")
    reader = Reader(bucket, user_id, None)
    try:
        async with open_chain(reader, found.objects) as streams:
            if not streams[0].header.self_contained:
                raise gap(user_id, found.bottom)
            header = streams[-1].header
            engine.check(header.stamp)
            image = await Replay(streams, directory).run()
            position = Position(header.seq, streams[-1].commit_hash)
    except Vanished as error:
        await asyncio.shield(asyncio.to_thread(clear, directory))
        raise CommitNotFound(f"The objects of commit {seq} were removed while they were read.") from error
    except BaseException:
        await asyncio.shield(asyncio.to_thread(clear, directory))
        raise
    return Hydrated(
        position=position,
        image=image,
        tombstone=header.tombstone,
        fetched_bytes=reader.fetched_bytes,
        fetched_objects=len(reader.fetched),
        time_ms=header.time_ms,
        stamp=header.stamp,
        adopted=header.summary.adopted,
    )


async def replace(
    bucket: Bucket,
    user_id: str,
    listing: Listing,
    directory: Path,
    engine: Engine,
    sources: Sources,
    *,
    restored_from: int,
    budget_s: float,
) -> Position:
    """Make the files of a directory, which is not open, the commit after the highest number of ``listing``.

    Raises CommitConflict if another commit took the number, UserNotFound if the vectorstore was deleted, NewerEngine,
    StoreUnavailable, OutcomeUnknown, LimitExceeded.
    """
    top, commit_hash, below = top_of(listing), b"", EMPTY.checksum()
    newest = listing.commits.get(top)
    if newest is not None:
        try:
            decoded = await Reader(bucket, user_id, None).header(newest)
        except (CorruptObject, NewerFormat, Vanished):
            pass
        else:
            if decoded.header.tombstone:
                raise UserNotFound(f"The vectorstore of user {user_id} was deleted. What was deleted is not recovered.")
            engine.check(decoded.header.stamp)
            commit_hash, below = decoded.commit_hash, decoded.header.state_after

    def pack() -> PendingCommit:
        body = BodyBuilder()
        image, _, _ = capture_into(directory, EMPTY, body.add)
        return append.build_commit(
            user_id,
            Position(top, commit_hash),
            below,
            image,
            [],
            body,
            Summary(restored_from=restored_from),
            sources,
            self_contained=True,
            stamp=engine.stamp_of(directory),
        )

    pending = await asyncio.to_thread(pack)
    try:
        await append.append(bucket, user_id, pending, sources, budget_s=budget_s)
    except LostRace:
        raise CommitConflict(
            f"Another commit took number {pending.seq} of user {user_id}, so nothing was recovered. Look at the plan "
            "again: it may be well now."
        ) from None
    return pending.position
