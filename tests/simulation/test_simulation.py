"""Thousands of seeded worlds: many instances on one bucket, every kind of fault, and no acknowledged write is lost.

A failure names its seed; ``uv run python -m tests.simulation SEED`` replays it with its trace.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.world import World

BLOCK = 100


def live_through(first: int, count: int, **changes: Any) -> None:
    """Run worlds; the first broken promise raises, with its seed."""
    for seed in range(first, first + count):
        World(seed, **changes).run()


@pytest.mark.parametrize("first", range(0, 2_000, BLOCK))
def test_every_promise_is_kept(first: int) -> None:
    """In each of a hundred worlds, every promise holds at every step and at the end."""
    live_through(first, BLOCK)


@pytest.mark.parametrize("first", range(0, 500, BLOCK))
def test_what_the_store_refused_never_happens(first: int) -> None:
    """In each of a hundred worlds whose store refuses instances for a while, every promise holds."""
    live_through(first, BLOCK, revocations=4)


def test_worlds_have_erasures() -> None:
    """What was deleted is erased in many worlds; the record of the log checks each such commit."""
    worlds = [World(seed) for seed in range(BLOCK)]
    for world in worlds:
        world.run()
    assert sum(world.ledger.erasures > 0 for world in worlds) > BLOCK // 25


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(2_000, 52_000, 10 * BLOCK))
def test_every_promise_is_kept_in_many_worlds(first: int) -> None:
    """In each of a thousand worlds, every promise holds at every step and at the end."""
    live_through(first, 10 * BLOCK)
