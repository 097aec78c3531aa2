"""Recovery of a damaged vectorstore in a shard: where its state could come from, and the commit that brings it.

A source is looked at as it would be used: built in a scratch directory, opened by Chroma, every record read once. The
state that is committed is another copy of the same bytes, which nothing opened. Beside the log's commits, this
instance's open replica is a source: its files were checked when they were built, and may outlive the objects.

A deletion is the end of every source: neither a commit at or below it nor a replica that is older is looked at. The
commit goes on the next number only, so what was committed meanwhile is never replaced.

*Into new collections*, the state is the newest intact commit of the log, and the collections of the source are added to
it under names of their own: what a collection's name meant by the log, it means still.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vectorpool import names
from vectorpool.commands import Recover, SourceKind
from vectorpool.commitlog import tags
from vectorpool.commitlog.care import build, deleted_at, replace, top_of
from vectorpool.commitlog.fetch import store_errors
from vectorpool.commitlog.hydrate import CUT_TO_A_GRAVE, list_log
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.outcomes import CommitInfo, Position
from vectorpool.commitlog.plan import Listing
from vectorpool.errors import (
    CommitConflict,
    CommitNotFound,
    Damaged,
    NotDamaged,
    NothingToRecoverFrom,
    UserNotFound,
    VectorpoolError,
)
from vectorpool.operating import Recovered, RecoveredCollection, RecoveredRecord, RecoverySource, Sources
from vectorpool.pool.residency import BROKEN_RETRY_S, Residency
from vectorpool.pool.slot import Slot
from vectorpool.pool.stores import StoreFactory
from vectorpool.pool.writer import SlotWriter
from vectorpool.settings import Settings
from vectorpool.sources import Sources as Ambient
from vectorpool.vectorstore.compatibility import ENGINE
from vectorpool.vectorstore.recovered_collections import add_collections, places_of
from vectorpool.vectorstore.replica import ReplicaClosed
from vectorpool.vectorstore.restored_documents import flag_documents

logger = logging.getLogger(__name__)

# States that are built until one opens, and backups that are looked at.
_ATTEMPTS: Final = 12
_MOST_TAGS: Final = 8
_MOST_LOST: Final = 1000
# Collections that a plan and a report name.
_MOST_COLLECTIONS: Final = 1000
# Records of one part of a report, and parts; further records are recovered and not listed.
_PART: Final = 1000
_MOST_PARTS: Final = 10_000

_encode = msgspec.json.Encoder().encode


class _Log(NamedTuple):
    """A log without its damaged objects, and what its scrub said."""

    whole: Listing
    intact: Listing
    reason: str
    deleted_at: int


class Recoveries:
    """The recoveries of one pool. Belongs to one event loop."""

    def __init__(
        self, stores: StoreFactory, residency: Residency, writer: SlotWriter, settings: Settings, sources: Ambient
    ) -> None:
        self._stores = stores
        self._residency = residency
        self._writer = writer
        self._settings = settings
        self._sources = sources
        self._one_at_a_time = asyncio.Semaphore(1)

    # --- The plan ------------------------------------------------------------------------------------

    async def find(self, user_id: str) -> Sources:
        """Return the sources, the best first. Raises UserNotFound (deleted users too), StoreUnavailable."""
        async with self._one_at_a_time:
            return await self._find(user_id)

    async def _find(self, user_id: str) -> Sources:
        log = await self._read(user_id)
        held, top = self._held(user_id), top_of(log.whole)
        reason = log.reason or await self._fault_of_newest(user_id, log)
        if not reason and held > top:
            reason = f"commit {held} was there, and the newest is {top} now"
        if not reason:
            return Sources(False, top, "", [])
        lost = await self._entries(user_id)
        sources = list[RecoverySource]()
        if held >= top and held > log.deleted_at and (found := await self._look_at_replica(user_id)) is not None:
            sources.append(found)
        if (found := await self._newest_that_opens(user_id, log)) is not None:
            sources.append(_losing(found, lost))
        sources += [_losing(each, lost) for each in await self._backups(user_id, log, found)]
        return Sources(True, top, reason, sources)

    async def _read(self, user_id: str) -> _Log:
        report = await self._stores.log(user_id).scrub()
        whole, _ = await list_log(self._stores.bucket, user_id, whole=True)
        ended = await deleted_at(self._stores.bucket, user_id)
        if report.ended or (whole.newest and whole.newest <= ended):
            raise UserNotFound("The vectorstore was deleted. What was deleted is not recovered.")
        if not whole.objects and not whole.graves and not self._held(user_id):
            raise UserNotFound("Nothing is stored for this user, so there is nothing to recover.")
        bad = {problem.key for problem in report.problems}
        intact = Listing([obj for obj in whole.objects if obj.key not in bad and obj.seq > ended], complete=True)
        reason = ""
        if top_of(whole) > whole.newest:
            reason = CUT_TO_A_GRAVE
        elif report.newest_intact_seq < whole.newest:
            reason = report.problems[0].what if report.problems else "nothing in the log leads to its newest commit"
        return _Log(whole, intact, reason, ended)

    async def _fault_of_newest(self, user_id: str, log: _Log) -> str:
        """Return why the newest commit cannot be had as readers have it; empty if it can."""
        try:
            async with self._stores.scratch() as scratch:
                hydrated = await self._stores.log(user_id).hydrate(scratch / "state")
                if hydrated is None or hydrated.tombstone:
                    raise UserNotFound("The vectorstore was deleted. What was deleted is not recovered.")
                await self._stores.run(
                    user_id, self._examine, user_id, scratch / "state", hydrated.position, hydrated.image
                )
        except (Damaged, CommitNotFound) as error:
            return error.detail
        return ""

    async def _newest_that_opens(self, user_id: str, log: _Log) -> RecoverySource | None:
        numbers = sorted({obj.seq for obj in log.intact.objects}, reverse=True)
        for seq in itertools.islice(numbers, _ATTEMPTS):
            source = await self._look(user_id, log, seq)
            if source is not None:
                return source
            if await self._is_tombstone(user_id, log, seq):
                return None
        return None

    async def _look(self, user_id: str, log: _Log, seq: int) -> RecoverySource | None:
        """Return a commit as a source, if its state can be built and opened."""
        try:
            async with self._stores.scratch() as scratch:
                state = scratch / "state"
                state.mkdir()
                built = await build(self._stores.bucket, user_id, log.intact, seq, state, ENGINE)
                if built.tombstone:
                    return None
                seen = await self._stores.run(user_id, self._examine, user_id, state, built.position, built.image)
        except (Damaged, CommitNotFound):
            return None
        return msgspec.structs.replace(seen, commit=seq, time_ms=built.time_ms)

    async def _is_tombstone(self, user_id: str, log: _Log, seq: int) -> bool:
        """Whether a commit ended the vectorstore: what is below it was deleted."""
        infos = await self._stores.log(user_id).entries(limit=_MOST_LOST)
        return any(info.seq == seq and info.tombstone for info in infos)

    async def _backups(self, user_id: str, log: _Log, found: RecoverySource | None) -> list[RecoverySource]:
        sources = list[RecoverySource]()
        names_ = await tags.tag_names(self._stores.bucket, user_id)
        for name in names_[:_MOST_TAGS]:
            try:
                tag = await tags.get(self._stores.bucket, user_id, name)
            except VectorpoolError:
                continue
            if tag.seq <= log.deleted_at:
                continue
            same = found if found is not None and found.commit == tag.seq else await self._look(user_id, log, tag.seq)
            if same is not None:
                sources.append(msgspec.structs.replace(same, kind="backup", name=name))
        return sorted(sources, key=lambda source: -source.commit)

    async def _entries(self, user_id: str) -> list[CommitInfo]:
        return await self._stores.log(user_id).entries(limit=_MOST_LOST)

    # --- The open replica ----------------------------------------------------------------------------

    def _held(self, user_id: str) -> int:
        slot = self._residency.slots.get(user_id)
        return 0 if slot is None or slot.store is None or slot.store.is_absent else slot.store.commit_seq

    async def _copy_replica(self, user_id: str, directory: Path) -> int:
        """Copy the open replica; return its commit, or 0 if there is none."""
        slot = self._residency.pin(user_id)
        try:
            if slot.store is None:
                return 0
            return await slot.store.copy_to(directory)
        except ReplicaClosed:
            return 0
        finally:
            self._residency.unpin(slot)

    async def _look_at_replica(self, user_id: str) -> RecoverySource | None:
        async with self._stores.scratch() as scratch:
            held = await self._copy_replica(user_id, scratch / "state")
            if not held:
                return None
            try:
                seen = await self._stores.run(
                    user_id, self._examine, user_id, scratch / "state", Position(held, b""), Image({})
                )
            except Damaged:
                return None
            return msgspec.structs.replace(seen, kind="replica", commit=held)

    # --- The recovery --------------------------------------------------------------------------------

    async def recover(self, user_id: str, command: Recover) -> Recovered:
        """Commit the state of a source on number ``command.over``.

        Raises NotDamaged, CommitConflict if another number is the highest by now, UserNotFound for a deleted user,
        NothingToRecoverFrom if the source cannot be had any more, StoreUnavailable, OutcomeUnknown.
        """
        async with self._one_at_a_time:
            log = await self._read(user_id)
            if top_of(log.whole) != command.over:
                raise CommitConflict(
                    f"Commit {top_of(log.whole)} is the newest now, and {command.over} was when the plan was made. "
                    "Look at the plan again."
                )
            held = self._held(user_id)
            if not log.reason and held <= command.over and not await self._fault_of_newest(user_id, log):
                raise NotDamaged("The newest commit can be read, so nothing is recovered.")
            async with self._stores.scratch() as scratch:
                state = scratch / "state"
                state.mkdir()
                added = list[RecoveredCollection]()
                if command.into == "new":
                    taken, added = await self._fill_beside(user_id, command, log, state, scratch / "source")
                else:
                    taken = await self._fill(user_id, command, log, state)
                done = await self._report(user_id, command, state, scratch / "copy", taken, added)
                position = await replace(
                    self._stores.bucket,
                    user_id,
                    log.whole,
                    state,
                    ENGINE,
                    self._sources,
                    restored_from=taken,
                    budget_s=self._settings.store_timeout_s,
                )
        logger.warning("a damaged vectorstore is recovered: commit %d has the state of %d", position.seq, taken)
        await self._take_in(user_id)
        return msgspec.structs.replace(done, commit=position.seq)

    async def _fill(self, user_id: str, command: Recover, log: _Log, state: Path) -> int:
        """Build the state of the source in an empty directory; return the commit that it is of."""
        gone = NothingToRecoverFrom("The source cannot be had any more. Look at the plan again.")
        if command.kind == "documents":
            await self._stores.run(user_id, self._stores.empty, state)
            return 0
        if command.kind == "copy":
            if command.directory is None or command.commit <= log.deleted_at:
                raise gone
            await self._stores.run(user_id, _move, Path(command.directory), state)
            return command.commit
        if command.kind == "replica":
            held = await self._copy_replica(user_id, state)
            if held != command.commit or held <= log.deleted_at:
                raise gone
            return held
        try:
            built = await build(self._stores.bucket, user_id, log.intact, command.commit, state, ENGINE)
        except (Damaged, CommitNotFound) as error:
            raise gone from error
        if built.tombstone:
            raise UserNotFound("The vectorstore was deleted. What was deleted is not recovered.")
        # As after a restore, the documents of an older state may be gone: no sync takes their rows for deletions.
        await self._stores.run(user_id, flag_documents, state)
        return command.commit

    async def _fill_beside(
        self, user_id: str, command: Recover, log: _Log, state: Path, source: Path
    ) -> tuple[int, list[RecoveredCollection]]:
        """Build the state of the base, and add the collections of the source under names of their own."""
        kind: SourceKind = "commit" if command.base else "documents"
        base = msgspec.structs.replace(command, kind=kind, commit=command.base)
        await self._fill(user_id, base, log, state)
        if command.kind == "documents":
            return 0, []
        source.mkdir()
        taken = await self._fill(user_id, command, log, source)
        try:
            return taken, await self._stores.run(user_id, add_collections, state, source, command.over + 1)
        except Damaged as error:
            raise NothingToRecoverFrom(
                f"{error.detail} So it cannot come back under another name. Recover with into=same, which takes the "
                "state as it is."
            ) from error

    async def _report(
        self,
        user_id: str,
        command: Recover,
        state: Path,
        copy: Path,
        taken: int,
        added: list[RecoveredCollection],
    ) -> Recovered:
        """Open a copy of the state, store a list of its records in parts, and return how many there are."""
        seq = command.over + 1
        new = {(each.database, each.recovered_as) for each in added}
        await asyncio.to_thread(shutil.copytree, state, copy)
        replica = await self._stores.run(
            user_id, self._stores.open_replica, user_id, copy, Position(taken, b""), Image({})
        )
        records = parts = 0
        try:
            pages, waiting = replica.engine.record_ids(), list[RecoveredRecord]()
            while True:
                page = await self._stores.run(user_id, next, pages, None)
                if page is not None:
                    info, ids = page
                    records += len(ids)
                    is_base = command.into == "new" and (info.database, info.name) not in new
                    of = command.base if is_base else taken
                    waiting += [RecoveredRecord(info.name, each, info.avatar_id, of) for each in ids]
                while waiting and (len(waiting) >= _PART or page is None) and parts < _MOST_PARTS:
                    key = names.recovery_key(user_id, seq, parts)
                    with store_errors(self._stores.bucket, "writing the report of a recovery"):
                        await self._stores.bucket.put(key, _encode(waiting[:_PART]))
                    del waiting[:_PART]
                    parts += 1
                if page is None:
                    return Recovered(seq, records, parts, added[:_MOST_COLLECTIONS])
                if parts >= _MOST_PARTS:
                    waiting.clear()
        finally:
            await self._stores.run(user_id, replica.close)

    async def _take_in(self, user_id: str) -> None:
        """Bring a slot to the new commit, so that the next read finds it; a slot that was broken is tried again."""
        slot: Slot = self._residency.pin(user_id)
        try:
            if slot.store is not None:
                await self._writer.catch_up(slot)
                return
            for _ in range(int(BROKEN_RETRY_S) * 4):
                try:
                    await self._residency.open(slot, create=False)
                except Damaged:
                    await self._sources.sleep(0.5)
                else:
                    return
        except VectorpoolError as error:
            # The commit is durable; the next request opens it.
            logger.warning("a recovered vectorstore is not open yet: %s", error.code)
        finally:
            self._residency.unpin(slot)

    def _examine(self, user_id: str, directory: Path, position: Position, image: Image) -> RecoverySource:
        """Open a directory, read everything once, and return what it holds. Blocking. Raises BrokenReplica."""
        replica = self._stores.open_replica(user_id, directory, position, image)
        try:
            replica.examine()
            records = replica.engine.check_up(0, self._sources.random).records
            places = places_of(replica.engine, _MOST_COLLECTIONS)
            return RecoverySource("commit", position.seq, records, collections=places)
        finally:
            replica.close()


def _move(source: Path, state: Path) -> None:
    """Move the content of a directory of the front into an empty one."""
    for each in source.iterdir():
        shutil.move(each, state / each.name)


def _losing(source: RecoverySource, entries: list[CommitInfo]) -> RecoverySource:
    """Return a source with what the commits after it did."""
    lost = [info for info in entries if info.seq > source.commit]
    readable = [info for info in lost if info.damage is None]
    return msgspec.structs.replace(
        source,
        lost_commits=len(lost),
        lost_added=sum(info.summary.added for info in readable),
        lost_deleted=sum(info.summary.deleted for info in readable),
        unreadable=len(lost) - len(readable),
    )
