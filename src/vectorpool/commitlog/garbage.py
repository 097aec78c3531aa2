"""Garbage removal: delete what no retained commit needs.

*What is retained.* Commits younger than the retention time; the commit before them, which is the state when that time
began; so always the newest commit; and every tagged commit. The *floor* H is a base at or below the oldest of the
young commits. The *anchors* are H and the tagged commits below H, each with a base of its own. Everything else below H
is garbage.

*Why no retained state is lost.* Only a remover touches an object of a number a < H, after it made a floor above a
durable and then listed the tags without finding a tag of a (``floor`` has the case of a tag that is being made). So a
retained number above every floor is never touched, nor is anything between it and the floor. A tagged number below
keeps its commit and its base. Neither needs more: before the first object below an anchor is deleted, the anchor's
base was made durable, read back as a whole, and compared with its commit. A remover that was paused, or a deletion
that arrives hours late, hits only what was garbage before, and garbage stays garbage.

*Why a paused instance is not deceived.* A commit is not deleted but replaced by a grave of 16 bytes under its name, so
its number stays taken. A writer that was paused finds its next number taken, and loses. A reader that was paused does
not take its replica for fresh. The grave of the paused writer's own commit tells that it had committed. No clock is
part of this; the README has the cost.

*Consistency.* A hydrate that finds listed objects gone lists again. Several removers may run: they delete the same
objects, or fewer. *Crash.* Between any two deletions every retained commit hydrates. Garbage is deleted from the
newest number down, so that most of the commits that are left hydrate too. The next call continues.

*Bounds.* A call lists at most ``_PAGES`` pages, deletes at most ``_PER_CALL`` objects and makes at most ``_BASES``
bases. It never touches objects that are not the log's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final, Literal

from vectorpool import names
from vectorpool.commitlog import tags
from vectorpool.commitlog.compaction import Compactor
from vectorpool.commitlog.fetch import SMALL_HEAD_BYTES, Reader, Vanished, store_errors
from vectorpool.commitlog.floor import newest_floor, raise_floor
from vectorpool.commitlog.format import GRAVE, Decoded, corrupt, grave_of
from vectorpool.commitlog.hydrate import PAGE, gap, list_log, open_chain
from vectorpool.commitlog.outcomes import Removal
from vectorpool.commitlog.plan import Listing, LogObject, chain, is_grave, parse_object
from vectorpool.commitlog.replay import Replay
from vectorpool.errors import BrokenLog, CorruptObject, LimitExceeded, NewerFormat
from vectorpool.objects.bucket import Bucket, ObjectMissing
from vectorpool.settings import Settings
from vectorpool.sources import Sources

_log = logging.getLogger(__name__)

_PAGES: Final = 64
_PER_CALL: Final = 1000
_BASES: Final = 8
_AT_ONCE: Final = 16
_LOOKS: Final = 3
# A state of at most this size always gets a new base. A larger one gets it only if it frees enough bytes.
_SMALL_STATE: Final = 2 * 1024**2

Scratch = Callable[[], AbstractAsyncContextManager[Path]]


class Sweep:
    """How far down a log with very many graves was read. Only a hint: it may be lost with the process."""

    def __init__(self) -> None:
        self.after: str | None = None


async def remove_garbage(
    bucket: Bucket, user_id: str, settings: Settings, sources: Sources, scratch: Scratch, sweep: Sweep
) -> Removal:
    """Delete what no retained commit needs, as much as one call may.

    Raises StoreUnavailable; CorruptObject or BrokenLog if the floor's state, or a tag, cannot be read: then nothing is
    deleted that might be needed to repair it.
    """
    survey = _Survey(bucket, user_id, sources.now_ms() - int(settings.retention_s * 1000))
    await survey.look(sweep)
    remover = _Remover(bucket, user_id, scratch)
    try:
        floor = await remover.choose_floor(survey, settings.compact_amplification)
        below = [obj for obj in survey.objects if obj.seq < floor]
        kept = {tag.seq for tag in await tags.every(bucket, user_id)}
        if not any(_goes(obj, kept) for obj in below):
            return Removal(complete=survey.complete)
        if not await remover.ensure(floor):
            raise await remover.missing(floor)
        if await newest_floor(bucket, user_id) < floor:
            await raise_floor(bucket, user_id, floor)
        # Only these tags count: a later tag of a commit below the floor is refused.
        kept = {tag.seq for tag in await tags.every(bucket, user_id)}
        done = await remover.sweep(below, floor, kept)
    except Vanished:
        # Another remover, or the end of the vectorstore, deleted it first.
        done = False
    return Removal(remover.deleted, remover.buried, remover.bytes, complete=done and survey.complete)


def _goes(obj: LogObject, kept: set[int]) -> bool:
    """Whether an object below the floor is deleted: all but the commits and bases of tagged numbers."""
    return obj.seq not in kept or obj.kind == "merged"


class _Survey:
    """What is in the log: the newest objects down to the floor, then what lies below, as far as one call looks."""

    def __init__(self, bucket: Bucket, user_id: str, cutoff_ms: int) -> None:
        self._bucket = bucket
        self._prefix = names.log_prefix(user_id)
        self._cutoff_ms = cutoff_ms
        self.objects: list[LogObject] = []
        self.oldest: int | None = None
        self.base: int | None = None
        self.complete = False

    async def look(self, sweep: Sweep) -> None:
        """List, newest first; find the newest commit that is not young (``oldest``), and a base at or below it."""
        after: str | None = None
        for _ in range(_PAGES):
            with store_errors(self._bucket, f"listing {self._prefix}"):
                page = await self._bucket.list_objects(self._prefix, limit=PAGE, after=after)
            for info in page:
                obj = parse_object(info)
                if obj is not None and not is_grave(obj):
                    self._take(obj)
            if len(page) < PAGE:
                self.complete = sweep.after is None
                sweep.after = None
                return
            after = page[-1].key
            if self.base is not None and sweep.after is not None:
                after = max(after, sweep.after)
        sweep.after = after

    def _take(self, obj: LogObject) -> None:
        self.objects.append(obj)
        if self.oldest is None and obj.kind == "commit" and obj.modified_ms <= self._cutoff_ms:
            self.oldest = obj.seq
        anchored = obj.kind == "base" or (obj.kind == "commit" and obj.seq == 1)
        if self.base is None and self.oldest is not None and anchored and obj.seq <= self.oldest:
            self.base = obj.seq


class _Remover:
    """One call's work: the bases it makes and checks, and what it deletes."""

    def __init__(self, bucket: Bucket, user_id: str, scratch: Scratch) -> None:
        self._bucket = bucket
        self._user_id = user_id
        self._scratch = scratch
        self._anchors: dict[int, Literal["whole", "dangling"]] = {}
        self._bases = 0
        self.deleted = 0
        self.buried = 0
        self.bytes = 0

    # --- Anchors -------------------------------------------------------------------------------------

    async def choose_floor(self, survey: _Survey, amplification: float) -> int:
        """Return the number of a base at or below the oldest retained commit, making one there if that pays; or 0.

        Compaction makes bases anyway, so the state is written once more only if it is small, or if that frees
        ``amplification`` times its bytes.
        """
        oldest, base = survey.oldest, survey.base or 0
        if oldest is None or oldest == base:
            return base
        freed = sum(obj.size for obj in survey.objects if base <= obj.seq < oldest)
        found = chain(Listing(survey.objects, complete=survey.complete), oldest)
        if not freed or found is None:
            return base
        try:
            header = (await Reader(self._bucket, self._user_id, None).header(found.objects[0])).header
            live = min(header.state_bytes, found.bytes)
            if live > _SMALL_STATE and freed < amplification * live:
                return base
            await self.ensure(oldest)
        except (CorruptObject, BrokenLog, NewerFormat, LimitExceeded) as error:
            _log.warning("the log of user %s is freed of garbage below an older base: %s", self._user_id, error.detail)
            return base
        return oldest

    async def ensure(self, seq: int) -> bool:
        """Make sure of a base at ``seq`` that was read back and matches the commit; return False if there is no commit.

        Raises CorruptObject, BrokenLog, NewerFormat, LimitExceeded, Vanished.
        """
        if seq not in self._anchors:
            commit = await self._object(names.commit_name(seq))
            decoded = None if commit is None else await self._header(commit)
            if commit is None or decoded is None:
                self._anchors[seq] = "dangling"
            else:
                # Commit 1 stands alone, and its name says so.
                base = commit if seq == 1 else await self._base(seq)
                await self._check(base, decoded)
                self._anchors[seq] = "whole"
        return self._anchors[seq] == "whole"

    async def _object(self, name: str) -> LogObject | None:
        key = names.log_prefix(self._user_id) + name
        try:
            with store_errors(self._bucket, f"looking for {key}"):
                obj = parse_object(await self._bucket.head(key))
        except Vanished:
            return None
        return None if obj is None or is_grave(obj) else obj

    async def _header(self, commit: LogObject) -> Decoded | None:
        """Return a commit's header, or None if it is gone. Damage is reported after ``_LOOKS`` damaged reads."""
        for look in range(_LOOKS):
            try:
                return await Reader(self._bucket, self._user_id, None).header(commit, first_bytes=SMALL_HEAD_BYTES)
            except Vanished:
                return None
            except CorruptObject:
                if look == _LOOKS - 1:
                    raise
        raise AssertionError("every look returns or raises")

    async def _base(self, seq: int) -> LogObject:
        base = await self._object(names.base_name(seq))
        if base is not None:
            return base
        if self._bases == _BASES:
            raise LimitExceeded(f"One call makes at most {_BASES} bases.")
        self._bases += 1
        _, found = await list_log(self._bucket, self._user_id, at=seq)
        if found is None:
            raise Vanished(names.log_prefix(self._user_id) + names.commit_name(seq))
        async with self._scratch() as directory:
            await Compactor(self._bucket, self._user_id, None, directory).write_base(found.objects)
        base = await self._object(names.base_name(seq))
        if base is None:
            raise Vanished(names.log_prefix(self._user_id) + names.base_name(seq))
        return base

    async def _check(self, base: LogObject, commit: Decoded) -> None:
        """Read all of a base and compare it with its commit. Damage is reported after ``_LOOKS`` damaged reads."""
        for look in range(_LOOKS):
            try:
                async with open_chain(Reader(self._bucket, self._user_id, None), [base]) as streams:
                    if not streams[0].header.self_contained:
                        raise gap(self._user_id, base.after)
                    await Replay(streams, None).run()
                    same = (streams[0].commit_hash, streams[0].header.state_after)
            except (CorruptObject, BrokenLog):
                if look == _LOOKS - 1:
                    raise
                continue
            if same != (commit.commit_hash, commit.header.state_after):
                raise corrupt(base.key, f"it holds another state than commit {base.seq}")
            return

    # --- Deleting ------------------------------------------------------------------------------------

    async def sweep(self, below: list[LogObject], floor: int, kept: set[int]) -> bool:
        """Delete what goes of ``below``, from the newest down; return whether all of it could be done."""
        anchors = [floor, *sorted((seq for seq in kept if seq < floor), reverse=True)]
        for upper, lower in itertools.pairwise([*anchors, 0]):
            garbage_objects = [obj for obj in below if lower < obj.seq <= upper and _goes(obj, kept)]
            if not garbage_objects:
                continue
            try:
                await self._guard([seq for seq in reversed(anchors) if seq >= upper])
            except (CorruptObject, BrokenLog, NewerFormat, LimitExceeded) as error:
                # What this tag rests on stays, and so does everything below it.
                _log.warning(
                    "the log of user %s is not freed of garbage below %d: %s", self._user_id, upper, error.detail
                )
                return False
            room = _PER_CALL - self.deleted - self.buried
            for start in range(0, min(room, len(garbage_objects)), _AT_ONCE):
                batch = garbage_objects[start : min(room, start + _AT_ONCE)]
                results = await asyncio.gather(*(self._delete(obj) for obj in batch), return_exceptions=True)
                if failed := next((result for result in results if isinstance(result, BaseException)), None):
                    raise failed
            if len(garbage_objects) > room:
                return False
        return True

    async def _guard(self, anchors: list[int]) -> None:
        """Ensure the first of these anchors that has a commit. A tag without a commit was made too late."""
        for seq in anchors:
            if await self.ensure(seq):
                return
        raise await self.missing(anchors[-1])

    async def missing(self, seq: int) -> BrokenLog | Vanished:
        """Return the error for a commit that the listing showed and that is not there: damage, or an old listing.

        A commit's name is never free again, so a log that lost one is damaged. Where a grave has its name, another
        remover went further, or the vectorstore ended, since the listing was made: however long ago that was.
        """
        key = names.log_prefix(self._user_id) + names.commit_name(seq)
        with store_errors(self._bucket, f"looking for {key}"):
            try:
                obj = parse_object(await self._bucket.head(key))
            except ObjectMissing:
                obj = None
        return Vanished(key) if obj is not None and is_grave(obj) else gap(self._user_id, seq)

    async def _delete(self, obj: LogObject) -> None:
        if obj.kind != "commit":
            with store_errors(self._bucket, f"deleting {obj.key}"):
                await self._bucket.delete(obj.key)
            self.deleted += 1
            self.bytes += obj.size
            return
        try:
            decoded = await self._header(obj)
        except (CorruptObject, NewerFormat):
            grave = GRAVE
        else:
            if decoded is None:
                return
            grave = grave_of(decoded.header.writer)
        with store_errors(self._bucket, f"burying {obj.key}"):
            await self._bucket.put(obj.key, grave)
        self.buried += 1
        self.bytes += obj.size - len(grave)
