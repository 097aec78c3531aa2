"""A rate: never more than it says over any time, whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorpool.allowances.rates import Rate


def test_a_burst_and_then_the_rate() -> None:
    """Five at once, then one every half second; the wait that is told is exact."""
    rate = Rate(per_s=2, capacity=5)
    for left in (4, 3, 2, 1, 0):
        assert rate.wait_s(100.0) == 0.0
        rate.take(100.0)
        assert rate.left(100.0) == left
    assert rate.wait_s(100.0) == 0.5
    assert rate.wait_s(100.25) == 0.25
    assert rate.wait_s(100.5) == 0.0
    rate.take(100.5)
    assert rate.wait_s(100.5) == pytest.approx(0.5)
    assert not rate.is_rested(102.9)
    assert rate.is_rested(103.1) and rate.left(1000.0) == 5


@given(
    st.floats(min_value=0.01, max_value=1000),
    st.integers(min_value=1, max_value=50),
    st.lists(st.floats(min_value=0, max_value=5), max_size=200),
)
def test_no_time_sees_more_than_the_rate_and_the_burst(per_s: float, capacity: int, steps: list[float]) -> None:
    """However requests arrive, those admitted within any time are at most the capacity and what the time gives."""
    rate, now_s, admitted = Rate(per_s, capacity), 50.0, list[float]()
    for step in steps:
        now_s += step
        if rate.wait_s(now_s) == 0.0:
            rate.take(now_s)
            admitted.append(now_s)
    for at, first in enumerate(admitted):
        for more, last in enumerate(admitted[at:], 1):
            assert more <= capacity + (last - first) * per_s + 1 + 1e-6


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=1, max_size=50))
def test_a_clock_that_jumps_locks_nobody_out(moments: list[float]) -> None:
    """Whatever the clock shows, a user that waits as long as it is told after the last jump is served."""
    rate = Rate(per_s=2, capacity=3)
    for now_s in moments:
        if rate.wait_s(now_s) == 0.0:
            rate.take(now_s)
        assert 0 <= rate.left(now_s) <= 3
        assert rate.wait_s(now_s) <= 0.5 + 1e-6
    assert rate.wait_s(moments[-1] + 0.5 + 1e-6) == 0.0


def test_what_was_taken_beyond_is_owed() -> None:
    """A call may take more than is left, and the next one waits for all of it."""
    rate = Rate(per_s=10, capacity=100)
    rate.take(0.0, 350)
    assert rate.left(0.0) == -250
    assert rate.wait_s(0.0, 1) == pytest.approx(25.1)
    assert rate.wait_s(25.2, 1) == 0.0
    rate.give_back(25.2, 350)
    assert rate.left(25.2) == 100


def test_another_rate_gives_no_second_burst() -> None:
    """A change up and down again leaves what was taken taken; a smaller capacity is not exceeded."""
    rate = Rate(per_s=1, capacity=10)
    rate.take(0.0, 10)
    rate.change(5, 50, 0.0)
    assert rate.left(0.0) == 40
    rate.change(1, 10, 0.0)
    assert rate.left(0.0) == 0
    rate.change(1, 4, 0.0)
    assert rate.left(0.0) == 0 and rate.wait_s(0.0) == 1.0
