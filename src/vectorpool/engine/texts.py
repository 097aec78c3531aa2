"""Texts with a NUL, which versions before this one let in, and plain Chroma still does.

Chroma's SQLite reads a text up to its first NUL for the full-text index. What follows is not found. Later versions of
SQLite read on, so that their ``PRAGMA quick_check`` says that the index is malformed. A NUL is replaced by U+FFFD, the
character that stands for one that cannot be shown, and the full-text index is built again.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from vectorpool.engine.deletions import connect, mark_since, read_remains
from vectorpool.engine.tables import DOCUMENT_KEY, has_waiting

logger = logging.getLogger(__name__)

_NUL: Final = "\0"
_REPLACEMENT: Final = "\ufffd"
_WITH_NUL: Final = f"SELECT id FROM embedding_metadata WHERE key = '{DOCUMENT_KEY}' AND instr(string_value, char(0))"


def without_nul(text: str) -> str:
    """Return a text with each NUL replaced."""
    return text.replace(_NUL, _REPLACEMENT)


def mend_texts(directory: Path) -> int:
    """Replace each NUL in the texts of a closed directory of the tested schema; return how many had one. Blocking.

    Looking takes about 1.5 ms a MB of text. Raises sqlite3.Error.
    """
    with closing(connect(directory)) as db:
        return _mend(db)


def take_over(directory: Path, now_ms: int) -> bool:
    """Mend the texts of a closed directory of which nothing is known; return whether one had a NUL. Blocking.

    From then on it is marked as one that may hold something deleted. A file that SQLite cannot read or change is left
    as it is: whether it can be opened is for Chroma to say.
    """
    if read_remains(directory).since_ms != 0:
        return False
    try:
        with closing(connect(directory)) as db:
            mended = _mend(db)
            if not has_waiting(db):
                # Otherwise a text with a NUL may come once Chroma takes it in: the next opening looks again.
                mark_since(db, now_ms)
    except sqlite3.DatabaseError as error:
        logger.warning("the texts of a vectorstore were not looked through for a NUL: %s", error)
        return False
    if mended:
        logger.info("%d texts of a vectorstore had a NUL, which was replaced", mended)
    return bool(mended)


def _mend(db: sqlite3.Connection) -> int:
    found = [row_id for (row_id,) in db.execute(_WITH_NUL)]
    if not found:
        return 0
    db.execute("BEGIN IMMEDIATE")
    for row_id in found:
        sql = "SELECT string_value FROM embedding_metadata WHERE id = ? AND key = ?"
        mended = without_nul(db.execute(sql, (row_id, DOCUMENT_KEY)).fetchone()[0])
        db.execute(
            "UPDATE embedding_metadata SET string_value = ? WHERE id = ? AND key = ?", (mended, row_id, DOCUMENT_KEY)
        )
        # Not through the index: it would look for the terms of a text that it never read.
        db.execute("UPDATE embedding_fulltext_search_content SET c0 = ? WHERE id = ?", (mended, row_id))
    db.execute("INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('rebuild')")
    db.execute("COMMIT")
    return len(found)
