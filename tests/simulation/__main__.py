"""Replay one seed, or run many: ``python -m tests.simulation SEED [LAST]``.

One seed prints its trace and its violation. A range prints the seeds that broke a promise, and how many ran.
"""

from __future__ import annotations

import sys
from typing import Final

from tests.simulation.world import Violation, World

_REPORT_EVERY: Final = 1000


def main(seed: int) -> int:
    """Run a world and print its trace; return 1 if a promise was broken."""
    world = World(seed)
    try:
        world.run()
    except Violation as violation:
        print("\n".join(world.trace))
        print(f"\n{violation}")
        return 1
    finally:
        print(world.plan, f"{world.steps} steps")
    print("\n".join(world.trace))
    print(f"\nseed {seed}: every promise was kept ({world.digest()})")
    return 0


def run_range(first: int, last: int) -> int:
    """Run the worlds ``first`` to ``last``; return 1 if a promise was broken in one."""
    broken = 0
    for seed in range(first, last + 1):
        try:
            World(seed).run()
        except Violation as violation:
            broken += 1
            print(f"seed {seed}: {violation}", flush=True)
        if (seed - first + 1) % _REPORT_EVERY == 0:
            print(f"{seed - first + 1} worlds ran, {broken} broke a promise", flush=True)
    print(f"worlds {first} to {last} ran, {broken} broke a promise")
    return int(broken > 0)


if __name__ == "__main__":
    seeds = sys.argv[1:]
    if len(seeds) not in (1, 2) or not all(seed.isdigit() for seed in seeds):
        sys.exit("Say which seed, or the first and the last one: python -m tests.simulation SEED [LAST]")
    sys.exit(main(int(seeds[0])) if len(seeds) == 1 else run_range(int(seeds[0]), int(seeds[1])))
