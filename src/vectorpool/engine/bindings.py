"""Chroma's Rust bindings, called with keywords. The module ``calls`` opens and replaces the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vectorpool.engine.calls import Calls
from vectorpool.engine.index_repair import Change
from vectorpool.engine.rows import Batch, Float32
from vectorpool.engine.tables import Operation
from vectorpool.names import DEFAULT_TENANT


class Client(Calls):
    """Chroma on one directory. Every method raises BrokenReplica if Chroma does not work any more, and else what the
    bindings raise (see ``failures``).
    """

    # --- Databases -----------------------------------------------------------------------------------

    def list_databases(self, *, limit: int | None = None, offset: int = 0) -> list[Any]:
        """Return the databases in the order of creation."""
        return list(self._call("list_databases", limit, offset, DEFAULT_TENANT))

    def get_database(self, *, name: str) -> Any:
        """Return one database."""
        return self._call("get_database", name, DEFAULT_TENANT)

    def create_database(self, *, name: str) -> None:
        """Create a database."""
        self._call("create_database", name, DEFAULT_TENANT)

    def delete_database(self, *, name: str) -> None:
        """Delete a database; the records of its collections would stay behind, so it must have none."""
        self._call("delete_database", name, DEFAULT_TENANT)

    # --- Collections ---------------------------------------------------------------------------------

    def count_collections(self, *, database: str) -> int:
        """Return the number of collections of a database."""
        return int(self._call("count_collections", DEFAULT_TENANT, database))

    def list_collections(self, *, database: str, limit: int | None = None, offset: int = 0) -> list[Any]:
        """Return the collections of a database."""
        return list(self._call("list_collections", limit, offset, DEFAULT_TENANT, database))

    def get_collection(self, *, database: str, name: str | None) -> Any:
        """Return one collection by name."""
        return self._call("get_collection", name, DEFAULT_TENANT, database)

    def get_collection_by_id(self, *, database: str, collection_id: str) -> Any:
        """Return one collection by id."""
        return self._call("get_collection_by_id", collection_id, DEFAULT_TENANT, database)

    def create_collection(
        self,
        *,
        database: str,
        name: str,
        metadata: dict[str, Any] | None = None,
        configuration: str | None = None,
        schema: str | None = None,
        get_or_create: bool = False,
    ) -> Any:
        """Create a collection; ``configuration`` and ``schema`` are JSON."""
        return self._call(
            "create_collection", name, configuration, schema, metadata, get_or_create, DEFAULT_TENANT, database
        )

    def update_collection(
        self,
        *,
        collection_id: str,
        name: str | None = None,
        metadata: dict[str, Any] | None = None,
        configuration: str | None = None,
    ) -> None:
        """Rename a collection, or replace its metadata or configuration."""
        self._call("update_collection", collection_id, name, metadata, configuration)

    def delete_collection(self, *, database: str, name: str) -> None:
        """Delete a collection and its records."""
        self._call("delete_collection", name, DEFAULT_TENANT, database)

    # --- Records -------------------------------------------------------------------------------------

    def count(self, *, collection_id: str, database: str) -> int:
        """Return the number of records."""
        return int(self._call("count", collection_id, DEFAULT_TENANT, database, loads=collection_id))

    def get(
        self,
        *,
        collection_id: str,
        database: str,
        ids: Sequence[str] | None = None,
        where: str | None = None,
        where_document: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        include: Sequence[str] = (),
    ) -> Any:
        """Return records as columns, in the order of insertion; filters are JSON."""
        return self._call(
            "get",
            collection_id,
            ids,
            where,
            limit,
            offset,
            where_document,
            list(include),
            DEFAULT_TENANT,
            database,
            loads=collection_id,
            needs_newest="embeddings" in include,
        )

    def query(
        self,
        *,
        collection_id: str,
        database: str,
        embeddings: Float32 | list[list[float]],
        n_results: int,
        ids: Sequence[str] | None = None,
        where: str | None = None,
        where_document: str | None = None,
        include: Sequence[str] = (),
    ) -> Any:
        """Return for each embedding the nearest records as columns; filters are JSON."""
        return self._call(
            "query",
            *(collection_id, ids, embeddings, n_results, where, where_document, list(include)),
            *(DEFAULT_TENANT, database),
            loads=collection_id,
            needs_newest=True,
        )

    def add(self, *, collection_id: str, database: str, batch: Batch) -> None:
        """Add records; ids that are there are skipped."""
        self._call(
            "add",
            batch.ids,
            collection_id,
            batch.embeddings,
            batch.metadatas,
            batch.documents,
            batch.uris,
            DEFAULT_TENANT,
            database,
            loads=collection_id,
            needs_newest=True,
            change=Change(Operation.ADD, batch.ids),
        )

    def upsert(self, *, collection_id: str, database: str, batch: Batch) -> None:
        """Add or replace records; the metadata of replaced ones is merged."""
        self._change("upsert", collection_id, database, batch)

    def update(self, *, collection_id: str, database: str, batch: Batch) -> None:
        """Change parts of records; None leaves a part as it is, and ids that are not there are skipped."""
        self._change("update", collection_id, database, batch)

    def _change(self, method: str, collection_id: str, database: str, batch: Batch) -> None:
        self._call(
            method,
            collection_id,
            batch.ids,
            batch.embeddings,
            batch.metadatas,
            batch.documents,
            batch.uris,
            DEFAULT_TENANT,
            database,
            loads=collection_id,
            needs_newest=True,
            change=Change(Operation[method.upper()], batch.ids, batch.embeddings),
        )

    def delete(self, *, collection_id: str, database: str, ids: Sequence[str] | None, limit: int | None = None) -> int:
        """Delete records by id and return how many ids were named; ids that are not there are skipped."""
        deleted = self._call(
            "delete",
            *(collection_id, ids, None, None, limit, DEFAULT_TENANT, database),
            loads=collection_id,
            needs_newest=True,
            change=Change(Operation.DELETE, ids or ()),
        )
        return int(deleted)

    def apply_queue(self, *, collection_id: str, database: str, dimension: int) -> None:
        """Have Chroma take the queue of a collection into its index and write its files.

        A write would do that too, and would hold the interpreter lock for all of it. A query does not.
        """
        with self._changed:
            self._open_once("threshold")
            if collection_id in self._behind:
                self._replace_client()
        self.query(collection_id=collection_id, database=database, embeddings=[[1.0] * dimension], n_results=1)

    def take_in(self, *, collection_id: str, database: str) -> None:
        """Have a long queue taken in before a write, which would do it with the interpreter lock held."""
        if not self.refuses(collection_id) and (dimension := self._repair.overdue(collection_id)) is not None:
            self.apply_queue(collection_id=collection_id, database=database, dimension=dimension)
