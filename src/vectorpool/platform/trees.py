"""Trees of files that others made, and one rule for them.

An import, a plain directory that is adopted and a directory that serves as a store may hold what a stranger put there:
a link to a file of the system, a pipe that blocks the process that opens it, a million files, a database whose triggers
never end. The rule: regular files only, no link followed, bounds before bytes, databases of a known schema alone, and a
time bound on every statement.

``regular_files`` looks at a whole tree before anything of it is read. ``open_file`` opens one file of a tree so that
neither it nor a directory above it can be a link, whatever changes meanwhile. ``open_database`` opens a database and
interrupts its statements at a deadline, and ``check_schema`` refuses one that holds what could compute by itself.
"""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vectorpool.errors import InvalidRequest, LimitExceeded
from vectorpool.platform import openat2
from vectorpool.platform.privacy import shared_mode
from vectorpool.sources import SYSTEM

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK the open of a pipe would wait for a writer.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_IN_ONE_STEP: Final = openat2.Opener(_DIRECTORY, openat2.BENEATH | openat2.NO_SYMLINKS | openat2.NO_MAGICLINKS)
_MOST_LEVELS: Final = 32
_COPY_BYTES: Final = 1024**2
# All statements on one database of a stranger, together.
STATEMENTS_S: Final = 20.0
_STEPS: Final = 10_000
_SHADOWS: Final = ("config", "content", "data", "docsize", "idx")
# What lets a table compute: anywhere in its statement, for only SQLite can tell comments and texts from the rest.
_COMPUTES: Final = re.compile(
    r"\b(CHECK|GENERATED|COLLATE|AS|SELECT)\b|\bDEFAULT\b(?!\s+(CURRENT_TIMESTAMP|NULL|\d+|x?'[^']*')\s*[,)\n])",
    re.IGNORECASE,
)
# Columns, and at most the condition that one of them is there.
_PLAIN_INDEX: Final = re.compile(
    r"\s*CREATE\s+(UNIQUE\s+)?INDEX\s+[\w\"]+\s+ON\s+[\w\"]+\s*\(\s*\w+(\s*,\s*\w+)*\s*\)"
    r"(\s+WHERE\s+\w+\s+IS\s+NOT\s+NULL)?\s*",
    re.IGNORECASE,
)


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
        if len(segments) > 1 and (whole := _IN_ONE_STEP.open(descriptor, "/".join(segments))) >= 0:
            os.close(descriptor)
            descriptor, segments = whole, ()
        # Otherwise the steps say what is wrong, or make what is missing.
        for segment in segments:
            try:
                inner = os.open(segment, _DIRECTORY, dir_fd=descriptor)
            except FileNotFoundError:
                if not make:
                    raise
                is_made = False
                with suppress(FileExistsError):
                    os.mkdir(segment, dir_fd=descriptor)
                    is_made = True
                if fsync:
                    os.fsync(descriptor)
                inner = os.open(segment, _DIRECTORY, dir_fd=descriptor)
                if is_made and (mode := shared_mode(0o777)) is not None:
                    os.fchmod(inner, mode)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def make_directories(directory: Path, *, fsync: bool) -> None:
    """Make a directory and those above it; with ``fsync`` their names survive power loss as well. Blocking."""
    if directory.is_dir():
        return
    make_directories(directory.parent, fsync=fsync)
    directory.mkdir(exist_ok=True)
    if (mode := shared_mode(0o777)) is not None:
        with suppress(PermissionError):
            directory.chmod(mode)
    if fsync:
        fsync_directory(directory.parent)


def fsync_directory(path: Path) -> None:
    """Flush a directory, so that the names in it survive power loss. Blocking."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
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


# --- Databases ---------------------------------------------------------------------------------------


@contextmanager
def open_database(path: Path, *, write: bool = False, limit_s: float = STATEMENTS_S) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a database of a closed directory; all its statements together take ``limit_s`` at most.

    Without ``write`` the file is taken as it is, journals left aside, and nothing is written. Blocking. Raises
    InvalidRequest for what SQLite refuses, and for a statement that was interrupted.
    """
    mode = "mode=rw" if write else "mode=ro&immutable=1"
    deadline_s = SYSTEM.monotonic_s() + limit_s
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise InvalidRequest(f"{path.name} cannot be opened as a database ({error}).") from error
    # The handler runs between steps, and the timer interrupts what takes none, such as the reading of a schema.
    db.set_progress_handler(lambda: SYSTEM.monotonic_s() > deadline_s, _STEPS)
    timer = threading.Timer(limit_s, db.interrupt)
    timer.daemon = True
    timer.start()
    try:
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=FILE"):
            db.execute(f"PRAGMA {pragma}")
        yield db
    except sqlite3.Error as error:
        if SYSTEM.monotonic_s() > deadline_s:
            raise InvalidRequest(f"{path.name} took longer than {limit_s:g} s to read, and was not read on.") from error
        raise InvalidRequest(f"{path.name} cannot be read as a database ({error}).") from error
    finally:
        timer.cancel()
        timer.join()
        db.close()


def check_schema(
    db: sqlite3.Connection, tables: frozenset[str] | None, virtual: Mapping[str, str], *, name: str
) -> None:
    """Raise InvalidRequest unless a database holds nothing but known tables that only store; None: any such table.

    ``virtual`` has the arguments of the virtual tables that may be there, by name: ``fts5(text)``. ``name`` is the
    database's, for the message.
    """
    if tables is not None:
        tables |= {f"{table}_{part}" for table in virtual for part in _SHADOWS}
    for kind, found, table, sql in db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"):
        wrong = _wrong(str(kind), str(found), str(table), sql, tables, virtual)
        if wrong is not None:
            raise InvalidRequest(
                f"{name} holds {wrong}, which no version of Chroma makes. It is not opened. Remove that, or copy the "
                "collections with a Chroma client."
            )


def _wrong(
    kind: str, found: str, table: str, sql: object, tables: frozenset[str] | None, virtual: Mapping[str, str]
) -> str | None:
    """Return what is wrong with one entry of a schema, or None."""
    if found.startswith("sqlite_") or (kind == "index" and sql is None):
        # SQLite's own, and the indexes of keys. SQLite itself refuses others of that name.
        return None if kind in ("table", "index") else f"the {kind} {found!a}"
    if kind not in ("table", "index") or not isinstance(sql, str):
        return f"the {kind} {found!a}"
    if kind == "index":
        plain = (tables is None or table in tables) and _PLAIN_INDEX.fullmatch(sql)
        return None if plain else f"the index {found!a}"
    if re.match(r"\s*CREATE\s+VIRTUAL\b", sql, re.IGNORECASE):
        arguments = re.sub(r"\s", "", sql.partition("USING")[2]).rstrip(";")
        return None if arguments and arguments == virtual.get(found) else f"the virtual table {found!a}"
    if tables is not None and found not in tables:
        return f"the table {found!a}"
    return f"a table {found!a} that computes" if _COMPUTES.search(sql) else None
