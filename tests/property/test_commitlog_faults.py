"""Several writers of one log behind a bad network: what was acknowledged is there, once, in order.

Every history follows from one seed. The faults are those of ``objects.faulty``: requests that never arrive, arrive
late, arrive while their answer is lost, and bodies that end early.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.commitlogs import USER, contents
from tests.support.seeded import SeededSources
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import EMPTY, Image, capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import ORIGIN, LostRace, PendingCommit, Position
from vectorpool.errors import CorruptObject, OutcomeUnknown, StoreUnavailable
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings

TROUBLE = Faults(before=0.08, throttled=0.05, delayed=0.08, after=0.1, truncated=0.03, latency_s=0.5, delay_s=30.0)


class Writer:
    """An instance that appends lines to a file, and re-applies a line to the winner's state when it loses."""

    def __init__(self, name: str, root: Path, bucket: FaultyBucket, sources: SeededSources) -> None:
        self.name = name
        self.log = CommitLog(
            bucket, USER, settings=Settings(replica_dir=str(root / name), compact_fanout=3), sources=sources
        )
        self.work = root / name / "work"
        self.work.mkdir(parents=True)
        self.position: Position = ORIGIN
        self.image: Image = EMPTY
        self.acknowledged: list[tuple[int, str]] = []

    async def catch_up(self) -> None:
        while True:
            shutil.rmtree(self.work)
            try:
                hydrated = await self.log.hydrate(self.work)
            except (StoreUnavailable, CorruptObject):
                continue
            if hydrated is not None:
                self.position, self.image = hydrated.position, hydrated.image
            return

    async def settle(self, pending: PendingCommit) -> bool:
        """Offer a commit until it is known who has its number."""
        while True:
            try:
                self.position = await self.log.append(pending)
            except LostRace:
                return False
            except (OutcomeUnknown, StoreUnavailable, CorruptObject):
                continue
            self.image = pending.image
            return True

    async def write(self, line: str) -> None:
        while True:
            with (self.work / "lines").open("a") as file:
                file.write(line + "\n" + "." * 3000 + "\n")
            pending = self.log.prepare(self.position, self.image, capture(self.work, self.image), Summary(added=1))
            if await self.settle(pending):
                self.acknowledged.append((pending.seq, line))
                return
            await self.catch_up()

    async def run(self, lines: int) -> None:
        for at in range(lines):
            await self.write(f"{self.name}-{at}")
            try:
                await self.log.compact(self.position)
            except (StoreUnavailable, CorruptObject):
                continue


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), writers=st.integers(1, 3))
def test_what_was_acknowledged_is_there_once_and_in_order(seed: int, writers: int) -> None:
    """Whatever the network does, the log holds exactly the acknowledged lines, each at the number it was given."""

    async def run(root: Path) -> None:
        sources = SeededSources(seed)
        store = MemoryBucket(sources=sources)
        bucket = FaultyBucket(store, TROUBLE, sources=sources)
        crowd = [Writer(f"w{at}", root, bucket, sources) for at in range(writers)]
        await asyncio.gather(*(writer.run(6) for writer in crowd))
        await bucket.settle()
        clear = CommitLog(store, USER, settings=Settings(replica_dir=str(root / "r")))
        hydrated = await clear.hydrate(root / "final")
        assert hydrated is not None
        acknowledged = sorted(pair for writer in crowd for pair in writer.acknowledged)
        assert [seq for seq, _ in acknowledged] == list(range(1, 6 * writers + 1))
        assert hydrated.position.seq == 6 * writers
        lines = contents(root / "final")["lines"].decode().split("\n")
        assert [line for line in lines if line.startswith("w")] == [line for _, line in acknowledged]
        report = await clear.scrub()
        assert report.problems == []
        assert report.newest_intact_seq == 6 * writers

    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root)))
