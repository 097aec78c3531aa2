"""Read commands of Chroma's own protocol, with its semantics, answered in Chroma's shapes."""

from __future__ import annotations

from typing import Any, Final

from vectorpool.checks import check_count
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
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.engine.engine import Engine
from vectorpool.engine.failures import collection_not_found, refusal
from vectorpool.errors import BrokenReplica
from vectorpool.vectorstore import protocol_answers as shapes
from vectorpool.vectorstore.vectors import rows_of

# The reads that the fast path may answer on the event loop: their handlers take ``at_once`` too.
AT_ONCE: Final = frozenset({ChromaCountRecords, ChromaGetRecords, ChromaQueryRecords})


class ProtocolReader:
    """Answers Chroma's reads from one open engine. Safe to call from several threads."""

    def __init__(self, user_id: str, engine: Engine, max_results: int) -> None:
        self._tenant = user_id
        self._max_results = max_results
        self._catalogue = engine.catalogue
        self._records = engine.records
        handlers = handlers_of(self)
        self._answer = {kind: handler for kind, handler in handlers.items() if kind not in AT_ONCE}
        self._answer_at_once = {kind: handler for kind, handler in handlers.items() if kind in AT_ONCE}

    def read(self, command: ChromaRead, *, at_once: bool = False) -> bytes | None:
        """Answer one command as JSON; raises ChromaRefusal, BrokenReplica if Chroma does not work any more.

        ``at_once`` is for an event loop: None if the answer would block for long.
        """
        kind = type(command)
        try:
            if kind in self._answer_at_once:
                # At once, only the fast path answers, which finds no collection outside the command's database.
                if not at_once and getattr(command, "confined", False):
                    self._check_confined(command)
                answer = self._answer_at_once[kind](command, at_once)
                return None if answer is None else shapes.encode(answer)
            return None if at_once else shapes.encode(self._answer[kind](command))
        except BrokenReplica:
            raise
        except Exception as error:
            if isinstance(command, (ChromaGetRecords, ChromaQueryRecords)) and (
                command.where or command.where_document
            ):
                self._check_collection(command)
            raise refusal(error) from error

    def _check_collection(self, command: ChromaGetRecords | ChromaQueryRecords) -> None:
        """Raise ChromaRefusal if there is no such collection: Chroma checks a filter before it finds the collection."""
        try:
            self._records.check_collection(command.collection_id, command.database)
        except Exception as error:
            raise refusal(error) from error

    def _check_confined(self, command: Any) -> None:
        """Raise ChromaRefusal unless the collection is in the command's database: Chroma looks in all of them."""
        if self._catalogue.known_by_id(command.database, command.collection_id) is None:
            raise collection_not_found(command.collection_id)

    # --- Databases and collections -------------------------------------------------------------------

    @handles(ChromaGetTenant)
    def _get_tenant(self, command: ChromaGetTenant) -> Any:
        return {"name": self._tenant, "resource_name": None}

    @handles(ChromaGetDatabase)
    def _get_database(self, command: ChromaGetDatabase) -> Any:
        return shapes.database(self._catalogue.database(command.database), self._tenant)

    @handles(ChromaListDatabases)
    def _list_databases(self, command: ChromaListDatabases) -> Any:
        found = self._catalogue.databases(limit=command.limit, offset=command.offset)
        return [shapes.database(each, self._tenant) for each in found]

    @handles(ChromaListCollections)
    def _list_collections(self, command: ChromaListCollections) -> Any:
        found = self._catalogue.collections(command.database, limit=command.limit, offset=command.offset)
        return [shapes.collection(each, self._tenant) for each in found]

    @handles(ChromaCountCollections)
    def _count_collections(self, command: ChromaCountCollections) -> Any:
        return self._catalogue.count_collections(command.database)

    @handles(ChromaGetCollection)
    def _get_collection(self, command: ChromaGetCollection) -> Any:
        if command.collection_id is not None:
            found = self._catalogue.get_by_id(command.database, command.collection_id)
        else:
            found = self._catalogue.get(command.database, command.name)
        return shapes.collection(found, self._tenant)

    # --- Records -------------------------------------------------------------------------------------

    @handles(ChromaCountRecords)
    def _count_records(self, command: ChromaCountRecords, at_once: bool) -> Any:
        return self._records.count(command.collection_id, command.database, at_once=at_once)

    @handles(ChromaGetRecords)
    def _get_records(self, command: ChromaGetRecords, at_once: bool) -> Any:
        rows = self._records.get(
            command.collection_id,
            command.database,
            ids=command.ids,
            where=command.where,
            where_document=command.where_document,
            limit=command.limit,
            offset=command.offset or 0,
            include=command.include,
            at_once=at_once,
        )
        return None if rows is None else shapes.records(rows, command.include)

    @handles(ChromaQueryRecords)
    def _query_records(self, command: ChromaQueryRecords, at_once: bool) -> Any:
        wanted = self._results_of(command, at_once)
        if wanted is None:
            return None
        found = self._records.query(
            command.collection_id,
            command.database,
            rows_of(command.vectors),
            wanted,
            ids=command.ids,
            where=command.where,
            where_document=command.where_document,
            include=command.include,
            at_once=at_once,
        )
        return None if found is None else shapes.matches(found, command.include)

    def _results_of(self, command: ChromaQueryRecords, at_once: bool) -> int | None:
        """Return how many results a query gets; None if that cannot be told at once. Raises LimitExceeded.

        Clients ask for more than there are, to get all. So only what a collection really holds counts.
        """
        if command.n_results <= self._max_results:
            return command.n_results
        count = self._records.count(command.collection_id, command.database, at_once=at_once)
        if count is None:
            return None
        return check_count("results a query", max(count, 1), limit=self._max_results, limit_name="max_results")
