"""Failures of the local disk, as Python, SQLite and Chroma report them; Chroma often omits the cause.

A replica is a copy of the log's state, so a full or failing disk is no damage and no defect. The error is
``LocalDiskFailed``, which says what to do, and nothing is salvaged because of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vectorpool.errors import BrokenReplica, ChromaRefusal, InternalError, LocalDiskFailed, VectorpoolError

_ERRNOS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
# The messages of SQLite, of the system, and of Rust.
_WORDS: Final = ("database or disk is full", "disk I/O error", "No space left on device", "(os error 28)")
# Chroma reports some failed writes without their cause. With less room than this, the disk is the cause.
_NO_ROOM_BYTES: Final = 16 * 1024**2


def as_disk_failure(error: BaseException, directory: Path) -> LocalDiskFailed | None:
    """Return LocalDiskFailed if the disk of ``directory`` caused ``error``; None if the cause is another."""
    if isinstance(error, LocalDiskFailed):
        return error
    if isinstance(error, VectorpoolError) and not _is_opaque(error):
        return None
    cause: BaseException | None = error
    # A panic's error may be among its own causes.
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        if _is_disk_error(cause):
            return _failed(str(getattr(cause, "strerror", None) or _message_in(cause)))
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, VectorpoolError) and _has_no_room(directory):
        return _failed("no room is left on it")
    return None


def _is_opaque(error: VectorpoolError) -> bool:
    """Whether an error is of the kind that Chroma gives for anything that it did not expect."""
    return isinstance(error, BrokenReplica | InternalError) or (
        isinstance(error, ChromaRefusal) and error.extra.get("status", 0) >= 500
    )


def _is_disk_error(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    # shutil reports what it could not copy as text.
    return any(words in str(error) for words in _WORDS)


def _message_in(error: BaseException) -> str:
    text = str(error)
    return next(words for words in _WORDS if words in text)


def _has_no_room(directory: Path) -> bool:
    for place in (directory, *directory.parents):
        try:
            room = os.statvfs(place)
        except OSError:
            continue
        return room.f_bavail * room.f_frsize < _NO_ROOM_BYTES
    return False


def _failed(why: str) -> LocalDiskFailed:
    return LocalDiskFailed(
        f"The working copy cannot be written to the local disk ({why}). Give the replica directory more room, or lower "
        "the bounds on local bytes."
    )


@contextmanager
def on_local_disk(directory: Path) -> Iterator[None]:
    """Raise LocalDiskFailed if the disk of ``directory`` caused an error of the block."""
    try:
        yield
    except Exception as error:
        if (failure := as_disk_failure(error, directory)) is not None and failure is not error:
            raise failure from error
        raise
