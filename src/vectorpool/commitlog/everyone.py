"""Every user of the bucket, a page at a time, with the newest commit of each log: two small requests for each.

What a page costs does not depend on the number of users, nor on the length of a history.
"""

from __future__ import annotations

import asyncio
from typing import Final

from vectorpool import names
from vectorpool.commitlog.deletions import load_receipt
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.fetch import store_errors
from vectorpool.cursors import from_cursor, to_cursor
from vectorpool.errors import CommitConflict, Damaged, NewerFormat
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.unusable import printable
from vectorpool.operating import UserPage, UserRow

# Users looked at at the same time.
_AT_ONCE: Final = 16
# Names that are no ids, of those that a page shows.
_MOST_REFUSED: Final = 100


async def users_page(bucket: Bucket, *, limit: int, cursor: str | None = None) -> UserPage:
    """Return at most ``limit`` users, 1 to 1,000, after a cursor. Raises InvalidRequest, StoreUnavailable.

    A log whose newest commit cannot be read says so, and does not fail the page.
    """
    after = None if cursor is None else from_cursor(cursor)
    with store_errors(bucket, "listing the users"):
        found = await bucket.list_prefixes(names.users_prefix(), limit=limit, after=after)
    ids, refused = names.split_user_ids(found)
    rows = list[UserRow]()
    for start in range(0, len(ids), _AT_ONCE):
        rows += await asyncio.gather(*(_row(bucket, user_id) for user_id in ids[start : start + _AT_ONCE]))
    return UserPage(
        users=rows,
        refused=[printable(name) for name in refused[:_MOST_REFUSED]],
        next_cursor=to_cursor(found[-1]) if len(found) >= limit else None,
    )


async def _row(bucket: Bucket, user_id: str) -> UserRow:
    try:
        newest = await newest_header(bucket, user_id)
    except (Damaged, NewerFormat, CommitConflict) as error:
        return UserRow(user_id, damage=error.detail)
    if newest is None:
        # Documents alone, or a plain directory that was never opened.
        return UserRow(user_id)
    header = newest.header
    row = UserRow(user_id, commit=header.seq, time_ms=header.time_ms, bytes=header.state_bytes)
    if header.tombstone:
        row.is_deleted = True
        receipt = await load_receipt(bucket, user_id)
        row.verified_empty_at_ms = None if receipt is None else receipt.verified_empty_at_ms
    return row
