"""Append: one conditional create, and the certainty about who won the number.

*Consistency.* The number's name is created only if it is free, and the store lets one creator win. A writer's bytes
for a number are frozen in a ``PendingCommit``: until it is known who has the number, nothing else is offered for it.

*Retries.* "Exists" and "no answer" are both followed by reading the name back. One's own writer id there means
committed (the answer to an earlier attempt was lost), another's means lost, and absence means that the same bytes are
offered again: the earlier request may still arrive, hours later, and then finds or makes the same object. After
``_ATTEMPTS`` the outcome is reported as unknown, and the caller may append the same pending commit again.

*Cancellation.* A cancelled append has an unknown outcome; the pending commit is still good to be offered again.

*Crash consistency.* A killed writer leaves either the whole object or none: creation is atomic in every store.
"""

from __future__ import annotations

from typing import Final

from vectorpool import names
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.fetch import SMALL_HEAD_BYTES, Reader, Vanished
from vectorpool.commitlog.format import Header, Kind, Summary, body_checksum, encode_header, grave_of, is_grave_content
from vectorpool.commitlog.image import Capture, Image
from vectorpool.commitlog.outcomes import LostRace, PendingCommit, Position
from vectorpool.commitlog.plan import LogObject, is_grave
from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.errors import CorruptObject, LimitExceeded, NewerFormat, OutcomeUnknown, StoreUnavailable
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectExists, ObjectMissing
from vectorpool.sources import Sources

MAX_OBJECT_BYTES: Final = 4 * 1024**3
_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.2


def build_commit(
    user_id: str,
    parent: Position,
    state_before: bytes,
    image: Image,
    removed: list[str],
    body: BodyBuilder,
    summary: Summary,
    sources: Sources,
    *,
    self_contained: bool = False,
    tombstone: bool = False,
    stamp: EngineStamp | None = None,
) -> PendingCommit:
    """Return the frozen bytes of the commit after ``parent``. Synchronous: it packs, so run it in a thread."""
    seq = parent.seq + 1
    writer = sources.uuid()
    table = image.table()
    frames, stored = body.finish(table)
    kind: Kind = "base" if self_contained else "commit"
    head, commit_hash = encode_header(
        Header(
            kind=kind,
            seq=seq,
            after=parent.seq,
            parent_hash=parent.commit_hash,
            writer=writer,
            time_ms=sources.now_ms(),
            files=table,
            removed=removed,
            frames=frames,
            body_checksum=body_checksum(frames),
            state_before=state_before,
            state_after=image.checksum(),
            summary=summary,
            tombstone=tombstone,
            stamp=stamp,
        )
    )
    data = join_object(head, stored)
    key = names.log_prefix(user_id) + names.commit_name(seq)
    return PendingCommit(seq, key, writer, data, image, Position(seq, commit_hash))


def join_object(head: bytes, stored: list[bytes]) -> bytes:
    """Return an object's bytes; raise LimitExceeded beyond what a store takes in one piece."""
    size = len(head) + sum(map(len, stored))
    if size > MAX_OBJECT_BYTES:
        raise LimitExceeded(
            f"One log object would have {size} bytes; the limit is {MAX_OBJECT_BYTES}. Write less in one go.",
            extra={"limit": MAX_OBJECT_BYTES},
        )
    return b"".join([head, *stored])


def prepare(
    user_id: str,
    parent: Position,
    before: Image,
    capture: Capture,
    summary: Summary,
    sources: Sources,
    *,
    tombstone: bool = False,
    stamp: EngineStamp | None = None,
) -> PendingCommit:
    """Return the commit of ``capture`` over ``parent``, whose image is ``before``. The first commit stands alone."""
    body = BodyBuilder()
    body.add(capture.extents)
    return build_commit(
        user_id,
        parent,
        before.checksum(),
        capture.image,
        capture.removed,
        body,
        summary,
        sources,
        self_contained=parent.seq == 0 or tombstone or not before.files,
        tombstone=tombstone,
        stamp=stamp,
    )


