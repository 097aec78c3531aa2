"""The protocol broken on purpose, one rule at a time: the simulation must notice each within a bounded number of seeds.

A simulation that cannot fail proves nothing. Each mutation is a plausible mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.simulation.network import Wire
from tests.simulation.replica import FakeReplica, parse_journal
from tests.simulation.world import Violation, World
from vectorpool.commitlog import append, garbage, log, next_commits
from vectorpool.commitlog.format import is_grave_content
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import LostRace, PendingCommit, Position
from vectorpool.engine.directory_state import DirectoryState
from vectorpool.errors import OutcomeUnknown, StoreUnavailable, VectorpoolError
from vectorpool.vectorstore import patcher
from vectorpool.vectorstore.freshness import Freshness
from vectorpool.vectorstore.offers import Offers
from vectorpool.vectorstore.patcher import Patcher
from vectorpool.vectorstore.vectorstore import Vectorstore

Patch = pytest.MonkeyPatch


def skip_the_read_back(patch: Patch) -> None:
    """After a lost answer the writer treats the number as lost, and applies its commands again."""

    async def resolve(bucket: Any, user_id: str, pending: PendingCommit) -> str | None:
        raise LostRace(pending.seq)

    patch.setattr(append, "_resolve", resolve)


def take_exists_for_success(patch: Patch) -> None:
    """A writer treats a number that is taken as its own."""

    async def resolve(bucket: Any, user_id: str, pending: PendingCommit) -> str | None:
        return ""

    patch.setattr(append, "_resolve", resolve)


def put_instead_of_create(patch: Patch) -> None:
    """The create has no condition: the last writer of a number wins."""

    async def create(self: Wire, key: str, data: bytes) -> str:
        return await self.put(key, data)

    patch.setattr(Wire, "create", create)


def skip_the_freshness_question(patch: Patch) -> None:
    """A replica counts as fresh without a request."""

    async def is_newest(self: CommitLog, position: Position) -> bool:
        return True

    patch.setattr(CommitLog, "is_newest", is_newest)


def join_a_question_in_flight(patch: Patch) -> None:
    """A reader uses the answer to a request that was sent before the read arrived."""

    async def is_newest(self: Freshness) -> bool:
        if self._current is None or self._current.done():
            self._current = asyncio.create_task(self._ask())
        return await asyncio.shield(self._current)

    patch.setattr(Freshness, "is_newest", is_newest)


def keep_the_directory_after_a_lost_race(patch: Patch) -> None:
    """The loser keeps its directory, takes the winner's position, and commits on top of it."""

    async def start_over(self: Vectorstore, lost: PendingCommit | None = None) -> None:
        directory: Path = self._make_directory()
        hydrated = await self._log.hydrate(directory)
        assert hydrated is not None and self._replica is not None
        self._replica.advance(hydrated.position, hydrated.image)
        # The writes are in the directory already, and the writer would apply them again.
        await self._offer(await self._run(self._commit_as_it_is))

    def commit_as_it_is(self: Vectorstore) -> PendingCommit:
        replica = self._replica
        assert replica is not None
        return self._log.prepare(replica.position, replica.image, replica.capture(), append.Summary())

    patch.setattr(Vectorstore, "_commit_as_it_is", commit_as_it_is, raising=False)
    patch.setattr(Vectorstore, "_start_over", start_over)


def keep_the_directory_after_a_failed_write(patch: Patch) -> None:
    """A write that surely was not written is refused, but stays in the directory."""

    async def give_up(self: Vectorstore, tickets: list[Any], error: VectorpoolError) -> None:
        for ticket in tickets:
            if ticket not in self._uncommitted or not self._replays:
                ticket.error = ticket.error or error
        if not self._replays and not isinstance(error, OutcomeUnknown):
            self._uncommitted.clear()

    patch.setattr(Vectorstore, "_give_up", give_up)


def offer_a_refused_commit_again(patch: Patch) -> None:
    """A commit that the store refused, and whose callers got the refusal, is kept and offered by the next write."""
    real = Offers.offer

    async def offer(self: Offers) -> Position | None:
        pending, count = self.pending, self.count
        try:
            return await real(self)
        except StoreUnavailable:
            assert pending is not None
            self.begin(pending, count)
            raise

    patch.setattr(Offers, "offer", offer)


def forget_a_commit_in_doubt(patch: Patch) -> None:
    """A commit of unknown outcome is forgotten, and the next commit applies its commands again."""

    async def settle(self: Vectorstore) -> None:
        self._offers.forget()

    patch.setattr(Vectorstore, "_settle", settle)


