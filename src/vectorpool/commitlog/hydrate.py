"""Hydrate: one listing, then parallel reads, into an empty directory; or nothing at all.

After any failure the directory is empty. An object from the warm tier is checked like one from the bucket. If it is
wrong, it is dropped and read from the bucket.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from vectorpool import names
from vectorpool.commitlog.fetch import WINDOW, OpenObject, Reader, Vanished, open_sizes, store_errors
from vectorpool.commitlog.floor import newest_floor
from vectorpool.commitlog.format import corrupt
from vectorpool.commitlog.outcomes import Hydrated, Position
from vectorpool.commitlog.plan import Chain, Listing, LogObject, chain, parse_object
from vectorpool.commitlog.replay import Replay
from vectorpool.commitlog.stamp import ANY_ENGINE, Engine
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import BrokenLog, CommitNotFound, CorruptObject
from vectorpool.objects.bucket import Bucket

PAGE: Final = 1000
CUT_TO_A_GRAVE: Final = "it has the length of a grave, and no commit follows it"
_LOOKS: Final = 4


async def list_log(
    bucket: Bucket, user_id: str, *, at: int | None = None, whole: bool = False
) -> tuple[Listing, Chain | None]:
    """List a log, newest first, until a chain to its newest number (or ``at``) is seen, or all of it.

    Returns (listing, chain); the chain is None for an empty log, or where nothing leads to ``at``.
    """
    prefix = names.log_prefix(user_id)
    # "~" sorts behind every suffix of a number, so the listing begins with the objects of ``at``.
    after = None if at is None else f"{prefix}{names.commit_name(at + 1)}~"
    objects: list[LogObject] = []
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=PAGE, after=after)
        objects += [obj for obj in map(parse_object, page) if obj is not None]
        complete = len(page) < PAGE
        listing = Listing(objects, complete=complete)
        target = listing.newest if at is None else at
        found = chain(listing, target) if target else None
        # Numbers are listed downwards: once one below the chain's end was seen, no further page can lead on from it.
        final = found is not None and (found.anchored or objects[-1].seq < found.bottom)
        # Nor can one lead to ``at``: below it there may be years of graves.
        hopeless = at is not None and found is None and bool(objects) and objects[-1].seq < at
        if complete or ((final or hopeless) and not whole):
            return listing, found
        after = page[-1].key


@asynccontextmanager
async def open_chain(reader: Reader, objects: list[LogObject]) -> AsyncIterator[list[OpenObject]]:
    """Open objects, newest first as given, all at once; yield them oldest first, without those that are not needed.

    Everything below an object that needs nothing below it is left out. The links between them are checked: numbers,
    parent hashes, state checksums. Raises Vanished, CorruptObject, StoreUnavailable, BrokenLog.
    """
    sizes = open_sizes(objects)
    # Only the largest object is read ahead of its header: together with the beginnings this keeps to the bound.
    largest = max(range(len(objects)), key=lambda at: objects[at].size)
    tasks = [
        asyncio.create_task(reader.open(obj, size, WINDOW if at == largest and size < obj.size else 1))
        for at, (obj, size) in enumerate(zip(objects, sizes, strict=True))
    ]
    try:
        needed: list[OpenObject] = []
        # What lies below a self-contained object does not matter, not even if it is damaged or just being deleted.
        for task in tasks:
            needed.append(await task)
            if needed[-1].header.self_contained:
                break
        needed.reverse()
        _check_links(needed)
        yield needed
    finally:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, OpenObject):
                await result.close()


def _check_links(streams: list[OpenObject]) -> None:
    for below, stream in itertools.pairwise(streams):
        header = stream.header
        if (
            header.after != below.header.seq
            or header.parent_hash != below.commit_hash
            or header.state_before != below.header.state_after
        ):
            raise BrokenLog(
                f"The log object {stream.obj.key} does not follow on {below.obj.key}: it names another parent. "
                "Run `vectorpool scrub` to find the newest intact commit.",
                extra={"key": stream.obj.key},
            )


def gap(user_id: str, bottom: int) -> BrokenLog:
    """Return the error for a log in which nothing leads further down than number ``bottom``."""
    key = names.log_prefix(user_id) + names.commit_name(bottom) if bottom else names.log_prefix(user_id)
    return BrokenLog(
        f"The commit log has a gap: commit {bottom} ({key}) is missing, and no base stands above it. "
        "Run `vectorpool scrub` to find the newest intact commit.",
        extra={"key": key, "seq": bottom},
    )


def gone(user_id: str, seq: int) -> CommitNotFound:
    """Return the error for a commit that was removed as garbage, or deleted with its vectorstore."""
    return CommitNotFound(
        f"Commit {seq} of user {user_id} was deleted: no backup kept it beyond the retention time. "
        "`vectorpool log` lists what there is.",
        extra={"seq": seq},
    )


async def hydrate(
    bucket: Bucket,
    user_id: str,
    warm: WarmTier | None,
    directory: Path | None,
    *,
    at: int | None = None,
    engine: Engine = ANY_ENGINE,
) -> Hydrated | None:
    """Fill the empty ``directory`` with the newest state, or that of commit ``at``; None for an empty log.

    Without a directory the state is read and checked, and only its image is made. ``engine`` may refuse the state by
    its stamp, before any of it is built.

    Raises ValueError for a directory that is not empty, CommitNotFound, CorruptObject, NewerFormat, NewerEngine,
    BrokenLog and StoreUnavailable; the directory is empty then.
    """
    if directory is not None:
        await asyncio.to_thread(_require_empty, directory)
    tier = warm
    doubted = False
    if at is not None and not 1 <= at < names.MAX_SEQ:
        raise CommitNotFound(f"There is no commit {at}; numbers begin with 1. `vectorpool log` lists them.")
    for look in range(_LOOKS):
        reader = Reader(bucket, user_id, tier)
        try:
            return await _hydrate_once(reader, bucket, user_id, tier, directory, at, engine)
        except Vanished:
            if look == _LOOKS - 1:
                if at is not None and await newest_floor(bucket, user_id) > at:
                    raise gone(user_id, at) from None
                raise BrokenLog(
                    f"The log of user {user_id} names objects that cannot be read: they vanish after every listing. "
                    "Check that nothing else deletes below its prefix, then run `vectorpool scrub`."
                ) from None
        except (CorruptObject, BrokenLog):
            # Damage is reported if it is seen twice: once, it may be in the warm copy, or an error of the network.
            if doubted:
                if at is not None and await newest_floor(bucket, user_id) > at:
                    # Its removal is under way, or was: that is no damage.
                    raise gone(user_id, at) from None
                raise
            doubted = True
            if tier is not None:
                await asyncio.to_thread(tier.drop, user_id)
                tier = None
    raise AssertionError("every look returns or raises")


async def _hydrate_once(
    reader: Reader,
    bucket: Bucket,
    user_id: str,
    warm: WarmTier | None,
    directory: Path | None,
    at: int | None,
    engine: Engine,
) -> Hydrated | None:
    listing, found = await list_log(bucket, user_id, at=at)
    if at is not None and at in listing.graves:
        raise gone(user_id, at)
    if at is None and listing.graves and (highest := max(listing.graves)) > listing.newest:
        # A grave always has a commit above it: a floor, or a tombstone. This is a commit that was cut to that length.
        key = names.log_prefix(user_id) + names.commit_name(highest)
        raise corrupt(key, CUT_TO_A_GRAVE)
    if found is None:
        if at is None and not listing.objects:
            return None
        raise CommitNotFound(f"The log of user {user_id} has no commit {at}. `vectorpool log` lists them.")
    try:
        async with open_chain(reader, found.objects) as streams:
            if not streams[0].header.self_contained:
                raise gap(user_id, found.bottom)
            engine.check(streams[-1].header.stamp)
            image = await Replay(streams, directory).run()
        newest = streams[-1]
        header = newest.header
        if warm is not None and at is None:
            await asyncio.to_thread(warm.keep_only, user_id, [stream.obj for stream in streams], above=header.seq)
    except BaseException:
        if directory is not None:
            await asyncio.shield(asyncio.to_thread(clear, directory))
        raise
    return Hydrated(
        position=Position(header.seq, newest.commit_hash),
        image=image,
        tombstone=header.tombstone,
        fetched_bytes=reader.fetched_bytes,
        fetched_objects=len(reader.fetched),
        warm_objects=len(reader.from_warm),
        read_bytes=sum(stream.obj.size for stream in streams),
        time_ms=header.time_ms,
        stamp=header.stamp,
        adopted=header.summary.adopted,
    )


def _require_empty(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if next(directory.iterdir(), None) is not None:
        raise ValueError(f"{directory} is not empty; a state is never built over another")


def clear(directory: Path) -> None:
    """Remove everything in a directory."""
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                entry.unlink()
