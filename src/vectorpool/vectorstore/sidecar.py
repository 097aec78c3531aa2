"""The sidecar: a SQLite file beside Chroma's, so that what it says commits with the vectors themselves.

It holds which embedder made a collection's embeddings and which document gave which chunks. Nothing in it
must survive a crash on its own: the commit log carries the file, so the journal stays in memory and nothing
is synced. The file appears with the first thing to say.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import msgspec

from vectorpool.answers import Ingested

_SCHEMA = """
CREATE TABLE IF NOT EXISTS collection (id TEXT PRIMARY KEY, embedder TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS document (
  avatar_id TEXT NOT NULL, path TEXT NOT NULL, collection_id TEXT NOT NULL, etag TEXT NOT NULL,
  size INTEGER NOT NULL, recipe TEXT NOT NULL, chunk_ids BLOB NOT NULL,
  PRIMARY KEY (avatar_id, path)
) WITHOUT ROWID;
"""


class Sidecar:
    """One open sidecar. One thread at a time writes; SQLite serialises the readers beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._embedders: dict[str, str] | None = None
        self._opening = threading.Lock()

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        with self._opening:
            return self._open_once(create)

    def _open_once(self, create: bool) -> sqlite3.Connection | None:
        if self._db is None and (create or self._path.exists()):
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=MEMORY")
            db.execute("PRAGMA synchronous=OFF")
            db.executescript(_SCHEMA)
            self._db = db
        return self._db

    def _writable(self) -> sqlite3.Connection:
        db = self._open(create=True)
        assert db is not None
        return db

    def close(self) -> None:
        """Close the file; the sidecar opens again when used."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def embedder(self, collection_id: str) -> str | None:
        """Return who embedded the collection's text, or None if nobody has yet."""
        if self._embedders is None:
            db = self._open(create=False)
            self._embedders = {} if db is None else dict(db.execute("SELECT id, embedder FROM collection"))
        return self._embedders.get(collection_id)

    def set_embedder(self, collection_id: str, embedder: str) -> None:
        """Remember who embedded the collection's text."""
        self._writable().execute("INSERT OR REPLACE INTO collection VALUES (?, ?)", (collection_id, embedder))
        self._embedders = None

    def forget_collection(self, collection_id: str) -> None:
        """Forget a deleted collection and the documents that became its records."""
        db = self._open(create=False)
        if db is not None:
            db.execute("DELETE FROM collection WHERE id = ?", (collection_id,))
            db.execute("DELETE FROM document WHERE collection_id = ?", (collection_id,))
            self._embedders = None

    def documents(self, avatar_id: str, collection_names: dict[str, str]) -> list[Ingested]:
        """Return an avatar's ingested documents by path; ``collection_names`` maps ids to names."""
        db = self._open(create=False)
        if db is None:
            return []
        rows = db.execute(
            "SELECT path, collection_id, etag, size, recipe, chunk_ids FROM document WHERE avatar_id = ? ORDER BY path",
            (avatar_id,),
        )
        return [
            Ingested(
                path=path,
                collection=collection_names.get(collection_id, ""),
                etag=etag,
                size=size,
                chunks=len(msgspec.msgpack.decode(chunk_ids)),
                embedder=self.embedder(collection_id),
                recipe=recipe,
            )
            for path, collection_id, etag, size, recipe, chunk_ids in rows
        ]

    def count_documents(self, avatar_id: str) -> int:
        """Return how many of an avatar's documents were ingested."""
        db = self._open(create=False)
        if db is None:
            return 0
        row = db.execute("SELECT count(*) FROM document WHERE avatar_id = ?", (avatar_id,)).fetchone()
        return int(row[0])

    def chunks(self, avatar_id: str, path: str) -> tuple[str, list[str]] | None:
        """Return (collection id, record ids) of an ingested document, or None."""
        db = self._open(create=False)
        if db is None:
            return None
        row = db.execute(
            "SELECT collection_id, chunk_ids FROM document WHERE avatar_id = ? AND path = ?", (avatar_id, path)
        ).fetchone()
        return None if row is None else (row[0], msgspec.msgpack.decode(row[1], type=list[str]))

    def set_document(
        self, avatar_id: str, path: str, collection_id: str, etag: str, size: int, recipe: str, ids: list[str]
    ) -> None:
        """Remember that a document became these records."""
        self._writable().execute(
            "INSERT OR REPLACE INTO document VALUES (?, ?, ?, ?, ?, ?, ?)",
            (avatar_id, path, collection_id, etag, size, recipe, msgspec.msgpack.encode(ids)),
        )

    def forget_document(self, avatar_id: str, path: str) -> None:
        """Forget one document."""
        db = self._open(create=False)
        if db is not None:
            db.execute("DELETE FROM document WHERE avatar_id = ? AND path = ?", (avatar_id, path))
