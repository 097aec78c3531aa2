"""Marks of the users whose commands are in native code: memory that a shard writes, and its front reads after a crash.

Native code that crashes takes its process with it, and no handler of Python runs. So a thread writes its user's id into
memory that both processes share before it calls native code, and clears it after. What the front finds there when the
shard is gone are the users whose commands may have caused it.

A thread has an owner while it does work of ``owned`` executors. Without an owner, or without shared memory (in tests,
on the command line, in the in-process twin), nothing is marked.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, Final, TypeVar

T = TypeVar("T")

# Calls of native code at once. A further one is not marked.
_PLACES: Final = 512
# A length and an id of a user.
_WIDTH: Final = 1 + 128
_SIZE: Final = _PLACES * _WIDTH


class Marks:
    """The shared memory. Its creator reads it, its inheritor writes it."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = _create() if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, _SIZE)
        # Threads take and return places at once; a deque does both atomically.
        self._free = deque(range(_PLACES))

    def enter(self, user_id: str) -> int | None:
        """Mark a user; return the place, or None if all are taken."""
        try:
            place = self._free.pop()
        except IndexError:
            return None
        name = user_id.encode()[: _WIDTH - 1]
        at = place * _WIDTH
        self._memory[at + 1 : at + 1 + len(name)] = name
        # The length comes last: a place without one says nothing.
        self._memory[at] = len(name)
        return place

    def leave(self, place: int) -> None:
        """Remove a mark."""
        self._memory[place * _WIDTH] = 0
        self._free.append(place)

    def users(self) -> set[str]:
        """Return the users that are marked."""
        found = set()
        for at in range(0, _SIZE, _WIDTH):
            if length := self._memory[at]:
                found.add(self._memory[at + 1 : at + 1 + min(length, _WIDTH - 1)].decode("utf-8", "replace"))
        return found

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.descriptor)


def _create() -> int:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("vectorpool-native-marks")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _SIZE)
    return descriptor


class _Process:
    """The marks of this process, if it has any."""

    marks: Marks | None = None


_local = threading.local()


def install(descriptor: int) -> None:
    """Mark users in the memory of an inherited descriptor from now on; for shard processes."""
    _Process.marks = Marks(descriptor)


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
            _local.owner = self._user_id
            try:
                return fn(*args, **kwargs)
            finally:
                _local.owner = None

        return self._executor.submit(work)


def owned(executor: Executor, user_id: str) -> Executor:
    """Return an executor of the same threads, whose work is done on behalf of a user."""
    return _Owned(executor, user_id)
