"""One user's log without a pool: its history, and the cost of a week of background work on it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from tests.bench.fleet.loop import SCRATCH, FleetLoop
from tests.bench.fleet.paged import BYTE_SCALE, WRITE, PagedReplica, fill, scaled_bounds
from tests.simulation.network import VirtualSources
from vectorpool import names
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import EMPTY, capture
from vectorpool.commitlog.log import ORIGIN, CommitLog
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket, OperationCount
from vectorpool.settings import Settings

WEEK_S = 604_800.0
# A log grows until the third week, because nothing in it is older than the retention time.
WEEKS = 4


class LoneWriter:
    """Writes a user's vectorstore of ``pages`` pages, one commit for each write, and compacts as a pool does."""

    def __init__(self, bucket: Bucket, directory: Path, pages: int, settings: Settings, sources: VirtualSources):
        self._settings = settings
        self._sources = sources
        self._directory = directory
        directory.mkdir()
        fill(directory, pages)
        self.log = CommitLog(bucket, "0", settings=settings, sources=sources)
        self.replica: PagedReplica

    async def begin(self) -> None:
        """Make commit 1."""
        pending = self.log.prepare(ORIGIN, EMPTY, capture(self._directory, EMPTY), Summary())
        position = await self.log.append(pending)
        self.replica = PagedReplica(self._directory, position, pending.image, self._sources)

    async def write(self) -> int:
        """Change one page and commit; return the number of the commit."""
        replica = self.replica
        replica.write(WRITE)
        pending = self.log.prepare(replica.position, replica.image, replica.capture(), Summary())
        replica.advance(await self.log.append(pending), pending.image)
        if pending.seq % self._settings.compact_fanout == 0:
            await self.log.compact(replica.position)
        return pending.seq


class Week(msgspec.Struct, frozen=True):
    """The store's requests of background work for one user in a week, and the size of the user's log after it.

    ``stored_bytes`` is the mean of before and after the garbage removal.
    """

    requests: dict[str, int]
    stored_bytes: int
    live_bytes: int


def live_weeks(settings: Settings, pages: int, writes: int, seed: int) -> Week:
    """Simulate ``WEEKS`` weeks of ``writes`` commits, each with verification and garbage removal; return the last."""
    loop = FleetLoop(seed)
    sources = VirtualSources(loop, loop.dice)
    scratch = Path(tempfile.mkdtemp(prefix="vectorpool-week-", dir=SCRATCH))
    try:
        with scaled_bounds():
            return loop.run_until_complete(_weeks(settings, pages, writes, sources, scratch))
    finally:
        loop.close()
        shutil.rmtree(scratch, ignore_errors=True)


async def _weeks(settings: Settings, pages: int, writes: int, sources: VirtualSources, scratch: Path) -> Week:
    bucket = MeteredBucket(MemoryBucket(sources=sources))
    settings = msgspec.structs.replace(settings, replica_dir=str(scratch))
    writer = LoneWriter(bucket, scratch / "open", pages, settings, sources)
    await writer.begin()
    for _ in range(WEEKS):
        for _ in range(writes):
            await sources.sleep(WEEK_S / writes)
            await writer.write()
        full, before = await _stored(bucket), bucket.counts()
        # The calls of a pool's upkeep for a user that is due, in its order.
        await writer.log.last_verification()
        report = await writer.log.verify()
        assert report.ok and report.newest_intact_seq == writer.replica.position.seq, report
        while not (await writer.log.remove_garbage()).complete:
            pass
        after = bucket.counts()
    swept = await _stored(bucket)
    requests = {name: _asked(after[name], before[name]) for name in after if _asked(after[name], before[name])}
    return Week(requests, (full + swept) * BYTE_SCALE // 2, writer.replica.image.size * BYTE_SCALE)


def _asked(after: OperationCount, before: OperationCount) -> int:
    return after.requests - before.requests


async def _stored(bucket: MeteredBucket) -> int:
    found = await bucket.list_objects(names.user_prefix("0"), limit=100_000)
    return sum(info.size for info in found)
