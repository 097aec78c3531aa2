"""Replay one seed: ``python -m tests.simulation SEED`` prints its trace and its violations."""

from __future__ import annotations

import sys

from tests.simulation.world import Violation, World


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


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit("Say which seed: python -m tests.simulation SEED")
    sys.exit(main(int(sys.argv[1])))
