"""The loop of the simulation: time that jumps, domains that freeze and die, and the same steps for the same seed."""

from __future__ import annotations

import asyncio

import pytest

from tests.simulation.loop import Deadlock, VirtualLoop
from tests.simulation.world import World


def test_time_jumps_to_the_next_timer() -> None:
    """A sleep of a day takes a day of virtual time and no real time."""
    loop = VirtualLoop(1)
    loop.run_until_complete(asyncio.sleep(86_400))
    assert loop.time() == 86_400
    loop.close()


def test_a_frozen_domain_stands_still_while_others_go_on() -> None:
    """Tasks of a frozen domain run when it thaws, those of others when their time comes."""
    loop = VirtualLoop(1)
    domain = loop.new_domain("frozen")
    domain.frozen_until_s = 100
    seen: list[tuple[str, float]] = []

    async def wake(name: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        seen.append((name, loop.time()))

    async def both() -> None:
        slow = loop.create_task(wake("frozen", 1), context=domain.context)
        await asyncio.gather(slow, wake("free", 2))

    loop.run_until_complete(both())
    assert seen == [("free", 2), ("frozen", 101)]
    loop.close()


def test_a_dead_domain_never_runs_again() -> None:
    """A task that waits only for a dead domain gets Deadlock."""
    loop = VirtualLoop(1)
    domain = loop.new_domain("dead")
    domain.is_dead = True

    async def wait() -> None:
        await loop.create_task(asyncio.sleep(1), context=domain.context)

    with pytest.raises(Deadlock):
        loop.run_until_complete(wait())
    loop.release()
    for task in asyncio.all_tasks(loop):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    loop.close()


def test_a_thread_is_a_step_of_the_domain_that_started_it() -> None:
    """A thread's result or error reaches its caller."""
    loop = VirtualLoop(1)

    def fail() -> None:
        raise ValueError("no")

    async def work() -> int:
        with pytest.raises(ValueError, match="no"):
            await asyncio.to_thread(fail)
        return await asyncio.to_thread(sum, [1, 2])

    assert loop.run_until_complete(work()) == 3
    loop.close()


@pytest.mark.parametrize("seed", [3, 17, 40, 99])
def test_the_same_seed_is_the_same_history(seed: int) -> None:
    """Two worlds of one seed take the same steps and write the same trace; another seed writes another."""
    first, second, other = World(seed).run(), World(seed).run(), World(seed + 1).run()
    assert first.trace == second.trace
    assert first.digest() == second.digest() != other.digest()
