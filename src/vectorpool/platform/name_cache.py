"""The kernel's cache of names: whether a file is known to be missing, asked without waiting for a disk.

A question to a thread costs its asker some 50 us, and the same question to the kernel one or two. Since Linux 5.12 the
kernel answers it only from what it has in memory, if it is told to, and says so when it would have to wait. That makes
the question fit for an event loop.

It is only asked below a directory of a file system that this kernel alone writes. Of a mounted one the kernel may
remember for a minute that a file is missing which another machine has made.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path
from typing import Final

from vectorpool.platform import openat2

_O_PATH: Final = getattr(os, "O_PATH", 0)
# ext4, xfs, btrfs, tmpfs, overlayfs, f2fs, zfs, bcachefs: by the first word of what ``statfs`` tells.
_OWN: Final = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630, 0xF2F52010, 0x2FC12FC1, 0xCA451A4E},
)
_STATFS_BYTES: Final = 512
_WORD_BYTES: Final = ctypes.sizeof(ctypes.c_long)


class NameCache:
    """Asks about files below ``root``, a directory. It may be a link, and another directory may take its place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity: tuple[int, int] | None = None
        self._descriptor: int | None = None
        rules = openat2.CACHED | openat2.BENEATH | openat2.NO_SYMLINKS | openat2.NO_MAGICLINKS | openat2.NO_XDEV
        self._opener = openat2.Opener(_O_PATH | os.O_NOFOLLOW, rules, is_short=True)
        self._is_own = _is_own(root)

    def is_absent(self, path: str) -> bool:
        """Return whether nothing is at ``path`` below the root, now; False also if that is not known without waiting.

        No link below the root is followed: behind one nothing is known.
        """
        if not self._is_own or not self._opener.is_there:
            return False
        try:
            info = os.stat(self._root)  # noqa: PTH116 - a quarter of the whole question otherwise
            if self._identity != (info.st_dev, info.st_ino) or self._descriptor is None:
                self._open()
                return False
        except OSError:
            return False
        found = self._opener.open(self._descriptor, path)
        if found >= 0:
            os.close(found)
        return found == -errno.ENOENT

    def _open(self) -> None:
        """Open the root that is there now. Raises OSError."""
        self.close()
        self._descriptor = descriptor = os.open(self._root, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        info = os.fstat(descriptor)
        self._identity = info.st_dev, info.st_ino
        self._is_own = _is_own(self._root)

    def close(self) -> None:
        """Close the root. Idempotent; the next question opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = self._identity = None


def _is_own(directory: Path) -> bool:
    """Return whether this kernel alone writes the file system of a directory."""
    if not sys.platform.startswith("linux"):
        return False
    told = ctypes.create_string_buffer(_STATFS_BYTES)
    try:
        is_told = ctypes.CDLL(None).statfs(os.fsencode(directory), told) == 0
    except (AttributeError, OSError):
        return False
    return is_told and int.from_bytes(told.raw[:_WORD_BYTES], sys.byteorder) & 0xFFFFFFFF in _OWN
