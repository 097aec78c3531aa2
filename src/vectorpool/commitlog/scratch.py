"""Scratch directories, in which states are built that are never opened. Each is named for the process that made it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path


def make_scratch(parent: Path) -> Path:
    """Make a directory named for this process, and remove those of processes that are no more."""
    parent.mkdir(parents=True, exist_ok=True)
    remove_scratch_of_the_dead(parent)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))


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
