"""Threads whose flushes to disk do nothing: those that Chroma writes in, because a replica is a cache.

SQLite flushes several times in each transaction so that its file survives a power cut. A replica need not: the log is
the truth, and what a killed instance leaves behind is never opened. But each flush waits for the disk, inside a write
that holds the interpreter lock. Measured, a one-record upsert on a disk that others use too: 6.7 to 9.9 ms with
flushes, 5.5 of them CPU time; 2.8 to 3.3 without, nearly all of it CPU time.

Chroma has no setting for it. So the kernel is told, thread by thread, to answer ``fsync`` and ``fdatasync`` with
success and do nothing (a seccomp filter, see prctl(2) and seccomp(2)). Threads that such a thread starts, as Chroma's
do, inherit it; no other thread of the process does, so the store's own flushes (``store_fsync``) stay what they are.
Where the kernel or a container's policy does not let us, flushes stay and writes are slower.
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
# Loads of struct seccomp_data, comparison, return: classic BPF, with what the two first fields are at.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_ALLOW: Final = 0x7FFF0000
_SUCCEED: Final = 0x00050000
# By machine: the kernel's name of the architecture, and the numbers of fsync and fdatasync.
_CALLS: Final = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def skip_flushes() -> bool:
    """Let flushes of this thread, and of those that it starts from now on, do nothing; return whether they do.

    There is no way back for the thread.
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
        logger.debug("flushes of replicas stay, the kernel does not let them be skipped: error %d", ctypes.get_errno())
        return False
    return True
