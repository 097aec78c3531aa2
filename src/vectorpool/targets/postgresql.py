"""PostgreSQL as a target: one transaction an export, by psycopg and binary COPY.

A killed export leaves what was there before. The row of the user is locked, so that two exporters of one user go one
after the other, and a deleted user stays deleted: the row keeps the number of the commit that deleted it.

Metadata is ``jsonb`` (``values`` says how floats survive). Text with U+0000 is refused by name, since PostgreSQL has
no such text, and so are dimensions above 16,000 with pgvector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlunsplit

import msgspec
import numpy as np
import psycopg

from vectorpool.errors import InvalidTarget, NotExportable, TargetRefused, TargetUnavailable, UserNotFound
from vectorpool.names import avatar_of_database
from vectorpool.targets import postgresql_extras, postgresql_schema
from vectorpool.targets.postgresql_rows import COLUMNS, check_text, packed, upsert
from vectorpool.targets.records import BATCH, Collection, Copy, Held, Records, State
from vectorpool.targets.source_documents import SourceDocument
from vectorpool.targets.urls import Target
from vectorpool.targets.values import from_json, to_json

_CONNECT_S: Final = 15
# No statement and no wait for a lock takes longer; a COPY of a batch is one of them.
_STATEMENT_MS: Final = 600_000
_LOCK_MS: Final = 60_000
_MAX_DIMENSION: Final = 16_000
# Up to so many records one statement costs less than a deletion and a COPY, which wait for the server four times.
_FEW: Final = 20


def open_sink(target: Target) -> PostgresSink:
    """Open a database to write. Raises TargetRefused, TargetUnavailable."""
    return PostgresSink(target)


def open_source(target: Target, user_id: str) -> PostgresSource:
    """Open a database to read. Raises UserNotFound, TargetRefused, TargetUnavailable."""
    return PostgresSource(target, user_id)


@contextmanager
def _told(target: Target) -> Iterator[None]:
    """Raise psycopg's errors as this project's, without credentials."""
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise TargetUnavailable(f"{target.shown} took too long: {target.clean(str(error))}.") from None
    except psycopg.errors.LockNotAvailable:
        raise TargetUnavailable(f"Another export holds the user at {target.shown}. Try again later.") from None
    except psycopg.OperationalError as error:
        text = target.clean(str(error))
        state = error.sqlstate or ""
        # Refusals while a connection is made have no state: psycopg gives the server's text alone.
        refuses = state[:2] in ("28", "53", "3D", "54") and state not in ("53300", "53400")
        denied = ("authentication failed", "no password supplied", "does not exist", "no pg_hba.conf entry")
        if refuses or any(part in text for part in denied):
            raise TargetRefused(f"{target.shown} refuses: {text}.") from None
        raise TargetUnavailable(f"{target.shown} does not answer: {text}.") from None
    except psycopg.Error as error:
        raise TargetRefused(f"{target.shown} refuses: {target.clean(str(error))}.") from None


def _url(target: Target) -> str:
    """Return the URL as libpq takes it: without the parameters that are ours."""
    parts = target.parts
    kept = [each for each in parts.query.split("&") if each.partition("=")[0] != postgresql_extras.PARAMETER]
    return urlunsplit(parts._replace(query="&".join(kept)))


def _connect(target: Target) -> psycopg.Connection[Any]:
    options = f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS}"
    try:
        return psycopg.connect(
            _url(target), connect_timeout=_CONNECT_S, options=options, application_name="vectorpool", autocommit=False
        )
    except psycopg.ProgrammingError:
        # The text quotes the URL.
        raise InvalidTarget(f"{target.shown} is no URL of PostgreSQL. Write postgresql://USER@HOST/DATABASE.") from None


class PostgresSink:
    """One transaction from ``state`` to ``finish``.

    An increment is a few small statements, so what does not depend on an answer is sent together (a pipeline of libpq).
    """

    is_always_whole = False
    may_be_kept = True

    def __init__(self, target: Target) -> None:
        self._target = target
        self._user_id = ""
        self._commit, self._hash = 0, ""
        # Records of each collection, as the transaction has them.
        self._counts: dict[str, int] = {}
        # Rows of collections that are whole: the statement and its values.
        self._notes: list[tuple[bytes, tuple[Any, ...]]] = []
        self._are_avatars_stale = False
        wants_index = postgresql_extras.wants_index(target)
        with _told(target):
            self._db = _connect(target)
            try:
                self._is_vector = postgresql_schema.prepare(self._db) == "vector"
                self._indexes = postgresql_extras.Indexes(self._db, target) if wants_index else None
                if wants_index and not self._is_vector:
                    raise TargetRefused(
                        f"{target.shown} has vectors as real[], which nothing indexes. Leave index=hnsw out, or "
                        "export into another database, where pgvector is."
                    )
                self._db.commit()
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the connection; a transaction that is not finished is taken back."""
        self._db.close()

    def state(self, user_id: str) -> State | None:
        """Return what is there, and lock the user's row; what was not finished before is taken back."""
        self._user_id, self._counts, self._notes, self._are_avatars_stale = user_id, {}, [], False
        with _told(self._target):
            self._db.rollback()
            row, found = self._locked(user_id)
            if row is None:
                self._db.execute(
                    "INSERT INTO vectorpool.users (user_id, commit, commit_hash) VALUES (%s, 0, '') "
                    "ON CONFLICT DO NOTHING",
                    (user_id,),
                )
                row, found = self._locked(user_id)
                assert row is not None
            if not row[0]:
                return None
            self._counts = {each[0]: each[4] for each in found}
            # An export of the same commit makes the indexes that were not asked for before.
            is_done = self._indexes is None or not self._indexes.missing(user_id)
            return State(row[0], row[1] if is_done else "", {each[0]: Held(*each[1:4]) for each in found})

    def _locked(self, user_id: str) -> tuple[tuple[int, str] | None, list[Any]]:
        """Lock the row of a user; return it and the rows of the collections, which are read once it is locked."""
        columns = "collection_id, commit, commit_hash, mark, records"
        with self._db.pipeline(), self._db.cursor() as user, self._db.cursor() as collections:
            sql = "SELECT commit, commit_hash FROM vectorpool.users WHERE user_id = %s FOR UPDATE"
            user.execute(sql, (user_id,))
            collections.execute(f"SELECT {columns} FROM vectorpool.collections WHERE user_id = %s".encode(), (user_id,))
            return user.fetchone(), collections.fetchall()

    def begin(self, user_id: str, commit: int, commit_hash: str) -> None:
        """Note the commit that the transaction brings."""
        self._user_id, self._commit, self._hash = user_id, commit, commit_hash

    def put_collection(self, collection: Collection, held: Held) -> None:
        """Look whether the collection can be held; its row is written when it is whole."""
        if self._is_vector and (collection.dimension or 0) > _MAX_DIMENSION:
            raise NotExportable(
                f"{collection.shown} has {collection.dimension} dimensions, and pgvector takes {_MAX_DIMENSION}. "
                "Export to a database without pgvector, where vectors are real[]."
            )
        check_text(collection.shown, "metadata", collection.metadata)
        self._are_avatars_stale |= collection.id not in self._counts
        self._counts.setdefault(collection.id, 0)

    def put(self, collection: Collection, records: Records, *, is_new: bool) -> None:
        """Copy records into the table; where some may be there, their rows go first."""
        data = packed(self._user_id, collection, self._commit, records, is_vector=self._is_vector)
        with _told(self._target), self._db.cursor() as cursor:
            if not is_new and len(records.ids) <= _FEW:
                self._counts[collection.id] += upsert(cursor, self._user_id, collection, self._commit, records)
                return
            if not is_new:
                self.delete(collection, records.ids)
            with cursor.copy(f"COPY vectorpool.records ({COLUMNS}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
                copy.write(data)
        self._counts[collection.id] += len(records.ids)

    def count(self, collection: Collection) -> int:
        """Return how many records a collection has."""
        return self._counts[collection.id]

    def ids(self, collection: Collection) -> set[str]:
        """Return the ids of a collection's records."""
        sql = "SELECT id FROM vectorpool.records WHERE user_id = %s AND collection_id = %s"
        with _told(self._target):
            return {row[0] for row in self._db.execute(sql, (self._user_id, collection.id))}

    def delete(self, collection: Collection, ids: Sequence[str]) -> None:
        """Delete records."""
        sql = "DELETE FROM vectorpool.records WHERE user_id = %s AND collection_id = %s AND id = ANY(%s)"
        with _told(self._target):
            self._counts[collection.id] -= self._db.execute(sql, (self._user_id, collection.id, list(ids))).rowcount

    def drop_collection(self, collection_id: str) -> None:
        """Delete a collection with its records."""
        with _told(self._target):
            for table in ("records", "collections"):
                sql = f"DELETE FROM vectorpool.{table} WHERE user_id = %s AND collection_id = %s"
                self._db.execute(sql.encode(), (self._user_id, collection_id))
            if self._is_vector:
                postgresql_extras.drop_index(self._db, self._user_id, collection_id)
        self._are_avatars_stale = True

    def note(self, collection: Collection, held: Held) -> None:
        """Write the row of a collection that is whole; a part of one is not seen by anybody."""
        if held.next_commit:
            return
        sql = (
            b"INSERT INTO vectorpool.collections (user_id, collection_id, database, avatar_id, name, metadata, "
            b"dimension, configuration, commit, commit_hash, mark, records) "
            b"VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s, %s::jsonb, %s, %s, %s, %s) "
            b"ON CONFLICT (user_id, collection_id) DO UPDATE SET database = excluded.database, "
            b"avatar_id = excluded.avatar_id, name = excluded.name, metadata = excluded.metadata, "
            b"dimension = excluded.dimension, configuration = excluded.configuration, commit = excluded.commit, "
            b"commit_hash = excluded.commit_hash, mark = excluded.mark, records = excluded.records"
        )
        values = (
            self._user_id,
            collection.id,
            collection.database,
            avatar_of_database(collection.database),
            collection.name,
            to_json(collection.metadata),
            collection.dimension,
            msgspec.json.encode(collection.configuration).decode(),
            held.commit,
            held.commit_hash,
            held.mark,
            self._counts[collection.id],
        )
        # It is sent with what comes next.
        self._notes.append((sql, values))

    def _send_notes(self) -> None:
        notes, self._notes = self._notes, []
        for sql, values in notes:
            self._db.execute(sql, values)

    def put_documents(self, documents: Iterator[SourceDocument]) -> None:
        """Make the documents of the user those that are given."""
        with _told(self._target), self._db.pipeline():
            self._send_notes()
            postgresql_extras.put_documents(self._db, self._user_id, documents)

    def finish(self) -> None:
        """Write the commit and the avatars, and commit the transaction."""
        with _told(self._target), self._db.pipeline():
            self._send_notes()
            self._db.execute(
                "UPDATE vectorpool.users SET commit = %s, commit_hash = %s, deleted = false, exported_at = now() "
                "WHERE user_id = %s",
                (self._commit, self._hash, self._user_id),
            )
            if self._are_avatars_stale:
                self._db.execute("DELETE FROM vectorpool.avatars WHERE user_id = %s", (self._user_id,))
                self._db.execute(
                    "INSERT INTO vectorpool.avatars SELECT DISTINCT user_id, avatar_id FROM vectorpool.collections "
                    "WHERE user_id = %s AND avatar_id IS NOT NULL",
                    (self._user_id,),
                )
            if self._indexes is not None:
                for collection in self._indexes.missing(self._user_id):
                    self._indexes.make(self._user_id, collection)
            self._db.commit()

    def forget(self, user_id: str, commit: int) -> int:
        """Delete all of a user but the row that says so."""
        with _told(self._target):
            sql = "SELECT count(*) FROM vectorpool.records WHERE user_id = %s"
            row = self._db.execute(sql, (user_id,)).fetchone()
            if self._is_vector:
                for collection_id in self._counts:
                    postgresql_extras.drop_index(self._db, user_id, collection_id)
            for table in ("records", "collections", "avatars", "documents"):
                self._db.execute(f"DELETE FROM vectorpool.{table} WHERE user_id = %s".encode(), (user_id,))
            self._db.execute(
                "UPDATE vectorpool.users SET commit = %s, commit_hash = '', deleted = true, exported_at = now() "
                "WHERE user_id = %s",
                (commit, user_id),
            )
            self._db.commit()
        assert row is not None
        return int(row[0])


class PostgresSource:
    """What the database holds of a user, as of the moment when it was opened."""

    def __init__(self, target: Target, user_id: str) -> None:
        self._target = target
        self._user_id = user_id
        with _told(target):
            self._db = _connect(target)
            try:
                self._is_vector = postgresql_schema.prepare(self._db) == "vector"
                self._db.commit()
                self._db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                sql = "SELECT commit FROM vectorpool.users WHERE user_id = %s AND NOT deleted AND commit > 0"
                if self._db.execute(sql, (user_id,)).fetchone() is None:
                    raise UserNotFound(f"{target.shown} has nothing of user {user_id}.")
            except BaseException:
                self._db.close()
                raise

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def collections(self) -> list[Collection]:
        """Return the collections of the user."""
        sql = (
            "SELECT collection_id, database, name, metadata::text, dimension, configuration "
            "FROM vectorpool.collections WHERE user_id = %s ORDER BY database, name"
        )
        with _told(self._target):
            rows = self._db.execute(sql, (self._user_id,)).fetchall()
        return [Collection(row[0], row[1], row[2], from_json(row[3]), row[4], row[5]) for row in rows]

    def copy(self) -> Copy | None:
        """Return the commit of the last export."""
        sql = (
            "SELECT u.commit, u.commit_hash, coalesce(sum(c.records), 0)::bigint FROM vectorpool.users u "
            "LEFT JOIN vectorpool.collections c USING (user_id) WHERE u.user_id = %s GROUP BY u.user_id"
        )
        with _told(self._target):
            row = self._db.execute(sql, (self._user_id,)).fetchone()
        return None if row is None else Copy(*row)

    def batches(self, collection: Collection, cursor: int = 0) -> Iterator[Records]:
        """Yield the records by id."""
        vector = "embedding::real[]" if self._is_vector else "embedding"
        sql = (
            f"SELECT id, {vector}, document, metadata::text, uri FROM vectorpool.records "
            "WHERE user_id = %s AND collection_id = %s ORDER BY id OFFSET %s"
        )
        with _told(self._target), self._db.cursor("records", withhold=False) as rows:
            rows.itersize = BATCH
            rows.execute(sql.encode(), (self._user_id, collection.id, cursor), binary=True)
            while found := rows.fetchmany(BATCH):
                ids, vectors, documents, metadatas, uris = zip(*found, strict=True)
                yield Records(
                    ids, np.asarray(vectors, np.float32), documents, [from_json(each) for each in metadatas], uris
                )
