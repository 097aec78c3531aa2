"""The history of a log: what its commits say about themselves. Headers only."""

from __future__ import annotations

import asyncio
from typing import Final

from vectorpool import names
from vectorpool.commitlog.fetch import Reader, Vanished, store_errors
from vectorpool.commitlog.outcomes import CommitInfo
from vectorpool.commitlog.plan import LogObject, is_grave, parse_object
from vectorpool.errors import CorruptObject, NewerFormat
from vectorpool.objects.bucket import Bucket

MAX_ENTRIES: Final = 10_000
_PAGE: Final = 1000


async def entries(bucket: Bucket, user_id: str, limit: int) -> list[CommitInfo]:
    """Return the newest ``limit`` (at most MAX_ENTRIES) commits, newest first; a damaged one says what is wrong."""
    limit = min(limit, MAX_ENTRIES)
    prefix = names.log_prefix(user_id)
    commits: list[LogObject] = []
    after: str | None = None
    while len(commits) < limit:
        with store_errors(bucket, f"listing {prefix}"):
            page = await bucket.list_objects(prefix, limit=_PAGE, after=after)
        commits += [obj for obj in map(parse_object, page) if obj and obj.kind == "commit" and not is_grave(obj)]
        if len(page) < _PAGE:
            break
        after = page[-1].key
    reader = Reader(bucket, user_id, None)
    infos = await asyncio.gather(*(_describe(reader, obj) for obj in commits[:limit]))
    return [info for info in infos if info is not None]


async def _describe(reader: Reader, obj: LogObject) -> CommitInfo | None:
    try:
        decoded = await reader.header(obj)
    except Vanished:
        return None
    except (CorruptObject, NewerFormat) as error:
        return CommitInfo(obj.seq, obj.size, damage=error.detail)
    header = decoded.header
    return CommitInfo(
        seq=obj.seq,
        size=obj.size,
        time_ms=header.time_ms,
        writer=header.writer,
        commit_hash=decoded.commit_hash,
        state_bytes=header.state_bytes,
        files=len(header.files),
        self_contained=header.self_contained,
        tombstone=header.tombstone,
        summary=header.summary,
    )
