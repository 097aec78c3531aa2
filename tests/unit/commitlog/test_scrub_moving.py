"""Scrub of a log that moves while it is read: what a second look does not confirm is not called damage."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.bench.fleet.far import FarBucket, Latencies, Shelves
from tests.bench.fleet.loop import SCRATCH, FleetLoop
from tests.bench.fleet.paged import PagedStores, scaled_bounds
from tests.bench.fleet.week import WEEK_S, LoneWriter
from tests.simulation.network import VirtualSources
from tests.support.commitlogs import USER, Author, FaultyBucket, overwrite
from vectorpool import names
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import ScrubReport
from vectorpool.errors import StoreUnavailable
from vectorpool.objects.bucket import ObjectInfo
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket
from vectorpool.settings import Settings

LOG = names.log_prefix(USER)
BLOCK = 4096
SEEDS = 32


class Overtaken(FaultyBucket):
    """After each answer to a listing of the log, and before its caller reads on, the next of ``then`` happens."""

    def __init__(self, inner: MemoryBucket) -> None:
        super().__init__(inner)
        self.then: deque[Callable[[], Awaitable[object]]] = deque()
        self.looks = 0

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        page = await super().list_objects(prefix, limit=limit, after=after)
        if prefix == LOG:
            self.looks += 1
            if self.then:
                await self.then.popleft()()
        return page


async def story(root: Path) -> tuple[Author, Overtaken, CommitLog]:
    """Return the author of ten old commits and four young ones, with merged deltas of four, and a log overtaken."""
    store = MemoryBucket()
    author = Author(root, store, fanout=4)
    store._sources = author.sources
    dice = random.Random(5)
    author.write("chroma.sqlite3", dice.randbytes(40 * BLOCK))
    for at in range(14):
        if at == 10:
            author.sources.slept_s += 2 * author.settings.retention_s
        author.write("chroma.sqlite3", dice.randbytes(200), offset=at * BLOCK)
        await author.commit()
        await author.compact()
    bucket = Overtaken(store)
    return author, bucket, CommitLog(bucket, USER, settings=author.settings, sources=author.sources)


def key_of(seq: int) -> str:
    return LOG + names.commit_name(seq)


async def test_a_collection_between_listing_and_reading_is_no_damage(tmp_path: Path) -> None:
    """The base that a garbage removal made is not in the first listing, and what that names is gone: all is intact."""
    author, bucket, log = await story(tmp_path)
    bucket.then.append(author.log.remove_garbage)
    report = await log.scrub()
    assert (report.problems, report.newest_seq, report.newest_intact_seq) == ([], 14, 14)
    # The base, without which nothing leads to the newest commit, is only in the second listing.
    assert bucket.looks == 2 and report.commits < 14


async def test_damage_is_told_from_what_a_collection_moved(tmp_path: Path) -> None:
    """A flipped bit in the newest commit is found in a log whose garbage is removed meanwhile, and nothing else is."""
    author, bucket, log = await story(tmp_path)
    data = bytearray((await author.bucket.get(key_of(14))).data)
    data[-1] ^= 4
    await overwrite(author.bucket, key_of(14), bytes(data))
    bucket.then.append(author.log.remove_garbage)
    report = await log.scrub()
    assert [problem.key for problem in report.problems] == [key_of(14)]
    assert report.newest_intact_seq == 13
    # The second look listed other objects than the first, so a third had to confirm it.
    assert bucket.looks == 3


async def test_a_log_with_nothing_to_stand_on_is_damaged_though_others_write(tmp_path: Path) -> None:
    """With the base gone from above the graves nothing leads to the newest commit, whichever that is at each look."""
    author, bucket, log = await story(tmp_path)
    await author.log.remove_garbage()
    for name in await author.objects():
        if "-base" in name:
            await author.bucket.delete(LOG + name)

    async def write() -> None:
        author.write("chroma.sqlite3", b"more", offset=0)
        await author.commit()

    bucket.then += [write, write]
    report = await log.scrub()
    assert [problem.what for problem in report.problems] == ["nothing that is in the log leads to it"]
    assert (report.newest_seq, report.newest_intact_seq) == (15, 0)


async def _damage_another_at_each_look(author: Author, bucket: Overtaken) -> None:
    """Damage commit 5, then 6 instead, then 7, then 5: merged deltas stand in for each."""
    whole = {seq: (await author.bucket.get(key_of(seq))).data for seq in (5, 6, 7)}

    def damaging(seq: int) -> Callable[[], Awaitable[object]]:
        async def damage() -> None:
            for other, data in whole.items():
                await overwrite(author.bucket, key_of(other), data[:-1] if other == seq else data)

        return damage

    bucket.then += [damaging(seq) for seq in (5, 6, 7, 5)]


async def test_what_no_two_looks_agree_on_is_not_called_damage(tmp_path: Path) -> None:
    """After four looks that each find something else, the caller is told to try again, and nothing is reported."""
    author, bucket, log = await story(tmp_path)
    await _damage_another_at_each_look(author, bucket)
    with pytest.raises(StoreUnavailable, match="moved on under each of 4 looks"):
        await log.scrub()
    assert bucket.looks == 4


async def test_what_the_last_looks_agree_on_is_reported(tmp_path: Path) -> None:
    """In a log that moves under every look, the damage that stays is reported, and what comes and goes is not."""
    author, bucket, log = await story(tmp_path)
    await overwrite(author.bucket, key_of(2), b"not a commit")
    await _damage_another_at_each_look(author, bucket)
    report = await log.scrub()
    assert [problem.key for problem in report.problems] == [key_of(2)]
    assert (bucket.looks, report.newest_intact_seq) == (4, 14)


async def _race(seed: int, sources: VirtualSources, scratch: Path) -> tuple[ScrubReport, int]:
    """Verify a log at some moment of its garbage removal by another instance; return the report and the listings."""
    dice = random.Random(seed)
    shelves = Shelves(sources, [{}], names.log_prefix)
    settings = Settings(replica_dir=str(scratch), warm_bytes=0)
    writer = LoneWriter(await shelves.shelf("users/0/"), scratch / "open", 64, settings, sources)
    await writer.begin()
    for _ in range(40):
        await sources.sleep(WEEK_S / 14)
        await writer.write()
    buckets = [MeteredBucket(FarBucket(shelves, sources, Latencies(), random.Random(seed + i), 4)) for i in range(2)]
    logs = [
        PagedStores(bucket, msgspec.structs.replace(settings, replica_dir=str(scratch / f"i{i}")), sources).log("0")
        for i, bucket in enumerate(buckets)
    ]

    async def verify() -> ScrubReport:
        await sources.sleep(dice.random() * 1.5)
        return await logs[0].verify()

    report, _ = await asyncio.gather(verify(), logs[1].remove_garbage())
    return report, buckets[0].counts()["list_objects"].requests


def test_a_verification_races_a_collection() -> None:
    """Verifications that begin at random moments of a garbage removal find no damage; some had to look again."""
    looked_again = 0
    for seed in range(SEEDS):
        loop = FleetLoop(seed)
        sources = VirtualSources(loop, loop.dice)
        scratch = Path(tempfile.mkdtemp(prefix="vectorpool-race-", dir=SCRATCH))
        try:
            with scaled_bounds():
                report, listings = loop.run_until_complete(_race(seed, sources, scratch))
        finally:
            loop.close()
            shutil.rmtree(scratch, ignore_errors=True)
        assert (report.problems, report.newest_intact_seq) == ([], 41), f"seed {seed}"
        # A look lists the backups and the log.
        looked_again += listings > 2
    assert looked_again > 0
