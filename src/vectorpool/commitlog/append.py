"""Append: one conditional create, which decides who has the number.

*Consistency.* The name of the number is created only if it is free. The store lets one creator win. A
``PendingCommit`` holds a writer's bytes for a number and does not change. The writer offers nothing else for the
number until it knows who has it.

*Retries.* After "exists" and after "no answer" the name is read back. If it holds the writer's own id, the commit is
durable, and the answer to an earlier attempt was lost. If it holds another id, the race is lost. If it is absent, the
same bytes are offered again: the earlier request may still arrive, hours later, and then finds or makes the same
object. After ``_ATTEMPTS``, or at the time limit, the outcome is reported as unknown. The caller may append the same
pending commit again. A refusal is certain only before anything else was offered: then nothing was written, nor will be.

*Cancellation.* A cancelled append has an unknown outcome. The pending commit can be offered again.

*Crash consistency.* A killed writer leaves the whole object or none. Every store creates objects atomically.
"""

from __future__ import annotations

import asyncio
import logging
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
from vectorpool.objects.refusals import refused, unavailable
from vectorpool.sources import Sources

_log = logging.getLogger(__name__)

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
    """Return the bytes of the commit after ``parent``. Synchronous and CPU-bound: run it in a thread."""
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


async def append(
    bucket: Bucket, user_id: str, pending: PendingCommit, sources: Sources, *, budget_s: float, in_doubt: bool = False
) -> str:
    """Offer a commit until it is known whether it has its number; return the object's ETag, or "" if unknown.

    All requests and pauses together take at most ``budget_s`` seconds. ``in_doubt`` says that the commit was offered
    before, without an answer.

    Raises LostRace, OutcomeUnknown, StoreUnavailable (certain that nothing was written, nor will be), or CorruptObject
    if what has the number is damaged.
    """
    try:
        async with asyncio.timeout(budget_s):
            return await _append(bucket, user_id, pending, sources, offered=in_doubt)
    except TimeoutError as error:
        raise _unknown(bucket, pending, f"no answer within {budget_s:g} s") from error


async def _append(bucket: Bucket, user_id: str, pending: PendingCommit, sources: Sources, *, offered: bool) -> str:
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
            raise refused(
                bucket.url, f"writing commit {pending.seq}", error, certainty="Nothing was written."
            ) from error
        except Exception as error:
            # A defect, or an error of the client library: whether the request was sent is not known.
            _log.exception("commit %d could not be written", pending.seq)
            raise _unknown(bucket, pending, f"{type(error).__name__}: {error}") from error
        try:
            etag = await _resolve(bucket, user_id, pending)
            if etag is not None:
                return etag
            if taken:
                # The object is gone again: the log was deleted, or its garbage removed. Its writer is not known.
                trouble = "the number was taken, and the object that took it is gone"
                break
        except StoreUnavailable as error:
            trouble = trouble or error.detail
        except CorruptObject as error:
            # One damaged read may be an error of the network, and the object may be ours. All attempts must agree.
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
        # The commit was deleted between the two requests.
        return await _resolve_grave(bucket, pending)
    except ObjectMissing:
        return None
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, f"reading commit {pending.seq} back", error) from error
    except NewerFormat:
        # This version does not write that format, so the commit is another writer's.
        raise LostRace(pending.seq) from None
    if decoded.header.writer != pending.writer:
        raise LostRace(pending.seq)
    if decoded.commit_hash != pending.position.commit_hash:
        raise AssertionError(f"commit {pending.seq} has our writer id and other content")
    return info.etag


async def _resolve_grave(bucket: Bucket, pending: PendingCommit) -> str | None:
    """Resolve a number whose commit was deleted. The grave of a removed commit has a checksum of its writer's id.

    A writer that was paused while its own commit was removed must not apply its commands a second time. A grave from
    the end of a vectorstore has no writer: everything is deleted, and the caller reads the log.
    """
    try:
        body = await bucket.get(pending.key)
    except ObjectMissing:
        return None
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, f"reading commit {pending.seq} back", error) from error
    if body.data == grave_of(pending.writer):
        return ""
    if is_grave_content(body.data):
        raise LostRace(pending.seq)
    raise StoreUnavailable(f"{pending.key} changes while it is read. Send the request again.")