def read_while_a_commit_is_in_doubt(patch: Patch) -> None:
    """A strong read is answered from a replica whose last commit may be lost to another writer."""
    patch.setattr(Offers, "is_in_doubt", property(lambda self: False))


def hand_out_unconfirmed_refusals(patch: Patch) -> None:
    """A caller gets a refusal although the log could not be asked whether it holds for the newest state."""
    patch.setattr("vectorpool.vectorstore.ticket.unconfirmed", lambda refusal: refusal)


def remove_too_early(patch: Patch) -> None:
    """The garbage remover retains nothing but the newest state."""
    real = garbage.remove_garbage

    async def remove_garbage(bucket: Any, user_id: str, settings: Any, *rest: Any) -> Any:
        return await real(bucket, user_id, msgspec.structs.replace(settings, retention_s=0.0), *rest)

    patch.setattr(log.garbage, "remove_garbage", remove_garbage)


def remove_without_graves(patch: Patch) -> None:
    """Removed commits are deleted, so that their numbers look free."""
    real = Wire.put

    async def put(self: Wire, key: str, data: bytes) -> str:
        if is_grave_content(data):
            await self.delete(key)
            return ""
        return await real(self, key, data)

    patch.setattr(Wire, "put", put)


def patch_a_directory_of_which_nothing_is_known(patch: Patch) -> None:
    """A replica is patched although Chroma, or a write that is not committed, has changed its directory."""

    def begin_patch(self: DirectoryState) -> int:
        return self._writes

    patch.setattr(DirectoryState, "is_pristine", property(lambda self: True))
    patch.setattr(DirectoryState, "begin_patch", begin_patch)


def undo_one_block_short(patch: Patch) -> None:
    """An undo leaves the last block of what a lost commit wrote."""
    real = Patcher._changes

    def changes(self: Patcher, before: Any, after: Any) -> Any:
        found = real(self, before, after)
        return [*found[:-1], (found[-1][0], found[-1][1][:-1])] if found else found

    patch.setattr(Patcher, "_changes", changes)


def keep_a_lost_number_in_the_index(patch: Patch) -> None:
    """What was read into memory before an undo stays, and only takes in what the files got since."""

    def load(self: FakeReplica) -> None:
        for line in parse_journal(self._journal.read_bytes())[len(self.lines) :]:
            self.lines.append(line)
            self._note(line)

    patch.setattr(FakeReplica, "_load", load)


def swap_the_image_before_the_last_byte(patch: Patch) -> None:
    """A patch counts as written before its last piece is."""

    def write_patch(directory: Path, planned: Any) -> None:
        next_commits.write_patch(directory, msgspec.structs.replace(planned, pieces=planned.pieces[:-1]))

    patch.setattr(patcher, "write_patch", write_patch)


def take_in_the_winner_only(patch: Patch) -> None:
    """A patch takes in the next commit, and counts as the newest state."""
    real = CommitLog.following

    async def follow(self: CommitLog, position: Position) -> Any:
        found = await real(self, position)
        return found[:1] if found else found

    patch.setattr(CommitLog, "following", follow)


# Each with the changes of the plan that make its worlds show the mistake sooner.
MUTATIONS: list[tuple[Callable[[Patch], None], dict[str, Any]]] = [
    (skip_the_read_back, {}),
    (take_exists_for_success, {}),
    (put_instead_of_create, {}),
    (skip_the_freshness_question, {}),
    (join_a_question_in_flight, {"pollers": 6}),
    (keep_the_directory_after_a_lost_race, {}),
    (keep_the_directory_after_a_failed_write, {}),
    (offer_a_refused_commit_again, {"revocations": 4}),
    (forget_a_commit_in_doubt, {}),
    (read_while_a_commit_is_in_doubt, {"outages": 2}),
    (hand_out_unconfirmed_refusals, {"outages": 2}),
    (remove_too_early, {}),
    (remove_without_graves, {}),
    (patch_a_directory_of_which_nothing_is_known, {}),
    (undo_one_block_short, {}),
    (keep_a_lost_number_in_the_index, {}),
    (swap_the_image_before_the_last_byte, {}),
    (take_in_the_winner_only, {}),
]
SEEDS = 1_000


@pytest.mark.parametrize(("mutate", "changes"), MUTATIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_protocol_is_noticed(
    mutate: Callable[[Patch], None], changes: dict[str, Any], monkeypatch: Patch
) -> None:
    """A world among the first thousand, mostly among the first few, breaks a promise."""
    mutate(monkeypatch)
    for seed in range(SEEDS):
        try:
            World(seed, **changes).run()
        except Violation as violation:
            print(f"{mutate.__name__} is noticed by {violation}")
            return
    pytest.fail(f"{SEEDS} worlds did not notice: {mutate.__doc__}")
