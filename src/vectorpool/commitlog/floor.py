"""Floors: which commits may be deleted, decided once and for all before anything is deleted.

A floor at H is a small object that says: the commits below H that no tag names are condemned. It is created, and
durable, before its garbage remover lists the tags; a tagger writes its tag before it looks for floors. Of a remover and
a tagger of one commit below H at least one therefore sees the other: either the tag is in the remover's listing,
which then keeps the commit, or the tagger finds the floor, takes its tag away and says that the commit is gone.

That holds however long either of them, or one of their requests, was frozen in between, so no clock is in it. A clock
only chooses where a floor is put, that is, how long the past can be restored. Floors are never lowered: an older one
that appears late says nothing new.
"""

from __future__ import annotations

import contextlib
from typing import Final

from vectorpool import names
from vectorpool.commitlog.fetch import store_errors
from vectorpool.objects.bucket import Bucket, ObjectExists

_CONTENT: Final = b"vpLG: the commits below this number that no tag names are condemned.\n"
_PAGE: Final = 100


async def newest_floor(bucket: Bucket, user_id: str) -> int:
    """Return the number below which commits without a tag are condemned; 0 for none. One listing of one object."""
    found = await _floors(bucket, user_id, limit=1)
    return found[0] if found else 0


async def raise_floor(bucket: Bucket, user_id: str, seq: int) -> None:
    """Make a floor at ``seq`` durable, and remove those below it. Raises StoreUnavailable; nothing is condemned then.

    (It may be all the same, if the request arrives later: nobody deletes anything on its account.)
    """
    key = names.floor_key(user_id, seq)
    with store_errors(bucket, f"writing {key}"), contextlib.suppress(ObjectExists):
        await bucket.create(key, _CONTENT)
    for older in await _floors(bucket, user_id, limit=_PAGE):
        if older < seq:
            key = names.floor_key(user_id, older)
            with store_errors(bucket, f"deleting {key}"):
                await bucket.delete(key)


async def _floors(bucket: Bucket, user_id: str, *, limit: int) -> list[int]:
    prefix = names.floors_prefix(user_id)
    with store_errors(bucket, f"listing {prefix}"):
        page = await bucket.list_objects(prefix, limit=limit)
    return [seq for seq in (names.parse_floor_key(info.key) for info in page) if seq is not None]
