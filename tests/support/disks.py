"""Small file systems, to fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MIB = 1024**2


class SmallDisk:
    """A file system of a few MiB at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Use up all but so many bytes."""
        room = os.statvfs(self.path)
        # Others write meanwhile, so there may be less room than was seen.
        with suppress(OSError), self._ballast.open("ab") as file:
            file.write(b"x" * max(0, room.f_bavail * room.f_frsize - leave))

    def free(self) -> None:
        """Give the bytes back."""
        self._ballast.unlink()


@contextmanager
def small_disk(path: Path, mib: int = 24) -> Iterator[SmallDisk]:
    """Mount one at a new directory, or skip the test where nobody may."""
    path.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib * MIB}", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