async def append(bucket: Bucket, user_id: str, pending: PendingCommit, sources: Sources) -> str:
    """Offer a commit until it is known whether it has its number; return the object's ETag, or "" if unknown.

    Raises LostRace, OutcomeUnknown, StoreUnavailable (certain that nothing was written), or CorruptObject if what has
    the number is damaged.
    """
    offered = False
    taken = False
    damaged = 0
    trouble = ""
    for attempt in range(_ATTEMPTS):
        if attempt:
            await sources.sleep(_PAUSE_S * 2**attempt * (0.5 + sources.random()))
        try:
            return await bucket.create(pending.key, pending.data)
        except ObjectExists:
            taken = True
        except BucketUnavailable as error:
            offered, trouble = True, str(error)
        except BucketDenied as error:
            if offered:
                raise _unknown(bucket, pending, str(error)) from error
            raise StoreUnavailable(
                f"The object store {bucket.url} refused commit {pending.seq}: {error}. Nothing was written. "
                "Check its credentials and permissions."
            ) from error
        try:
            etag = await _resolve(bucket, user_id, pending)
            if etag is not None:
                return etag
            if taken:
                # It was there and is gone: the log was deleted or freed of garbage meanwhile, and whose it was is lost.
                trouble = "the number was taken, and the object that took it is gone"
                break
        except StoreUnavailable as error:
            trouble = trouble or error.detail
        except CorruptObject as error:
            # Damage is believed when nothing else is ever seen: until then it may be on the way, and the object ours.
            damaged += 1
            if damaged == _ATTEMPTS:
                raise
            trouble = trouble or error.detail
    raise _unknown(bucket, pending, trouble)


def _unknown(bucket: Bucket, pending: PendingCommit, trouble: str) -> OutcomeUnknown:
    return OutcomeUnknown(
        f"It is not known whether commit {pending.seq} is durable: the object store {bucket.url} did not say "
        f"({trouble or 'the number is taken, and by whom could not be read'}). "
        "Look before you send the same write again, or send one that can be repeated.",
        extra={"seq": pending.seq},
    )


async def _resolve(bucket: Bucket, user_id: str, pending: PendingCommit) -> str | None:
    """Read the number back: return its ETag if it is ours, None if it is free; raise LostRace if it is another's."""
    try:
        info = await bucket.head(pending.key)
        obj = LogObject(pending.key, "commit", pending.seq, pending.seq - 1, info.size, info.etag)
        if is_grave(obj):
            return await _resolve_grave(bucket, pending)
        decoded = await Reader(bucket, user_id, None).header(obj, first_bytes=SMALL_HEAD_BYTES)
    except Vanished:
        # It was buried between the two questions.
        return await _resolve_grave(bucket, pending)
    except ObjectMissing:
        return None
    except (BucketUnavailable, BucketDenied) as error:
        raise StoreUnavailable(str(error)) from error
    except NewerFormat:
        # We do not write that.
        raise LostRace(pending.seq) from None
    if decoded.header.writer != pending.writer:
        raise LostRace(pending.seq)
    if decoded.commit_hash != pending.position.commit_hash:
        raise AssertionError(f"commit {pending.seq} has our writer id and other content")
    return info.etag


async def _resolve_grave(bucket: Bucket, pending: PendingCommit) -> str | None:
    """Resolve a number whose commit was deleted: the grave of a removed commit still says whose it was.

    A writer that slept through the removal of its own commit must not apply its commands a second time. The graves
    that the end of a vectorstore leaves name nobody: all that was written is gone, and the caller looks at the log.
    """
    try:
        body = await bucket.get(pending.key)
    except ObjectMissing:
        return None
    except (BucketUnavailable, BucketDenied) as error:
        raise StoreUnavailable(str(error)) from error
    if body.data == grave_of(pending.writer):
        return ""
    if is_grave_content(body.data):
        raise LostRace(pending.seq)
    raise StoreUnavailable(f"{pending.key} changes while it is read. Send the request again.")
