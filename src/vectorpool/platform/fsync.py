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

import ctypes
import logging
import platform
import sys
from typing import Final

logger = logging.getLogger(__name__)

_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_MODE_FILTER: Final = 2
# Loads of struct seccomp_data, comparison, return: classic BPF; then the offsets of the first two fields.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW: Final = 0x7FFF0000
_SUCCEED: Final = 0x00050000
# By machine: the kernel's code of the architecture, and the numbers of fsync and fdatasync.
_CALLS: Final = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def skip_fsync() -> bool:
    """Skip fsync in this thread, and in the threads that it starts from now on; return whether it is skipped.

    A thread cannot undo it.
    """
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None:
        return False
    architecture, fsync, fdatasync = calls
    steps = (
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 0, 3, architecture),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_EQUAL, 2, 0, fsync),
        (_JUMP_IF_EQUAL, 1, 0, fdatasync),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _SUCCEED),
    )
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(instructions), instructions)
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError):
        return False
    # Without the first, only a privileged process may set a filter.
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        logger.debug("replicas are written with fsync, the kernel refuses to skip it: error %d", ctypes.get_errno())
        return False
    return True
