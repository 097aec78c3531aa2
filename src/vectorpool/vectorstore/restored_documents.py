"""Documents of a state that a restore or fork brings: their rows are flagged before the state is committed.

The flag is part of the commit itself, so that no ingest, of any instance, finds the rows without it: it would take them
for rows of documents that were deleted meanwhile, and delete their records.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from vectorpool.answers import RestoredDocument
from vectorpool.names import SIDECAR_FILE
from vectorpool.vectorstore.sidecar import RestoredAt, Sidecar
from vectorpool.vectorstore.sidecar_schema import migrate


def flag_documents(directory: Path) -> bool:
    """Flag every document's row in a directory that is not open; return whether that changed a file. Blocking."""
    path = directory / SIDECAR_FILE
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=MEMORY")
        db.execute("PRAGMA synchronous=OFF")
        if db.execute("SELECT 1 FROM document LIMIT 1").fetchone() is None:
            return False
        before = db.total_changes, db.execute("PRAGMA user_version").fetchone()
        migrate(db)
        db.execute("UPDATE document SET restored = 1 WHERE NOT restored")
        return before != (db.total_changes, db.execute("PRAGMA user_version").fetchone())


def flagged_documents(directory: Path) -> list[RestoredDocument]:
    """Return the flagged rows of a directory that is not open. Blocking."""
    with closing(Sidecar(directory / SIDECAR_FILE)) as sidecar:
        return sidecar.restored_documents(RestoredAt(), -1)
