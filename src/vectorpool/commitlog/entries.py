"""The commits of a log, as their headers describe them.

Above the newest floor this reads the listing downwards. Below it there are graves, of which a long history has very
many, and the commits that tags keep. After a whole page of graves, the tagged commits are requested by their numbers.
"""

from __future__ import annotations

import asyncio
from typing import Final

from vectorpool import names
from vectorpool.commitlog import tags
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
        found = [obj for obj in map(parse_object, page) if obj is not None and not is_grave(obj)]
        commits += [obj for obj in found if obj.kind == "commit"]
        if len(page) < _PAGE:
            break
        after = page[-1].key
        if not found:
            commits += await _tagged_below(bucket, user_id, after)
            break
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
        restored_from=header.summary.restored_from or None,
        stamp=header.stamp,
    )


async def _tagged_below(bucket: Bucket, user_id: str, after: str) -> list[LogObject]:
    """Return the commits with keys after ``after`` that tags name, newest first."""
    prefix = names.log_prefix(user_id)
    keys = {prefix + names.commit_name(tag.seq) for tag in await tags.every(bucket, user_id)}
    found: list[LogObject] = []
    for key in sorted(key for key in keys if key > after):
        try:
            with store_errors(bucket, f"looking for {key}"):
                obj = parse_object(await bucket.head(key))
        except Vanished:
            continue
        if obj is not None and not is_grave(obj):
            found.append(obj)
    return found
