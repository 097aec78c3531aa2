"""Reads of Chroma's own protocol: the bindings are asked as the client asks, and answer in Chroma's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vectorpool.commands import (
    ChromaCountCollections,
    ChromaCountRecords,
    ChromaGetCollection,
    ChromaGetDatabase,
    ChromaGetRecords,
    ChromaGetTenant,
    ChromaListCollections,
    ChromaListDatabases,
    ChromaQueryRecords,
    ChromaRead,
)
from vectorpool.names import DEFAULT_TENANT
from vectorpool.vectorstore import protocol_answers as shapes
from vectorpool.vectorstore.bindings import is_chroma_error
from vectorpool.vectorstore.chroma import Chroma
from vectorpool.vectorstore.direct import Direct
from vectorpool.vectorstore.refusals import refusal


class ProtocolReader:
    """Answers Chroma's reads from one open Chroma directory. Many threads may ask at once."""

    def __init__(self, user_id: str, chroma: Chroma, direct: Direct) -> None:
        self._tenant = user_id
        self._chroma = chroma
        self._direct = direct
        self._answer: dict[type, Callable[[Any], Any]] = {
            ChromaGetTenant: lambda _: {"name": self._tenant, "resource_name": None},
            ChromaGetDatabase: self._get_database,
            ChromaListDatabases: self._list_databases,
            ChromaListCollections: self._list_collections,
            ChromaCountCollections: self._count_collections,
            ChromaGetCollection: self._get_collection,
            ChromaCountRecords: self._count_records,
            ChromaGetRecords: self._get_records,
            ChromaQueryRecords: self._query_records,
        }

    def read(self, command: ChromaRead) -> bytes:
        """Answer one command as JSON; raises ChromaRefusal, BrokenReplica if Chroma no longer works."""
        try:
            direct = self.read_directly(command, at_once=False)
            return shapes.encode(self._answer[type(command)](command)) if direct is None else direct
        except BaseException as error:
            if not is_chroma_error(error):
                raise
            if isinstance(command, (ChromaGetRecords, ChromaQueryRecords)) and (
                command.where or command.where_document
            ):
                self._check_collection(command)
            raise refusal(error, names_ids=bool(getattr(command, "ids", None))) from error

    def _check_collection(self, command: ChromaGetRecords | ChromaQueryRecords) -> None:
        """Raise ChromaRefusal if there is no such collection: the bindings judge a filter before they look for it."""
        try:
            self._chroma.rust.count(command.collection_id, DEFAULT_TENANT, command.database)
        except Exception as error:
            raise refusal(error) from error

    def _get_database(self, command: ChromaGetDatabase) -> Any:
        return shapes.database(self._chroma.rust.get_database(command.database, DEFAULT_TENANT), self._tenant)

    def _list_databases(self, command: ChromaListDatabases) -> Any:
        found = self._chroma.rust.list_databases(command.limit, command.offset, DEFAULT_TENANT)
        return [shapes.database(each, self._tenant) for each in found]

    def _list_collections(self, command: ChromaListCollections) -> Any:
        found = self._chroma.rust.list_collections(command.limit, command.offset, DEFAULT_TENANT, command.database)
        return [shapes.collection(each, self._tenant, command.database) for each in found]

    def _count_collections(self, command: ChromaCountCollections) -> Any:
        return self._chroma.rust.count_collections(DEFAULT_TENANT, command.database)

    def _get_collection(self, command: ChromaGetCollection) -> Any:
        if command.collection_id is not None:
            found = self._chroma.rust.get_collection_by_id(command.collection_id, DEFAULT_TENANT, command.database)
        else:
            found = self._chroma.rust.get_collection(command.name, DEFAULT_TENANT, command.database)
        return shapes.collection(found, self._tenant, command.database)

    def _count_records(self, command: ChromaCountRecords) -> Any:
        return self._chroma.rust.count(command.collection_id, DEFAULT_TENANT, command.database)

    def _get_records(self, command: ChromaGetRecords) -> Any:
        got = self._chroma.rust.get(
            command.collection_id,
            command.ids,
            command.where,
            command.limit,
            command.offset,
            command.where_document,
            list(command.include),
            DEFAULT_TENANT,
            command.database,
        )
        return shapes.records(got, command.include)

    def _query_records(self, command: ChromaQueryRecords) -> Any:
        vectors = command.vectors
        # Without a number they have no dimension; the bindings say what is wrong with that.
        embeddings: Any = [[]] if vectors.dimension == 0 else []
        if vectors.data:
            embeddings = np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.dimension)
        got = self._chroma.rust.query(
            command.collection_id,
            command.ids,
            embeddings,
            # Asked for none, an index that is in its files ends the process; so one is asked for, and left out.
            max(command.n_results, 1),
            command.where,
            command.where_document,
            list(command.include),
            DEFAULT_TENANT,
            command.database,
        )
        return shapes.matches(got, command.include, command.n_results)

    # --- Round Chroma --------------------------------------------------------------------------------

    def read_directly(self, command: ChromaRead, *, at_once: bool) -> bytes | None:
        """Answer a plain count, get or query without Chroma; None for what is not, or is not certain.

        ``at_once`` is for an event loop: also None for what would take long.
        """
        if not isinstance(command, (ChromaCountRecords, ChromaGetRecords, ChromaQueryRecords)):
            return None
        place = command.collection_id, command.database
        if isinstance(command, ChromaCountRecords):
            count = self._direct.count(*place, at_once=at_once)
            return None if count is None else shapes.encode(count)
        if command.where or command.where_document:
            return None
        include = command.include
        if isinstance(command, ChromaGetRecords):
            rows = self._direct.get(
                *place,
                ids=command.ids,
                limit=command.limit,
                offset=command.offset or 0,
                include=include,
                at_once=at_once,
            )
            return None if rows is None else shapes.encode(shapes.records(rows, include))
        vectors = command.vectors
        if command.ids is not None or not vectors.data:
            return None
        array = np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.dimension)
        if not np.isfinite(array).all():
            return None
        found = self._direct.query(*place, array, command.n_results, include, at_once=at_once)
        return None if found is None else shapes.encode(shapes.nearest(found, include))
