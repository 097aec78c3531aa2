"""Background loops that fail: restarted with backoff, counted, shown, and ended by a stop alone."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from tests.bench.fleet.loop import FleetLoop
from tests.simulation.network import VirtualSources
from vectorpool.answers import TaskView
from vectorpool.supervision import DOWN_AFTER, LONGEST_BACKOFF_S, RECOVERED_AFTER_S, Supervisor, down


class Flaky:
    """A loop that fails ``failures`` times at once, and then runs; it notes when it was started."""

    def __init__(self, sources: VirtualSources, failures: int) -> None:
        self._sources = sources
        self._left = failures
        self.started_s: list[float] = []

    async def __call__(self) -> None:
        self.started_s.append(self._sources.monotonic_s())
        if self._left:
            self._left -= 1
            raise ZeroDivisionError("a user's id that must not be shown")
        await asyncio.Event().wait()


def _only(supervisor: Supervisor) -> TaskView:
    (task,) = supervisor.view()
    return task


def _run(scenario: object) -> None:
    loop = FleetLoop(7)
    try:
        loop.run_until_complete(scenario(VirtualSources(loop, loop.dice)))  # type: ignore[operator]
    finally:
        loop.close()


def test_a_loop_that_fails_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    """After three failures the loop runs; the waits before its starts grow, and each failure is in the log by name."""

    async def scenario(sources: VirtualSources) -> None:
        supervisor = Supervisor(sources, shard=3)
        flaky = Flaky(sources, 3)
        supervisor.start("clean up", flaky, is_essential=True)
        await sources.sleep(30)
        waits = [later - earlier for earlier, later in zip(flaky.started_s, flaky.started_s[1:], strict=False)]
        assert len(waits) == 3 and waits[0] < waits[1] < waits[2]
        task = _only(supervisor)
        assert (task.state, task.starts, task.failures, task.shard) == ("running", 4, 3, 3)
        assert task.last_error == "ZeroDivisionError" and task.last_failure_ms is not None
        await supervisor.stop(1)

    with caplog.at_level(logging.ERROR):
        _run(scenario)
    assert len([record for record in caplog.records if "'clean up'" in record.getMessage()]) == 3


def test_a_task_that_keeps_failing_is_down_until_it_has_run_for_a_while() -> None:
    """An essential task that failed often in a row is down; after a minute without a failure it is not."""

    async def scenario(sources: VirtualSources) -> None:
        supervisor = Supervisor(sources)
        supervisor.start("essential", Flaky(sources, DOWN_AFTER), is_essential=True)
        await sources.sleep(2 * LONGEST_BACKOFF_S)
        assert [task.name for task in down(supervisor.view())] == ["essential"]
        await sources.sleep(RECOVERED_AFTER_S)
        assert down(supervisor.view()) == []
        task = _only(supervisor)
        assert (task.state, task.failures, task.failures_in_a_row) == ("running", DOWN_AFTER, 0)
        await supervisor.stop(1)

    _run(scenario)


def test_the_backoff_has_a_bound() -> None:
    """However often a loop fails, it is started again within the longest backoff, with its jitter."""

    async def scenario(sources: VirtualSources) -> None:
        supervisor = Supervisor(sources)
        flaky = Flaky(sources, 100)
        supervisor.start("hopeless", flaky)
        await sources.sleep(1800)
        waits = [later - earlier for earlier, later in zip(flaky.started_s, flaky.started_s[1:], strict=False)]
        assert len(waits) > 30 and max(waits) <= 1.5 * LONGEST_BACKOFF_S
        assert down(supervisor.view()) == [] and _only(supervisor).state == "down"
        await supervisor.stop(1)

    _run(scenario)


def test_a_stopped_loop_stays_stopped() -> None:
    """A stop ends a loop that runs and one that waits for its restart; neither starts again."""

    async def scenario(sources: VirtualSources) -> None:
        supervisor = Supervisor(sources)
        runs, waits = Flaky(sources, 0), Flaky(sources, 100)
        supervisor.start("runs", runs)
        supervisor.start("waits", waits)
        await sources.sleep(5)
        starts = len(waits.started_s)
        await supervisor.stop(1)
        await sources.sleep(120)
        assert (len(runs.started_s), len(waits.started_s)) == (1, starts)
        assert [task.state for task in supervisor.view()] == ["ended", "ended"]

    _run(scenario)


def test_a_stop_by_name_leaves_the_others(tmp_path: Path) -> None:
    """Only the named loop ends."""

    async def scenario(sources: VirtualSources) -> None:
        supervisor = Supervisor(sources)
        supervisor.start("first", Flaky(sources, 0))
        supervisor.start("second", Flaky(sources, 0))
        await sources.sleep(1)
        await supervisor.stop(1, ["first", "unknown"])
        assert {task.name: task.state for task in supervisor.view()} == {"first": "ended", "second": "running"}
        await supervisor.stop(1)

    _run(scenario)


def test_one_shot_work_is_counted() -> None:
    """Work without a loop has its starts and failures counted under its name; a success ends a row of failures."""

    async def scenario(sources: VirtualSources) -> None:
        supervisor = Supervisor(sources)
        for error in (None, OSError("no"), OSError("no")):
            supervisor.record("compaction", error)
        task = _only(supervisor)
        assert (task.starts, task.failures, task.failures_in_a_row, task.last_error) == (3, 2, 2, "OSError")
        supervisor.record("compaction", None)
        assert _only(supervisor).failures_in_a_row == 0

    _run(scenario)
