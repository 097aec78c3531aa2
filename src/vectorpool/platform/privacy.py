"""Modes of local files: replicas hold a user's texts, so that no other account of the machine may read them.

The files of a replica are made by SQLite and by Chroma's native code, which know no mode but that of the process. So a
process that makes replicas has a umask of its own. A directory as object store is shared with other programs: what is
put there has the modes of the umask that the process came with.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_PRIVATE_UMASK: Final = 0o077
_PRIVATE_DIRECTORY: Final = 0o700


class _Former:
    """The umask that the process came with, once it was changed."""

    umask: int | None = None


def keep_private() -> None:
    """Make all files of this process 0600 and directories 0700 from now on, except those of a directory store."""
    former = os.umask(_PRIVATE_UMASK)
    if _Former.umask is None:
        _Former.umask = former


def shared_mode(mode: int) -> int | None:
    """Return the mode that a file or a directory of a store gets, or None if the process's umask sees to it."""
    return None if _Former.umask is None else mode & ~_Former.umask


def make_private(directory: Path) -> None:
    """Make a directory that only this account may enter, also if it is there with another mode."""
    directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    # A mounted directory of another owner has the mode that its owner gave it.
    with suppress(PermissionError):
        directory.chmod(_PRIVATE_DIRECTORY)
