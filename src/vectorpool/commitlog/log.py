"""One user's commit log: the interface of this package. The module of each operation states what it promises."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from vectorpool import names
from vectorpool.answers import Deletion
from vectorpool.commitlog import (
    adoption,
    append,
    compaction,
    counts,
    deletions,
    ending,
    entries,
    garbage,
    lookup,
    restore,
    scrub,
    tags,
    verification,
)
from vectorpool.commitlog.fetch import AT_ONCE_BYTES
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.commitlog.image import EMPTY, Capture, Image
from vectorpool.commitlog.next_commits import NextCommit, read_following
from vectorpool.commitlog.outcomes import (
    ORIGIN,
    CommitInfo,
    Compaction,
    Hydrated,
    LostRace,
    PendingCommit,
    Position,
    Removal,
    ScrubReport,
    Tag,
)
from vectorpool.commitlog.plan import LogObject
from vectorpool.commitlog.restore import Edit
from vectorpool.commitlog.scratch import scratch_below
from vectorpool.commitlog.stamp import ANY_ENGINE, Engine, EngineStamp
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import UserNotFound, VectorstoreExists
from vectorpool.objects.bucket import Bucket
from vectorpool.platform.trees import copy_files
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.figures import Figures

__all__ = ["ORIGIN", "CommitLog", "LostRace"]

_LOOKS: Final = 5


class CommitLog:
    """The commit log of one user. Holds no state but counters: any number may exist, in any process.

    ``bucket``, ``warm`` and ``figures`` are shared with the logs of other users; the first two are not closed here.
    ``engine`` stamps what is adopted, and refuses states of later engines.
    """

    def __init__(
        self,
        bucket: Bucket,
        user_id: str,
        *,
        warm: WarmTier | None = None,
        settings: Settings,
        sources: Sources = SYSTEM,
        engine: Engine = ANY_ENGINE,
        figures: Figures | None = None,
    ) -> None:
        self.figures = Figures() if figures is None else figures
        self._bucket = bucket
        self._user_id = names.check_user_id(user_id)
        self._warm = warm
        self._settings = settings
        self._sources = sources
        self._engine = engine
        self._pace = compaction.Pace(settings)
        self._sweep = garbage.Sweep()

    @property
    def user_id(self) -> str:
        """The user."""
        return self._user_id

    async def hydrate(self, directory: Path, *, at: int | None = None) -> Hydrated | None:
        """Fill the empty ``directory`` with the newest state, or that of commit ``at``.

        Returns None if the user has no vectorstore; a deleted one is an empty image with ``tombstone`` set. A plain
        Chroma directory is adopted first. On any failure the directory is empty again. Raises StoreUnavailable,
        CorruptObject, BrokenLog, NewerFormat, NewerEngine; CommitNotFound for an ``at`` that is not there.
        """
        return await self._hydrate(directory, at, self._engine)

    async def _hydrate(self, directory: Path, at: int | None, engine: Engine) -> Hydrated | None:
        for _ in range(_LOOKS):
            hydrated = await hydrate(self._bucket, self._user_id, self._warm, directory, at=at, engine=engine)
            if hydrated is not None:
                if at is None:
                    self._pace.saw(hydrated)
                return hydrated
            if not await adoption.has_plain_directory(self._bucket, self._user_id):
                return None
            await self._adopt_plain_directory()
        return None

    async def is_newest(self, position: Position) -> bool:
        """Whether no commit follows on ``position``. One HEAD; raises StoreUnavailable."""
        return await lookup.is_newest(self._bucket, self._user_id, position)

    def is_surely_newest(self, position: Position) -> bool:
        """Whether the store shows at once that no commit follows on ``position``; False says nothing."""
        return lookup.is_surely_newest(self._bucket, self._user_id, position)

    async def following(self, position: Position) -> list[NextCommit] | None:
        """Return every commit after ``position``, oldest first, as far as a patch can take them in; else None.

        One GET a commit, and one that finds none. Raises StoreUnavailable.
        """
        found = await read_following(self._bucket, self._user_id, position)
        if found:
            self._pace.followed(found[-1].position)
        return found

    async def prove(self, position: Position) -> None:
        """Return if the log holds the commit at ``position``, or held it: it may be garbage by now. One ranged GET.

        Raises BrokenLog if it does not, because the bucket was put back to an earlier state; StoreUnavailable.
        """
        if position.seq:
            await lookup.prove(self._bucket, self._user_id, position)

    def prepare(
        self,
        parent: Position,
        before: Image,
        capture: Capture,
        summary: Summary,
        *,
        stamp: EngineStamp | None = None,
        tombstone: bool = False,
    ) -> PendingCommit:
        """Pack what changed into the commit that follows on ``parent``, whose image is ``before``.

        ``stamp`` names the engine that wrote the captured state. Synchronous and CPU-bound: run it in a thread. Raises
        LimitExceeded.
        """
        return append.prepare(
            self._user_id, parent, before, capture, summary, self._sources, stamp=stamp, tombstone=tombstone
        )

    async def append(self, pending: PendingCommit, *, in_doubt: bool = False) -> Position:
        """Commit: one conditional create. Return where the replica stands now.

        Raises LostRace if another has the number; OutcomeUnknown if that could not be found out: keep ``pending``
        and append it again, ``in_doubt``, before anything else is offered for its number. Raises StoreUnavailable if
        it is certain that nothing was written, nor will be; a commit in doubt has no such certainty.
        """
        with counts.commits(self.figures, self._sources):
            etag = await append.append(
                self._bucket,
                self._user_id,
                pending,
                self._sources,
                budget_s=self._settings.store_timeout_s,
                in_doubt=in_doubt,
            )
        return await self._appended(pending, etag)

    async def _appended(self, pending: PendingCommit, etag: str) -> Position:
        counts.commit_bytes(self.figures, len(pending.data))
        self._pace.appended(pending)
        if self._warm is not None and etag:
            obj = LogObject(pending.key, "commit", pending.seq, pending.seq - 1, len(pending.data), etag)
            if len(pending.data) <= AT_ONCE_BYTES:
                self._warm.put(self._user_id, obj, pending.data)
            else:
                await asyncio.to_thread(self._warm.put, self._user_id, obj, pending.data)
        return pending.position

    async def compact(self, position: Position) -> Compaction:
        """Merge and rebase what is due as of ``position``, or nothing; most calls ask the store nothing.

        Run it after appends, in the background. Harmless twice, anywhere. Raises StoreUnavailable, CorruptObject.
        """
        if not self._pace.due(position):
            return Compaction()
        async with self._scratch() as scratch:
            done = await compaction.compact(self._bucket, self._user_id, self._warm, self._settings, position, scratch)
        self._pace.compacted(position)
        return done

    async def compact_now(self) -> tuple[Position, Compaction]:
        """Look now, as of the newest commit, whatever the pace; return it and what was written. Raises UserNotFound."""
        return await compaction.compact_newest(self._bucket, self._user_id, self._warm, self._settings, self._scratch)

    async def remove_garbage(self) -> Removal:
        """Delete what no retained commit needs; see the module ``garbage``. Bounded: call again if not complete.

        Run it now and then, in the background. Harmless twice, anywhere. Raises StoreUnavailable, and CorruptObject or
        BrokenLog where deleting could lose what is still intact.
        """
        return await garbage.remove_garbage(
            self._bucket, self._user_id, self._settings, self._sources, self._scratch, self._sweep
        )

    # --- History -------------------------------------------------------------------------------------

    async def tag(self, name: str, at: int | None = None) -> Tag:
        """Keep commit ``at``, or the newest, as the backup ``name``, 1 to 64 of [a-zA-Z0-9._-].

        Raises InvalidId, BackupExists, UserNotFound, CommitNotFound (also for one beyond the retention time),
        LimitExceeded, CorruptObject, BrokenLog, StoreUnavailable; OutcomeUnknown: take another name then.
        """
        await self._begin()
        return await tags.make(self._bucket, self._user_id, name, at, self._sources)

    async def tags(self) -> list[Tag]:
        """Return all backups by name, at most 1,000; raise CorruptObject if one cannot be read."""
        return await tags.every(self._bucket, self._user_id)

    async def get_tag(self, name: str) -> Tag:
        """Return a backup by its name; raise BackupNotFound, CorruptObject."""
        return await tags.get(self._bucket, self._user_id, name)

    async def delete_tag(self, name: str) -> None:
        """Delete a backup, readable or not; its commit becomes garbage if it is old. Raises BackupNotFound."""
        await tags.remove(self._bucket, self._user_id, name)

    async def restore(self, at: int, *, edit: Edit | None = None) -> Position:
        """Make the state of commit ``at`` the newest, as a new commit, even if the newest is damaged.

        ``edit`` may change the files of the state first.
        Raises CommitNotFound, UserNotFound, CorruptObject, BrokenLog, NewerEngine, StoreUnavailable, OutcomeUnknown,
        CommitConflict.
        """
        pending, etag = await restore.restore(
            self._bucket,
            self._user_id,
            self._warm,
            at,
            self._sources,
            self._scratch,
            self._engine,
            self._settings.store_timeout_s,
            edit,
        )
        counts.commit(self.figures)
        return await self._appended(pending, etag)

    async def seq_at(self, time_ms: int) -> int:
        """Return the newest commit not made after a time, milliseconds since 1970; raise CommitNotFound."""
        return await restore.seq_at(self._bucket, self._user_id, time_ms)

    async def fork(self, target_user_id: str, *, at: int | None = None, edit: Edit | None = None) -> Position:
        """Make the state of commit ``at``, or the newest, the vectorstore of another user; return its position there.

        ``edit`` is that of ``restore``. Raises InvalidId, VectorstoreExists, UserNotFound, CommitNotFound,
        CorruptObject, BrokenLog, NewerEngine, OutcomeUnknown.
        """
        names.check_user_id(target_user_id)
        await self._begin()
        return await restore.fork(
            self._bucket,
            self._user_id,
            self._warm,
            target_user_id,
            at,
            self._sources,
            self._scratch,
            self._engine,
            self._settings.store_timeout_s,
            edit,
        )

    async def _begin(self) -> None:
        """Adopt a plain directory that was never opened, so that there is a commit 1."""
        if await ending.newest_object(self._bucket, self._user_id) is None and await adoption.has_plain_directory(
            self._bucket, self._user_id
        ):
            await self._adopt_plain_directory()

    async def entries(self, *, limit: int) -> list[CommitInfo]:
        """Return the newest ``limit`` commits that the log still holds, newest first. Reads headers only."""
        return await entries.entries(self._bucket, self._user_id, limit)

    async def scrub(self) -> ScrubReport:
        """Read the whole log and check every invariant of it; see the module ``scrub``. Raises StoreUnavailable."""
        return await scrub.scrub(self._bucket, self._user_id, self._sources)

    async def verify(self) -> ScrubReport:
        """Scrub, and remember beside the log what was found and when. Raises UserNotFound, StoreUnavailable."""
        report = await self.scrub()
        if not report.objects:
            raise UserNotFound(f"Nothing is stored for user {self._user_id}, so there is nothing to verify.")
        await verification.save(self._bucket, self._user_id, report)
        return report

    async def last_verification(self) -> ScrubReport | None:
        """Return what ``verify`` found last, here or on another instance; None if it never ran."""
        return await verification.load(self._bucket, self._user_id)

    async def deletion(self) -> Deletion | None:
        """Return the receipt of the last deletion, here or on another instance; None if there is none."""
        return await deletions.load_receipt(self._bucket, self._user_id)

    async def finish_end(self) -> int:
        """Finish a deletion that was cut short: return how many objects were left; 0 if the newest is no tombstone."""
        newest = await ending.newest_header(self._bucket, self._user_id)
        return await self.end() if newest is not None and newest.header.tombstone else 0

    async def end(self, *, seal: bool = False, documents: int | None = None) -> int:
        """Delete the vectorstore: append a tombstone, then delete all else below ``vectorstore/``, backups too.

        ``seal`` appends the tombstone also where there is no log yet, so that no writer that knew of none begins one.
        Returns how many objects were deleted; 0 if there was nothing. Later commits go on above the tombstone; the
        numbers of deleted commits stay taken, by graves of 16 bytes.
        Raises StoreUnavailable, OutcomeUnknown, CommitConflict; calling it again finishes what was left over.
        """
        deleted = await ending.end(
            self._bucket, self._user_id, self._sources, self._settings.store_timeout_s, seal=seal, documents=documents
        )
        if self._warm is not None:
            await asyncio.to_thread(self._warm.drop, self._user_id)
        return deleted

    async def adopt(self, source_dir: Path) -> Position:
        """Commit a plain local Chroma directory as the user's vectorstore; the directory is not touched.

        Raises VectorstoreExists, InvalidRequest if it is no Chroma directory, NewerEngine if a later engine wrote it.
        """
        newest = await ending.newest_header(self._bucket, self._user_id)
        plain = newest is None and await adoption.has_plain_directory(self._bucket, self._user_id)
        if plain or (newest is not None and not newest.header.tombstone):
            raise self._exists()
        parent = ORIGIN if newest is None else Position(newest.header.seq, newest.commit_hash)
        before = EMPTY.checksum()
        sizes = await asyncio.to_thread(adoption.survey, source_dir)
        if await asyncio.to_thread(adoption.is_clean, source_dir, sizes):
            pending = await self._pack(parent, before, source_dir)
        else:
            async with self._scratch() as scratch:
                await asyncio.to_thread(copy_files, source_dir, sizes, scratch)
                await asyncio.to_thread(adoption.settle, scratch)
                pending = await self._pack(parent, before, scratch)
        try:
            return await self.append(pending)
        except LostRace:
            raise self._exists() from None

    async def export(self, directory: Path, *, at: int | None = None) -> Hydrated:
        """Hydrate into a new or empty directory, and leave it there as a plain Chroma directory.

        The sidecar file stays beside Chroma's own, which do not mind it. A state of a later engine is exported too: its
        bytes are copied and not opened. Raises UserNotFound, CommitNotFound.
        """
        hydrated = await self._hydrate(directory, at, ANY_ENGINE)
        if hydrated is None or (hydrated.tombstone and at is None):
            raise UserNotFound(f"Nothing is stored for user {self._user_id}, so nothing can be exported.")
        return hydrated

    def _exists(self) -> VectorstoreExists:
        return VectorstoreExists(
            f"User {self._user_id} has a vectorstore already. Delete it first, or import for another user id."
        )

    async def _pack(self, parent: Position, before: bytes, directory: Path) -> PendingCommit:
        return await asyncio.to_thread(
            adoption.adopt_directory, self._user_id, parent, before, directory, self._sources, self._engine
        )

    async def _adopt_plain_directory(self) -> None:
        """Make commit 1 of the plain directory in the bucket; another adopter may be quicker, which is as good."""
        async with self._scratch() as scratch:
            await adoption.download_plain_directory(self._bucket, self._user_id, scratch)
            pending = await self._pack(ORIGIN, EMPTY.checksum(), scratch)
        try:
            await self.append(pending)
        except LostRace:
            return

    def _scratch(self) -> AbstractAsyncContextManager[Path]:
        """Give a block an empty directory beside the replicas, and remove it. Raises LocalDiskFailed."""
        return scratch_below(self._settings.replica_dir)
