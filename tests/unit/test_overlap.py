"""Overlapping steps: their bounds, their order, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from vectorpool.documents.overlap import finish_at_once, prepared_ahead


async def _numbers(count: int, given: list[int] | None = None) -> AsyncGenerator[int, None]:
    for number in range(count):
        if given is not None:
            given.append(number)
        yield number


class _Work:
    """Work that notes how much of it goes on at once, and takes longer for even numbers."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.at_once = self.most = 0
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self._fails_at = fails_at

    async def __call__(self, number: int) -> int:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            for _ in range(7 if number % 2 == 0 else 2):
                await asyncio.sleep(0)
            if number == self._fails_at:
                raise ValueError(number)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.at_once -= 1
        self.ended.append(number)
        return number * 10

    async def finish(self, number: int) -> None:
        await self(number)


async def test_results_come_in_order_and_a_bounded_number_is_prepared() -> None:
    """The slower items do not come later, and four are prepared at most: the one asked for and three after it."""
    work = _Work()
    async with aclosing(prepared_ahead(_numbers(20), work, 3)) as ready:
        found = [each async for each in ready]
    assert found == [number * 10 for number in range(20)]
    assert work.most == 4


async def test_nothing_is_taken_ahead_of_a_slow_consumer() -> None:
    """A consumer that waits stops the stream after the bound."""
    given: list[int] = []
    async with aclosing(prepared_ahead(_numbers(20, given), _Work(), 3)) as ready:
        await anext(ready)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(given) == 4


async def test_preparations_end_with_their_consumer() -> None:
    """A consumer that leaves early leaves no task behind."""
    work = _Work()
    async with aclosing(prepared_ahead(_numbers(20), work, 3)) as ready:
        await anext(ready)
    assert work.at_once == 0 and work.ended + work.cancelled


@pytest.mark.parametrize("most", [1, 3])
async def test_a_bounded_number_is_finished_at_once(most: int) -> None:
    """Every item is finished, and no more than the bound at once."""
    work = _Work()
    async with aclosing(_numbers(20)) as items:
        await finish_at_once(items, work.finish, most, lambda: False)
    assert sorted(work.ended) == list(range(20)) and work.most == most


async def test_an_item_goes_alone_while_that_is_asked_for() -> None:
    """Nothing runs beside the first items, and three at once after them."""
    work = _Work()
    async with aclosing(_numbers(5)) as items:
        await finish_at_once(items, work.finish, 3, lambda: len(work.ended) < 2)
    assert work.ended[:2] == [0, 1] and work.most == 3


@pytest.mark.parametrize("fails_at", [0, 3, 19])
async def test_the_first_error_ends_the_rest_and_is_raised(fails_at: int) -> None:
    """An error reaches the caller after all other tasks have ended."""
    work = _Work(fails_at)
    async with aclosing(_numbers(20)) as items:
        with pytest.raises(ValueError, match=str(fails_at)):
            await finish_at_once(items, work.finish, 3, lambda: False)
    assert work.at_once == 0 and fails_at not in work.ended


async def test_a_cancelled_caller_leaves_nothing_running() -> None:
    """Cancelling the caller cancels what runs for it."""
    work = _Work()
    task = asyncio.create_task(finish_at_once(_numbers(20), work.finish, 3, lambda: False))
    while work.at_once < 3:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.at_once == 0
