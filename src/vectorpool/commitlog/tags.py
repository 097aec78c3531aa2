"""Tags: named backups. A tag is a small object that names a commit; garbage removal keeps it and what it needs.

*Consistency.* A name is created only if it is free, and is never moved. The tag is written first. Then its maker looks
for a floor above its commit (``floor``). If there is one, the commit may be about to be deleted: the tag is deleted
again and CommitNotFound is raised. If there is none, every remover that could delete the commit lists the tags later.
So a commit below a floor cannot be tagged, even if another tag keeps it. Restore it, and tag the new commit.

*Unknown outcomes.* There is a backup only if ``make`` returns. A tag whose making ended in OutcomeUnknown, or with its
process, may appear and may name a commit that is deleted; ``scrub`` reports it. Delete it and make another. A deletion
of unknown outcome may arrive later, so do not use the name again.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.fetch import Reader, Vanished, store_errors
from vectorpool.commitlog.floor import newest_floor
from vectorpool.commitlog.format import Decoded, corrupt
from vectorpool.commitlog.hydrate import gone, hydrate
from vectorpool.commitlog.outcomes import Tag
from vectorpool.commitlog.plan import LogObject, is_grave
from vectorpool.errors import (
    UNDECODABLE,
    BackupExists,
    BackupNotFound,
    CommitNotFound,
    CorruptObject,
    InvalidId,
    LimitExceeded,
    OutcomeUnknown,
    StoreUnavailable,
    UserNotFound,
)
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectExists
from vectorpool.objects.refusals import refused
from vectorpool.sources import Sources

__all__ = ["MAX_TAGS", "Tag", "every", "get", "make", "remove", "tag_names"]

MAX_TAGS: Final = 1000
_MAX_BYTES: Final = 4096
_REQUESTS: Final = 16
_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.2

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Tag).decode


async def make(bucket: Bucket, user_id: str, name: str, at: int | None, sources: Sources) -> Tag:
    """Tag commit ``at``, or the newest, as ``name``.

    Raises InvalidId, BackupExists, UserNotFound, CommitNotFound, LimitExceeded beyond MAX_TAGS, CorruptObject or
    BrokenLog for a commit that cannot be had, StoreUnavailable (there is no tag) and OutcomeUnknown.
    """
    key = names.tag_key(user_id, name)
    if len(await tag_names(bucket, user_id)) >= MAX_TAGS:
        raise LimitExceeded(
            f"User {user_id} has {MAX_TAGS} backups, the most there may be. Delete one first.",
            extra={"limit": MAX_TAGS},
        )
    decoded = await _commit(bucket, user_id, at)
    header = decoded.header
    tag = Tag(
        name=name,
        seq=header.seq,
        commit_hash=decoded.commit_hash,
        time_ms=sources.now_ms(),
        state_checksum=header.state_after,
        maker=sources.uuid(),
    )
    await _create(bucket, user_id, key, tag, sources)
    try:
        is_garbage = await newest_floor(bucket, user_id) > tag.seq
        if is_garbage:
            with store_errors(bucket, f"deleting {key}"):
                await bucket.delete(key)
    except StoreUnavailable as error:
        raise _unknown(name, error.detail) from error
    if is_garbage:
        raise gone(user_id, tag.seq)
    return tag


async def get(bucket: Bucket, user_id: str, name: str) -> Tag:
    """Return the tag of a name; raise BackupNotFound, or CorruptObject if it cannot be read."""
    try:
        return await _read(bucket, user_id, name)
    except CorruptObject:
        # Damage is believed when it is seen twice: the first time it may have been on the way.
        return await _read(bucket, user_id, name)


async def _read(bucket: Bucket, user_id: str, name: str) -> Tag:
    key = names.tag_key(user_id, name)
    try:
        with store_errors(bucket, f"reading {key}"):
            # A foreign object may be of any size; a tag is small.
            data = await bucket.get_range(key, 0, _MAX_BYTES)
    except Vanished:
        raise BackupNotFound(f"User {user_id} has no backup {name!r}. List the backups to see what there is.") from None
    try:
        tag = _decode(data)
    except UNDECODABLE as error:
        raise CorruptObject(
            f"The backup {key} cannot be read ({error}). No garbage is removed while it is there; delete it.",
            extra={"key": key},
        ) from None
    if tag.name != name:
        raise CorruptObject(f"The backup {key} says that it is {tag.name!r}. Delete it.", extra={"key": key})
    return tag


async def every(bucket: Bucket, user_id: str) -> list[Tag]:
    """Return all tags by name; raise CorruptObject if one cannot be read."""
    gate = asyncio.Semaphore(_REQUESTS)

    async def read(name: str) -> Tag | None:
        async with gate:
            try:
                return await get(bucket, user_id, name)
            except BackupNotFound:
                return None

    found = await asyncio.gather(*(read(name) for name in await tag_names(bucket, user_id)))
    return [tag for tag in found if tag is not None]


async def remove(bucket: Bucket, user_id: str, name: str) -> None:
    """Delete a tag, readable or not; raise BackupNotFound, OutcomeUnknown."""
    key = names.tag_key(user_id, name)
    try:
        with store_errors(bucket, f"looking for {key}"):
            await bucket.head(key)
    except Vanished:
        raise BackupNotFound(f"User {user_id} has no backup {name!r}. List the backups to see what there is.") from None
    try:
        with store_errors(bucket, f"deleting {key}"):
            await bucket.delete(key)
    except StoreUnavailable as error:
        raise OutcomeUnknown(
            f"It is not known whether the backup {name!r} was deleted ({error.detail}) Delete it again, and do not use "
            "its name again."
        ) from error


async def tag_names(bucket: Bucket, user_id: str) -> list[str]:
    """Return the names of all tags, sorted. Other objects below their prefix are left out."""
    prefix = names.tags_prefix(user_id)
    found: list[str] = []
    after: str | None = None
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=MAX_TAGS, after=after)
        for info in page:
            try:
                found.append(names.check_backup_name(info.key.removeprefix(prefix)))
            except InvalidId:
                continue
        if len(page) < MAX_TAGS:
            return found
        after = page[-1].key


async def _commit(bucket: Bucket, user_id: str, at: int | None) -> Decoded:
    """Return the checked header of the commit to tag, whose whole state was read back from the bucket."""
    if at is None:
        newest = await newest_header(bucket, user_id)
        if newest is None or newest.header.tombstone:
            raise UserNotFound(f"Nothing is stored for user {user_id}, so there is nothing to back up.")
        at = newest.header.seq
    missing = CommitNotFound(f"The log of user {user_id} has no commit {at}. `vectorpool log` lists them.")
    if not 1 <= at < names.MAX_SEQ:
        raise missing
    if await newest_floor(bucket, user_id) > at:
        raise CommitNotFound(
            f"Commit {at} of user {user_id} is older than the retention time, and cannot be kept any more. If another "
            "backup keeps it, restore it first.",
            extra={"seq": at},
        )
    key = names.log_prefix(user_id) + names.commit_name(at)
    try:
        with store_errors(bucket, f"looking for {key}"):
            info = await bucket.head(key)
        obj = LogObject(key, "commit", at, at - 1, info.size, info.etag)
        if is_grave(obj):
            raise gone(user_id, at)
        decoded = await Reader(bucket, user_id, None).header(obj)
        if decoded.header.tombstone:
            raise CommitNotFound(
                f"Commit {at} is the end of a vectorstore of user {user_id}: there is no state to keep."
            )
    except Vanished:
        raise missing from None
    state = await hydrate(bucket, user_id, None, None, at=at)
    if state is None or (state.position.commit_hash, state.image.checksum()) != (
        decoded.commit_hash,
        decoded.header.state_after,
    ):
        raise corrupt(key, "what leads to its number leads to another state")
    return decoded


async def _create(bucket: Bucket, user_id: str, key: str, tag: Tag, sources: Sources) -> None:
    """Create a tag, and find out after a lost answer whether it is there."""
    data = _encode(tag)
    trouble = ""
    offered = False
    for attempt in range(_ATTEMPTS):
        if attempt:
            await sources.sleep(_PAUSE_S * 2**attempt * (0.5 + sources.random()))
        try:
            await bucket.create(key, data)
            return
        except ObjectExists:
            try:
                if (await get(bucket, user_id, tag.name)).maker == tag.maker:
                    return
            except (BackupNotFound, StoreUnavailable) as error:
                offered, trouble = True, error.detail
                continue
            except CorruptObject as error:
                if offered:
                    raise _unknown(tag.name, error.detail) from error
            raise BackupExists(
                f"User {user_id} has a backup {tag.name!r} already. Delete it first, or choose another name."
            ) from None
        except BucketUnavailable as error:
            offered, trouble = True, str(error)
        except BucketDenied as error:
            if offered:
                raise _unknown(tag.name, str(error)) from error
            raise refused(
                bucket.url, f"writing the backup {tag.name!r}", error, certainty="Nothing was written."
            ) from error
    raise _unknown(tag.name, trouble)


def _unknown(name: str, trouble: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"It is not known whether the backup {name!r} was made ({trouble}). Delete it, and make one of another name."
    )
