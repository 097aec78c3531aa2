"""Scratch directories, in which states are built that are never opened. Each is named for the process that made it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vectorpool.local_paths import scratch_dir
from vectorpool.platform.local_disk import on_local_disk


def make_scratch(parent: Path) -> Path:
    """Make a directory named for this process, and remove those of processes that are no more."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_scratch_of_the_dead(parent)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))


@asynccontextmanager
async def scratch_below(replica_dir: str) -> AsyncIterator[Path]:
    """Yield an empty directory beside the replicas, and remove it. Raises LocalDiskFailed."""
    parent = scratch_dir(Path(replica_dir))
    with on_local_disk(parent):
        path = await asyncio.to_thread(make_scratch, parent)
    try:
        with on_local_disk(parent):
            yield path
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, path, ignore_errors=True))


def remove_scratch_of_the_dead(parent: Path) -> None:
    """Remove the scratch directories of processes that are no more. Blocking."""
    for left in parent.iterdir() if parent.is_dir() else ():
        owner = left.name.partition("-")[0]
        if owner.isdigit() and not _is_alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
