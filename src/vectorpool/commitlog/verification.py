"""When a log was verified last, and what was found: one small object beside the log, replaced each time.

Several instances look after the same users; this object is how they see that another was here. It decides nothing
about safety: if it is lost, damaged or wrong, a log is verified earlier or later.
"""

from __future__ import annotations

import msgspec

from vectorpool.commitlog.fetch import store_errors
from vectorpool.commitlog.outcomes import Problem, ScrubReport
from vectorpool.names import verification_key
from vectorpool.objects.bucket import Bucket, ObjectMissing

# Enough to act on; scrub says it all.
_MAX_PROBLEMS = 100


class _Stored(msgspec.Struct, frozen=True):
    verified_at_ms: int
    newest_seq: int
    newest_intact_seq: int
    commits: int
    objects: int
    bytes: int
    problems: list[Problem] = []


async def save(bucket: Bucket, user_id: str, report: ScrubReport) -> None:
    """Remember a report, with its first 100 problems."""
    stored = _Stored(
        report.verified_at_ms,
        report.newest_seq,
        report.newest_intact_seq,
        report.commits,
        report.objects,
        report.bytes,
        report.problems[:_MAX_PROBLEMS],
    )
    key = verification_key(user_id)
    with store_errors(bucket, f"writing {key}"):
        await bucket.put(key, msgspec.json.encode(stored))


async def load(bucket: Bucket, user_id: str) -> ScrubReport | None:
    """Return the last report, or None if there is none that can be read."""
    key = verification_key(user_id)
    with store_errors(bucket, f"reading {key}"):
        try:
            body = await bucket.get(key)
        except ObjectMissing:
            return None
    try:
        stored = msgspec.json.decode(body.data, type=_Stored)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return ScrubReport(
        newest_seq=stored.newest_seq,
        newest_intact_seq=stored.newest_intact_seq,
        commits=stored.commits,
        objects=stored.objects,
        bytes=stored.bytes,
        problems=stored.problems,
        verified_at_ms=stored.verified_at_ms,
    )
