"""The sidecar: a SQLite file beside Chroma's, so that its rows and the vectors are in the same commit.

It stores the embedder of each collection, the chunks of each document, the records that a salvage lost, and aliases:
ids of collections that clients received and that another instance's commit made void. The file itself need not survive
a crash, because the commit log carries it. So the journal stays in memory and nothing is synced. The file is created by
the first row.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from vectorpool.answers import Ingested, LostRecord, RestoredDocument
from vectorpool.commands import KnownDocument, PipelineChoice
from vectorpool.engine.salvage import Loss
from vectorpool.vectorstore.document_parts import DocumentParts
from vectorpool.vectorstore.sidecar_schema import VERSION, migrate

_COLLECTION_IDS: Final = (
    ("collection", "id"),
    ("document", "collection_id"),
    ("salvage_loss", "collection_id"),
    ("collection_alias", "collection_id"),
    ("document_part", "collection_id"),
)


# What is read of a document's row, in the order in which it is taken apart.
_DOCUMENT: Final = "path, collection_id, etag, size, recipe, chunk_ids, digest, restored, content_type, chunk_hashes"


def rewrite_collection_id(path: Path, old: str, new: str) -> None:
    """Give a collection another id in a closed sidecar, if there is one. Raises sqlite3.Error."""
    if not path.exists():
        return
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA synchronous=OFF")
        for table, column in _COLLECTION_IDS:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))


class RestoredAt(NamedTuple):
    """Which rows are meant: of one avatar or all, of one path or all, after a place in their order."""

    avatar_id: str | None = None
    path: str | None = None
    after: tuple[str, str] | None = None

    def condition(self) -> tuple[str, list[str]]:
        """Return them as a condition in SQL, and its values."""
        terms, values = ["1"], list[str]()
        for column, value in (("avatar_id", self.avatar_id), ("path", self.path)):
            if value is not None:
                terms.append(f"{column} = ?")
                values.append(value)
        if self.after is not None:
            terms.append("(avatar_id, path) > (?, ?)")
            values.extend(self.after)
        return " AND ".join(terms), values


class Sidecar:
    """One open sidecar. One thread at a time writes; SQLite isolates concurrent readers.

    ``before_write`` is called before each write.
    """

    def __init__(self, path: Path, before_write: Callable[[], None] = lambda: None) -> None:
        self._path = path
        self._before_write = before_write
        self._db: sqlite3.Connection | None = None
        self._embedders: dict[str, str] | None = None
        self._aliases: dict[str, str] | None = None
        self._opening = threading.Lock()
        self.parts = DocumentParts(self._open)

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        with self._opening:
            return self._open_once(create)

    def _open_once(self, create: bool) -> sqlite3.Connection | None:
        if self._db is None and (create or self._path.exists()):
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode=MEMORY")
            db.execute("PRAGMA synchronous=OFF")
            # Rows that are deleted are overwritten at once: the file is small.
            db.execute("PRAGMA secure_delete=ON")
            migrate(db)
            self._db = db
        return self._db

    def migrate(self) -> None:
        """Migrate an existing file to this version's schema; without a file, do nothing."""
        self._open(create=False)

    @property
    def version(self) -> int:
        """The schema version of the file; 0 if there is none."""
        return VERSION if self._path.exists() else 0

    def _writable(self) -> sqlite3.Connection:
        self._before_write()
        db = self._open(create=True)
        assert db is not None
        return db

    def _writable_if_there(self) -> sqlite3.Connection | None:
        self._before_write()
        return self._open(create=False)

    def close(self) -> None:
        """Close the file; the sidecar opens again when used."""
        if self._db is not None:
            self._db.close()
            self._db = None
        self._embedders = self._aliases = None

    def embedder(self, collection_id: str) -> str | None:
        """Return the name of the collection's embedder, or None if no text was embedded yet."""
        if self._embedders is None:
            db = self._open(create=False)
            self._embedders = {} if db is None else dict(db.execute("SELECT id, embedder FROM collection"))
        return self._embedders.get(collection_id)

    def set_embedder(self, collection_id: str, embedder: str) -> None:
        """Store the name of the collection's embedder."""
        self._writable().execute("INSERT OR REPLACE INTO collection VALUES (?, ?)", (collection_id, embedder))
        self._embedders = None

    def forget_collection(self, collection_id: str) -> None:
        """Delete the rows of a deleted collection and of the documents that became its records."""
        db = self._writable_if_there()
        if db is not None:
            db.execute("DELETE FROM collection WHERE id = ?", (collection_id,))
            db.execute("DELETE FROM document WHERE collection_id = ?", (collection_id,))
            db.execute("DELETE FROM salvage_loss WHERE collection_id = ?", (collection_id,))
            db.execute("DELETE FROM collection_alias WHERE collection_id = ?", (collection_id,))
            db.execute("DELETE FROM document_part WHERE collection_id = ?", (collection_id,))
            self._embedders = self._aliases = None

    def id_of(self, told: str) -> str:
        """Return the id of a collection by the id that a client has: its alias's target, else the same id."""
        if self._aliases is None:
            db = self._open(create=False)
            self._aliases = {} if db is None else dict(db.execute("SELECT told, collection_id FROM collection_alias"))
        return self._aliases.get(told, told)

    def set_alias(self, told: str, collection_id: str) -> None:
        """Store ``told``, an id that clients have, as an alias of this collection, until the collection is deleted."""
        self._writable().execute("INSERT OR REPLACE INTO collection_alias VALUES (?, ?)", (told, collection_id))
        self._aliases = None

    def documents(
        self,
        avatar_id: str,
        collection_names: dict[str, str],
        *,
        paths: list[str] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> list[Ingested]:
        """Return an avatar's ingested documents by path, in bytes; ``collection_names`` maps ids to names."""
        db = self._open(create=False)
        if db is None:
            return []
        among, values = "", [avatar_id, after or ""]
        if paths is not None:
            among = "AND path IN (SELECT value FROM json_each(?))"
            values.append(msgspec.json.encode(paths).decode())
        rows = db.execute(
            f"SELECT {_DOCUMENT} FROM document WHERE avatar_id = ? AND path > ? {among} ORDER BY path LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        return [self._known(row, collection_names).document for row in rows]

    def known_chunks(
        self, avatar_id: str, path: str, digest: str, collection_names: dict[str, str]
    ) -> list[KnownDocument]:
        """Return the records of a document, and those of another one with the bytes of ``digest``."""
        db = self._open(create=False)
        if db is None:
            return []
        rows = db.execute(
            f"SELECT {_DOCUMENT} FROM document WHERE avatar_id = ? AND path = ?", (avatar_id, path)
        ).fetchall()
        if digest:
            rows += db.execute(
                f"SELECT {_DOCUMENT} FROM document WHERE avatar_id = ? AND digest = ? AND path != ? AND etag != '' "
                "LIMIT 1",
                (avatar_id, digest, path),
            ).fetchall()
        return [self._known(row, collection_names) for row in rows]

    def _known(self, row: tuple[Any, ...], collection_names: dict[str, str]) -> KnownDocument:
        path, collection_id, etag, size, recipe, chunk_ids, digest, restored, content_type, hashes = row
        ids = msgspec.msgpack.decode(chunk_ids, type=list[str])
        document = Ingested(
            path=path,
            collection=collection_names.get(collection_id, ""),
            etag=etag,
            size=size,
            chunks=len(ids),
            embedder=self.embedder(collection_id),
            recipe=recipe,
            digest=digest,
            restored=bool(restored),
            content_type=content_type,
        )
        return KnownDocument(document, ids, hashes)

    def count_documents(self, avatar_id: str) -> int:
        """Return how many of an avatar's documents were ingested."""
        db = self._open(create=False)
        if db is None:
            return 0
        row = db.execute("SELECT count(*) FROM document WHERE avatar_id = ?", (avatar_id,)).fetchone()
        return int(row[0])

    def count_all_documents(self) -> int:
        """Return how many documents were ingested, of all avatars."""
        db = self._open(create=False)
        return 0 if db is None else int(db.execute("SELECT count(*) FROM document").fetchone()[0])

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
        self,
        avatar_id: str,
        path: str,
        collection_id: str,
        etag: str,
        size: int,
        recipe: str,
        ids: list[str],
        digest: str = "",
        *,
        content_type: str = "",
        hashes: bytes = b"",
    ) -> None:
        """Store the records that a document became."""
        self._writable().execute(
            f"INSERT OR REPLACE INTO document (avatar_id, {_DOCUMENT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
            (
                avatar_id,
                path,
                collection_id,
                etag,
                size,
                recipe,
                msgspec.msgpack.encode(ids),
                digest,
                content_type,
                hashes,
            ),
        )

    def forget_document(self, avatar_id: str, path: str) -> None:
        """Delete the row of one document."""
        db = self._writable_if_there()
        if db is not None:
            db.execute("DELETE FROM document WHERE avatar_id = ? AND path = ?", (avatar_id, path))

    # --- Pipelines -----------------------------------------------------------------------------------

    def pipeline(self, avatar_id: str) -> PipelineChoice:
        """Return how an avatar's documents are cut; an empty choice if nothing was chosen."""
        db = self._open(create=False)
        row = None if db is None else db.execute("SELECT choice FROM pipeline WHERE avatar_id = ?", (avatar_id,))
        found = None if row is None else row.fetchone()
        return PipelineChoice() if found is None else msgspec.msgpack.decode(found[0], type=PipelineChoice)

    def set_pipeline(self, avatar_id: str, choice: PipelineChoice) -> None:
        """Store how an avatar's documents are cut; an empty choice removes the row."""
        if choice == PipelineChoice():
            if (db := self._open(create=False)) is not None:
                db.execute("DELETE FROM pipeline WHERE avatar_id = ?", (avatar_id,))
            return
        self._writable().execute(
            "INSERT OR REPLACE INTO pipeline VALUES (?, ?)", (avatar_id, msgspec.msgpack.encode(choice))
        )

    # --- Documents that a restore or fork brought ----------------------------------------------------

    def is_restored(self, avatar_id: str, path: str) -> bool:
        """Whether a restore or fork brought a document's row, and no ingest has seen its bytes since."""
        return bool(self.restored_documents(RestoredAt(avatar_id, path), 1))

    def restored_documents(self, place: RestoredAt, limit: int) -> list[RestoredDocument]:
        """Return such rows by avatar and path, at most ``limit``."""
        db = self._open(create=False)
        if db is None:
            return []
        condition, values = place.condition()
        rows = db.execute(
            f"SELECT avatar_id, path, etag, size, digest FROM document WHERE restored AND {condition} "
            "ORDER BY avatar_id, path LIMIT ?",
            (*values, limit),
        )
        return [RestoredDocument(*row) for row in rows]

    def settle_document(self, avatar_id: str, path: str, digest: str, etag: str) -> bool:
        """Note that a path has a row's bytes, at this ETag; return whether that changed anything."""
        db = self._writable_if_there()
        if db is None:
            return False
        done = db.execute(
            # No ETag: a salvage lost chunks, and the document must be ingested again whatever its bytes are.
            "UPDATE document SET restored = 0, etag = CASE etag WHEN '' THEN '' ELSE ? END "
            "WHERE avatar_id = ? AND path = ? AND digest = ? AND (restored OR etag NOT IN ('', ?))",
            (etag, avatar_id, path, digest, etag),
        )
        return done.rowcount > 0

    # --- Losses --------------------------------------------------------------------------------------

    def add_losses(self, losses: Sequence[Loss]) -> int:
        """Store lost records; the documents whose chunks they were count as changed. Return the number of records."""
        db = self._writable()
        with db:
            db.execute("BEGIN")
            db.executemany(
                "INSERT OR REPLACE INTO salvage_loss VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        loss.collection_id,
                        loss.avatar_id,
                        loss.collection,
                        loss.record_id,
                        loss.reason,
                        loss.time_ms,
                        loss.document,
                        msgspec.msgpack.encode(loss.metadata),
                    )
                    for loss in losses
                ],
            )
            self._reopen_documents({(loss.collection_id, loss.record_id) for loss in losses})
        return len(losses)

    def _reopen_documents(self, lost: set[tuple[str, str]]) -> None:
        """Remove the ETag of every document that one of the records came from, so that an ingest takes it in again."""
        db = self._writable()
        rows = db.execute("SELECT avatar_id, path, collection_id, chunk_ids FROM document WHERE etag != ''").fetchall()
        for avatar_id, path, collection_id, chunk_ids in rows:
            ids = msgspec.msgpack.decode(chunk_ids, type=list[str])
            if any((collection_id, record_id) in lost for record_id in ids):
                db.execute("UPDATE document SET etag = '' WHERE avatar_id = ? AND path = ?", (avatar_id, path))

    def losses(self, limit: int, offset: int) -> list[LostRecord]:
        """Return records that salvages lost, by collection and id."""
        db = self._open(create=False)
        if db is None:
            return []
        rows = db.execute(
            "SELECT avatar_id, collection, record_id, reason, time_ms, document, metadata FROM salvage_loss "
            "ORDER BY collection_id, record_id LIMIT ? OFFSET ?",
            (limit, offset),
        )
        return [
            LostRecord(avatar_id, collection, record_id, reason, time_ms, document, msgspec.msgpack.decode(metadata))
            for avatar_id, collection, record_id, reason, time_ms, document, metadata in rows
        ]

    def count_losses(self) -> int:
        """Return how many records salvages lost."""
        db = self._open(create=False)
        return 0 if db is None else int(db.execute("SELECT count(*) FROM salvage_loss").fetchone()[0])


def rewrite(path: Path) -> None:
    """Write a closed sidecar anew, without what was deleted from it; without a file, do nothing."""
    if path.exists():
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=MEMORY")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("VACUUM")
