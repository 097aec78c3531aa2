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
from collections.abc import Callable
from pathlib import Path
from typing import Final

# The system call has the same number on every processor that Python runs on with Linux.
_OPENAT2: Final = 437
# No mount point, no magic link and no link on the way, nothing above the directory, and only what is in memory.
_RESOLVE: Final = 0x01 | 0x02 | 0x04 | 0x08 | 0x20
_O_PATH: Final = getattr(os, "O_PATH", 0)
# ext4, xfs, btrfs, tmpfs, overlayfs, f2fs, zfs, bcachefs: by the first word of what ``statfs`` tells.
_OWN: Final = frozenset(
    {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x794C7630, 0xF2F52010, 0x2FC12FC1, 0xCA451A4E},
)
_STATFS_BYTES: Final = 512
_WORD_BYTES: Final = ctypes.sizeof(ctypes.c_long)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class NameCache:
    """Asks about files below ``root``, a directory. It may be a link, and another directory may take its place."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._identity: tuple[int, int] | None = None
        self._descriptor: int | None = None
        self._call = _system_call() if _is_own(root) else None
        self._how = _How(_O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _RESOLVE)
        # Constant arguments are converted once.
        self._arguments = ctypes.byref(self._how), ctypes.sizeof(self._how)

    def is_absent(self, path: str) -> bool:
        """Return whether nothing is at ``path`` below the root, now; False also if that is not known without waiting.

        No link below the root is followed: behind one nothing is known.
        """
        if self._call is None:
            return False
        try:
            info = os.stat(self._root)  # noqa: PTH116 - a quarter of the whole question otherwise
            if self._identity != (info.st_dev, info.st_ino) or self._descriptor is None:
                self._open()
                return False
        except OSError:
            return False
        found = self._call(_OPENAT2, self._descriptor, os.fsencode(path), *self._arguments)
        if found >= 0:
            os.close(found)
            return False
        reason = ctypes.get_errno()
        if reason in (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG):
            # An older kernel, or a filter of system calls.
            self._call = None
        return reason == errno.ENOENT

    def _open(self) -> None:
        """Open the root that is there now. Raises OSError."""
        self.close()
        self._descriptor = descriptor = os.open(self._root, _O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        info = os.fstat(descriptor)
        self._identity = info.st_dev, info.st_ino
        if not _is_own(self._root):
            self._call = None

    def close(self) -> None:
        """Close the root. Idempotent; the next question opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = self._identity = None


def _system_call() -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        # It keeps the interpreter lock: to give it up and take it again would take longer than the call.
        call: Callable[..., int] = ctypes.PyDLL(None, use_errno=True).syscall
    except (AttributeError, OSError):
        return None
    return call


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
