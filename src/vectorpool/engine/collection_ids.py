"""The id of a collection, changed in the files of a closed directory.

Chroma makes up the id of a new collection, and its bindings take none. The id stands in the catalogue and in the topics
of the queue; index files are named after segments, whose ids no client is told. The files are edited closed only:
Python has a SQLite of its own, and two copies of SQLite in one process do not see each other's locks.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from vectorpool.engine.tables import OF_COLLECTION
from vectorpool.names import CHROMA_DATABASE_FILE

# Chroma's threads close the files some milliseconds after the client was closed.
_CLOSE_WITHIN_S: Final = 10.0
_PAUSE_S: Final = 0.001

_COLUMNS: Final = (("collections", "id"), ("collection_metadata", "collection_id"), ("segments", "collection"))


def rewrite_id(directory: Path, old: str, new: str) -> None:
    """Give the collection ``old`` the id ``new``, in a directory that was closed. Blocking.

    Raises OSError (a TimeoutError if the files stay open) or sqlite3.Error if that cannot be done.
    """
    wait_until_closed(directory)
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db, db:
        # Nothing here must survive a crash: what counts is the commit that follows.
        db.execute("PRAGMA synchronous=OFF")
        for table, column in _COLUMNS:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
        db.execute(f"UPDATE embeddings_queue SET topic = replace(topic, ?, ?) WHERE {OF_COLLECTION}", (old, new, old))


def wait_until_closed(directory: Path, within_s: float = _CLOSE_WITHIN_S) -> None:
    """Return once no file of the directory is open in this process; raise TimeoutError."""
    files = {(stat.st_dev, stat.st_ino) for stat in (path.stat() for path in directory.rglob("*") if path.is_file())}
    waited_s = 0.0
    while files & _open_files():
        if waited_s >= within_s:
            raise TimeoutError(f"Chroma still has files open {within_s:g} s after it was closed")
        time.sleep(_PAUSE_S)
        waited_s += _PAUSE_S


def _open_files() -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for descriptor in Path("/dev/fd").iterdir():
        try:
            stat = os.fstat(int(descriptor.name))
        except OSError:
            # It was closed since it was listed.
            continue
        found.add((stat.st_dev, stat.st_ino))
    return found
