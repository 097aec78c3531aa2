"""One user's vectorstore on this instance: a replica, its log, and the writes that are not committed yet.

Consistency. Writes are applied to the replica and become one commit; the log decides. If another writer won the number,
the replica is brought to the newest commit, and the commands that were not committed are applied again (*rebase*), a
bounded number of times. If the newest state then refuses a command, its caller gets that refusal. A pristine replica is
patched, a lost commit is undone (``in_place``); in every other case the replica is thrown away and built anew.

Unknown outcomes. If the store does not show whether a commit landed, its bytes are kept and offered again before any
other commit (``offers``). Under write-through the callers got ``outcome-unknown``, so their commands are not applied
again if the commit is found to be lost. Under write-back the commands were acknowledged, so they are.

Tasks. Many ``read`` calls may run at once. ``write``, ``commit``, ``catch_up``, ``end`` and ``discard`` are for
one task at a time: the slot's writer.
"""

from __future__ import annotations

import logging
from concurrent.futures import Executor
from pathlib import Path

from vectorpool.answers import Answer, ChromaUse, SchemaState
from vectorpool.commands import Read, ReadOptions
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Compaction, LostRace, PendingCommit, Position
from vectorpool.errors import BrokenLog, BrokenReplica, OutcomeUnknown, VectorpoolError
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.families import CATCH_UPS
from vectorpool.telemetry.parts import COMMIT, ENGINE, HYDRATE, Stopwatch, StoreClock, timed
from vectorpool.vectorstore.builder import REBUILDS, Builder, Built
from vectorpool.vectorstore.edits import Edits
from vectorpool.vectorstore.freshness import Freshness
from vectorpool.vectorstore.in_place import InPlace
from vectorpool.vectorstore.offers import Offers
from vectorpool.vectorstore.open_replica import OpenReplica
from vectorpool.vectorstore.packing import Packing
from vectorpool.vectorstore.replica import Replica, ReplicaClosed, ReplicaLost
from vectorpool.vectorstore.restored_documents import flag_documents
from vectorpool.vectorstore.ticket import (
    MAX_REBASES,
    Ticket,
    apply,
    apply_again,
    give_up,
    in_doubt,
    pause_before_rebase,
    summarise,
    too_many_conflicts,
)

logger = logging.getLogger(__name__)


