"""The life of a fleet: sessions of users, with rates by a Zipf law and the hour, and a check of every answer.

Under *random* routing each request goes to any instance; under *session* routing those of one session go to the same
one, as with a load balancer's cookie; under *user* routing all of a user's requests do, by a hash of the user id; under
*jar* routing those of a hash bucket of users do, whose cookie jar leads to one instance until that one is replaced. A
strong read must show every write that was acknowledged before it was sent, on any instance; at the end each user who
wrote is read from the store.
"""

from __future__ import annotations

import asyncio
import math
import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal, cast

import msgspec
import numpy as np

from tests.bench.fleet.far import FarBucket, Latencies, Shelves
from tests.bench.fleet.loop import SCRATCH, FleetLoop
from tests.bench.fleet.paged import (
    BYTE_SCALE,
    PAGE_BYTES,
    WRITE,
    PagedReplica,
    PagedStores,
    decode_seen,
    scaled_bounds,
)
from tests.bench.fleet.week import LoneWriter
from tests.simulation.network import VirtualSources
from vectorpool import names
from vectorpool.commands import CountRecords
from vectorpool.commitlog.log import CommitLog
from vectorpool.errors import VectorpoolError
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket, OperationCount
from vectorpool.pool import pool as pool_module
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings

Routing = Literal["random", "session", "user", "jar"]
DAY_S = 86_400.0
# The interval of the search for idle vectorstores. Twice a second, as in a pool, would make a simulated day slow.
TICK_S = 15.0
_PASTS = (9, 13, 18, 22, 27, 31, 36, 44)
_READ = CountRecords(collection="notes")


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The simulated fleet. Numbers of users and of instances are those that run; ``of_users`` is the whole population.

    ``slots`` and ``warm_bytes`` (as they would be, not scaled) are an instance's. A user's popularity is the mean
    over the ranks of the population that one simulated user stands for.
    """

    users: int
    of_users: int
    instances: int
    routing: Routing
    slots: int
    warm_bytes: int
    measured_s: float
    warm_up_s: float
    requests_a_day: float = 20.0
    reads: float = 0.9
    session_requests: float = 10.0
    session_gap_s: float = 20.0
    zipf: float = 0.8
    swing: float = 0.8
    store_bytes: int = 1024**2
    jars: int = 1024
    jar_life_s: float = 3600.0
    latencies: Latencies = Latencies()
    seed: int = 1


class Figures(msgspec.Struct):
    """The counts of the measured time: requests of users, events of the instances, requests to the store."""

    counts: Counter[str]
    store: dict[str, OperationCount]
    read_ms: dict[str, list[float]]


def popularity(users: int, of_users: int, zipf: float) -> np.ndarray:
    """Return float64[users]: each simulated user's share of all requests. Each stands for equally many ranks."""
    ranks = np.arange(1, of_users + 1, dtype=np.float64) ** -zipf
    ends = np.linspace(0, of_users, users + 1).round().astype(int)
    sums = np.concatenate([[0.0], np.cumsum(ranks)])[ends]
    return np.diff(sums) / sums[-1]


def hour_factor(time_s: float, swing: float) -> float:
    """Return the load at a time of day, 1 in the mean; the day begins at its mean and is busiest after six hours."""
    return 1 + swing * math.sin(2 * math.pi * time_s / DAY_S)


