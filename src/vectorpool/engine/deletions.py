"""Whether a directory may hold what was deleted from it: a mark in the header of its SQLite file.

SQLite keeps four bytes in its header for its users, the user version, which Chroma leaves alone. Here they say when
something was deleted or overwritten for the first time since the files held nothing deleted. They are part of the
state, so a commit, a restore and an export carry them. A file that plain Chroma made has 0 there: it may hold anything.

The mark of an open directory is written while no call of Chroma is in progress: two copies of SQLite in one process do
not see each other's locks. So deletions are noted in memory, and marked before the state is captured.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.engine.directory_state import DirectoryState
from vectorpool.names import CHROMA_DATABASE_FILE

# The mark of a file that holds nothing deleted. Any greater number is a time in minutes since 1970.
_NOTHING: Final = 1
_UNKNOWN: Final = 0
_MS_A_MINUTE: Final = 60_000

# Of the header of a SQLite file: the page size, the number of free pages, the user version.
_HEADER_BYTES: Final = 100
_PAGE_SIZE_AT: Final = slice(16, 18)
_FREE_PAGES_AT: Final = slice(36, 40)
_USER_VERSION_AT: Final = slice(60, 64)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MAGIC: Final = b"SQLite format 3\0"


class Remains(msgspec.Struct, frozen=True):
    """What the header says: since when the files may hold something deleted, and the bytes of free pages.

    ``since_ms`` is None if they hold nothing deleted, and 0 if that is not known.
    """

    since_ms: int | None = None
    free_bytes: int = 0


def read_remains(directory: Path) -> Remains:
    """Return what the header of a Chroma directory says; of a file that is no database, nothing. Raises OSError."""
    with (directory / CHROMA_DATABASE_FILE).open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return Remains()
    page_bytes = int.from_bytes(header[_PAGE_SIZE_AT], "big")
    free_bytes = int.from_bytes(header[_FREE_PAGES_AT], "big") * (65_536 if page_bytes == 1 else page_bytes)
    mark = int.from_bytes(header[_USER_VERSION_AT], "big")
    return Remains(None if mark == _NOTHING else mark * _MS_A_MINUTE, free_bytes)


def mark_nothing(db: sqlite3.Connection) -> None:
    """Mark an open database as one that holds nothing deleted."""
    db.execute(f"PRAGMA user_version = {_NOTHING}")


def mark_since(db: sqlite3.Connection, now_ms: int) -> None:
    """Mark an open database as one that may hold what was deleted from ``now_ms`` on."""
    db.execute(f"PRAGMA user_version = {max(now_ms // _MS_A_MINUTE, _NOTHING + 1)}")


def mark_unknown(db: sqlite3.Connection) -> None:
    """Mark an open database as one that other programs may have written."""
    db.execute(f"PRAGMA user_version = {_UNKNOWN}")


def mark_empty(directory: Path) -> None:
    """Mark the files of a fresh, closed directory, in which nothing was ever deleted. Raises sqlite3.Error."""
    with closing(connect(directory)) as db:
        mark_nothing(db)


def connect(directory: Path) -> sqlite3.Connection:
    """Return a connection to the file of a directory that is closed, or in which no call is in progress.

    It takes no locks, and nothing that it writes survives a crash: what counts is the commit that follows.
    """
    uri = f"{(directory / CHROMA_DATABASE_FILE).absolute().as_uri()}?mode=rw&nolock=1"
    db = sqlite3.connect(uri, uri=True, isolation_level=None)
    db.execute("PRAGMA journal_mode = MEMORY")
    db.execute("PRAGMA synchronous = OFF")
    return db


def remove_folders(db: sqlite3.Connection, directory: Path) -> None:
    """Remove the index folders of segments that the catalogue does not have. Raises OSError."""
    segments = {segment for (segment,) in db.execute("SELECT id FROM segments")}
    for folder in directory.iterdir():
        # Chroma names an index folder after its segment; anything else is not an index.
        if folder.is_dir() and _UUID.fullmatch(folder.name) and folder.name not in segments:
            shutil.rmtree(folder)


class Deletions:
    """What was deleted from one open directory, or overwritten, and is not marked yet."""

    def __init__(self, directory: Path, state: DirectoryState) -> None:
        self._directory = directory
        self._state = state
        self._is_marked = read_remains(directory).since_ms is not None
        self._is_noted = False
        self._is_dropped = False

    @property
    def is_known(self) -> bool:
        """Whether a further deletion of records changes nothing here."""
        return self._is_noted or self._is_marked

    def note(self, *, dropped: bool = False) -> None:
        """Note that something was deleted or overwritten; ``dropped`` says that a collection was."""
        self._is_noted = True
        self._is_dropped = self._is_dropped or dropped

    def settle(self, now_ms: int) -> None:
        """Mark what was noted, and remove the index folders of dropped collections, which Chroma leaves.

        No call of Chroma may be in progress. Raises sqlite3.Error and OSError.
        """
        if not self._is_dropped and (self._is_marked or not self._is_noted):
            return
        self._state.tracked_write()
        with closing(connect(self._directory)) as db:
            if not self._is_marked:
                mark_since(db, now_ms)
            if self._is_dropped:
                remove_folders(db, self._directory)
        self._is_marked, self._is_dropped = True, False
