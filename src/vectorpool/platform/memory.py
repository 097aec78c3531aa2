"""Memory: how much the instance may take before the kernel ends it, and how much it takes.

The limit is that of the container (cgroup version 2 or 1, and of every group above it that is visible), or else the
machine's memory. What counts is what the kernel cannot take back: private pages and shared memory. Mapped files and the
page cache are left out, because they are given up first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

_CGROUPS: Final = Path("/sys/fs/cgroup")
_PROC: Final = Path("/proc")
_COUNTED: Final = (b"RssAnon:", b"RssShmem:")
# Version 1 writes a number near 2**63 for no limit.
_NO_LIMIT: Final = 1 << 62


class MemoryView(msgspec.Struct):
    """Memory of an instance, in bytes: what it may take, what it takes now, the marks, and whether it is short of it.

    From ``high`` on no vectorstore is opened, and unused ones are closed, until it takes less than ``low``.
    """

    limit: int
    used: int
    high: int
    low: int
    is_short: bool


def memory_limit(cgroups: Path = _CGROUPS, proc: Path = _PROC) -> int | None:
    """Return the bytes that the container, or else the machine, has; None where the system does not say."""
    found = [limit for path in _limit_files(cgroups, proc) if (limit := _number(path)) is not None]
    found += _machine(proc)
    return min(found, default=None)


def used_bytes(process_ids: Iterable[int], proc: Path = _PROC) -> int:
    """Return the bytes that processes take together; one that has ended takes nothing."""
    total = 0
    for process_id in process_ids:
        try:
            status = (proc / str(process_id) / "status").read_bytes()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(_COUNTED))
    return total


def _limit_files(cgroups: Path, proc: Path) -> Iterator[Path]:
    """Yield the files that may hold a limit of this process's groups; a container sees its own group as the root."""
    try:
        groups = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        parts = PurePosixPath(path.lstrip("/"))
        if not controllers:
            yield from (cgroups / each / "memory.max" for each in (parts, *parts.parents))
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            yield from (root / each / "memory.limit_in_bytes" for each in (parts, *parts.parents))


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _machine(proc: Path) -> list[int]:
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
