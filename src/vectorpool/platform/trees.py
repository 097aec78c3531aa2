"""Trees of files that others made, and one rule for them: regular files only, no link followed, bounds before bytes.

An import, a plain directory that is adopted and a directory that serves as a store may hold what a stranger put there:
a link to a file of the system, a pipe that blocks the process that opens it, a million files. ``regular_files`` looks
at a whole tree before anything of it is read. ``open_file`` opens one file of a tree so that neither it nor a directory
above it can be a link, even if it changes meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vectorpool.errors import InvalidRequest, LimitExceeded

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the open of a pipe would wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LEVELS: Final = 32
_COPY_BYTES: Final = 1024**2


def regular_files(root: Path, *, max_files: int, max_bytes: int) -> dict[str, int]:
    """Return the size in bytes of every file below ``root`` by its path. Nothing is opened.

    Raises InvalidRequest for what is neither a regular file nor a directory, and LimitExceeded.
    """
    sizes: dict[str, int] = {}
    total = entries = 0
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(root / below) as scan:
            for entry in scan:
                path = f"{below}/{entry.name}" if below else entry.name
                entries += 1
                if entry.is_dir(follow_symlinks=False):
                    if path.count("/") >= _MOST_LEVELS:
                        raise LimitExceeded(f"{path!a} lies deeper than {_MOST_LEVELS} directories. Flatten it.")
                    pending.append(path)
                elif entry.is_file(follow_symlinks=False):
                    size = entry.stat(follow_symlinks=False).st_size
                    sizes[path] = size
                    total += size
                else:
                    raise InvalidRequest(
                        f"{path!a} is neither a file nor a directory; links are not followed. Remove it, or put the "
                        "file itself there."
                    )
                if entries > 2 * max_files or len(sizes) > max_files or total > max_bytes:
                    raise LimitExceeded(f"The directory holds more than {max_files} files or {max_bytes} bytes.")
    return sizes


def copy_files(root: Path, sizes: dict[str, int], target: Path) -> None:
    """Copy the files that ``regular_files`` found into an empty directory, none beyond its size found there.

    Raises InvalidRequest for a file that was replaced, or that grew, meanwhile.
    """
    for path, size in sizes.items():
        copy = target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_directory(root, *Path(path).parts[:-1]) as parent:
                descriptor = open_file(parent, copy.name)
        except OSError as error:
            raise InvalidRequest(f"{path!a} cannot be read as a file: {error.strerror}.") from error
        with open(descriptor, "rb", buffering=0) as source, copy.open("xb") as file:  # noqa: PTH123 - a descriptor
            left = size
            while left and (data := source.read(min(left, _COPY_BYTES))):
                file.write(data)
                left -= len(data)
            if left or source.read(1):
                raise InvalidRequest(f"{path!a} changed while it was copied. Stop what writes to it first.")


@contextmanager
def open_directory(root: Path, *segments: str, make: bool = False, fsync: bool = False) -> Iterator[int]:
    """Yield a descriptor of the directory at ``segments`` below ``root``, no link followed on the way there.

    ``make`` makes the directories that are missing; with ``fsync`` their names survive power loss. ``root`` itself may
    be a link. Raises OSError: NotADirectoryError where a segment is a link or a file.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for segment in segments:
            try:
                inner = os.open(segment, _DIRECTORY, dir_fd=descriptor)
            except FileNotFoundError:
                if not make:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(segment, dir_fd=descriptor)
                if fsync:
                    os.fsync(descriptor)
                inner = os.open(segment, _DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def open_file(directory: int, name: str) -> int:
    """Return a descriptor to read a regular file in an open directory; raise FileNotFoundError for anything else."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        # A link is ELOOP; a socket, or a device without a driver, is ENXIO.
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", name) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
    return descriptor
