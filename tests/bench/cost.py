"""The monthly cost of object storage for a million users on a hundred instances: a simulation over the real code.

``python -m tests.bench.cost --help`` lists the parameters; docs/cost.md explains the figures. The pools, the
vectorstores and the commit logs are the product's, time is virtual, the store is in memory, and files of Chroma's size
stand for Chroma's (``tests.bench.fleet``). Not in it: compute, traffic that leaves the region, failed requests.

Scale: under *user* routing instances do not affect each other, so one of them is simulated, with one user in ``scale``
of its share and slots and warm bytes divided by ``scale``. Under the other routings all instances are simulated,
with users, slots and bytes divided by ``wide_scale``. A second run at another scale shows the effect of the scale.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable
from functools import partial

import msgspec

from tests.bench.fleet.far import Latencies, Latency, measure
from tests.bench.fleet.life import DAY_S, Figures, Fleet, Life, Routing
from tests.bench.fleet.paged import BYTE_SCALE, PAGE_BYTES
from tests.bench.fleet.week import WEEK_S, Week, live_weeks
from tests.bench.ground import Line, Place
from vectorpool.configuration import load_settings
from vectorpool.objects.stores import open_bucket
from vectorpool.pool.upkeep import _LOOKS_PER_INTERVAL
from vectorpool.settings import Settings

MONTH_S = DAY_S * 365 / 12
GIB = 1024**3
CLASSES = {
    "create": "PUT",
    "put": "PUT",
    "copy": "PUT",
    "list_objects": "LIST",
    "list_prefixes": "LIST",
    "get": "GET",
    "get_range": "GET",
    "head": "HEAD",
    "delete": "DELETE",
}
# Keys in one listing of S3, hence users in one request of a round.
PAGE = 1000


class Inputs(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs: the population, its habits, the instances, the prices in USD. All can be changed.

    The prices are the public ones of S3 Standard in us-east-1 as of November 2026, in the same region as the instances:
    a thousand PUT or LIST, a thousand GET or HEAD, a GB-month; deletions and traffic within the region cost nothing.
    ``jars`` are the cookie jars of *jar* routing; one leads to the same instance for ``jar_life_s`` in the mean.
    ``upkeep_instances`` are those that verify logs and remove garbage; 0 is all: ``verify_interval_s`` is 0 on none.
    """

    users: int = 1_000_000
    instances: int = 100
    shards: int = 2
    requests_a_day: float = 20.0
    reads: float = 0.9
    session_requests: float = 10.0
    session_gap_s: float = 20.0
    zipf: float = 0.8
    jars: int = 1024
    jar_life_s: float = 3600.0
    store_mib: float = 1.0
    slots: int = 200
    warm_gib: float = 4.0
    usd_put: float = 0.005
    usd_get: float = 0.0004
    usd_gb_month: float = 0.023
    upkeep_instances: int = 0
    hours: float = 24.0
    warm_up_hours: float = 8.0
    wide_minutes: float = 6.0
    wide_warm_up_minutes: float = 10.0
    scale: int = 10
    wide_scale: int = 100
    seed: int = 1
    latencies: Latencies = Latencies()

    def fleet(self, routing: Routing) -> Fleet:
        """Return the fleet to simulate for a routing."""
        is_narrow = routing == "user"
        scale = self.scale if is_narrow else self.wide_scale
        slots = self.slots // scale
        if slots < 2 or (self.users // scale) < self.instances:
            raise SystemExit(
                f"A scale of {scale} leaves {slots} slots an instance and too few users. Take a smaller one."
            )
        return Fleet(
            users=self.users // scale // (self.instances if is_narrow else 1),
            of_users=self.users,
            instances=1 if is_narrow else self.instances,
            routing=routing,
            slots=slots,
            warm_bytes=int(self.warm_gib * GIB / scale),
            measured_s=self.hours * 3600 if is_narrow else self.wide_minutes * 60,
            warm_up_s=self.warm_up_hours * 3600 if is_narrow else self.wide_warm_up_minutes * 60,
            requests_a_day=self.requests_a_day,
            reads=self.reads,
            session_requests=self.session_requests,
            session_gap_s=self.session_gap_s,
            zipf=self.zipf,
            jars=self.jars,
            jar_life_s=self.jar_life_s,
            store_bytes=int(self.store_mib * 1024**2),
            latencies=self.latencies,
            seed=self.seed,
        )


class Outcome(msgspec.Struct):
    """The result of a routing. Shares are of reads, ``per_request`` is by user request, USD are a month of all."""

    routing: Routing
    requests: int
    writes: int
    shares: dict[str, float]
    p50_ms: dict[str, float]
    per_request: dict[str, float]
    conflicts: float
    appends: float
    compacted: float
    refused: int
    usd: dict[str, float]


def by_class(requests: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the number of requests by the store's class."""
    found = dict.fromkeys(("PUT", "LIST", "GET", "HEAD", "DELETE"), 0.0)
    for name, count in requests:
        found[CLASSES[name]] += count
    return found


def usd_of(inputs: Inputs, requests: dict[str, float]) -> float:
    """Return the price of requests, in USD."""
    dear, cheap = requests["PUT"] + requests["LIST"], requests["GET"] + requests["HEAD"]
    return (dear * inputs.usd_put + cheap * inputs.usd_get) / 1000


def upkeep_usd(inputs: Inputs, settings: Settings, week: Week) -> dict[str, float]:
    """Return the monthly cost of background work: the verifications, and the requests that find users which are due.

    Each instance lists the users several times an interval, and asks about each user once. The instance that finds a
    user due verifies the log, so its request is among those of the verification.
    """
    intervals = MONTH_S / settings.verify_interval_s
    instances = inputs.upkeep_instances or inputs.instances
    turns = inputs.users * intervals
    listings = intervals * _LOOKS_PER_INTERVAL * instances * inputs.shards * inputs.users / PAGE
    asked = {"get": turns * (instances - 1), "list_prefixes": listings}
    return {
        "verify, remove garbage": turns * usd_of(inputs, by_class(week.requests.items())),
        "find logs that are due": usd_of(inputs, by_class(asked.items())),
    }


def outcome(inputs: Inputs, routing: Routing, figures: Figures, settings: Settings, week: Week) -> Outcome:
    """Return the figures of a simulation, extrapolated to the whole population and a month."""
    counts = figures.counts
    tiers = {tier: counts[f"reads: {tier}"] for tier in ("open", "patched", "behind", "warm", "cold")}
    reads, writes = sum(tiers.values()), counts["writes"]
    assert reads and writes, "nothing was simulated"
    # Only answered requests are counted; refused ones are not part of a request's cost.
    requests = reads + writes
    store = by_class((name, count.requests) for name, count in figures.store.items())
    monthly = inputs.users * inputs.requests_a_day * MONTH_S / DAY_S
    per_request = {name: count / requests for name, count in store.items()}
    usd = {name: usd_of(inputs, dict.fromkeys(store, 0.0) | {name: per_request[name] * monthly}) for name in store}
    usd |= upkeep_usd(inputs, settings, week)
    usd["storage"] = inputs.users * week.stored_bytes / 1e9 * inputs.usd_gb_month
    return Outcome(
        routing=routing,
        requests=requests,
        writes=writes,
        shares={tier: count / reads for tier, count in tiers.items()},
        p50_ms={tier: sorted(took)[len(took) // 2] for tier, took in figures.read_ms.items()},
        per_request=per_request,
        conflicts=counts["lost"] / writes,
        appends=counts["appends"] / writes,
        compacted=counts["compacted bytes"] * BYTE_SCALE / max(sum(c.bytes_sent for c in figures.store.values()), 1),
        refused=sum(count for name, count in counts.items() if name.startswith("refused")),
        usd=usd,
    )


def simulate(inputs: Inputs, routings: list[Routing]) -> list[Outcome]:
    """Return the outcome of each routing. Fails if an answer was wrong or a write was lost."""
    settings = Settings()
    writes = max(round(inputs.requests_a_day * (1 - inputs.reads) * WEEK_S / DAY_S), 1)
    pages = max(int(inputs.store_mib * 1024**2) // BYTE_SCALE // PAGE_BYTES, 1)
    week = live_weeks(settings, pages, writes, inputs.seed)
    return [
        outcome(inputs, routing, Life(inputs.fleet(routing), settings).run(), settings, week) for routing in routings
    ]


def report(inputs: Inputs, outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows: list[tuple[str, list[str]]] = [("requests of users simulated", [f"{o.requests:,}" for o in outcomes])]
    told = {
        "open": "open",
        "patched": "open, patched with other instances' commits",
        "behind": "open, built anew for other instances' commits",
        "warm": "warm",
        "cold": "cold",
    }
    for tier, name in told.items():
        shown = [
            f"{o.shares[tier]:.1%}" + (f" ({o.p50_ms[tier]:.0f} ms)" if tier in o.p50_ms else "") for o in outcomes
        ]
        rows.append((f"reads: {name}", shown))
    for name in ("PUT", "LIST", "GET", "HEAD", "DELETE"):
        rows.append((f"{name} a user's request", [f"{o.per_request[name]:.3f}" for o in outcomes]))
    rows.append(("lost races a write", [f"{o.conflicts:.3f}" for o in outcomes]))
    rows.append(("requests refused", [f"{o.refused}" for o in outcomes]))
    for name in outcomes[0].usd:
        rows.append((f"USD a month: {name}", [f"{o.usd[name]:,.0f}" for o in outcomes]))
    rows.append(("**USD a month**", [f"**{sum(o.usd.values()):,.0f}**" for o in outcomes]))
    rows.append(("USD a month for 1,000 users", [f"{1000 * sum(o.usd.values()) / inputs.users:.2f}" for o in outcomes]))
    lines = [
        "| | " + " | ".join(f"routing by {o.routing}" if o.routing != "random" else "random routing" for o in outcomes)
    ]
    lines = [lines[0] + " |", "|---" * (len(outcomes) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows)])


async def run(place: Place) -> list[Line]:
    """Simulate routing by user and at random, each at two scales. The loop is virtual, so it runs in a thread."""
    inputs = Inputs(hours=6, warm_up_hours=2, wide_minutes=3, wide_warm_up_minutes=5) if place.quick else Inputs()
    ours, theirs = await asyncio.to_thread(partial(simulate, inputs, ["user", "random"]))
    other = msgspec.structs.replace(inputs, scale=2 * inputs.scale, wide_scale=inputs.wide_scale // 2)
    again = await asyncio.to_thread(partial(simulate, other, ["user", "random"]))
    where = f"{inputs.users:,} users on {inputs.instances} instances, simulated"
    told = [
        f"open {o.shares['open']:.0%}, warm {o.shares['warm']:.0%}, cold {o.shares['cold']:.0%}" for o in (ours, theirs)
    ]
    asked = [", ".join(f"{n} {o.per_request[n]:.2f}" for n in ("PUT", "LIST", "GET", "HEAD")) for o in (ours, theirs)]
    usd = [sum(o.usd.values()) for o in (ours, theirs)]
    pairs = list(zip((ours, theirs), again, strict=True))
    drift = [max(abs(one.shares[tier] - two.shares[tier]) for tier in one.shares) for one, two in pairs]
    note = "ours: routing by user; against: random routing"
    conflicts = f"{ours.conflicts:.4f}", f"{theirs.conflicts:.4f}"
    ratio = ours.shares["open"] / theirs.shares["open"] if theirs.shares["open"] else None
    return [
        Line("cost", f"{where}: reads by tier", told[0], told[1], ratio, note=note),
        Line("cost", f"{where}: requests to the store for a user's", asked[0], asked[1], note=note),
        Line(
            "cost",
            f"{where}: lost races a write",
            *conflicts,
            note=f"{note}; {ours.writes:,} and {theirs.writes:,} writes simulated",
        ),
        Line("cost", f"{where}: USD a month for S3", f"{usd[0]:,.0f}", f"{usd[1]:,.0f}", usd[0] / usd[1], note=note),
        Line(
            "cost",
            f"{where}: largest change of a tier's share at another scale",
            f"{drift[0]:.1%}",
            f"{drift[1]:.1%}",
            target="<= 5 %",
            met=max(drift) <= 0.05,
            note=f"{note}; 1 in {inputs.scale} and 1 in {other.scale}, 1 in {inputs.wide_scale} and 1 in "
            f"{other.wide_scale} users",
        ),
    ]


async def _measured(store: str) -> Latencies:
    bucket = open_bucket(load_settings({"store": store}))
    try:
        return await measure(bucket, "latencies/")
    finally:
        await bucket.close()


def main() -> None:
    """Parse the inputs, simulate, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cost", description=__doc__)
    parser.add_argument(
        "--routing", nargs="+", choices=["user", "jar", "session", "random"], default=["user", "random"]
    )
    parser.add_argument("--measure", metavar="STORE", help="take latencies from this store, such as s3://bucket")
    parser.add_argument("--latency", nargs="+", default=[], metavar="CLASS=P50/P99", help="get, head, put, list; ms")
    for field in msgspec.structs.fields(Inputs):
        if field.name != "latencies":
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(flag, type=type(field.default), default=field.default, help=f"default {field.default}")
    options = vars(parser.parse_args())
    routings, store, given = (options.pop(name) for name in ("routing", "measure", "latency"))
    latencies = asyncio.run(_measured(store)) if store else Latencies()
    for name, _, numbers in (each.partition("=") for each in given):
        p50_ms, _, p99_ms = numbers.partition("/")
        latencies = msgspec.structs.replace(latencies, **{name: Latency(float(p50_ms), float(p99_ms))})
    inputs = Inputs(**options, latencies=latencies)
    told = ((name, getattr(latencies, name)) for name in ("get", "head", "put", "list"))
    print("latencies: " + ", ".join(f"{name} {each.p50_ms:.1f} / {each.p99_ms:.1f} ms" for name, each in told))
    print(report(inputs, simulate(inputs, routings)))


if __name__ == "__main__":
    main()