class Vectorstore:
    """See the module. ``builder`` builds its replicas from ``log``, ``workers`` runs what blocks."""

    def __init__(
        self,
        log: CommitLog,
        builder: Builder,
        workers: Executor,
        settings: Settings,
        sources: Sources,
        clock: StoreClock | None = None,
    ) -> None:
        # What the writer's task spent its time on, and how long calls of the store were under way.
        self.spent = Stopwatch(sources)
        self.clock = StoreClock(sources) if clock is None else clock
        self._log = log
        self._builder = builder
        self._settings = settings
        self._sources = sources
        self._open = OpenReplica(workers, lambda: self.is_absent)
        # Tickets that are applied and not committed; the first of them may be in the pending commit of ``_offers``.
        self._uncommitted: list[Ticket] = []
        self._freshness = Freshness(self._ask, sources, self._sees)
        self._absent = True
        # Whether uncommitted commands are applied again, because they were acknowledged.
        self._replays = settings.durability == "write-back"
        self._offers = Offers(log, replays=self._replays)
        # Whether there was a write. From then on the migration of an older state is committed when it is opened.
        self.has_written = False
        # Commits that change the files and not what is stored.
        self.edits = Edits(builder, self._open, settings, sources, self)
        self._in_place = InPlace(log, self._open.lock, workers, settings, sources, self._open.drop)

    # --- Properties for the slot ---------------------------------------------------------------------

    @property
    def _replica(self) -> Replica | None:
        return self._open.replica

    @property
    def commit_seq(self) -> int:
        """The commit that the replica was built from or made; 0 if there is none."""
        return self._open.seq

    @property
    def is_dirty(self) -> bool:
        """Whether acknowledged writes, or a commit of unknown outcome, wait to be committed."""
        return bool(self._uncommitted) or self._offers.pending is not None

    @property
    def is_absent(self) -> bool:
        """Whether nothing is stored for the user (an empty replica for the first write may exist)."""
        return self._absent and not self._uncommitted

    def engine_state(self) -> tuple[SchemaState | None, ChromaUse | None]:
        """Return whether the fast paths were tested on the open replica's schema, and why Chroma is open on it."""
        return self._open.engine_state()

    def size_bytes(self) -> int:
        """Return the size of the working directory as of the last commit, in bytes."""
        return self._open.size_bytes()

    # --- Open, read, leave ---------------------------------------------------------------------------

    async def open(self, *, create: bool) -> None:
        """Build the replica from the log. Raises UserNotFound if nothing is stored and ``create`` is False."""
        if self._replica is None:
            await self._settle()
        if self._replica is None:
            await self._rebuild(create=create)

    async def read(self, command: Read) -> Answer:
        """Answer a read from the replica as it is. Raises BrokenReplica, ReplicaClosed, UserNotFound."""
        return await self._open.read(command)

    def read_at_once(self, command: Read) -> Answer | None:
        """Answer a read as ``read`` does, on the event loop; None if something has to be waited for, or is missing."""
        return self._open.read_at_once(command)

    async def is_fresh_enough(self, reading: ReadOptions, arrived_s: float) -> bool:
        """Return whether the replica may answer a read, by the consistency of the request or else of the setting.

        ``arrived_s`` is when the read arrived (monotonic seconds): a later proof of freshness needs no new request.
        """
        known = self.is_known_fresh(reading, arrived_s)
        return await self._freshness.is_newest() if known is None else known

    def is_known_fresh(self, reading: ReadOptions, arrived_s: float) -> bool | None:
        """Return the same without waiting; None if the store has to be asked."""
        if self._builder.at is not None:
            return True
        if self.commit_seq < reading.min_commit:
            return False
        doubt = self._offers.is_in_doubt
        return self._freshness.is_known_enough(reading, self._settings, arrived_s, is_in_doubt=doubt)

    async def catch_up(self) -> None:
        """Bring the replica to the newest commit. Raises StoreUnavailable while a commit is in doubt."""
        try:
            await self._settle()
        except OutcomeUnknown as error:
            raise in_doubt(error) from error
        if not await self._follow() and not await self._ask():
            self._log.figures.counter(CATCH_UPS).add()
            await self._rebuild(create=True)

    async def _follow(self) -> bool:
        """Take newer commits into the replica as it is; return False if that cannot be, or is not known."""
        return self._builder.at is None and await self._in_place.follow(self._replica, self._freshness)

    async def heal(self) -> None:
        """Build the replica anew because Chroma stopped working on it, or a command was half applied."""
        try:
            await self._settle()
            await self._rebuild(create=True, suspect=True)
        except BaseException:
            await self.discard()
            raise

    async def discard(self) -> None:
        """Close the replica and remove its directory, without a commit."""
        await self._open.discard()

    # --- Write ---------------------------------------------------------------------------------------

    async def write(self, tickets: list[Ticket]) -> int:
        """Apply writes in order, under write-through as one commit; return the commit's number.

        Each ticket gets its answer or its error; a ticket's error is not raised here.
        """
        try:
            if self._replays:
                await self._open_to_write()
                for ticket in tickets:
                    await self._apply(ticket)
            elif await self._is_settled(tickets):
                await self._write_through(tickets)
        except Exception as error:
            await self._give_up(tickets, error)
        return self.commit_seq

    async def commit(self) -> None:
        """Commit uncommitted writes. Raises OutcomeUnknown, StoreUnavailable or CommitConflict."""
        await self._settle()
        for attempt in range(MAX_REBASES):
            if not self._uncommitted:
                return
            await self.open(create=True)
            if await self._commit_once():
                return
            await pause_before_rebase(self._sources, attempt)
        raise too_many_conflicts()

    async def end(self, documents: int | None = None) -> int:
        """Delete the vectorstore: a tombstone ends the log, and all other objects are deleted. Return their number."""
        self._uncommitted.clear()
        self._offers.forget()
        await self.discard()
        deleted: int = await self._log.end(documents=documents)
        self._absent = True
        return deleted

    async def restore(self, seq: int) -> int:
        """Make the state of commit ``seq`` the newest, as a new commit; return that commit's number.

        Uncommitted writes are committed first, and so stay in the history. Raises CommitNotFound.
        """
        await self.commit()
        position = await self._log.restore(seq, edit=flag_documents)
        await self.catch_up()
        return position.seq

    async def copy_to(self, directory: Path) -> int:
        """Copy the open replica's files into an empty directory; return its commit. Raises ReplicaClosed."""
        async with self._open.lock.exclusive():
            if self.is_absent or self.is_dirty:
                raise ReplicaClosed
            return await self._open.copy_to(directory)

    async def compact(self) -> Compaction:
        """Merge the deltas that the log's bound requires. Safe at any time; reads and writes go on."""
        if self._replica is None or self.is_absent:
            return Compaction()
        return await self._log.compact(self._replica.position)

    async def replace(self, built: Built, asked_s: float) -> None:
        """Open a replica of the newest commit in place of the present one; ``asked_s`` is when it was the newest."""
        async with self._open.lock.exclusive():
            await self._open.drop()
            self._open.replica, self._absent = built.replica, built.is_absent
        self._freshness.confirm(asked_s)

    # --- Inside --------------------------------------------------------------------------------------

    async def _ask(self) -> bool:
        if self._replica is None or self._builder.at is not None:
            return self._replica is not None
        return await self._log.is_newest(self._replica.position)

    def _sees(self) -> bool:
        return self._replica is not None and self._log.is_surely_newest(self._replica.position)

    async def _open_to_write(self, *, asks: bool = False) -> None:
        """Build the replica, its migration as a commit of its own; ``asks``: take in newer commits if others commit."""
        self.has_written = True
        await self.open(create=True)
        if self._replica is not None and self._replica.is_migrated:
            await self._rebuild(create=True)
        if self._in_place.prepares(self._replica) and asks and not await self._follow():
            await self._rebuild(create=True)

    @timed(ENGINE)
    async def _apply(self, ticket: Ticket) -> None:
        while not ticket.is_poison:
            assert self._replica is not None
            if await apply(ticket, self._replica, self._open.run):
                if ticket.error is None and ticket.effect.touched:
                    self._uncommitted.append(ticket)
                return
            await self.heal()

    async def _apply_all(self, tickets: list[Ticket]) -> None:
        """Apply tickets to one state: all again if a command broke the replica and a newer state replaced it."""
        left = tickets
        while left:
            seq = self.commit_seq
            for ticket in left:
                await self._apply(ticket)
            left = [t for t in tickets if self.commit_seq != seq and not t.is_poison and t not in self._uncommitted]

    async def _write_through(self, tickets: list[Ticket]) -> None:
        """Apply the tickets and commit; if another writer was quicker, apply them again to its state.

        A refusal, or a write without effect, must hold for the newest state too. If no commit proves that, the log is
        asked, unless reads do not ask it either.
        """
        for attempt in range(MAX_REBASES):
            await self._open_to_write(asks=not attempt)
            await self._apply_all(tickets)
            if self._uncommitted:
                if await self._commit_once():
                    return
            elif self._settings.consistency == "local" or await self._ask():
                return
            elif not await self._follow():
                await self._rebuild(create=True)
            await pause_before_rebase(self._sources, attempt)
        raise too_many_conflicts()

    @timed(COMMIT)
    async def _commit_once(self) -> bool:
        """Offer the uncommitted writes as one commit; return False if the replica was built anew instead."""
        replica = self._replica
        assert replica is not None
        await self._prove_parent(replica.position)
        packing = Packing(self._log, replica, summarise(self._uncommitted))
        try:
            async with self._open.lock.exclusive():
                capture, pending = await self._open.run(packing.take)
        except ReplicaLost:
            logger.error("a working directory was removed or replaced while it was open; it is built anew")
            await self._start_over()
            return False
        if pending is None:
            pending = await self._open.run(packing.pack, capture)
        self._offers.begin(pending, len(self._uncommitted))
        asked_s = self._sources.monotonic_s()
        if not await self._offer():
            return False
        # The number was free after ``asked_s``: the commit was the newest then, even if others follow it now.
        self._freshness.confirm(asked_s)
        return True

    async def _prove_parent(self, position: Position) -> None:
        """Raise BrokenLog if the log does not hold the commit any more; the replica is then built anew, or closed."""
        if self._freshness.is_proven_within(self._settings.parent_proof_s):
            return
        try:
            await self._log.prove(position)
        except BrokenLog:
            if self._replays:
                await self._start_over()
            raise

    async def _start_over(self, lost: PendingCommit | None = None) -> None:
        """Bring the replica to the newest commit, without ``lost``; under write-through tickets are applied again."""
        if not self._replays:
            self._uncommitted.clear()
            if lost is not None and await self._in_place.undo(self._replica, lost) and await self._follow():
                return
        await self._rebuild(create=True)

    async def _offer(self) -> bool:
        """Offer the pending commit to the log; return False if another writer won and the replica is at its state."""
        pending, count = self._offers.pending, self._offers.count
        assert pending is not None
        position = await self._offers.offer()
        if position is None:
            await self._start_over(pending)
            return False
        del self._uncommitted[:count]
        self._absent = False
        if self._replica is not None:
            self._replica.advance(position, pending.image)
        return True

    async def _settle(self) -> None:
        """Resolve a commit of unknown outcome before anything else is offered for its number."""
        if self._offers.pending is not None:
            await self._offer()

    async def _is_settled(self, tickets: list[Ticket]) -> bool:
        """Resolve a commit in doubt; if that fails, refuse the tickets, none of which was applied."""
        try:
            await self._settle()
        except VectorpoolError as error:
            for ticket in tickets:
                ticket.error = in_doubt(error)
            return False
        return True

    async def _give_up(self, tickets: list[Ticket], error: Exception) -> None:
        """Give the callers the error; drop the replica if it holds writes that will never be committed."""
        cause = give_up(tickets, error, acknowledged=self._uncommitted if self._replays else None)
        if not self._replays and not isinstance(cause, OutcomeUnknown):
            self._uncommitted.clear()
            await self.discard()

    @timed(HYDRATE)
    async def _rebuild(self, *, create: bool, suspect: bool = False) -> None:
        """Discard the replica, build it from the log, apply again what was not committed; no read runs meanwhile."""
        async with self._open.lock.exclusive():
            for _ in range(REBUILDS + len(self._uncommitted)):
                await self._open.drop()
                try:
                    asked_s = self._sources.monotonic_s()
                    built = await self._builder.build(create=create, suspect=suspect, migrate=self.has_written)
                except BrokenReplica:
                    if suspect:
                        raise
                    suspect = True
                except LostRace:
                    logger.warning("another instance committed before a salvage or migration did; it is built anew")
                else:
                    self._open.replica, self._absent = built.replica, built.is_absent
                    self._freshness.confirm(asked_s)
                    self._offers.forget()
                    if await apply_again(self._uncommitted, built.replica, self._open.run, acknowledged=self._replays):
                        return
        raise BrokenReplica("The vectorstore could not be built with the writes that wait. See the log.")
