"""Linux's ``openat2``, which Python does not offer: it opens a path in one step, and refuses links on the way itself.

The system call is there since Linux 5.6. Where it is not, or a filter of system calls refuses it, callers do the same
step by step.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import Final

# No mount point, no magic link and no link on the way, nothing above the directory, only what is in memory.
NO_XDEV: Final = 0x01
NO_MAGICLINKS: Final = 0x02
NO_SYMLINKS: Final = 0x04
BENEATH: Final = 0x08
CACHED: Final = 0x20

# The same number on every processor that Python runs on with Linux.
_OPENAT2: Final = 437
_UNKNOWN: Final = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Opener:
    """Opens paths with these flags of ``os.open`` and these rules. ``is_short`` promises that it never waits."""

    def __init__(self, flags: int, rules: int, *, is_short: bool = False) -> None:
        how = _How(flags | os.O_CLOEXEC, 0, rules)
        # Constant arguments are converted once.
        self._how = ctypes.byref(how), ctypes.sizeof(how)
        self._call = _system_call(is_short=is_short)

    @property
    def is_there(self) -> bool:
        """Whether the system call was not refused yet."""
        return self._call is not None

    def open(self, directory: int, path: str) -> int:
        """Return a descriptor of a path below an open directory; if there is none, the negative number of the error.

        ENOSYS where the system call is not there.
        """
        encoded = os.fsencode(path)
        if self._call is None or b"\0" in encoded:
            return -errno.ENOSYS
        found = self._call(_OPENAT2, directory, encoded, *self._how)
        if found >= 0:
            return found
        reason = ctypes.get_errno()
        if reason in _UNKNOWN:
            self._call = None
        return -reason


def _system_call(*, is_short: bool) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # To give the interpreter lock up and take it again would take longer than a short call.
    library = ctypes.PyDLL if is_short else ctypes.CDLL
    try:
        call: Callable[..., int] = library(None, use_errno=True).syscall
    except (AttributeError, OSError):
        return None
    return call
