"""Marks of the users whose commands are in native code: memory that a shard writes, and its front reads after a crash.

Native code that crashes takes its process with it, and no handler of Python runs. So a thread writes its user's id into
memory that both processes share before it calls native code, and clears it after. What the front finds there when the
shard is gone are the users whose commands may have caused it.

A fault is delivered to the thread that caused it, and Python's handler in C (``faulthandler``) writes which one that is
into memory that is shared too. If its mark is among the others, only its user is a suspect. There is no such report of
a process that was killed (by the kernel too, for its memory), and none that names a thread if the fault was in one that
native code started for itself: then all marked users are suspects.

A thread has an owner while it does work of ``owned`` executors. Without an owner, or without shared memory (in tests,
on the command line, in the in-process twin), nothing is marked.
"""

from __future__ import annotations

import ctypes
import faulthandler
import mmap
import os
import re
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Calls of native code at once. A further one is not marked.
_PLACES: Final = 512
# A length, the thread, and an id of a user.
_THREAD: Final = struct.Struct("<Q")
_HEAD: Final = 1 + _THREAD.size
_WIDTH: Final = _HEAD + 128
_SIZE: Final = _PLACES * _WIDTH
# Of the report of a fault, which lists all threads.
_REPORT_BYTES: Final = 1024**2
_FAULTED: Final = re.compile(rb"^Current thread 0x([0-9a-f]+) ", re.MULTILINE)
# A thread whose stack is full has no place for a handler on it.
_SIGNAL_STACK_BYTES: Final = 64 * 1024


class Marks:
    """The shared memory. Its creator reads it, its inheritor writes it. ``report`` is the descriptor of the report."""

    def __init__(self, descriptor: int | None = None, report: int | None = None) -> None:
        self.descriptor = _create(_SIZE) if descriptor is None else descriptor
        self.report = _create(0) if report is None else report
        self._memory = mmap.mmap(self.descriptor, _SIZE)
        # Threads take and return places at once; a deque does both atomically.
        self._free = deque(range(_PLACES))

    def enter(self, user_id: str) -> int | None:
        """Mark a user; return the place, or None if all are taken."""
        try:
            place = self._free.pop()
        except IndexError:
            return None
        name = user_id.encode()[: _WIDTH - _HEAD]
        at = place * _WIDTH
        self._memory[at + _HEAD : at + _HEAD + len(name)] = name
        _THREAD.pack_into(self._memory, at + 1, threading.get_ident())
        # The length comes last: a place without one says nothing.
        self._memory[at] = len(name)
        return place

    def leave(self, place: int) -> None:
        """Remove a mark."""
        self._memory[place * _WIDTH] = 0
        self._free.append(place)

    def users(self) -> set[str]:
        """Return the users that are marked."""
        return {user_id for _, user_id in self._marked()}

    def suspects(self) -> set[str]:
        """Return the user whose thread faulted, if the report names a marked one; otherwise all that are marked."""
        fault = _FAULTED.search(os.pread(self.report, _REPORT_BYTES, 0))
        marked = list(self._marked())
        faulted = {user_id for thread, user_id in marked if fault is not None and thread == int(fault[1], 16)}
        return faulted or {user_id for _, user_id in marked}

    def _marked(self) -> Iterator[tuple[int, str]]:
        for at in range(0, _SIZE, _WIDTH):
            if length := self._memory[at]:
                name = self._memory[at + _HEAD : at + _HEAD + min(length, _WIDTH - _HEAD)]
                yield _THREAD.unpack_from(self._memory, at + 1)[0], name.decode("utf-8", "replace")

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.descriptor)
        os.close(self.report)


def _create(size: int) -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vectorpool-native-marks")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


class _Process:
    """The marks of this process, if it has any."""

    marks: Marks | None = None


_local = threading.local()


def install(descriptor: int, report: int) -> None:
    """Mark users in the memory of inherited descriptors from now on, and report a fault there; for shard processes."""
    _Process.marks = Marks(descriptor, report)
    faulthandler.enable(report, all_threads=True)


class _Stack(ctypes.Structure):
    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


def _give_signal_stack() -> None:
    """Give the thread a stack for handlers of faults, so that an overflow of its own stack is reported too.

    Without it, or with a C library that has none, such a fault is not reported.
    """
    if getattr(_local, "signal_stack", None) is not None:
        return
    _local.signal_stack = memory = mmap.mmap(-1, _SIGNAL_STACK_BYTES)
    with suppress(OSError, AttributeError):
        stack = _Stack(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, _SIGNAL_STACK_BYTES)
        ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)


@contextmanager
def inside() -> Iterator[None]:
    """Mark the thread's owner while the body calls native code."""
    marks = _Process.marks
    owner = getattr(_local, "owner", None)
    place = None if marks is None or owner is None else marks.enter(owner)
    try:
        yield
    finally:
        if marks is not None and place is not None:
            marks.leave(place)


class _Owned(Executor):
    """An executor whose work is done on behalf of one user."""

    def __init__(self, executor: Executor, user_id: str) -> None:
        self._executor = executor
        self._user_id = user_id

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        def work() -> T:
            if _Process.marks is not None:
                _give_signal_stack()
            _local.owner = self._user_id
            try:
                return fn(*args, **kwargs)
            finally:
                _local.owner = None

        return self._executor.submit(work)


def owned(executor: Executor, user_id: str) -> Executor:
    """Return an executor of the same threads, whose work is done on behalf of a user."""
    return _Owned(executor, user_id)
