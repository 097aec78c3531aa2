"""Questions about one number of a log: is it free, and does it hold the commit that a replica stands on?

The second is for a bucket that was put back to an earlier state under a running instance. The instance's next number is
free then, so a commit there would be acknowledged above a hole, and lost.
"""

from __future__ import annotations

from typing import Final

from vectorpool import names
from vectorpool.commitlog.fetch import SMALL_HEAD_BYTES, Vanished, store_errors
from vectorpool.commitlog.format import PRELUDE_BYTES, digest, header_bytes, is_grave_content
from vectorpool.commitlog.outcomes import Position
from vectorpool.errors import BrokenLog, CorruptObject, NewerFormat
from vectorpool.objects.bucket import Bucket, ObjectMissing

_LOOKS: Final = 2


async def is_newest(bucket: Bucket, user_id: str, position: Position) -> bool:
    """Whether no commit follows on ``position``. One HEAD; raises StoreUnavailable."""
    key = names.log_prefix(user_id) + names.commit_name(position.seq + 1)
    with store_errors(bucket, f"looking for {key}"):
        try:
            await bucket.head(key)
        except ObjectMissing:
            return True
    return False


def is_surely_newest(bucket: Bucket, user_id: str, position: Position) -> bool:
    """Whether the store shows at once that no commit follows on ``position``; False says nothing."""
    return bucket.is_surely_absent(names.log_prefix(user_id) + names.commit_name(position.seq + 1))


async def prove(bucket: Bucket, user_id: str, position: Position) -> None:
    """Return if the commit of ``position``, or its grave, is in the log. Raises BrokenLog, StoreUnavailable.

    A commit that is there and cannot be read passes: a scrub reports it.
    """
    key = names.log_prefix(user_id) + names.commit_name(position.seq)
    try:
        for _ in range(_LOOKS):
            with store_errors(bucket, f"looking for {key}"):
                found = await _hash_of(bucket, key)
            if found is None:
                continue
            if found == position.commit_hash:
                return
            raise _put_back(position.seq, "is another one now")
    except Vanished:
        raise _put_back(position.seq, "is not in the log any more") from None


async def _hash_of(bucket: Bucket, key: str) -> bytes | None:
    """Return the hash of the commit under a key; None for a grave, and for bytes that are cut or damaged."""
    head = await bucket.get_range(key, 0, SMALL_HEAD_BYTES)
    if is_grave_content(head):
        return None
    try:
        end = header_bytes(key, head)
    except (CorruptObject, NewerFormat):
        return None
    if len(head) < end:
        head = await bucket.get_range(key, 0, end)
    return digest(head[PRELUDE_BYTES:end]) if len(head) >= end else None


def _put_back(seq: int, what: str) -> BrokenLog:
    return BrokenLog(
        f"Commit {seq}, on which this write would rest, {what}: the bucket was put back to an earlier state while this "
        "instance ran. Nothing was written. The next request reads the log anew. Stop instances before a bucket is put "
        "back.",
        extra={"seq": seq},
    )
