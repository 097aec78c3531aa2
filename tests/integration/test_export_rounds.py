"""Rounds of exports: what they look at, what they ask for, and what they leave alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from vectorpool import names
from vectorpool.answers import TargetDeletion
from vectorpool.commitlog.deletions import load_receipt, save_receipt
from vectorpool.commitlog.ending import end
from vectorpool.errors import Misconfigured, QueueFull, TargetUnavailable
from vectorpool.jobs import rounds
from vectorpool.jobs.deleted_users import DeletedUsers
from vectorpool.jobs.engine import Database
from vectorpool.jobs.rounds import ExportRounds
from vectorpool.jobs.store import JobStore
from vectorpool.jobs.tables import exports
from vectorpool.jobs.views import JobKind
from vectorpool.notifications import Notifications
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources
from vectorpool.targets.named import scheduled_targets
from vectorpool.targets.urls import Target

USERS = 1000


class Clock(SystemSources):
    """A clock that tests set forward; nothing sleeps."""

    later_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.later_ms

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.later_ms / 1000

    async def sleep(self, delay_s: float) -> None:
        self.later_ms += int(delay_s * 1000)


class CountedBucket(MemoryBucket):
    """A bucket that counts the requests by their kind."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name in ("get", "get_range", "head", "put", "list_objects", "list_prefixes"):
            self.requests[name] += 1
        return found


class World:
    """A round over a bucket, a record of jobs, and targets that only count who opens them."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.bucket = CountedBucket()
        self.clock = Clock()
        self.asked: list[tuple[str, str]] = []
        self.forgotten: list[tuple[str, str]] = []
        self.opened: list[str] = []
        self.away: set[str] = set()
        self.full: set[str] = set()
        self.waiting = 0
        self.done_at_once = 50
        given = {"targets": "lake=parquet:///a/lake other=parquet:///a/other", "export_to": "lake", **settings}
        self.settings = Settings(replica_dir=str(directory), **given)
        self.database = Database(self.settings)
        store = JobStore(self.database.engine, self.clock, user_jobs=3, is_shared=False)
        store.create()
        self.record = store.exports
        self.told = Notifications(self.bucket, self.settings, self.clock)
        self.rounds = ExportRounds(
            self.bucket, self.record, self.told, self.settings, self.clock, self._ask, self._waiting
        )

    async def _ask(self, kind: JobKind, user_id: str, target: str) -> bool:
        if user_id in self.full:
            raise QueueFull("Three jobs of the user wait.")
        (self.forgotten if kind == "forget" else self.asked).append((user_id, target))
        return True

    async def has_room(self) -> bool:
        return True

    async def _waiting(self) -> int:
        self.waiting = max(self.waiting - self.done_at_once, 0)
        return self.waiting

    def open(self, target: Target) -> None:
        self.opened.append(target.url)
        if target.url in self.away:
            raise TargetUnavailable("The target does not answer.")

    def note(self, user_ids: list[str], commit: int) -> None:
        """Note exports to the lake, all in one transaction."""
        rows = [
            {"target": "lake", "user_id": user_id, "commit": commit, "exported_ms": self.clock.now_ms()}
            for user_id in user_ids
        ]
        with self.database.engine.begin() as db:
            db.execute(sa.insert(exports), rows)

    async def commit(self, user_id: str, commit: int) -> None:
        """Put an object where a commit is; no round reads more of one that is known."""
        await self.bucket.put(names.log_prefix(user_id) + names.commit_name(commit), b"a commit")


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Make a world whose targets count."""
    made: list[World] = []

    def make(**settings: Any) -> World:
        made.append(world := World(tmp_path / str(len(made)), **settings))
        monkeypatch.setattr(rounds, "_open", world.open)
        return world

    yield make
    for world in made:
        world.database.close()


async def test_users_that_did_not_change_cost_a_listing_each(make: Callable[..., World]) -> None:
    """A thousand of them: no object is read, the target is opened once, and only who changed is exported."""
    world = make()
    for number in range(USERS):
        await world.commit(f"user-{number}", 3)
    world.note([f"user-{number}" for number in range(USERS)], 3)
    world.bucket.requests.clear()
    done = await world.rounds.run()
    assert (done.users, done.asked, world.asked) == (USERS, 0, [])
    assert world.opened == ["parquet:///a/lake"]
    # Two pages of users, one of receipts, one of marks, the settled notification, and where an earlier worker stood.
    assert world.bucket.requests["list_objects"] == USERS + 2
    assert world.bucket.requests["list_prefixes"] == 2
    assert world.bucket.requests["get"] + world.bucket.requests["get_range"] + world.bucket.requests["head"] <= 2
    await world.commit("user-7", 4)
    await world.commit("new", 1)
    done = await world.rounds.run()
    assert sorted(world.asked) == [("new", "lake"), ("user-7", "lake")]
    # A target may be emptied: what was exported long ago is asked for again.
    world.asked.clear()
    world.clock.later_ms += 25 * 3_600_000
    assert (await world.rounds.run()).asked == USERS + 1


async def test_a_target_that_is_away_is_told_once_and_the_others_go_on(make: Callable[..., World]) -> None:
    """After some tries; and it is settled when the target answers."""
    world = make(export_to="lake other")
    world.away.add("parquet:///a/lake")
    for user in ("a", "b"):
        await world.commit(user, 1)
    done = await world.rounds.run()
    assert (done.away, sorted(world.asked)) == (["lake"], [("a", "other"), ("b", "other")])
    assert world.opened.count("parquet:///a/lake") == 3
    (told,) = (await world.told.page(limit=10)).notifications
    assert (told.event, told.subject, told.user_id, told.state) == ("export-failed", "lake", None, "open")
    world.away.clear()
    await world.rounds.run()
    assert [each.state for each in (await world.told.page(limit=10)).notifications] == ["settled"]


