"""PostgreSQL as a target and a source: schema ``vectorpool``, with pgvector's type where that is installed.

An increment is one transaction. It begins by locking the user's row, so that two exporters of one user take turns, and
ends by writing the commit that the copy now is. Changed records come by binary COPY into a temporary table, and from
there replace those of the same id.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from vectorpool.engine.rows import Batch
from vectorpool.errors import Misconfigured, TargetRefused, TargetUnavailable
from vectorpool.export import binary_copy, postgresql_schema
from vectorpool.export.metadata import from_json, has_nul, to_json
from vectorpool.export.shapes import BATCH, CollectionShape, Increment, Key
from vectorpool.names import avatar_of_database

_CONNECT_S: Final = 10
# What one statement may take, and how long it may wait for another exporter of the same user.
_STATEMENT_MS: Final = 600_000
_LOCK_MS: Final = 60_000
_COLUMNS: Final = "user_id, database, collection, id, embedding, document, metadata, uri, digest"
_PASSWORD: Final = re.compile(r"(?<=://)([^:/@]*):[^@/]*@")


def redacted(url: str) -> str:
    """Return a URL without its password and without its query, for messages."""
    return _PASSWORD.sub(r"\1:***@", url).partition("?")[0]


class PostgresPlace:
    """One database. As a source it gives the copy of ``user_id``."""

    def __init__(self, url: str, user_id: str | None = None) -> None:
        if not urlsplit(url).hostname:
            raise Misconfigured(f"{redacted(url)} names no host. Write it as postgresql://user:password@host/database.")
        self._url = url
        self._name = redacted(url)
        self._psycopg: Any = importlib.import_module("psycopg")
        self._user_id = user_id
        with self._errors():
            self._db: Any = self._psycopg.connect(
                url,
                connect_timeout=_CONNECT_S,
                options=f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS}",
                autocommit=True,
            )
        try:
            with self._errors():
                self._has_pgvector = postgresql_schema.prepare(self._db, self._name)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what the driver raises as a TargetUnavailable or TargetRefused without a password."""
        errors = self._psycopg.errors
        try:
            yield
        except (
            errors.UndefinedTable,
            errors.UndefinedColumn,
            errors.DatatypeMismatch,
            errors.WrongObjectType,
        ) as error:
            raise TargetRefused(
                f"A table of schema vectorpool at {self._name} is not ours ({_said(error)}). Name another database."
            ) from None
        except (errors.DataError, errors.IntegrityError, errors.ProgrammingError) as error:
            raise TargetRefused(f"{self._name} refuses: {_said(error)}.") from None
        except self._psycopg.Error as error:
            raise TargetUnavailable(
                f"{self._name} does not do it: {self._without_password(_said(error))}. The copy is as it was before."
            ) from None

    def _without_password(self, text: str) -> str:
        password = urlsplit(self._url).password
        return text.replace(password, "***") if password else text

    # --- As a target ---------------------------------------------------------------------------------

    def commit_of(self, user_id: str) -> int:
        """Return the commit that the database holds of a user; 0 if none."""
        with self._errors():
            found = self._db.execute("SELECT commit FROM vectorpool.users WHERE user_id = %s", [user_id]).fetchone()
        return 0 if found is None else int(found[0])

    @contextmanager
    def increment(self, user_id: str, commit: int) -> Iterator[Increment]:
        """Bring a user's copy up to a commit in one transaction. Raises TargetRefused if the copy is newer."""
        with self._errors(), self._db.transaction():
            self._db.execute(
                "INSERT INTO vectorpool.users (user_id, commit) VALUES (%s, 0) ON CONFLICT DO NOTHING", [user_id]
            )
            sql = "SELECT commit FROM vectorpool.users WHERE user_id = %s FOR UPDATE"
            (there,) = self._db.execute(sql, [user_id]).fetchone()
            if there > commit:
                raise TargetRefused(
                    f"{self._name} has commit {there} of user {user_id}, which is newer than {commit}. To go back, "
                    "restore the earlier state, which makes a new commit, and export that."
                )
            yield _Increment(self._db, user_id, has_pgvector=self._has_pgvector)
            sql = "UPDATE vectorpool.users SET commit = %s, exported_at = now() WHERE user_id = %s"
            self._db.execute(sql, [commit, user_id])

    def forget(self, user_id: str) -> bool:
        """Delete all of a user, after the exporter that is at work on it."""
        with self._errors():
            return bool(self._db.execute("DELETE FROM vectorpool.users WHERE user_id = %s", [user_id]).rowcount)

    # --- As a source ---------------------------------------------------------------------------------

    def collections(self) -> list[CollectionShape]:
        """Return the collections of the user's copy."""
        with self._errors():
            return list(_collections(self._db, str(self._user_id)).values())

    def batches(self, shape: CollectionShape) -> Iterator[Batch]:
        """Yield a collection's records by id, of one state of the database."""
        select = (
            "SELECT id, embedding::real[], document, metadata::text, uri FROM vectorpool.records "
            "WHERE user_id = %s AND database = %s AND collection = %s ORDER BY id"
        )
        with self._errors(), self._db.transaction(), self._db.cursor(name="records", binary=True) as cursor:
            cursor.execute(select, [self._user_id, *shape.key])
            while rows := cursor.fetchmany(BATCH):
                ids, embeddings, documents, metadatas, uris = (list(column) for column in zip(*rows, strict=True))
                metadata = [from_json(text) for text in metadatas]
                yield Batch(ids, np.asarray(embeddings, np.float32), metadata, documents, uris)


