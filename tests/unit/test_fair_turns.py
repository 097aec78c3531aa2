"""Turns of users at documents: who has many waits no one out, and a place is never lost."""

from __future__ import annotations

import asyncio

import pytest

from vectorpool.documents.turns import LARGE_BYTES, FairTurns


class Worked:
    """Takes turns, and notes who got one."""

    def __init__(self, turns: FairTurns) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}

    def start(self, user_id: str, name: str, size: int = 1) -> asyncio.Task[None]:
        self.leave[name] = asyncio.Event()
        return asyncio.create_task(self._work(user_id, name, size))

    async def _work(self, user_id: str, name: str, size: int) -> None:
        async with self.turns.take(user_id, size):
            self.order.append(name)
            await self.leave[name].wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_user_with_one_document_waits_for_one_turn_only() -> None:
    """Users alternate, however many documents one of them has waiting."""
    worked = Worked(FairTurns(1, 1))
    tasks = [worked.start("bulk", f"bulk {n}") for n in range(5)]
    await settle()
    tasks += [worked.start("quiet", "quiet"), worked.start("other", "other")]
    await settle()
    for name in ("bulk 0", "bulk 1", "quiet", "other", "bulk 2", "bulk 3", "bulk 4"):
        assert worked.order[-1] == name
        worked.leave[name].set()
        await settle()
    await asyncio.gather(*tasks)


async def test_large_documents_delay_only_each_other() -> None:
    """They have places of their own."""
    worked = Worked(FairTurns(1, 1))
    tasks = [worked.start("a", f"large {n}", LARGE_BYTES + 1) for n in range(2)]
    tasks.append(worked.start("a", "small"))
    await settle()
    assert worked.order == ["large 0", "small"]
    for event in worked.leave.values():
        event.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("late", [False, True], ids=["waiting", "in the moment of its turn"])
async def test_a_cancelled_waiter_loses_no_place(late: bool) -> None:
    """Who leaves, also in the moment in which it gets its turn, leaves the place to the next."""
    worked = Worked(FairTurns(1, 1))
    first, gone, last = (worked.start(name, name) for name in ("first", "gone", "last"))
    await settle()
    if late:
        worked.leave["first"].set()
        await asyncio.sleep(0)
    gone.cancel()
    worked.leave["first"].set()
    await settle()
    assert worked.order[-1] == "last"
    worked.leave["last"].set()
    await asyncio.gather(first, last)
    assert gone.cancelled() or gone.done()
    again = worked.start("again", "again")
    await settle()
    assert worked.order[-1] == "again"
    worked.leave["again"].set()
    await again
