"""Collection, backups, restores, forks and compaction of several actors at once, frozen anywhere, on a bad network."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.commitlogs import USER
from tests.support.seeded import SeededSources
from tests.support.turns import TurnBucket, without_threads
from vectorpool import names
from vectorpool.commitlog.floor import newest_floor
from vectorpool.commitlog.format import Decoded, Summary, decode_header, is_grave_content
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.commitlog.image import EMPTY, capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import ORIGIN, LostRace, PendingCommit, Position, Tag
from vectorpool.errors import (
    CommitConflict,
    CommitNotFound,
    CorruptObject,
    OutcomeUnknown,
    StoreUnavailable,
)
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings

TROUBLE = Faults(before=0.03, throttled=0.02, delayed=0.03, after=0.04, truncated=0.01)
RETENTION_S = 1000.0
LOG = names.log_prefix(USER)
# What an actor may end with when the network is bad or others are quicker; anything else is a defect.
FAIR = (StoreUnavailable, OutcomeUnknown, CorruptObject, CommitNotFound, CommitConflict, LostRace)


class Ledger(MemoryBucket):
    """A bucket that notes the one content that each number ever had, and refuses a second."""

    def __init__(self, sources: SeededSources) -> None:
        super().__init__(sources=sources)
        self.commits: dict[int, Decoded] = {}

    def _seq(self, key: str) -> int | None:
        parsed = names.parse_log_name(key.removeprefix(LOG)) if key.startswith(LOG) else None
        return parsed[1] if parsed is not None and parsed[0] == "commit" else None

    async def create(self, key: str, data: bytes) -> str:
        etag = await super().create(key, data)
        seq = self._seq(key)
        if seq is not None:
            assert seq not in self.commits, f"number {seq} has two contents"
            self.commits[seq] = decode_header(key, data, len(data))
        return etag

    async def put(self, key: str, data: bytes) -> str:
        if self._seq(key) is not None:
            assert is_grave_content(data)
        return await super().put(key, data)

    async def delete(self, key: str) -> None:
        assert self._seq(key) is None, "the number of a deleted commit is free"
        await super().delete(key)


class World:
    """One user's log, who acts on it, and what they were told."""

    def __init__(self, root: Path, seed: int, faults: Faults) -> None:
        self.root = root
        self.dice = random.Random(seed)
        self.sources = SeededSources(seed)
        self.ledger = Ledger(self.sources)
        self.turns = TurnBucket(self.ledger, self.dice)
        self.network = FaultyBucket(self.turns, faults, sources=self.sources)
        self.settings = Settings(replica_dir=str(root / "replicas"), compact_fanout=2, retention_s=RETENTION_S)
        self.tags: dict[str, Tag] = {}
        self.acknowledged: dict[int, bytes] = {}
        self.frozen: list[tuple[Position, PendingCommit]] = []
        self._fresh = itertools.count()

    def log(self, user: str = USER) -> CommitLog:
        return CommitLog(self.network, user, settings=self.settings, sources=self.sources)

    @contextlib.contextmanager
    def directory(self) -> Any:
        path = self.root / f"work-{next(self._fresh)}"
        path.mkdir()
        yield path
        shutil.rmtree(path)

    # --- Actors --------------------------------------------------------------------------------------

    async def _prepared(self, log: CommitLog, directory: Path) -> tuple[Position, PendingCommit]:
        hydrated = await log.hydrate(directory)
        position, image = (ORIGIN, EMPTY) if hydrated is None else (hydrated.position, hydrated.image)
        for path in self.dice.sample(["a", "b", "c/d"], self.dice.randint(1, 2)):
            file = directory / path
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(self.dice.randbytes(self.dice.choice([10, 5000, 20_000])))
        return position, log.prepare(position, image, capture(directory, image), Summary(added=1))

    async def write(self) -> None:
        log = self.log()
        with self.directory() as directory:
            _, pending = await self._prepared(log, directory)
            self._committed(await log.append(pending))
            await log.compact(pending.position)

    async def freeze(self) -> None:
        with self.directory() as directory:
            self.frozen.append(await self._prepared(self.log(), directory))

    async def remove_garbage(self) -> None:
        await self.log().remove_garbage()

    async def tag(self) -> None:
        at = self.dice.choice([None, *self.ledger.commits])
        name = f"t{next(self._fresh)}"
        tag = await self.log().tag(name, at)
        self.tags[name] = tag

    async def delete_tag(self) -> None:
        if self.tags:
            name = self.dice.choice(sorted(self.tags))
            del self.tags[name]
            await self.log().delete_tag(name)

    async def restore(self) -> None:
        at = self.dice.choice(sorted(self.ledger.commits))
        position = await self.log().restore(at)
        self._committed(position)
        new = self.ledger.commits[position.seq].header
        assert new.state_after == self.ledger.commits[at].header.state_after
        assert new.summary.restored_from == at

    async def fork(self) -> None:
        target = f"fork-{next(self._fresh)}"
        at = self.dice.choice(sorted(self.ledger.commits))
        await self.log().fork(target, at=at)
        forked = await hydrate(self.ledger, target, None, None)
        assert forked is not None
        assert forked.image.checksum() == self.ledger.commits[at].header.state_after

    def _committed(self, position: Position) -> None:
        assert position.seq not in self.acknowledged
        self.acknowledged[position.seq] = position.commit_hash

    async def run(self, *actors: Coroutine[Any, Any, None]) -> None:
        for result in await self.turns.run(*actors):
            if isinstance(result, BaseException) and not isinstance(result, FAIR):
                raise result

    # --- What must hold ------------------------------------------------------------------------------

    async def check(self) -> None:
        """Look at the bucket itself, past the network."""
        commits = self.ledger.commits
        for seq, commit_hash in self.acknowledged.items():
            assert commits[seq].commit_hash == commit_hash
        cutoff_ms = self.sources.now_ms() - RETENTION_S * 1000
        young = [
            seq
            for seq in commits
            if (await self.ledger.head(LOG + names.commit_name(seq))).modified_ms > cutoff_ms
            and not is_grave_content((await self.ledger.get(LOG + names.commit_name(seq))).data)
        ]
        floor = await newest_floor(self.ledger, USER)
        newest = max(commits, default=0)
        assert floor <= newest
        retained = {*young, *(seq for seq in commits if seq >= floor), *(tag.seq for tag in self.tags.values())}
        for seq in sorted(retained):
            state = await hydrate(self.ledger, USER, None, None, at=seq)
            assert state is not None
            assert state.position == Position(seq, commits[seq].commit_hash)
            assert state.image.checksum() == commits[seq].header.state_after
        if newest:
            state = await hydrate(self.ledger, USER, None, None)
            assert state is not None
            assert state.position.seq == newest

    async def tag_names(self) -> list[str]:
        """The names of all tags, acknowledged or not."""
        prefix = names.tags_prefix(USER)
        return [info.key.removeprefix(prefix) for info in await self.ledger.list_objects(prefix, limit=1000)]

    async def wake(self) -> None:
        """Those who slept act: whoever is not at the newest number is told, by its read and by its write."""
        log = CommitLog(self.ledger, USER, settings=self.settings, sources=self.sources)
        for position, pending in self.frozen:
            newest = max(self.ledger.commits, default=0)
            assert await log.is_newest(position) == (position.seq == newest)
            if position.seq == newest:
                self._committed(await log.append(pending))
                continue
            try:
                await log.append(pending)
            except LostRace:
                continue
            raise AssertionError(f"a writer at {position.seq} committed over {newest}")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), bad=st.booleans())
