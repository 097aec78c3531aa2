"""Users who were deleted and may be at a target still, and the jobs that delete them there.

Receipts say what is done. A worker lists the marks of deletions since its last look, which are in the order of time:
one small request, however many users were deleted, and an object read for each new deletion. So what a command deletes
straight in the bucket, or another instance, goes on to the targets within ``LOOK_EVERY_S``. A user who is not done
stays owed: each round asks again. Up to when a worker looked and who is owed is a small object of the bucket, with
which the next worker of the same targets begins.

Where that does not reach back (new targets, no look for weeks, too many that are owed, marks of an earlier release),
all receipts are listed, and those are read of which the worker's record does not say that every target is done.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.answers import Deletion
from vectorpool.commitlog.deletions import (
    LOOK_WITHIN_MS,
    Mark,
    load_receipt,
    mark_keys_since,
    segment_digest,
    time_of_mark,
    user_of_mark,
    users_with_receipts,
)
from vectorpool.commitlog.json_objects import load_json, save_json
from vectorpool.errors import VectorpoolError
from vectorpool.ids import is_reserved
from vectorpool.jobs.exported import ExportRecord
from vectorpool.local_paths import local_segment
from vectorpool.objects.bucket import Bucket
from vectorpool.sources import Sources

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 30.0
# What is not in the bucket's note of a worker is looked at again by the next one.
_SAVE_EVERY_MS: Final = 3600 * 1000
_MOST_SAVED: Final = 10_000
# By how much the clocks of instances may differ.
_OVERLAP_MS: Final = 600_000
# A mark is written before its receipt. A deletion that was cut off between them is none that anybody was told of.
_NO_RECEIPT_MS: Final = 24 * 3600 * 1000
_MOST_OWED: Final = 100_000
_PAGE: Final = 1000
_AT_ONCE: Final = 16


class _Progress(msgspec.Struct):
    """Up to when marks were looked at and receipts listed, ms since 1970, and who is owed."""

    targets: list[str]
    looked_ms: int
    listed_ms: int
    owed: list[str]


# Asks for the deletion of a user at a target; returns whether it is a new job.
Ask = Callable[[str, str], Awaitable[bool]]
Drop = Callable[[str], Awaitable[None]]


class DeletedUsers:
    """The deletions at targets that one worker knows to be owed. Belongs to one event loop."""

    def __init__(
        self,
        bucket: Bucket,
        record: ExportRecord,
        targets: list[str],
        sources: Sources,
        ask: Ask,
        has_room: Callable[[], Awaitable[bool]],
        drop: Drop | None = None,
    ) -> None:
        """``drop`` is called for each mark of a deletion, perhaps several times, with its digest of the user."""
        self._bucket = bucket
        self._record = record
        self._targets = targets
        self._sources = sources
        self._ask = ask
        self._has_room = has_room
        self._drop = drop
        self._one_at_a_time = asyncio.Lock()
        # Each with the time when it became known.
        self._owed: dict[str, int] = {}
        self._seen: set[str] = set()
        self._looked_ms = 0
        self._listed_ms: int | None = None
        self._may_be_more = False
        self._saved: _Progress | None = None
        digest = hashlib.sha256("\n".join(targets).encode()).hexdigest()[:32]
        self._key = names.owed_deletions_key(digest)

    async def keep(self) -> None:
        """Look again and again, until cancelled."""
        while self._targets:
            try:
                await self.look()
            except VectorpoolError as error:
                logger.warning("deletions that are to go on to targets could not be looked for: %s", error.code)
            # Not all workers at the same time.
            await self._sources.sleep(LOOK_EVERY_S * (0.75 + 0.25 * self._sources.random()))

    async def look(self) -> int:
        """Ask for the deletions that are new; return how many jobs are. Raises StoreUnavailable, JobsUnavailable."""
        found = await self._find(is_round=False)
        asked = await self._ask_for(found, is_round=False)
        await self._save()
        return asked

    async def run(self) -> int:
        """Ask for all that is owed; return how many jobs are new. Raises StoreUnavailable, JobsUnavailable."""
        await self._find(is_round=True)
        asked = await self._ask_for(list(self._owed), is_round=True)
        await self._save()
        return asked

    async def _find(self, *, is_round: bool) -> list[str]:
        """Note who was deleted since the last look, or at any time, as owed; return them."""
        if not self._targets:
            return []
        # Not while jobs are asked for: a round may wait long for room, and marks are looked at meanwhile.
        async with self._one_at_a_time:
            began_ms = self._sources.now_ms()
            if self._listed_ms is None:
                await self._resume(began_ms)
            is_due = self._listed_ms is None or min(self._looked_ms, self._listed_ms) < began_ms - LOOK_WITHIN_MS
            if is_due or (is_round and self._may_be_more):
                self._may_be_more = False
                found = await self._listed(began_ms)
                self._listed_ms = began_ms
            else:
                found = await self._marked(began_ms)
            self._looked_ms = began_ms
            return found

    async def _resume(self, now_ms: int) -> None:
        """Begin where a worker of the same targets stood."""
        saved = await load_json(self._bucket, self._key, _Progress)
        if saved is None or saved.targets != self._targets:
            return
        self._saved = saved
        self._looked_ms, self._listed_ms = min(saved.looked_ms, now_ms), min(saved.listed_ms, now_ms)
        self._owed = dict.fromkeys(saved.owed, now_ms)

    async def _save(self) -> None:
        before, owed = self._saved, sorted(self._owed)
        if self._listed_ms is None or self._may_be_more or len(owed) > _MOST_SAVED:
            return
        is_same = before is not None and (before.owed, before.listed_ms) == (owed, self._listed_ms)
        if is_same and before is not None and self._looked_ms - before.looked_ms < _SAVE_EVERY_MS:
            return
        progress = _Progress(self._targets, self._looked_ms, self._listed_ms, owed)
        await save_json(self._bucket, self._key, progress)
        self._saved = progress

    async def _listed(self, now_ms: int) -> list[str]:
        users = await users_with_receipts(self._bucket)
        marks = await self._marks_since(0)
        newest: dict[str, int] = {}
        for mark in marks.values():
            newest[mark.digest] = max(mark.seq, newest.get(mark.digest, 0))
        found = list[str]()
        for start in range(0, len(users), _PAGE):
            page = [each for each in users[start : start + _PAGE] if not is_reserved(each)]
            known = await self._known(page)
            for user_id in page:
                # A user may have been deleted again since.
                least = newest.get(segment_digest(local_segment(user_id)), 0)
                if any(commits.get(user_id, -1) < least for commits in known.values()):
                    found.append(user_id)
        self._see(marks, now_ms)
        return self._owe(found, now_ms)

    async def _marked(self, now_ms: int) -> list[str]:
        marks = await self._marks_since(max(self._looked_ms - _OVERLAP_MS, 0))
        new, found = [key for key in marks if key not in self._seen], list[str]()
        for start in range(0, len(new), _AT_ONCE):
            keys = new[start : start + _AT_ONCE]
            for user_id in await asyncio.gather(*(user_of_mark(self._bucket, key) for key in keys)):
                if user_id is None:
                    # Of an instance of an earlier release: only the list of receipts tells who it was.
                    self._may_be_more = True
                elif not is_reserved(user_id):
                    found.append(user_id)
        self._see(marks, now_ms)
        return self._owe(found, now_ms)

    async def _marks_since(self, time_ms: int) -> dict[str, Mark]:
        marks = await mark_keys_since(self._bucket, time_ms)
        if self._drop is not None:
            for digest in {mark.digest for mark in marks.values()}:
                await self._drop(digest)
        return marks

    def _see(self, marks: dict[str, Mark], now_ms: int) -> None:
        self._seen = {key for key in marks if time_of_mark(key) >= now_ms - 2 * _OVERLAP_MS}

    def _owe(self, users: list[str], now_ms: int) -> list[str]:
        taken = list[str]()
        for user_id in users:
            if user_id not in self._owed and len(self._owed) >= _MOST_OWED:
                self._may_be_more = True
                break
            self._owed[user_id] = now_ms
            taken.append(user_id)
        return taken

    async def _known(self, users: list[str]) -> dict[str, dict[str, int]]:
        """Return by target which deletion of each user is done there, as far as the record knows."""
        return {name: await asyncio.to_thread(self._record.forgotten, name, users) for name in self._targets}

    async def _ask_for(self, users: list[str], *, is_round: bool) -> int:
        asked = 0
        for start in range(0, len(users), _PAGE):
            page = users[start : start + _PAGE]
            known = await self._known(page)
            async for user_id, receipt in self._receipts(page):
                if receipt is None:
                    if self._sources.now_ms() - self._owed.get(user_id, 0) > _NO_RECEIPT_MS:
                        self._owed.pop(user_id, None)
                    continue
                left = [name for name in self._targets if known[name].get(user_id, -1) < receipt.commit]
                left = [name for name in left if not await self._is_noted(receipt, name)]
                if not left:
                    self._owed.pop(user_id, None)
                for name in left:
                    # As few as new deletions are, they are asked for at once, as by a request.
                    if is_round and not await self._has_room():
                        return asked
                    asked += await self._ask(user_id, name)
        return asked

    async def _receipts(self, users: list[str]) -> AsyncIterator[tuple[str, Deletion | None]]:
        for start in range(0, len(users), _AT_ONCE):
            part = users[start : start + _AT_ONCE]
            found = await asyncio.gather(*(load_receipt(self._bucket, each) for each in part))
            for user_id, receipt in zip(part, found, strict=True):
                yield user_id, receipt

    async def _is_noted(self, receipt: Deletion, name: str) -> bool:
        """Whether a receipt says that a target is done; then the record says it too."""
        if not any(each.target == name and each.deleted_at_ms for each in receipt.targets):
            return False
        await asyncio.to_thread(self._note, name, receipt)
        return True

    def _note(self, name: str, receipt: Deletion) -> None:
        # Unless the user was made anew and exported since.
        if self._record.held(name, [receipt.user_id]).get(receipt.user_id, 0) < receipt.commit:
            self._record.note(name, receipt.user_id, -receipt.commit)
