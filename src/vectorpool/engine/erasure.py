"""Removing what was deleted from the files of a closed directory.

A deletion leaves much behind. SQLite keeps the bytes of deleted rows in free pages and in the free parts of others. The
full-text index keeps the terms of deleted texts until its segments are merged. The queue keeps the text of operations
that were taken in long ago. A dropped collection leaves the folder of its index, and versions of Chroma before this one
leave its records too.

``erase`` takes all of that out: rows that nothing refers to are deleted, the queue is emptied of what was taken in, the
full-text index is built again from the texts that are there, and the database is written anew into an empty file. What
Chroma answers stays the same. Index files of live collections stay as they are: they hold the vectors of deleted
records, marked as such, until Chroma uses their places again, and neither texts nor metadata.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from vectorpool.engine.deletions import connect, mark_nothing, read_remains, remove_folders
from vectorpool.engine.tables import DOCUMENT_KEY, METADATA_SCOPE, OF_COLLECTION, has_waiting, position_of
from vectorpool.engine.texts import mend_texts
from vectorpool.engine.version import is_tested, read_schema
from vectorpool.names import CHROMA_DATABASE_FILE

# In this order: each statement makes rows that the next ones find without what they belong to.
_UNKNOWN_ROWS: Final = (
    "DELETE FROM collections WHERE database_id NOT IN (SELECT id FROM databases)",
    "DELETE FROM collection_metadata WHERE collection_id NOT IN (SELECT id FROM collections)",
    "DELETE FROM segments WHERE collection NOT IN (SELECT id FROM collections)",
    "DELETE FROM segment_metadata WHERE segment_id NOT IN (SELECT id FROM segments)",
    "DELETE FROM max_seq_id WHERE segment_id NOT IN (SELECT id FROM segments)",
    "DELETE FROM embeddings WHERE segment_id NOT IN (SELECT id FROM segments)",
    "DELETE FROM embedding_metadata WHERE id NOT IN (SELECT id FROM embeddings)",
    "DELETE FROM embedding_metadata_array WHERE id NOT IN (SELECT id FROM embeddings)",
    # A row of the queue stays: the greatest number says which one comes next.
    "UPDATE embeddings_queue SET vector = NULL, metadata = NULL "
    "WHERE substr(topic, -36) NOT IN (SELECT id FROM collections)",
)
_TAKEN_IN: Final = (
    f"UPDATE embeddings_queue SET metadata = '{{}}' WHERE metadata <> '{{}}' AND seq_id <= ? AND {OF_COLLECTION}"
)
_FULL_TEXT: Final = (
    "DELETE FROM embedding_fulltext_search_content",
    "INSERT INTO embedding_fulltext_search_content (id, c0) SELECT id, string_value FROM embedding_metadata "
    f"WHERE key = '{DOCUMENT_KEY}' AND string_value IS NOT NULL",
    "INSERT INTO embedding_fulltext_search (embedding_fulltext_search) VALUES ('rebuild')",
)


def erase(directory: Path) -> bool:
    """Remove from a closed directory what was deleted from it; return False if there is nothing, or if it cannot tell.

    A schema that was not tested is left as it is. Blocking: a second for some 64 MiB. Raises sqlite3.Error and OSError;
    the directory may not be used then.
    """
    schema = read_schema(directory)
    if schema is None or not is_tested(schema.fingerprint) or read_remains(directory).since_ms is None:
        return False
    mend_texts(directory)
    path = directory / CHROMA_DATABASE_FILE
    fresh = path.with_name(f"{path.name}-erased")
    with closing(connect(directory)) as db:
        # A transaction that can be taken back would hold most of the file in memory.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("BEGIN IMMEDIATE")
        for statement in _UNKNOWN_ROWS:
            db.execute(statement)
        _empty_queue(db)
        for statement in _FULL_TEXT:
            db.execute(statement)
        if not has_waiting(db):
            # Otherwise something may be deleted once Chroma takes it in: the mark stays.
            mark_nothing(db)
        db.execute("COMMIT")
        # Into an empty file: no page of it ever held anything else.
        db.execute("VACUUM INTO ?", (str(fresh),))
        remove_folders(db, directory)
    fresh.replace(path)
    return True


def _empty_queue(db: sqlite3.Connection) -> None:
    """Take out of the queue what the records have taken in; what an index still needs of it are ids and vectors."""
    sql = "SELECT collection, id FROM segments WHERE scope = ?"
    for collection_id, segment_id in db.execute(sql, (METADATA_SCOPE,)).fetchall():
        db.execute(_TAKEN_IN, (position_of(db, segment_id), collection_id))
