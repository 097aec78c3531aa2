"""The last verification of a log: when it was and what it found. One small object beside the log, replaced each time.

Instances share the verification of logs; this object tells an instance that another one has verified a log. Safety
does not depend on it: if it is lost, damaged or wrong, a log is verified earlier or later.
"""

from __future__ import annotations

import msgspec

from vectorpool.commitlog.json_objects import load_json, save_json
from vectorpool.commitlog.outcomes import ScrubReport
from vectorpool.names import verification_key
from vectorpool.objects.bucket import Bucket

# Enough to act on. A scrub reports all of them.
_MAX_PROBLEMS = 100


async def save(bucket: Bucket, user_id: str, report: ScrubReport) -> None:
    """Remember a report, with its first 100 problems. Raises StoreUnavailable."""
    shortened = msgspec.structs.replace(report, problems=report.problems[:_MAX_PROBLEMS])
    await save_json(bucket, verification_key(user_id), shortened)


async def load(bucket: Bucket, user_id: str) -> ScrubReport | None:
    """Return the last report, or None if there is none that can be read. Raises StoreUnavailable."""
    return await load_json(bucket, verification_key(user_id), ScrubReport)
