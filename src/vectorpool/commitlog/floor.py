"""Floors: the decision which commits may be deleted. It is made durable before anything is deleted.

A floor at H is a small object. It says that every commit below H that no tag names is garbage. The remover creates it
before it lists the tags. The maker of a tag writes the tag before it looks for floors. So at least one of them sees
the other: either the tag is in the remover's listing, and the remover keeps the commit, or the maker finds the floor,
deletes its tag and reports that the commit is gone.

This holds however long either of them, or one of their requests, is paused. No clock is part of the argument. A clock
only decides where a floor is put, that is, how long the past can be restored. A floor is never lowered. An older floor
that appears late has no effect.
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
    """Return the number below which commits without a tag are garbage; 0 for none. One listing of one object."""
    found = await _floors(bucket, user_id, limit=1)
    return found[0] if found else 0


async def raise_floor(bucket: Bucket, user_id: str, seq: int) -> None:
    """Make a floor at ``seq`` durable, and delete the floors below it.

    Raises StoreUnavailable. The floor may still appear if the request arrives later; nothing is deleted because of it.
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
