"""Memory of one shard: by open slot, by warm user, and its growth while many more users than slots come and go.

1,000 users, forked from one of 200 records, go through 100 slots in rounds, four at a time; each is hydrated, queried
and evicted for the next. Round one downloads, the later ones build from the warm tier, so memory must be
constant from the start of round two. The shard is a process of its own, as in a served instance. The figures, from the
kernel, are its proportional set size (its private memory and its share of shared memory), descriptors and threads.
Excluded: the front, which holds nothing per user, and the page cache of the working directories.

``BENCH_CYCLES=10000`` is the long form: 10,000 cycles of hydrate and evict instead of 3,000.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.bench.ground import Line, Place, bucket_of, check_first, load, near, query
from vectorpool import commands
from vectorpool.commitlog.log import CommitLog
from vectorpool.shard.router import ShardRouter

RECORDS = 200
SOURCE = f"memory-{RECORDS}"
AT_ONCE = 4
ROUNDS = 3
FLAT = 1.1


class Held(msgspec.Struct):
    """The memory, descriptors and threads of the shard's process at one moment."""

    pss_mib: float
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.pss_mib:.0f} MiB, {self.descriptors} descriptors, {self.threads} threads"


def held(pid: int) -> Held:
    """Return the memory, descriptors and threads of a process."""
    process = Path(f"/proc/{pid}")
    rollup = (process / "smaps_rollup").read_text().splitlines()
    pss_kib = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    descriptors, threads = ((process / name).iterdir() for name in ("fd", "task"))
    return Held(pss_kib / 1024, sum(1 for _ in descriptors), sum(1 for _ in threads))


async def _fork(place: Place, users: list[str]) -> None:
    """Make every user a copy of the source."""
    bucket = bucket_of(place)
    log = CommitLog(bucket, SOURCE, settings=place.settings("fork"))
    await _all(users, log.fork)
    await bucket.close()


async def _all(users: Iterable[str], work: object) -> None:
    """Do the work for every user, ``AT_ONCE`` of them at a time."""
    waiting = iter(users)

    async def take() -> None:
        for user_id in waiting:
            await work(user_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(take())


class Shard:
    """One shard with its pool, and requests to it."""

    def __init__(self, router: ShardRouter) -> None:
        self._router = router
        self._asked = 0

    async def ask(self, user_id: str) -> None:
        """Query a user's vectorstore, which the pool opens, and check the answer."""
        self._asked += 1
        number = self._asked * 37 % RECORDS
        check_first((await self._router.execute(user_id, query(near(1, number)))).body, number)

    async def evict(self, user_id: str) -> None:
        """Evict a user."""
        await self._router.execute(user_id, commands.Evict())

    async def held(self, open_slots: int) -> Held:
        """Return the shard's figures while ``open_slots`` slots are open, after the evictions under way have ended."""
        for _ in range(500):
            view = await self._router.pool_view()
            if view.open_slots == open_slots:
                break
            await asyncio.sleep(0.02)
        assert view.open_slots == open_slots, (view.open_slots, open_slots)
        # The figures include what an idle shard does, such as giving memory back.
        await asyncio.sleep(1.5)
        pid = self._router.clients[0].process_id
        assert pid is not None
        return held(pid)


async def run(place: Place) -> list[Line]:
    """Measure with one shard of 100 slots."""
    slots, count = (20, 100) if place.quick else (100, 1000)
    rounds = max(-(-int(os.environ.get("BENCH_CYCLES", "0")) // count), ROUNDS)
    await load(place, SOURCE, RECORDS)
    users = [f"memory-fork-{n}" for n in range(count)]
    await _fork(place, users)
    router = ShardRouter(place.settings("memory", shards=1, open_slots=slots, consistency="local"))
    await router.start()
    try:
        return await _measure(Shard(router), users, slots, rounds)
    finally:
        await router.stop()


async def _measure(shard: Shard, users: list[str], slots: int, rounds: int) -> list[Line]:
    # The first user has costs of a first use: threads, pages of the libraries.
    await shard.ask(users[0])
    await shard.evict(users[0])
    none = await shard.held(0)
    opened = []
    for count in (slots // 2, slots):
        await _all(users[:count], shard.ask)
        opened.append(await shard.held(count))
    await _all(users[:slots], shard.evict)
    few_warm = await shard.held(0)
    ends = []
    for _ in range(rounds):
        await _all(users, shard.ask)
        # Four at a time leave up to three places empty at the end of a round: one at a time fills them all.
        for user_id in users[-slots:]:
            await shard.ask(user_id)
        ends.append(await shard.held(slots))
    await _all(users[-2 * slots :], shard.evict)
    all_warm = await shard.held(0)
    return [
        *_sizes(none, opened, few_warm, all_warm, slots, len(users)),
        *_flat(ends, slots, len(users)),
    ]


def _sizes(none: Held, opened: list[Held], few_warm: Held, all_warm: Held, slots: int, count: int) -> list[Line]:
    half, full = opened
    a_slot = (full.pss_mib - none.pss_mib) / slots
    later = (full.pss_mib - half.pss_mib) / (slots - slots // 2)
    descriptors = (full.descriptors - none.descriptors) / slots
    threads = (full.threads - none.threads) / slots
    a_user = (all_warm.pss_mib - few_warm.pss_mib) / (count - slots)
    return [
        Line(
            "memory",
            f"an open slot of {RECORDS} records, over {slots} of them",
            f"{a_slot:.2f} MiB, {descriptors:.1f} descriptors, {threads:.1f} threads",
            note=f"the second half {later:.2f} MiB each; open: none {none}; {slots // 2} {half}; {slots} {full}",
        ),
        Line(
            "memory",
            "a user who is warm and not open",
            f"{max(a_user, 0.0) * 1024:.1f} KiB",
            note=f"no slot open; {slots} warm: {few_warm.pss_mib:.0f} MiB; {count:,} warm: {all_warm.pss_mib:.0f} MiB",
        ),
    ]


def _flat(ends: list[Held], slots: int, count: int) -> list[Line]:
    first, last = ends[0], ends[-1]
    what = f"{count:,} users through {slots} slots, after round {len(ends)} against the start of round two"
    pairs = [
        ("memory", f"{last.pss_mib:.0f} MiB", f"{first.pss_mib:.0f} MiB", last.pss_mib / first.pss_mib),
        ("descriptors", f"{last.descriptors}", f"{first.descriptors}", last.descriptors / first.descriptors),
        ("threads", f"{last.threads}", f"{first.threads}", last.threads / first.threads),
    ]
    told = "after each round, MiB: " + ", ".join(f"{end.pss_mib:.0f}" for end in ends)
    return [
        Line("memory", f"{what}: {name}", ours, theirs, ratio, f"<= {FLAT}", ratio <= FLAT, told * (name == "memory"))
        for name, ours, theirs, ratio in pairs
    ]
