"""When an erasure is due: by the age of the first deletion, by use, by size, and by free pages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vectorpool.engine.deletions import Remains
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources
from vectorpool.vectorstore.erasure import ERASED_AT_ONCE_BYTES, MUCH_FREE_BYTES, ErasureSchedule

HOUR_MS = 3_600_000
SMALL, LARGE = 10_000_000, 4 * ERASED_AT_ONCE_BYTES


class Clock(SystemSources):
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 100 * HOUR_MS

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000


def replica(size: int, since_ms: int | None, free_bytes: int = 0) -> Any:
    """Return what the schedule reads of a replica."""
    return SimpleNamespace(remains=Remains(since_ms, free_bytes), size_bytes=lambda: size)


@pytest.mark.parametrize(("size", "hours"), [(SMALL, 1), (ERASED_AT_ONCE_BYTES, 1), (LARGE, 4)])
def test_it_is_due_after_a_time_in_proportion_to_the_size(size: int, hours: int) -> None:
    """An hour after the first deletion up to 64 MiB; four hours for four times as much."""
    clock = Clock()
    schedule = ErasureSchedule(Settings(), clock)
    store = replica(size, clock.now)
    clock.now += hours * HOUR_MS - 1
    assert not schedule.is_due(store, is_idle=False)
    clock.now += 1
    assert schedule.is_due(store, is_idle=False)


def test_it_is_due_earlier_if_a_small_one_is_not_used() -> None:
    """A small vectorstore that is not in use is erased at once, a large one not."""
    clock = Clock()
    schedule = ErasureSchedule(Settings(), clock)
    assert schedule.is_due(replica(SMALL, clock.now), is_idle=True)
    assert not schedule.is_due(replica(LARGE, clock.now), is_idle=True)


def test_it_is_due_at_once_if_most_of_the_file_is_free() -> None:
    """More than half, and no less than some MiB."""
    clock = Clock()
    schedule = ErasureSchedule(Settings(), clock)
    assert schedule.is_due(replica(SMALL, clock.now, SMALL // 2), is_idle=False)
    assert not schedule.is_due(replica(SMALL, clock.now, SMALL // 2 - 1), is_idle=False)
    assert not schedule.is_due(replica(1_000_000, clock.now, MUCH_FREE_BYTES - 1), is_idle=False)


def test_it_is_never_due_without_a_deletion_or_if_it_is_off() -> None:
    """Nothing deleted, no replica, or ``erase_after_s`` 0."""
    clock = Clock()
    schedule = ErasureSchedule(Settings(), clock)
    assert not schedule.is_due(replica(SMALL, None, SMALL), is_idle=True)
    assert not schedule.is_due(None, is_idle=True)
    assert not ErasureSchedule(Settings(erase_after_s=0), clock).is_due(replica(SMALL, 0, SMALL), is_idle=True)


def test_an_attempt_that_failed_is_not_repeated_at_once() -> None:
    """The next one waits for half a minute; after one that succeeded it does not."""
    clock = Clock()
    schedule = ErasureSchedule(Settings(), clock)
    store = replica(SMALL, 0)
    schedule.begin()
    assert not schedule.is_due(store, is_idle=True)
    clock.now += 30_000
    assert schedule.is_due(store, is_idle=True)
    schedule.begin()
    schedule.end(replica(SMALL, None))
    assert schedule.is_due(store, is_idle=True)