class Life:
    """One run. ``run`` once."""

    def __init__(self, fleet: Fleet, settings: Settings) -> None:
        self._fleet = fleet
        self._settings = settings
        self._dice = random.Random(fleet.seed)
        self._loop = FleetLoop(fleet.seed)
        self.sources = VirtualSources(self._loop, random.Random(self._dice.getrandbits(64)))
        self._scratch = Path()
        self._jars: dict[int, tuple[int, float]] = {}
        self._pools: list[tuple[pool_module.Pool, PagedStores, MeteredBucket]] = []
        self._written: Counter[int] = Counter()
        self._offered: Counter[int] = Counter()
        self._counts: Counter[str] = Counter()
        self._read_ms: dict[str, list[float]] = {}
        self._before: Counter[str] = Counter()
        self._before_store: dict[str, int] = {}

    def run(self) -> Figures:
        """Run the warm-up and the measured time, check every user who wrote, and return the figures."""
        tick_s = pool_module._TICK_S
        pool_module._TICK_S = TICK_S  # type: ignore[misc]
        self._scratch = Path(tempfile.mkdtemp(prefix="vectorpool-fleet-", dir=SCRATCH))
        try:
            with scaled_bounds():
                return self._loop.run_until_complete(self._live())
        finally:
            pool_module._TICK_S = tick_s  # type: ignore[misc]
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._loop.close()

    async def _live(self) -> Figures:
        fleet = self._fleet
        pasts = await self._make_pasts(max(fleet.store_bytes // BYTE_SCALE // PAGE_BYTES, 1))
        self._shelves = Shelves(self.sources, pasts, names.log_prefix)
        for at in range(fleet.instances):
            await self._start(at)
        sessions = asyncio.create_task(self._sessions())
        await self.sources.sleep(fleet.warm_up_s)
        before, store_before = self._all_counts(), self._all_store()
        self._read_ms = {}
        await self.sources.sleep(fleet.measured_s)
        counts = self._all_counts()
        counts.subtract(before)
        store = {
            name: OperationCount(
                requests=count.requests - store_before[name].requests,
                bytes_sent=(count.bytes_sent - store_before[name].bytes_sent) * BYTE_SCALE,
                bytes_received=(count.bytes_received - store_before[name].bytes_received) * BYTE_SCALE,
            )
            for name, count in self._all_store().items()
        }
        figures = Figures(counts, store, self._read_ms)
        await sessions
        for pool, _, _ in self._pools:
            report = await pool.drain(60.0)
            assert not report.uncommitted and not report.unfinished, report
        await self._judge()
        return figures

    # --- Before ------------------------------------------------------------------------------------

    async def _make_pasts(self, pages: int) -> list[dict[str, bytes]]:
        """Return logs of several ages, made by the real code with its compactions: object names and bytes."""
        bucket = MemoryBucket(sources=self.sources)
        settings = msgspec.structs.replace(self._settings, replica_dir=str(self._scratch))
        writer = LoneWriter(bucket, self._scratch / "past", pages, settings, self.sources)
        await writer.begin()
        prefix, pasts = names.log_prefix("0"), []
        for _ in range(1, _PASTS[-1]):
            if await writer.write() in _PASTS:
                found = await bucket.list_objects(prefix, limit=1000)
                pasts.append({info.key.removeprefix(prefix): (await bucket.get(info.key)).data for info in found})
        return pasts

    async def _start(self, at: int) -> None:
        fleet = self._fleet
        settings = msgspec.structs.replace(
            self._settings,
            replica_dir=str(self._scratch / f"i{at}"),
            open_slots=fleet.slots,
            warm_bytes=fleet.warm_bytes // BYTE_SCALE,
            # The cost of rounds over all users is computed from that of one user; see ``week``.
            verify_interval_s=0.0,
            # Looks for deletions cost by shard, not by user: see docs/cost.md.
            deletion_bound_s=0.0,
        )
        dice = random.Random(self._dice.getrandbits(64))
        bucket = MeteredBucket(FarBucket(self._shelves, self.sources, fleet.latencies, dice, BYTE_SCALE))
        stores = PagedStores(bucket, settings, self.sources)
        pool = pool_module.Pool(cast(StoreFactory, stores), settings, self.sources)
        await pool.start()
        self._pools.append((pool, stores, bucket))

    # --- Users -------------------------------------------------------------------------------------

    async def _sessions(self) -> None:
        """Begin sessions at random times until the measured time is over; wait for the last of them."""
        fleet, dice = self._fleet, self._dice
        ends = np.cumsum(popularity(fleet.users, fleet.of_users, fleet.zipf))
        most_per_s = fleet.users * fleet.requests_a_day / fleet.session_requests / DAY_S * (1 + fleet.swing)
        end_s = self._loop.time() + fleet.warm_up_s + fleet.measured_s
        under_way: set[asyncio.Task[None]] = set()
        while True:
            await self.sources.sleep(dice.expovariate(most_per_s))
            now_s = self._loop.time()
            if now_s >= end_s:
                break
            if dice.random() * (1 + fleet.swing) >= hour_factor(now_s, fleet.swing):
                continue
            user = int(np.searchsorted(ends, dice.random() * ends[-1]))
            task = asyncio.create_task(self._session(min(user, fleet.users - 1), end_s))
            under_way.add(task)
            # A failed one stays, so that its error is raised below.
            task.add_done_callback(lambda done: None if done.exception() else under_way.discard(done))
        await asyncio.gather(*under_way)

    async def _session(self, user: int, end_s: float) -> None:
        fleet, dice = self._fleet, self._dice
        anywhere = int(dice.random() * fleet.instances)
        while self._loop.time() < end_s:
            if fleet.routing == "random":
                anywhere = int(dice.random() * fleet.instances)
            elif fleet.routing == "user":
                anywhere = user % fleet.instances
            elif fleet.routing == "jar":
                anywhere = self._of_jar(user % fleet.jars)
            await self._request(user, anywhere)
            if dice.random() < 1 / fleet.session_requests:
                return
            await self.sources.sleep(dice.expovariate(1 / fleet.session_gap_s))

    def _of_jar(self, jar: int) -> int:
        """Return the instance that a jar's cookie leads to: any one, until the platform replaces that instance."""
        at, until_s = self._jars.get(jar, (0, -1.0))
        if self._loop.time() >= until_s:
            at = int(self._dice.random() * self._fleet.instances)
            self._jars[jar] = at, self._loop.time() + self._dice.expovariate(1 / self._fleet.jar_life_s)
        return at

    async def _request(self, user: int, at: int) -> None:
        pool, stores, _ = self._pools[at]
        is_read = self._dice.random() < self._fleet.reads
        try:
            await (self._read(pool, stores, user) if is_read else self._write(pool, user))
        except VectorpoolError as error:
            self._counts[f"refused: {error.code}"] += 1

    async def _read(self, pool: pool_module.Pool, stores: PagedStores, user: int) -> None:
        key, began_s = str(user), self._loop.time()
        least = self._past_writes(user) + self._written[user]
        was_open = pool.residency(key).state in ("ready", "committing")
        stores.hydrated.pop(key, None)
        stores.patched.discard(key)
        answer = await pool.execute(key, _READ)
        seen = decode_seen(answer.body).writes
        assert least <= seen <= self._past_writes(user) + self._offered[user], (user, least, seen)
        was_warm = stores.hydrated.get(key)
        tier = "behind" if was_open else "warm" if was_warm else "cold"
        if was_warm is None:
            tier = "patched" if key in stores.patched else "open"
        self._counts[f"reads: {tier}"] += 1
        self._read_ms.setdefault(tier, []).append((self._loop.time() - began_s) * 1000)

    async def _write(self, pool: pool_module.Pool, user: int) -> None:
        self._offered[user] += 1
        await pool.execute(str(user), WRITE)
        self._written[user] += 1
        self._counts["writes"] += 1

    def _past_writes(self, user: int) -> int:
        return _PASTS[user % len(_PASTS)] - 1

    # --- After -------------------------------------------------------------------------------------

    def _all_counts(self) -> Counter[str]:
        return sum((stores.counts for _, stores, _ in self._pools), Counter(self._counts))

    def _all_store(self) -> dict[str, OperationCount]:
        totals: dict[str, OperationCount] = {}
        for _, _, bucket in self._pools:
            for name, count in bucket.counts().items():
                total = totals.setdefault(name, OperationCount())
                total.requests += count.requests
                total.bytes_sent += count.bytes_sent
                total.bytes_received += count.bytes_received
        return totals

    async def _judge(self) -> None:
        """Hydrate every user who wrote from the store alone, and compare the number of writes."""
        for user, offered in self._offered.items():
            directory = self._scratch / "judge"
            log = CommitLog(await self._shelves.shelf(names.log_prefix(str(user))), str(user), settings=self._settings)
            hydrated = await log.hydrate(directory)
            assert hydrated is not None
            seen = PagedReplica(directory, hydrated.position, hydrated.image, self.sources).writes
            assert 0 <= seen - self._past_writes(user) - self._written[user] <= offered - self._written[user], user
            shutil.rmtree(directory)
