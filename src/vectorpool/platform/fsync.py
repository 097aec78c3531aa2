"""Threads that skip fsync: the threads in which Chroma writes, because a replica is a cache.

SQLite calls fsync several times in each transaction so that its file survives a power cut. A replica need not survive
one: the log is the truth, and a directory that a killed instance left behind is never opened. Each call waits for the
disk, inside a write that holds the interpreter lock. Measured, a one-record upsert on a shared disk: 6.7 to 9.9 ms with
fsync, 5.5 of them CPU time; 2.8 to 3.3 ms without, nearly all of it CPU time.

Chroma has no setting for it. So a filter, set in each such thread, makes the kernel answer ``fsync`` and ``fdatasync``
with success and do nothing (see prctl(2) and seccomp(2)). Threads that such a thread starts, as Chroma's
are, inherit the filter; no other thread of the process does, so the store's own fsync (``store_fsync``) stays.
Where the kernel or a container's policy refuses the filter, fsync stays and writes are slower.
"""

from __future__ import annotations

import platform
from typing import Final

from vectorpool.platform import seccomp

# By machine: the numbers of fsync and fdatasync.
_CALLS: Final = {"x86_64": (74, 75), "aarch64": (82, 83)}


def skip_fsync() -> bool:
    """Skip fsync in this thread, and in the threads that it starts from now on; return whether it is skipped.

    A thread cannot undo it.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None or seccomp.ARCHITECTURE is None:
        return False
    fsync, fdatasync = calls
    return seccomp.set_filter(
        (
            (seccomp.LOAD, 0, 0, seccomp.ARCHITECTURE_AT),
            (seccomp.JUMP_IF_EQUAL, 0, 3, seccomp.ARCHITECTURE),
            (seccomp.LOAD, 0, 0, seccomp.NUMBER_AT),
            (seccomp.JUMP_IF_EQUAL, 2, 0, fsync),
            (seccomp.JUMP_IF_EQUAL, 1, 0, fdatasync),
            (seccomp.RETURN, 0, 0, seccomp.ALLOW),
            (seccomp.RETURN, 0, 0, seccomp.ANSWER),
        )
    )
