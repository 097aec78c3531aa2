"""End a log: a tombstone takes the next number, then everything else is deleted, tags included.

The tombstone is a commit: an empty state that needs nothing below it. Nothing is deleted before it is durable. From
then on the vectorstore is gone for every reader, even if the deletion is not finished.

A number is never used again. An instance that was paused through the whole deletion knows only a commit far below the
tombstone. If its next number looked free, it would take its replica for fresh and its write for committed. So a commit
is deleted by a grave of 16 bytes over it: the content is gone, and the number stays taken.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.answers import Deletion
from vectorpool.commitlog import append
from vectorpool.commitlog.adoption import list_everything
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.deletions import announce, load_receipt, save_receipt
from vectorpool.commitlog.fetch import Reader, Vanished, store_errors
from vectorpool.commitlog.floor import raise_floor
from vectorpool.commitlog.format import GRAVE, Decoded, Summary
from vectorpool.commitlog.image import EMPTY
from vectorpool.commitlog.outcomes import ORIGIN, LostRace, Position
from vectorpool.commitlog.plan import LogObject, is_grave, parse_object
from vectorpool.errors import CommitConflict, CorruptObject, NewerFormat, OutcomeUnknown, StoreUnavailable
from vectorpool.objects.bucket import Bucket, ObjectInfo
from vectorpool.objects.unusable import unusable_because
from vectorpool.sources import Sources

_TRIES: Final = 8
_DELETES: Final = 16
# Listings that look for what is left, each after what the one before found was deleted.
_LISTINGS: Final = 3


async def newest_object(bucket: Bucket, user_id: str) -> LogObject | None:
    """Return an object of the newest number, or None for an empty log. One small listing."""
    prefix = names.log_prefix(user_id)
    after: str | None = None
    while True:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=8, after=after)
        for info in page:
            obj = parse_object(info)
            if obj is not None and not is_grave(obj):
                return obj
        if not page:
            return None
        after = page[-1].key


async def newest_header(bucket: Bucket, user_id: str) -> Decoded | None:
    """Return the checked header of the newest commit, or None for an empty log."""
    for _ in range(_TRIES):
        obj = await newest_object(bucket, user_id)
        if obj is None:
            return None
        try:
            return await Reader(bucket, user_id, None).header(obj)
        except Vanished:
            continue
    raise CommitConflict(f"The log of user {user_id} keeps changing while it is read. Send the request again.")


async def end(
    bucket: Bucket, user_id: str, sources: Sources, budget_s: float, *, seal: bool = False, documents: int | None = None
) -> int:
    """Append a tombstone unless one is the newest, then delete all else; return how many objects were deleted.

    An empty log gets a tombstone only with ``seal``. Other instances are told, and a receipt is stored once a listing
    shows that nothing is left; ``documents`` is for the receipt. Where all of this was done before, nothing is written.

    ``budget_s`` is the time limit of the append. Raises StoreUnavailable if nothing was written, OutcomeUnknown if that
    is not known, or if the tombstone is durable and something is left over.
    """
    keep: str | None = None
    for _ in range(_TRIES):
        obj = await newest_object(bucket, user_id)
        if obj is None and not seal and not await _has_anything(bucket, user_id):
            return 0
        try:
            keep = await _append_tombstone(bucket, user_id, obj, sources, budget_s)
        except (LostRace, Vanished):
            continue
        break
    if keep is None:
        raise CommitConflict(f"Others kept committing to the vectorstore of user {user_id}. Send the request again.")
    try:
        return await _Deletion(bucket, user_id, keep, sources).run(documents)
    except StoreUnavailable as error:
        raise OutcomeUnknown(
            f"The vectorstore of user {user_id} is deleted, and some of its objects are left: {error.detail} Send the "
            "request again to delete them."
        ) from error


async def _has_anything(bucket: Bucket, user_id: str) -> bool:
    """Whether anything lies below ``vectorstore/``: a plain directory, or kept documents. One listing of one object."""
    prefix = names.vectorstore_prefix(user_id)
    with store_errors(bucket, f"listing {prefix}"):
        return bool(await bucket.list_objects(prefix, limit=1))


class _Deletion:
    """Deletes what lies below a tombstone, whose key is ``keep``, and says so."""

    def __init__(self, bucket: Bucket, user_id: str, keep: str, sources: Sources) -> None:
        self._bucket = bucket
        self._user_id = user_id
        self._keep = keep
        self._seq = _seq_of(keep)
        self._sources = sources

    async def run(self, documents: int | None) -> int:
        """Return how many objects were deleted."""
        bucket, before = self._bucket, await load_receipt(self._bucket, self._user_id)
        if before is not None and before.commit != self._seq:
            before = None
        is_verified = before is not None and before.verified_empty_at_ms is not None
        left = await self._left()
        if not left and is_verified and not documents:
            return 0
        # From here on no tag can be made of what is about to be deleted, and the listing shows all that were made. They
        # go first, so that an end that is cut short leaves no backup of what it deletes.
        await raise_floor(bucket, self._user_id, self._seq)
        left, tags = await self._left(), names.tags_prefix(self._user_id)
        await self._delete([(info, bury) for info, bury in left if info.key.startswith(tags)])
        # Then instances are told, so that they drop what they hold however far the deletion comes.
        now_ms = self._sources.now_ms()
        await announce(bucket, self._user_id, self._seq, now_ms)
        receipt = before or Deletion(
            user_id=self._user_id,
            commit=self._seq,
            deleted_at_ms=now_ms,
            objects=len(left),
            bytes=sum(info.size for info, _ in left),
            backups=sum(info.key.startswith(tags) for info, _ in left),
        )
        if documents is not None:
            receipt = msgspec.structs.replace(receipt, documents=(receipt.documents or 0) + documents)
        # What is deleted again (the report of a verification, for example) is no document: what was complete stays so.
        await save_receipt(bucket, msgspec.structs.replace(receipt, verified_empty_at_ms=None, complete_at_ms=None))
        deleted = 0
        # What a writer that slept put there meanwhile is found by the listing that verifies.
        for _ in range(_LISTINGS):
            await self._delete(left)
            deleted += len(left)
            if not (left := await self._left()):
                verified = msgspec.structs.replace(receipt, verified_empty_at_ms=self._sources.now_ms())
                await save_receipt(bucket, verified)
                break
        return deleted

    async def _delete(self, left: list[tuple[ObjectInfo, bool]]) -> None:
        for start in range(0, len(left), _DELETES):
            batch = left[start : start + _DELETES]
            await asyncio.gather(*(_delete(self._bucket, info.key, bury) for info, bury in batch))

    async def _left(self) -> list[tuple[ObjectInfo, bool]]:
        """Return what is left to delete, and whether it is buried: a commit, whose number stays taken."""
        log = names.log_prefix(self._user_id)
        left: list[tuple[ObjectInfo, bool]] = []
        for info in await list_everything(self._bucket, names.vectorstore_prefix(self._user_id)):
            obj = parse_object(info) if info.key.startswith(log) else None
            if obj is not None and info.key <= self._keep:
                # The tombstone, and later commits on it.
                continue
            if info.key.startswith(names.floors_prefix(self._user_id)):
                continue
            if obj is None or not is_grave(obj):
                left.append((info, obj is not None and obj.kind == "commit"))
        return left


async def _append_tombstone(
    bucket: Bucket, user_id: str, newest: LogObject | None, sources: Sources, budget_s: float
) -> str:
    """Return the key of the tombstone that is the newest commit, appending it if there is none."""
    parent, before = ORIGIN, EMPTY.checksum()
    if newest is not None:
        try:
            decoded = await Reader(bucket, user_id, None).header(newest)
        except (CorruptObject, NewerFormat):
            # A log that cannot be read can still be deleted: the chain begins anew here.
            parent = Position(newest.seq, b"")
        else:
            if decoded.header.tombstone and newest.kind == "commit":
                return newest.key
            parent, before = Position(newest.seq, decoded.commit_hash), decoded.header.state_after
    pending = append.build_commit(
        user_id, parent, before, EMPTY, [], BodyBuilder(), Summary(), sources, self_contained=True, tombstone=True
    )
    await append.append(bucket, user_id, pending, sources, budget_s=budget_s)
    return pending.key


def _seq_of(key: str) -> int:
    parsed = names.parse_log_name(key.rpartition("/")[2])
    assert parsed is not None
    return parsed[1]


async def _delete(bucket: Bucket, key: str, bury: bool) -> None:
    with store_errors(bucket, f"deleting {key}"):
        if bury:
            await bucket.put(key, GRAVE)
        elif unusable_because(key):
            await bucket.delete_listed(key)
        else:
            await bucket.delete(key)
