"""Concurrent reads share a question to the store, but never one that was asked before they came."""

from __future__ import annotations

import asyncio

import pytest

from vectorpool.commands import ReadOptions
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.vectorstore.freshness import Freshness


async def _is_enough(
    freshness: Freshness, reading: ReadOptions, settings: Settings, arrived_s: float, *, is_in_doubt: bool
) -> bool:
    known = freshness.is_known_enough(reading, settings, arrived_s, is_in_doubt=is_in_doubt)
    return await freshness.is_newest() if known is None else known


class Store:
    """Answers questions when told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[asyncio.Future[bool]] = []

    async def __call__(self) -> bool:
        self.asked += 1
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer


async def _schedule() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_readers_who_come_during_a_question_share_the_next_one() -> None:
    """Of nine reads, the first asks, the eight that come meanwhile ask once together."""
    store = Store()
    freshness = Freshness(store, SYSTEM)
    first = asyncio.create_task(freshness.is_newest())
    await _schedule()
    others = [asyncio.create_task(freshness.is_newest()) for _ in range(8)]
    await _schedule()
    assert store.asked == 1
    store.answers[0].set_result(True)
    await _schedule()
    assert (first.result(), store.asked) == (True, 2)
    assert not any(other.done() for other in others), "a late reader took an answer to an early question"
    store.answers[1].set_result(False)
    assert await asyncio.gather(*others) == [False] * 8


async def test_an_error_reaches_everyone_who_shared_the_question_and_nobody_later() -> None:
    """A failed question fails its readers; the next reader asks anew."""
    store = Store()
    freshness = Freshness(store, SYSTEM)
    reads = [asyncio.create_task(freshness.is_newest()) for _ in range(3)]
    await _schedule()
    store.answers[0].set_exception(OSError("gone"))
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(r) for r in results] == [OSError] * 3
    later = asyncio.create_task(freshness.is_newest())
    await _schedule()
    store.answers[1].set_result(True)
    assert await later is True


async def test_what_is_known_since_a_read_arrived_need_not_be_asked() -> None:
    """A commit or a hydrate that began after the read arrived answers its question; an earlier one does not."""
    freshness = Freshness(Store(), SYSTEM)
    assert not freshness.is_known_since(0.0)
    freshness.confirm(10.0)
    freshness.confirm(8.0)
    assert freshness.is_known_since(9.9)
    # At the very same tick it may have been before.
    assert not freshness.is_known_since(10.0)
    assert not freshness.is_known_since(10.5)


@pytest.mark.parametrize("consistency", ["local", "bounded", "strong"])
async def test_what_a_read_asks_for_decides_whether_the_store_is_asked(consistency: str) -> None:
    """A local read never asks, a bounded one once its bound has passed, a strong one unless it is known since."""
    settings = Settings(consistency=consistency, consistency_bound_ms=2_000)
    store = Store()
    freshness = Freshness(store, SYSTEM)
    now_s = SYSTEM.monotonic_s()
    freshness.confirm(now_s - 1)
    in_time, later = ReadOptions(), ReadOptions(bound_ms=500)
    asked_for = {"local": [], "bounded": [later], "strong": [in_time, later]}[consistency]
    for reading in (in_time, later):
        before = store.asked
        read = asyncio.create_task(_is_enough(freshness, reading, settings, now_s, is_in_doubt=False))
        await _schedule()
        assert store.asked - before == (reading in asked_for)
        if reading in asked_for:
            store.answers[-1].set_result(False)
        assert await read == (reading not in asked_for)
    assert await _is_enough(freshness, later, settings, now_s - 2, is_in_doubt=False), "it was known since then"


async def test_a_replica_in_doubt_answers_local_reads_only() -> None:
    """Where a commit's outcome is unknown, nothing known or asked makes the replica fresh, and nobody is asked."""
    store = Store()
    freshness = Freshness(store, SYSTEM)
    now_s = SYSTEM.monotonic_s()
    freshness.confirm(now_s)
    for consistency, enough in (("local", True), ("bounded", False), ("strong", False)):
        assert await _is_enough(freshness, ReadOptions(consistency), Settings(), now_s, is_in_doubt=True) == enough
    assert store.asked == 0


async def test_age_counts_from_when_the_question_was_asked() -> None:
    """An answer that took long does not make the replica look younger than the question."""

    class Clock:
        now = 100.0

        def monotonic_s(self) -> float:
            return self.now

    clock = Clock()
    store = Store()
    freshness = Freshness(store, clock)  # type: ignore[arg-type]
    assert freshness.age_ms() == float("inf")
    read = asyncio.create_task(freshness.is_newest())
    await _schedule()
    clock.now = 105.0
    store.answers[0].set_result(True)
    await read
    assert freshness.age_ms() == pytest.approx(5000)


async def test_what_is_seen_at_once_is_not_asked() -> None:
    """A look that shows the newest commit answers a strong read, and counts as knowledge; its no says nothing."""
    store, seen = Store(), [True]
    freshness = Freshness(store, SYSTEM, lambda: seen[0])
    now_s = SYSTEM.monotonic_s()
    assert await _is_enough(freshness, ReadOptions("strong"), Settings(), now_s, is_in_doubt=False)
    assert store.asked == 0
    assert freshness.age_ms() < 60_000
    assert not await _is_enough(freshness, ReadOptions("strong"), Settings(), now_s, is_in_doubt=True)
    seen[0] = False
    read = asyncio.create_task(
        _is_enough(freshness, ReadOptions("strong"), Settings(), SYSTEM.monotonic_s(), is_in_doubt=False)
    )
    await _schedule()
    store.answers[-1].set_result(False)
    assert await read is False
