"""Rows that Chroma leaves behind in a directory that is adopted: lists of records whose collection was deleted.

Chroma does not delete them with their collection. The next record that gets the row of one shows its list as its own,
in whatever collection or database that is. Our own deletions leave none (see ``fast_drops``), so only an
adopted directory has any. They are deleted when its first commit is opened, and are gone from the commit that follows.
Looking for them takes 14 ms for 44,000 values, which every later opening saves.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from vectorpool.engine.deletions import connect, mark_unknown
from vectorpool.engine.tables import has_table
from vectorpool.errors import InvalidRequest
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.platform.trees import open_database

logger = logging.getLogger(__name__)

# Without this it would take as long as the stranger's file is large.
_LIMIT_S: Final = 60.0
_SWEEP: Final = "DELETE FROM embedding_metadata_array WHERE id NOT IN (SELECT id FROM embeddings)"


def sweep_lists(directory: Path) -> int:
    """Delete lists that belong to no record, from a directory that is not open; return how many values. Blocking.

    A file that SQLite cannot read or change is left as it is: whether it can be opened is for Chroma to say.
    """
    path = directory / CHROMA_DATABASE_FILE
    try:
        with open_database(path, write=True, limit_s=_LIMIT_S) as db:
            # Nothing here must survive a crash: what counts is the commit that follows.
            db.execute("PRAGMA synchronous=OFF")
            if not has_table(db, "embedding_metadata_array"):
                # A version of Chroma without lists wrote it.
                return 0
            swept = db.execute(_SWEEP).rowcount
    except InvalidRequest as error:
        logger.warning("an adopted directory was not looked through for what deleted collections left: %s", error)
        return 0
    if swept:
        logger.info("%d values that deleted collections had left behind were swept from an adopted directory", swept)
    return swept


def forget_mark(directory: Path) -> None:
    """Take from an adopted directory what it says of deletions: another program may have written it since. Blocking."""
    try:
        with closing(connect(directory)) as db:
            mark_unknown(db)
    except sqlite3.Error as error:
        logger.warning("the mark of an adopted directory could not be changed: %s", error)