async def test_deleted_users_canaries_and_others_are_passed_over(make: Callable[..., World]) -> None:
    """A tombstone is read once; ids are those of the patterns."""
    world = make(export_users="team-* 42")
    for user in ("team-a", "team-b", "42", "43", "vectorpool-canary-x", "team-c"):
        await world.commit(user, 1)
    await end(world.bucket, "team-gone", world.clock, 10.0, seal=True)
    world.full.add("team-c")
    await world.rounds.run()
    assert sorted(world.asked) == [("42", "lake"), ("team-a", "lake"), ("team-b", "lake")]


async def test_deleted_users_are_deleted_at_every_target_until_it_is_done(make: Callable[..., World]) -> None:
    """Also where nothing is exported by schedule; what the receipt or the record says is done is not asked again."""
    world = make(export_to="")
    assert world.rounds.is_on
    await world.commit("here", 1)
    for user in ("gone", "told"):
        await end(world.bucket, user, world.clock, 10.0, seal=True)
    receipt = await load_receipt(world.bucket, "told")
    assert receipt is not None
    done = [TargetDeletion(name, 1, 1_780_000_000_000) for name in ("lake", "other")]
    await save_receipt(world.bucket, msgspec.structs.replace(receipt, targets=done))
    both = [("gone", "lake"), ("gone", "other")]
    for _ in range(2):
        world.forgotten.clear()
        assert (await world.rounds.run()).forgotten == 2
        assert (sorted(world.forgotten), world.asked, world.opened) == (both, [], [])
    assert world.record.forgotten("lake", ["gone", "told"]) == {"told": receipt.commit}
    world.record.note("lake", "gone", -receipt.commit)
    world.forgotten.clear()
    await world.rounds.run()
    assert world.forgotten == [("gone", "other")]
    # Made anew and exported since: the note of the deletion is not put back.
    world.record.note("lake", "told", 7)
    await world.rounds.run()
    assert world.record.held("lake", ["told"]) == {"told": 7}


async def _delete(world: World, *users: str, is_done: bool = False) -> None:
    """Delete users as a command does straight in the bucket; ``is_done``: at both targets too."""
    for user in users:
        await end(world.bucket, user, world.clock, 10.0, seal=True)
        receipt = await load_receipt(world.bucket, user)
        assert receipt is not None
        if is_done:
            done = [TargetDeletion(name, 1, 1_780_000_000_000) for name in ("lake", "other")]
            await save_receipt(world.bucket, msgspec.structs.replace(receipt, targets=done))


async def test_a_look_for_deletions_costs_one_small_listing(make: Callable[..., World]) -> None:
    """However many users were deleted; a new deletion is asked for at the next look, and owed until it is done."""
    world = make(export_to="")
    await _delete(world, *(f"user-{number}" for number in range(300)), is_done=True)
    assert await world.rounds.deleted.look() == 0
    world.bucket.requests.clear()
    for _ in range(5):
        world.clock.later_ms += 30_000
        assert await world.rounds.deleted.look() == 0
    assert world.bucket.requests == {"list_objects": 5}
    await _delete(world, "late")
    assert await world.rounds.deleted.look() == 2
    assert await world.rounds.deleted.look() == 0
    assert await world.rounds.deleted.run() == 2
    # Another worker, which has no record, begins where this one stood. Marks that may have come late it reads again.
    world.clock.later_ms += 3_600_000
    assert await world.rounds.deleted.look() == 0
    other = make(export_to="")
    other.bucket = world.bucket
    world.forgotten.clear()
    successor = DeletedUsers(
        world.bucket, other.record, ["lake", "other"], world.clock, partial(world._ask, "forget"), world.has_room
    )
    world.bucket.requests.clear()
    assert await successor.look() == 0
    assert await successor.run() == 2
    assert world.forgotten == [("late", "lake"), ("late", "other")]
    # Where the worker stood, and the receipt of the one who is owed.
    assert world.bucket.requests["get"] == 2 and world.bucket.requests["list_objects"] == 2
    await _delete(world, "late", is_done=True)
    assert await successor.run() == 0
    # Nobody looked for weeks, and the marks are gone: the receipts are listed.
    world.clock.later_ms += 40 * 24 * 3_600_000
    world.bucket.requests.clear()
    assert await successor.run() == 0
    assert world.bucket.requests["list_objects"] == 2


async def test_marks_of_an_earlier_release_are_followed_by_a_list(make: Callable[..., World]) -> None:
    """They do not say whom they are about; the next round lists the receipts."""
    world = make(export_to="")
    assert await world.rounds.deleted.look() == 0
    await _delete(world, "old")
    for info in await world.bucket.list_objects(names.deletion_marks_prefix(), limit=10):
        await world.bucket.put(info.key, b"vectorpool: a vectorstore was deleted\n")
    assert await world.rounds.deleted.look() == 0
    assert await world.rounds.deleted.run() == 2


async def test_a_round_waits_for_room(make: Callable[..., World]) -> None:
    """As long as too many exports wait; after a while it ends, and the next one goes on."""
    world = make()
    await world.commit("a", 1)
    world.waiting = 400
    assert (await world.rounds.run()).asked == 1
    world.waiting, world.done_at_once = 400, 0
    assert (await world.rounds.run()).asked == 0


def test_only_named_targets_are_exported_to(tmp_path: Path) -> None:
    """A URL or an unknown name ends the start."""
    for given in ("postgresql://vp:secret@db/x", "elsewhere"):
        with pytest.raises(Misconfigured, match="export_to") as refusal:
            scheduled_targets(Settings(replica_dir=str(tmp_path), targets="lake=parquet:///a", export_to=given))
        assert "secret" not in str(refusal.value)
