"""Rolling upgrades: instances of two engine versions on one bucket, in seeded worlds with faults, freezes and kills.

Every instance begins with the older engine, and one that is started again has the newer one. All promises of the other
worlds hold. In addition, the older engine never opens a newer state, a log never goes back to an older one, and a
migration is a commit of its own, without a write in it.
"""

from __future__ import annotations

import random

import pytest

from tests.simulation.replica import FakeEngine
from tests.simulation.world import Violation, World
from vectorpool.commitlog.format import decode_header
from vectorpool.vectorstore.vectorstore import Vectorstore

OLDER, NEWER = 1, 2
BLOCK = 50


class UpgradedWorld(World):
    """A world whose instances are upgraded one after the other. Commits are retained, so that each can be checked."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        kills = [dice.randint(50, 2000) for _ in range(dice.choice([1, 2, 3]))]
        super().__init__(seed, kills=kills, removers=0, write_back=False)
        self.refusals = 0
        self.migrations = 0

    def level_of(self, name: str) -> int:
        """Start with the older engine; a restart upgrades, and the instance of the final check has the newer one."""
        is_restart = any(note.endswith(f"{name} is killed and started again") for note in self.trace)
        return NEWER if is_restart or name == "judge" else OLDER

    async def _heal(self) -> None:
        await super()._heal()
        # The upgrade ends: instances of the older engine are replaced.
        for instance in list(self.instances):
            if instance.level == OLDER:
                self.note(f"{instance.name} is killed and started again")
                instance.domain.is_dead = True
                self.start(instance.name, write_back=False)
                self.instances[-1].wire.faults = instance.wire.faults

    async def _judge(self) -> None:
        await super()._judge()
        for user in self.users:
            await self._check_stamps(user)
        self.refusals = sum("newer-engine" in line for line in self.trace)

    async def _check_stamps(self, user: str) -> None:
        before, lengths = 0, self.ledger.truth(user).lengths
        for obj in sorted(self.ledger.objects(user).objects, key=lambda obj: obj.seq):
            if obj.kind != "commit":
                continue
            data = (await self.ledger.get(obj.key)).data
            header = decode_header(obj.key, data, len(data)).header
            level = header.stamp.migrations["fake"] if header.stamp is not None else 0
            writes = lengths[obj.seq] - lengths[obj.seq - 1]
            if level < before:
                self.violated(f"commit {obj.seq} of {user} is of an older engine than its parent")
            if header.summary.migrated != (0 < before < level) or (header.summary.migrated and writes):
                self.violated(f"commit {obj.seq} of {user} migrates from {before} to {level} and has {writes} writes")
            self.migrations += header.summary.migrated
            before = level


@pytest.mark.parametrize("first", range(0, 300, BLOCK))
def test_a_fleet_is_upgraded_one_instance_after_the_other(first: int) -> None:
    """In each of fifty worlds every promise holds; older instances are refused, and migrations are commits."""
    worlds = [UpgradedWorld(seed).run() for seed in range(first, first + BLOCK)]
    refusals, migrations = sum(w.refusals for w in worlds), sum(w.migrations for w in worlds)
    print(f"{refusals} refusals of older instances, {migrations} migrations in {BLOCK} worlds")
    assert refusals > 0
    assert migrations > 0


def _opens_anything(self: FakeEngine, stamp: object) -> None:
    """The older engine does not look at the stamp."""


async def _leaves_it_open(self: Vectorstore) -> None:
    """A write is applied to a migrated replica, and its commit carries the migration."""
    await self.open(create=True)


@pytest.mark.parametrize(
    ("of", "name", "broken"),
    [(FakeEngine, "check", _opens_anything), (Vectorstore, "_open_to_write", _leaves_it_open)],
)
def test_a_broken_guard_is_noticed(of: type, name: str, broken: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the refusal, or without a separate commit of the migration, a world breaks a promise."""
    monkeypatch.setattr(of, name, broken)
    with pytest.raises(Violation):
        for seed in range(50):
            UpgradedWorld(seed).run()
