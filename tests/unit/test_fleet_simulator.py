"""The fleet simulator behind docs/cost.md: it repeats, it is scaled as it says, and it notices wrong answers."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.bench.cost import Inputs, by_class, outcome, report, usd_of
from tests.bench.fleet.life import DAY_S, Fleet, Life, hour_factor, popularity
from tests.bench.fleet.week import live_weeks
from vectorpool.configuration import describe_settings
from vectorpool.settings import Settings

SMALL = Fleet(
    users=30,
    of_users=3000,
    instances=4,
    routing="random",
    slots=4,
    warm_bytes=64 * 1024**2,
    measured_s=1200,
    warm_up_s=300,
    requests_a_day=400,
    reads=0.5,
    session_gap_s=5,
    store_bytes=128 * 1024,
)


def _but(**changes: object) -> Fleet:
    return msgspec.structs.replace(SMALL, **changes)


def test_a_seed_repeats_and_another_differs():
    """The same seed gives the same figures to the last byte, another seed others."""
    first, again, other = (Life(_but(seed=seed), Settings()).run() for seed in (3, 3, 4))
    assert first == again
    assert first.counts != other.counts


def test_a_stale_read_is_noticed():
    """Instances that never ask for newer commits give answers that the simulator does not accept."""
    with pytest.raises(AssertionError):
        Life(SMALL, Settings(consistency="local")).run()


def test_only_instances_that_share_users_lose_races():
    """Routing by user loses no race and finds nothing to take in; random routing of busy users does both."""
    by_user, at_random = (Life(_but(routing=routing), Settings()).run().counts for routing in ("user", "random"))
    assert by_user["lost"] == by_user["reads: behind"] == by_user["reads: patched"] == 0 < by_user["writes"]
    assert at_random["lost"] > 0 and at_random["reads: patched"] > 0


def test_requests_follow_from_tiers():
    """Without writes, each cold read lists once, each open one asks once, and nothing is put."""
    figures = Life(_but(reads=1.0, routing="user"), Settings()).run()
    counts, store = figures.counts, figures.store
    reads = {tier: counts[f"reads: {tier}"] for tier in ("open", "warm", "cold")}
    assert reads["open"] > 0 and reads["cold"] + reads["warm"] > 0
    # Readers who come while a vectorstore is being opened share what that asks.
    assert 0 < store["list_objects"].requests <= reads["warm"] + reads["cold"]
    assert 0 < store["head"].requests <= reads["open"]
    assert store["create"].requests == store["put"].requests == 0


def test_a_sample_keeps_the_law():
    """Shares add up to one, fall from the first user on, and those of 100 of 10,000 are sums of the 10,000's."""
    many, few = popularity(10_000, 10_000, 0.8), popularity(100, 10_000, 0.8)
    assert math.isclose(few.sum(), 1) and (np.diff(few) < 0).all()
    assert np.allclose(many.reshape(100, 100).sum(axis=1), few)


def test_a_day_is_as_busy_as_its_mean():
    """Hours differ by the swing, and their mean is one."""
    hours = [hour_factor(at * DAY_S / 240, 0.8) for at in range(240)]
    assert math.isclose(sum(hours) / 240, 1) and math.isclose(max(hours), 1.8)


def test_a_week_of_upkeep_buries_its_commits():
    """A verification and a collection put a grave for each commit of a week and what was found, and keep the state."""
    week = live_weeks(Settings(), 32, 14, 1)
    assert week.requests["put"] == 14 + 1
    assert week.requests["create"] >= 1 and week.requests["get"] >= 14
    assert week.live_bytes == 32 * 4096 * 4 < week.stored_bytes < 4 * week.live_bytes


def test_the_bill_adds_up():
    """A month's requests are the simulated ones for all users, and each class has its price."""
    inputs = Inputs(users=3000, instances=4, requests_a_day=400, reads=0.5)
    assert usd_of(inputs, by_class([("create", 1000.0), ("head", 1000.0), ("delete", 1e9)])) == pytest.approx(0.0054)
    week = live_weeks(Settings(), 32, 14, 1)
    figures = Life(SMALL, Settings()).run()
    found = outcome(inputs, "random", figures, Settings(), week)
    puts = figures.store["create"].requests / found.requests
    assert found.usd["PUT"] == pytest.approx(puts * 3000 * 400 * 365 / 12 * 0.005 / 1000)
    assert sum(found.shares.values()) == pytest.approx(1)
    assert f"**{sum(found.usd.values()):,.0f}**" in report(inputs, [found])


def test_the_page_names_flags_that_exist():
    """Every flag on docs/cost.md is one of the simulation or of ``serve``, and the main inputs are there."""
    page = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    own = {"--" + field.name.replace("_", "-") for field in msgspec.structs.fields(Inputs)}
    assert named <= own | {"--routing", "--latency", "--measure"} | {row.flag for row in describe_settings()}
    assert {"--users", "--instances", "--requests-a-day", "--reads", "--store-mib", "--slots"} <= named & own
