"""Memory: the limit of a container is found, and the marks switch once and not back and forth."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.api.parts import FakeRouter
from vectorpool.platform.memory import memory_limit, used_bytes
from vectorpool.settings import Settings
from vectorpool.shard.pressure import MemoryWatch

GIB = 1024**3


def system(root: Path, groups: str, **limits: str) -> dict[str, Path]:
    """Return a made-up system: what /proc says of the groups, and limits by path with double underscores."""
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(groups)
    (proc / "meminfo").write_text("MemTotal:       8388608 kB\nMemFree: 1 kB\n")
    for name, text in limits.items():
        path = cgroups / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"cgroups": cgroups, "proc": proc}


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory_max": f"{GIB}\n"}, GIB),
        ("0::/\n", {"memory_max": "max\n"}, 8 * GIB),
        ("0::/a/b\n", {"a__b__memory_max": "max", "a__memory_max": str(2 * GIB)}, 2 * GIB),
        ("0::/../elsewhere\n", {"memory_max": str(GIB)}, GIB),
        ("4:memory:/kube\n1:cpu:/x\n", {"memory__kube__memory_limit_in_bytes": str(3 * GIB)}, 3 * GIB),
        ("4:memory:/not/seen\n", {"memory__memory_limit_in_bytes": str(GIB)}, GIB),
        ("4:cpu,memory:/\n", {"memory__memory_limit_in_bytes": "9223372036854771712"}, 8 * GIB),
        ("nonsense\n", {"memory_max": "many"}, 8 * GIB),
        ("0::/\n", {"memory_max": str(64 * GIB)}, 8 * GIB),
    ],
)
def test_the_limit_is_the_containers_or_else_the_machines(
    tmp_path: Path, groups: str, limits: dict[str, str], expected: int
) -> None:
    """Of both versions of cgroups, of outer groups too, and never more than the machine has."""
    assert memory_limit(**system(tmp_path, groups, **limits)) == expected


def test_without_a_system_that_says_there_is_no_limit(tmp_path: Path) -> None:
    """Where neither is to be read, there is no mark."""
    assert memory_limit(tmp_path, tmp_path) is None


def test_what_this_process_takes_is_measured() -> None:
    """Private memory counts, a process that is gone takes nothing."""
    before = used_bytes([os.getpid()])
    held = bytearray(b"x") * (64 * 1024**2)
    assert used_bytes([os.getpid(), 2**22 + 1]) - before > 32 * 1024**2
    assert len(held)


class Pressed(FakeRouter):
    """A router that remembers what it is told of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    async def press(self, *, is_short: bool) -> None:
        self.told.append(is_short)


def watch_of(*used: int, **settings: Any) -> tuple[MemoryWatch, Pressed]:
    router, left = Pressed(), list(used)

    def measure(process_ids: Iterable[int]) -> int:
        assert os.getpid() in list(process_ids)
        return left.pop(0)

    chosen = Settings(**({"memory_limit_bytes": 100, "memory_high_percent": 80, "memory_low_percent": 60} | settings))
    return MemoryWatch(router, chosen, measure=measure), router


async def test_the_marks_are_apart() -> None:
    """Short from the high mark until below the low one; told while short, since a shard may be new, and once after."""
    used = [79, 80, 70, 60, 59, 70, 79, 85]
    watch, router = watch_of(*used)
    seen = []
    for _ in used:
        await watch.look()
        seen.append(list(router.told))
        router.told.clear()
    assert seen == [[], [True], [True], [True], [False], [], [], [True]]


async def test_a_mark_of_nothing_is_off_and_marks_in_the_wrong_order_meet() -> None:
    """0 is never; a low mark above the high one counts as the high one."""
    assert not watch_of(memory_high_percent=0)[0].is_on
    assert watch_of(memory_high_percent=0)[0].view() is None
    watch, router = watch_of(60, 50, 49, 49, memory_high_percent=50, memory_low_percent=90)
    for _ in range(3):
        await watch.look()
    assert router.told == [True, True, False]
    view = watch.view()
    assert view is not None and (view.limit, view.used, view.high, view.low) == (100, 49, 50, 50)


async def test_the_watch_looks_again_and_again() -> None:
    """The task runs until it is cancelled."""
    watch, router = watch_of(*([90] * 50), memory_low_percent=10)
    task = asyncio.create_task(watch.watch())
    while not router.told:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
