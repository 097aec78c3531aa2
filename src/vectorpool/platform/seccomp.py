"""Filters of system calls (seccomp): a small program that the kernel runs at each call of a thread (see seccomp(2)).

A filter is inherited by the threads and processes that start later, and cannot be removed.
"""

from __future__ import annotations

import ctypes
import logging
import platform
import sys
from collections.abc import Sequence
from typing import Final

logger = logging.getLogger(__name__)

_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_MODE_FILTER: Final = 2
# Loads of struct seccomp_data, comparisons, return: classic BPF; then the offsets of the fields.
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
ALLOW: Final = 0x7FFF0000
# With the number of an error in the lowest bits; 0 is success.
ANSWER: Final = 0x00050000
# The kernel's code of this machine's architecture; None if it is not known here.
ARCHITECTURE: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(platform.machine())

# Code, jump if true, jump if false, constant.
Step = tuple[int, int, int, int]


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def set_filter(steps: Sequence[Step]) -> bool:
    """Set a filter for this thread, and for those that it starts from now on; return whether the kernel took it."""
    if sys.platform != "linux" or ARCHITECTURE is None:
        return False
    instructions = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(instructions), instructions)
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (AttributeError, OSError):
        return False
    # Without the first, only a privileged process may set a filter.
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        logger.debug("the kernel refuses a filter of system calls: error %d", ctypes.get_errno())
        return False
    return True