def test_what_is_retained_can_be_had_whatever_happens(seed: int, bad: bool) -> None:
    """After each step of several actors every retained and every tagged commit hydrates to its checksum."""

    async def run(root: Path) -> None:
        world = World(root, seed, TROUBLE if bad else Faults())
        await world.run(world.write())
        kinds = [
            world.write,
            world.freeze,
            world.remove_garbage,
            world.tag,
            world.delete_tag,
            world.restore,
            world.fork,
        ]
        for _ in range(14):
            if not world.ledger.commits:
                await world.run(world.write())
                continue
            chosen = world.dice.choices(kinds, weights=[5, 1, 4, 2, 1, 1, 1], k=world.dice.randint(1, 4))
            await world.run(*(actor() for actor in chosen))
            await world.check()
            world.sources.elapsed_s += world.dice.choice([0, 100, 700, 5000])
        await world.wake()
        await world.check()
        world.network.faults = Faults()
        world.sources.elapsed_s += 10 * RETENTION_S
        await world.run(world.remove_garbage())
        await world.run(world.remove_garbage())
        await world.check()
        # A tag of unknown outcome may have come too late, and then scrub says so; nothing else may be wrong.
        problems = (await CommitLog(world.ledger, USER, settings=world.settings).scrub()).problems
        acknowledged = {names.tag_key(USER, name) for name in world.tags}
        late = {names.tags_prefix(USER) + name for name in await world.tag_names()} - acknowledged
        assert {problem.key for problem in problems} <= late

    with tempfile.TemporaryDirectory() as root, without_threads():
        asyncio.run(run(Path(root)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), bad=st.booleans())
def test_a_backup_that_was_acknowledged_is_kept(seed: int, bad: bool) -> None:
    """Taggers against garbage removers, each frozen anywhere: a tag that was made keeps its commit in any order."""

    async def run(root: Path) -> None:
        world = World(root, seed, Faults())
        for _ in range(world.dice.randint(2, 7)):
            await world.run(world.write())
        world.sources.elapsed_s += 2 * RETENTION_S
        world.network.faults = TROUBLE if bad else Faults()
        actors = [world.tag() for _ in range(3)] + [world.remove_garbage() for _ in range(2)] + [world.write()]
        world.dice.shuffle(actors)
        await world.run(*actors)
        await world.network.settle()
        await world.check()
        world.network.faults = Faults()
        await world.run(world.remove_garbage())
        await world.check()

    with tempfile.TemporaryDirectory() as root, without_threads():
        asyncio.run(run(Path(root)))
