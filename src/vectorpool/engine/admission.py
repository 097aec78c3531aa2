"""Whether a directory that others made may be opened: its database holds what Chroma makes, and nothing that computes.

A trigger or a view of a stranger would run in a shard, in the middle of Chroma's own statements, as long as it likes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vectorpool.errors import InvalidRequest
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.platform.trees import check_schema, open_database

# Every table of every version of Chroma that is adopted.
TABLES: Final = frozenset(
    {
        *("tenants", "databases", "collections", "collection_metadata", "segments", "segment_metadata"),
        *("embeddings", "embedding_metadata", "embedding_metadata_array", "max_seq_id"),
        *("embeddings_queue", "embeddings_queue_config"),
        *("migrations", "maintenance_log", "acquire_write"),
    }
)
_TEXT_INDEXES: Final = {
    "embedding_fulltext_search": "fts5(string_value,tokenize='trigram')",
    "embedding_fulltext": "fts5(id,string_value)",
}
# Without these a file is a database, and none of Chroma's.
_NEEDED: Final = ("migrations", "collections", "segments", "embeddings_queue")

_known: set[str] = set(TABLES)


def learn_tables(directory: Path) -> None:
    """Note the tables of a directory that the installed Chroma has just made, which may be of a later version."""
    with open_database(directory / CHROMA_DATABASE_FILE) as db:
        _known.update(name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'"))


def check_passive(directory: Path) -> None:
    """Raise InvalidRequest unless the database of a closed directory only stores. Blocking; 1 ms."""
    path = directory / CHROMA_DATABASE_FILE
    if not path.stat().st_size:
        raise InvalidRequest(
            f"{CHROMA_DATABASE_FILE} is empty, so the collections that the directory held are not in it. Copy the "
            "whole directory again, while nothing writes to it."
        )
    with open_database(path) as db:
        check_schema(db, None, _TEXT_INDEXES, name=CHROMA_DATABASE_FILE)


def check_known(directory: Path) -> None:
    """Raise InvalidRequest unless a database that only stores is one of Chroma's, and holds nothing else. Blocking."""
    with open_database(directory / CHROMA_DATABASE_FILE) as db:
        check_schema(db, frozenset(_known), _TEXT_INDEXES, name=CHROMA_DATABASE_FILE)
        there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if missing := [name for name in _NEEDED if name not in there]:
        raise InvalidRequest(
            f"{CHROMA_DATABASE_FILE} is not a database of Chroma's: it has no table {missing[0]}. Name the directory "
            "that a chromadb.PersistentClient was given as its path."
        )
