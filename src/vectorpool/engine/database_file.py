"""Chroma's SQLite file, read beside Chroma: one descriptor, one connection, and the proof that the file stood still.

Chroma may write meanwhile (its locks do not count within one process), so each answer proves that the file did not
change: a transaction of SQLite has a journal beside the file from before its first page is written until it ends, and
it leaves a higher change counter in the file. No journal and the same counter, before and after, mean that no page was
written in between. Everything that is remembered is remembered under that counter.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Protocol

from vectorpool.engine.index_rows import Stamp
from vectorpool.engine.squeeze import MARK
from vectorpool.names import CHROMA_DATABASE_FILE

# SQLite would keep 2 MB of pages a connection. A read needs some dozens, and the system caches the others.
_CACHE_PAGES: Final = "PRAGMA cache_size = 128"


class Doubt(Exception):
    """The files do not say it plainly: Chroma is to be asked."""


class Later(Doubt):
    """The files are being written: a moment later they may say it."""


class FilesLock(AbstractContextManager[Any, Any], Protocol):
    """A lock of ``threading``. One that a thread may take twice lets the reads of one directory use each other."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; return whether that was done."""

    def release(self) -> None:
        """Give the lock back."""


class DatabaseFile:
    """The file of one directory. Its methods are for the holder of ``lock``, which fast writes hold too."""

    def __init__(self, directory: Path, lock: FilesLock) -> None:
        self.lock = lock
        self.directory = directory
        self.is_closed = False
        self._path = directory / CHROMA_DATABASE_FILE
        self._journal = f"{self._path}-journal"
        self._file: int | None = None
        self._db: sqlite3.Connection | None = None

    def open(self) -> int:
        """Open the file unless it is open; return the descriptor. Raises OSError."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._file

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, which reads only. Raises sqlite3.Error."""
        if self._db is None:
            # SQLite's locks mean nothing here, and this module looks for a journal itself.
            uri = f"{self._path.absolute().as_uri()}?mode=ro&nolock=1"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            self._db.execute(_CACHE_PAGES)
        return self._db

    def stamp(self) -> Stamp | None:
        """Return what tells this content of the file from another; None while it is being written.

        Raises Doubt if the file is none, or has a WAL, or was closed.
        """
        if self.is_closed:
            raise Doubt
        file = self.open()
        head = os.pread(file, MARK.stop, 0)
        if len(head) < MARK.stop or head[18] != 1 or head[19] != 1:
            raise Doubt
        if os.access(self._journal, os.F_OK):
            return None
        # The time too: a transaction that is rolled back leaves the counter as it was.
        return head[24:28] + head[MARK], os.fstat(file).st_mtime_ns

    def forget_pages(self) -> None:
        """Drop the connection with the pages that it read; the next use opens another."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def release(self) -> None:
        """Close the descriptors; the next use opens the file again."""
        self.forget_pages()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Close the descriptors for good. Idempotent."""
        self.is_closed = True
        self.release()
