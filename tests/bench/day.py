"""A day of one user: bytes and requests of all writes, and stored bytes; against files, and a zip, at each save.

Chroma, the vectorstore and the commit log are real, and so are all bytes; the bucket is in memory, and the bench moves
the clock, so that a day takes a minute and a week passes at its end. Excluded: time (see the other benches), other
instances, and the reads of the peers: only their uploads are counted, computed from the same directories.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import zipfile
from collections import Counter
from pathlib import Path

import msgspec

from tests.bench.cost import CLASSES
from tests.bench.ground import CALL, COLLECTION, Line, Place, check_first, near, query, size, upsert, vectors
from vectorpool import commands
from vectorpool.answers import Count
from vectorpool.commands import ReadOptions
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.hydrate import hydrate
from vectorpool.commitlog.image import EMPTY, Image, capture
from vectorpool.commitlog.log import ORIGIN, CommitLog
from vectorpool.commitlog.outcomes import PendingCommit, Position
from vectorpool.commitlog.plan import SLACK_BYTES
from vectorpool.names import log_prefix, parse_log_name
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources
from vectorpool.vectorstore.ticket import Ticket
from vectorpool.vectorstore.vectorstore import Vectorstore

USER = "day"
RECORDS = 5000
DAY_S, SESSIONS, BULK = 86_400, 12, 100
# Past the retention time.
LATER_S = 8 * 86_400


class HandClock(SystemSources):
    """A clock that the bench moves; ``sleep`` does not wait."""

    def __init__(self) -> None:
        self.moved_s = 0.0
        self._dice = random.Random(5)

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.moved_s * 1000)

    def monotonic_s(self) -> float:
        return self.moved_s

    def random(self) -> float:
        return self._dice.random()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class SortedBucket(MeteredBucket):
    """A metered bucket that also sums the bytes written by kind: commit, base, merged, other."""

    def __init__(self, inner: Bucket) -> None:
        super().__init__(inner)
        self.written: Counter[str] = Counter()

    async def create(self, key: str, data: bytes) -> str:
        parsed = parse_log_name(key.rpartition("/")[2])
        self.written["other" if parsed is None else parsed[0]] += len(data)
        return await super().create(key, data)

    async def put(self, key: str, data: bytes) -> str:
        self.written["other"] += len(data)
        return await super().put(key, data)


class Saves:
    """The uploads of the peers for each commit: the changed files, or the whole directory as one zip."""

    def __init__(self) -> None:
        self.image: Image = EMPTY
        self.commits: list[int] = []
        self.files = 0
        self.file_bytes = 0
        self.zips: list[float] = []

    def saw(self, pending: PendingCommit) -> None:
        """Count a commit."""
        changed = [state.size for path, state in pending.image.files.items() if self.image.files.get(path) != state]
        self.commits.append(len(pending.data))
        self.files += len(changed)
        self.file_bytes += sum(changed)
        self.image = pending.image

    def forget(self) -> None:
        """Reset the counters; the last state stays the reference."""
        image = self.image
        self.__init__()  # type: ignore[misc]
        self.image = image

    def zip(self, directory: Path) -> None:
        """Measure the size of a zip of the directory, as a share of its bytes."""
        target = directory.with_suffix(".zip")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(p for p in directory.rglob("*") if p.is_file()):
                file.write(path, path.relative_to(directory))
        self.zips.append(target.stat().st_size)
        target.unlink()


class SeenLog(CommitLog):
    """A commit log whose commits are counted."""

    saves: Saves

    async def append(self, pending: PendingCommit, *, in_doubt: bool = False) -> Position:
        position = await super().append(pending, in_doubt=in_doubt)
        self.saves.saw(pending)
        return position


class Stores(StoreFactory):
    """A store factory with such logs."""

    def __init__(self, bucket: Bucket, settings: Settings, sources: HandClock) -> None:
        super().__init__(bucket, settings, sources=sources)
        self._given = bucket, settings, sources
        self.saves = Saves()

    def log(self, user_id: str) -> CommitLog:
        bucket, settings, sources = self._given
        log = SeenLog(bucket, user_id, warm=self.warm, settings=settings, sources=sources)
        log.saves = self.saves
        return log


class Day:
    """The user's vectorstore over a day. Record ``n`` always has vector number ``n``, so answers can be checked."""

    def __init__(self, settings: Settings, singles: int) -> None:
        self.clock = HandClock()
        # The bench's own requests go to the plain bucket, and are not counted.
        self.plain = MemoryBucket(sources=self.clock)
        self.bucket = SortedBucket(self.plain)
        self.stores = Stores(self.bucket, settings, self.clock)
        self.settings = settings
        self.singles = singles
        self.store: Vectorstore = self.stores.make(USER)
        self._dice = random.Random(7)
        self._known: list[int] = []
        self._next = 0
        self.store_seq = 0

    async def write(self, command: commands.Write) -> None:
        """Write, and compact as a pool does."""
        before, ticket = self.store.commit_seq, Ticket(command)
        await self.store.write([ticket])
        assert ticket.error is None, ticket.error
        assert self.store.commit_seq == before + 1, "a write is one commit"
        fanout = self.settings.compact_fanout
        if self.store.commit_seq // fanout != before // fanout:
            await self.store.compact()

    async def load(self, count: int) -> None:
        """Write new records in one call."""
        numbers = range(self._next, self._next + count)
        await self.write(upsert(self._next, vectors(1, self._next, count)))
        self._known += numbers
        self._next += count

    async def ask(self) -> None:
        """Ask for one record as a strong read does, and check the answer."""
        # A second after the write, its proof is too old for a strong read, which asks the store.
        self.clock.moved_s += 1
        assert await self.store.is_fresh_enough(ReadOptions(), self.clock.monotonic_s())
        number = self._dice.choice(self._known)
        check_first((await self.store.read(query(near(1, number)))).body, number)

    async def single(self) -> None:
        """Upsert one record: every other one is there already."""
        if self._dice.random() < 0.5:
            await self.load(1)
        else:
            number = self._dice.choice(self._known)
            await self.write(upsert(number, vectors(1, number, 1)))

    async def session(self) -> None:
        """Open the vectorstore without local files, use it, load and delete some records, close it."""
        await asyncio.to_thread(self.stores.warm.drop, USER)
        self.store = self.stores.make(USER)
        await self.store.open(create=False)
        for _ in range(self.singles // SESSIONS):
            self.clock.moved_s += DAY_S / self.singles
            await self.single()
            await self.ask()
        await self.load(BULK)
        self._dice.shuffle(self._known)
        gone, self._known = self._known[:BULK], self._known[BULK:]
        await self.write(commands.DeleteRecords(collection=COLLECTION, ids=[f"record-{n}" for n in gone]))
        counted = await self.store.read(commands.CountRecords(collection=COLLECTION))
        assert msgspec.json.decode(counted.body, type=Count).count == len(self._known)
        self.store_seq = self.store.commit_seq
        await self.store.discard()

    async def begin(self) -> None:
        """Write the records of the day before, and reset the counters."""
        await self.store.open(create=True)
        await self.write(commands.CreateCollection(name=COLLECTION))
        for _ in range(RECORDS // CALL):
            await self.load(CALL)
        await self.store.discard()
        self.stores.saves.forget()
        self.bucket.written.clear()

    def requests(self) -> Counter[str]:
        """Return the requests so far by the store's class."""
        asked: Counter[str] = Counter()
        for name, count in self.bucket.counts().items():
            asked[CLASSES[name]] += count.requests
        return asked

    async def objects(self) -> Counter[str]:
        """Return the stored bytes by kind."""
        stored: Counter[str] = Counter()
        for info in await self.plain.list_objects(log_prefix(USER), limit=100_000):
            parsed = parse_log_name(info.key.rpartition("/")[2])
            stored["other" if parsed is None else parsed[0]] += info.size
        return stored


async def _live_bytes(day: Day, directory: Path) -> int:
    """Return the bytes of the newest state as one packed object; measure its zip too. Fails if the state differs."""
    hydrated = await hydrate(day.plain, USER, None, directory)
    assert hydrated is not None and hydrated.image == day.stores.saves.image
    await asyncio.to_thread(day.stores.saves.zip, directory)
    log = CommitLog(day.plain, USER, settings=day.settings, sources=day.clock)
    return len(log.prepare(ORIGIN, EMPTY, capture(directory, EMPTY), Summary()).data)


async def run(place: Place) -> list[Line]:
    """Run a day, let a week pass, verify, remove garbage, and read the newest state from the store once more."""
    singles = 120 if place.quick else 600
    day = Day(place.settings("day"), singles)
    await day.begin()
    began = day.requests()
    for at in range(SESSIONS):
        await day.session()
        if at == SESSIONS // 2:
            await _live_bytes(day, place.scratch / f"day-{at}")
    asked = day.requests()
    asked.subtract(began)
    written, at_night = dict(day.bucket.written), await day.objects()
    live = await _live_bytes(day, place.scratch / "day-night")
    day.clock.moved_s += LATER_S
    log, before = day.stores.log(USER), day.requests()
    report = await log.verify()
    assert report.ok and report.newest_intact_seq == day.store_seq, report
    while not (await log.remove_garbage()).complete:
        pass
    swept = day.requests()
    swept.subtract(before)
    freed = sum(day.bucket.written.values()) - sum(written.values())
    left = await day.objects()
    assert await _live_bytes(day, place.scratch / "day-left") == live, "a garbage removal changed the newest state"
    await asyncio.to_thread(day.stores.close)
    traffic = _traffic(day, singles, asked, swept)
    return [*traffic, *_volume(day, written, freed, live, sum(at_night.values()), sum(left.values()))]


def _shown(requests: Counter[str]) -> str:
    return ", ".join(
        f"{name} {requests[name]:,}" for name in ("PUT", "GET", "LIST", "HEAD", "DELETE") if requests[name]
    )


def _traffic(day: Day, singles: int, asked: Counter[str], swept: Counter[str]) -> list[Line]:
    saves = day.stores.saves
    commits, uploaded = len(saves.commits), sum(saves.commits)
    zips = statistics.mean(saves.zips) * commits
    habits = f"{singles:,} lone upserts, as many queries, {SESSIONS} opens, {SESSIONS} loads and deletions of {BULK}"
    what = f"a day of {habits}, at {RECORDS:,} records"
    note = f"the median commit {size(statistics.median(saves.commits))}, the largest {size(max(saves.commits))}"
    hourly = ", ".join(f"{name} {asked[name] / 24:.0f}" for name in ("PUT", "GET", "LIST", "HEAD"))
    return [
        Line(
            "day",
            f"{what}: bytes of commits, against the changed files at each save",
            size(uploaded),
            size(saves.file_bytes),
            uploaded / saves.file_bytes,
            note=note,
        ),
        Line("day", "the same, against one zip at each save", size(uploaded), size(zips), uploaded / zips),
        Line(
            "day",
            "creates of commits, against puts of changed files",
            f"{commits:,}",
            f"{saves.files:,}",
            commits / saves.files,
            note=f"one a commit; all requests of the day: {_shown(asked)}; an hour: {hourly}",
        ),
        Line(
            "day",
            "requests of the verification and garbage removal a week later",
            _shown(swept),
            note=f"a header read and a grave put for each of {commits:,} commits",
        ),
    ]


def _volume(day: Day, written: dict[str, int], freed: int, live: int, at_night: int, left: int) -> list[Line]:
    commits = written["commit"]
    compacted = written.get("merged", 0) + written.get("base", 0)
    ratio = (commits + compacted + freed) / commits
    bound = write_bound(len(day.stores.saves.commits), day.settings)
    amplification = day.settings.compact_amplification
    return [
        Line(
            "day",
            "bytes written by commits, compaction and collection, for a byte of commits",
            size(commits + compacted + freed),
            size(commits),
            ratio,
            f"<= {bound:.1f} (its bound)",
            ratio <= bound,
            f"merged deltas {size(written.get('merged', 0))}, bases {size(written.get('base', 0))}, "
            f"garbage removal {size(freed)}",
        ),
        Line(
            "day",
            "stored at the end of the day, all history kept, against the newest state packed",
            size(at_night),
            size(live),
            at_night / live,
        ),
        Line(
            "day",
            "stored when the garbage of the history was removed, against the newest state packed",
            size(left),
            size(live),
            left / live,
            f"<= {amplification**2:.2f} (its bound)",
            left <= amplification**2 * live + 2 * SLACK_BYTES,
            "a new base is written for a collection only if that frees compact_amplification times what is read",
        ),
    ]


def write_bound(commits: int, settings: Settings) -> float:
    """Return the commit log's bound of bytes written for each byte committed, with one more base for a floor."""
    levels = math.floor(math.log(commits, settings.compact_fanout))
    return 1 + levels + 1 + 1 / (settings.compact_amplification - 1)