class _Increment:
    """See ``shapes.Increment``."""

    def __init__(self, db: Any, user_id: str, *, has_pgvector: bool) -> None:
        self._db = db
        self._user_id = user_id
        self._pack = binary_copy.vectors if has_pgvector else binary_copy.arrays
        self._is_prepared = False

    def collections(self) -> dict[Key, CollectionShape]:
        return _collections(self._db, self._user_id)

    def digests(self, shape: CollectionShape) -> Mapping[str, bytes]:
        sql = "SELECT id, digest FROM vectorpool.records WHERE user_id = %s AND database = %s AND collection = %s"
        with self._db.cursor(binary=True) as cursor:
            return dict(cursor.execute(sql, [self._user_id, *shape.key]).fetchall())

    def create(self, shape: CollectionShape) -> None:
        metadata = to_json(shape.metadata, f"collection {shape.name}")
        self._db.execute(
            """INSERT INTO vectorpool.collections
                 (user_id, database, name, avatar_id, source_id, dimension, metadata, configuration)
               VALUES (%s, %s, %s, %s, %s, %s, %s::jsonb, %s::jsonb)
               ON CONFLICT (user_id, database, name) DO UPDATE SET source_id = excluded.source_id,
                 dimension = excluded.dimension, metadata = excluded.metadata,
                 configuration = excluded.configuration""",
            [
                self._user_id,
                *shape.key,
                avatar_of_database(shape.database),
                shape.source_id,
                shape.dimension,
                metadata,
                msgspec.json.encode(shape.configuration).decode(),
            ],
        )

    def put(self, shape: CollectionShape, batch: Batch, digests: Sequence[bytes]) -> None:
        if not self._is_prepared:
            self._db.execute("CREATE TEMP TABLE changed (LIKE vectorpool.records) ON COMMIT DROP")
            self._is_prepared = True
        owner = [each.encode() for each in (self._user_id, *shape.key)]
        with self._db.cursor() as cursor, cursor.copy(f"COPY changed ({_COLUMNS}) FROM STDIN (FORMAT binary)") as copy:
            copy.write(binary_copy.HEADER)
            copy.write(b"".join(self._rows(owner, shape, batch, digests)))
            copy.write(binary_copy.TRAILER)
        self._db.execute(
            f"""INSERT INTO vectorpool.records ({_COLUMNS}) SELECT {_COLUMNS} FROM changed
                ON CONFLICT (user_id, database, collection, id) DO UPDATE SET embedding = excluded.embedding,
                  document = excluded.document, metadata = excluded.metadata, uri = excluded.uri,
                  digest = excluded.digest"""
        )
        self._db.execute("TRUNCATE changed")

    def _rows(
        self, owner: list[bytes], shape: CollectionShape, batch: Batch, digests: Sequence[bytes]
    ) -> Iterator[bytes]:
        packed = self._pack(np.ascontiguousarray(batch.embeddings, np.float32))
        for at, record_id in enumerate(batch.ids):
            of = f"record {record_id[:60]!a} of {shape.name}"
            document = None if batch.documents is None else batch.documents[at]
            uri = None if batch.uris is None else batch.uris[at]
            metadata = to_json(None if batch.metadatas is None else batch.metadatas[at], of)
            if has_nul(record_id, document, uri, batch.metadatas and batch.metadatas[at]):
                raise TargetRefused(f"PostgreSQL has no NUL in texts, and {of} has one. Change the record first.")
            yield binary_copy.row(
                [
                    *owner,
                    record_id.encode(),
                    packed[at],
                    None if document is None else document.encode(),
                    binary_copy.jsonb(metadata),
                    None if uri is None else uri.encode(),
                    digests[at],
                ]
            )

    def delete(self, shape: CollectionShape, ids: Sequence[str]) -> None:
        self._db.execute(
            "DELETE FROM vectorpool.records WHERE user_id = %s AND database = %s AND collection = %s AND id = ANY(%s)",
            [self._user_id, *shape.key, list(ids)],
        )

    def drop(self, key: Key) -> None:
        sql = "DELETE FROM vectorpool.collections WHERE user_id = %s AND database = %s AND name = %s"
        self._db.execute(sql, [self._user_id, *key])


def _collections(db: Any, user_id: str) -> dict[Key, CollectionShape]:
    rows = db.execute(
        "SELECT database, name, metadata::text, configuration::text, dimension, source_id FROM vectorpool.collections "
        "WHERE user_id = %s ORDER BY database, name",
        [user_id],
    ).fetchall()
    shapes = [
        CollectionShape(database, name, from_json(metadata), msgspec.json.decode(configuration), dimension, source_id)
        for database, name, metadata, configuration, dimension, source_id in rows
    ]
    return {shape.key: shape for shape in shapes}


def _said(error: BaseException) -> str:
    """Return the first line of a driver's message, without its end."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
