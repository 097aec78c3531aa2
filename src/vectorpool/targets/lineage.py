"""Whether nothing but writes led from one commit of a log to another, so that positions tell what changed."""

from __future__ import annotations

import asyncio
from typing import Final

from vectorpool.commitlog.entries import entries
from vectorpool.objects.bucket import Bucket

# Commits that are looked at: a header each, 16 at a time.
_MOST: Final = 500


class Lineage:
    """The commits up to ``newest`` of a log, asked from a thread beside the loop that the bucket belongs to."""

    def __init__(self, bucket: Bucket, user_id: str, newest: int, loop: asyncio.AbstractEventLoop) -> None:
        self._bucket = bucket
        self._user_id = user_id
        self._newest = newest
        self._loop = loop

    def __call__(self, commit: int, commit_hash: str) -> bool:
        """Return whether only writes followed on a commit; False in doubt. Raises StoreUnavailable."""
        if not 0 < self._newest - commit <= _MOST:
            return False
        return asyncio.run_coroutine_threadsafe(self.holds(commit, commit_hash), self._loop).result()

    async def holds(self, commit: int, commit_hash: str) -> bool:
        """Return what a call does."""
        # A newer commit than the one that is exported may be there already.
        found = {each.seq: each for each in await entries(self._bucket, self._user_id, self._newest - commit + 101)}
        base = found.get(commit)
        if base is None or base.commit_hash.hex() != commit_hash:
            return False
        for seq in range(commit + 1, self._newest + 1):
            each = found.get(seq)
            if each is None or each.damage or each.tombstone or each.self_contained:
                return False
            summary = each.summary
            if summary.restored_from or summary.salvaged or summary.lost or summary.migrated or summary.adopted:
                return False
            # An erasure keeps the numbers, but writes the tables anew.
            if summary.erased:
                return False
        return True
