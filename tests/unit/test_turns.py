"""The work of large bodies: users take turns, one thread does the steps."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from vectorpool.turns import Turns


def _work(name: str, steps: int, done: list[str], threads: set[int]) -> Generator[None, None, str]:
    for _ in range(steps):
        threads.add(threading.get_ident())
        done.append(name)
        yield
    return name


async def test_users_take_turns_and_bodies_of_one_user_their_order() -> None:
    """A user with many bodies delays another by one step at a time."""
    turns, done, threads = Turns(), list[str](), set[int]()
    mine = [turns.run("hostile", _work(f"h{at}", 5, done, threads)) for at in range(3)]
    quiet = turns.run("quiet", _work("q", 3, done, threads))
    assert await asyncio.gather(*mine, quiet) == ["h0", "h1", "h2", "q"]
    assert done[:6] == ["h0", "q", "h0", "q", "h0", "q"]
    assert done[6:] == ["h0"] * 2 + ["h1"] * 5 + ["h2"] * 5
    assert len(threads) == 1 and threading.get_ident() not in threads


async def test_failures_and_callers_that_leave_end_their_own_work_only() -> None:
    """An error reaches its caller; the work of one that left takes no further step."""
    turns, done, threads = Turns(), list[str](), set[int]()
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fails() -> Generator[None, None, None]:
        yield
        raise ValueError("wrong")

    def endless() -> Generator[None, None, None]:
        try:
            while True:
                loop.call_soon_threadsafe(reached.set)
                yield
        finally:
            done.append("closed")

    leaving = asyncio.create_task(turns.run("a", endless()))
    await reached.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    with pytest.raises(ValueError, match="wrong"):
        await turns.run("b", fails())
    assert await turns.run("a", _work("last", 1, done, threads)) == "last"
    assert done == ["closed", "last"]
