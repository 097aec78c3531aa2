"""Reads that Chroma itself answers: what the fast path leaves to it.

Chroma names every record that it reads in one SQL statement, which takes a bounded number of variables. An answer that
needs more is put together from several calls. What cannot be cut, such as a filter, is refused (see ``failures``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from vectorpool.engine.bindings import Client
from vectorpool.engine.failures import is_over_variables, is_unknown_record
from vectorpool.engine.filters import LeftToChroma
from vectorpool.engine.rows import Float32, Rows
from vectorpool.errors import BrokenReplica

# Ids of one call that asks for nothing but embeddings, and records of one call where all are too many.
_IDS_AT_ONCE: Final = 1000
_RECORDS_AT_ONCE: Final = 10_000
# What Chroma reads from its SQLite tables; the others come from its index.
_TABLES: Final = ("documents", "metadatas", "uris")


class ChromaReader:
    """Reads through the bindings. Every method blocks, and raises what the bindings raise, and BrokenReplica."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(
        self,
        collection_id: str,
        database: str,
        *,
        ids: Sequence[str] | None = None,
        where: str | None = None,
        where_document: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        include: Sequence[str] = (),
    ) -> Rows:
        """Return records in the order of insertion; filters are JSON."""

        def ask(at_most: int | None, start: int) -> Rows:
            got = self._client.get(
                collection_id=collection_id,
                database=database,
                ids=ids,
                where=where,
                where_document=where_document,
                limit=at_most,
                offset=start,
                include=include,
            )
            return Rows(got.ids, got.documents, got.metadatas, got.embeddings, got.uris)

        try:
            try:
                return ask(limit, offset)
            except Exception as error:
                is_cut = limit is None or limit > _RECORDS_AT_ONCE
                if not is_over_variables(error) or not is_cut:
                    raise
            parts: list[Rows] = []
            left = limit
            while left is None or left > 0:
                size = _RECORDS_AT_ONCE if left is None else min(left, _RECORDS_AT_ONCE)
                parts.append(ask(size, offset))
                if len(parts[-1].ids) < size:
                    break
                offset += size
                left = None if left is None else left - size
            return _joined(parts)
        except Exception as error:
            if is_unknown_record(error):
                # Ids that are not there are left out of an answer; what Chroma found and then missed is a vector.
                raise BrokenReplica("Chroma's index lacks the vector of a record that is there.") from error
            raise

    def query(
        self,
        collection_id: str,
        database: str,
        embeddings: Float32,
        n_results: int,
        *,
        ids: Sequence[str] | None = None,
        where: str | None = None,
        where_document: str | None = None,
        include: Sequence[str] = (),
    ) -> list[Rows]:
        """Return for each row of ``embeddings`` (float32[n, d]) the records nearest to it by Chroma's index."""

        def ask(columns: Sequence[str]) -> list[Rows]:
            got = self._client.query(
                collection_id=collection_id,
                database=database,
                # Without numbers they have no dimension; the bindings say what is wrong with that.
                embeddings=embeddings if embeddings.size else embeddings.tolist(),
                # Asked for no results, an index that is in its files ends the process.
                n_results=max(n_results, 1),
                ids=ids,
                where=where,
                where_document=where_document,
                include=columns,
            )
            return [_rows_of(got, at, n_results) for at in range(len(got.ids))]

        of_tables = [name for name in _TABLES if name in include]
        try:
            try:
                return ask(include)
            except Exception as error:
                if not is_over_variables(error) or not of_tables:
                    raise
            found = ask([name for name in include if name not in _TABLES])
            return self._with_columns(collection_id, database, found, of_tables)
        except Exception as error:
            if not ids and is_unknown_record(error):
                raise BrokenReplica("Chroma's index and its records do not agree.") from error
            raise

    def _with_columns(self, collection_id: str, database: str, found: list[Rows], include: Sequence[str]) -> list[Rows]:
        """Return records with columns of the tables; one that is gone meanwhile has none, as in Chroma's answer."""
        ids = list(dict.fromkeys(record_id for rows in found for record_id in rows.ids))
        known: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), _RECORDS_AT_ONCE):
            part = ids[start : start + _RECORDS_AT_ONCE]
            got = self.get(collection_id, database, ids=part, include=include)
            for at, record_id in enumerate(got.ids):
                known[record_id] = {name: getattr(got, name)[at] for name in include}
        return [
            msgspec.structs.replace(rows, **{name: [known.get(i, {}).get(name) for i in rows.ids] for name in include})
            for rows in found
        ]

    def settle(self, collection_id: str, database: str) -> None:
        """Have Chroma take into its tables what was written, as it does for any read."""
        self._client.get(
            collection_id=collection_id,
            database=database,
            ids=None,
            where=None,
            where_document=None,
            limit=1,
            offset=0,
            include=(),
        )

    def ids_matching(self, collection_id: str, database: str, clause: LeftToChroma) -> Sequence[str]:
        """Return the ids of the records that satisfy what is left to Chroma."""
        self._client.open("filter")
        found = self.get(collection_id, database, where=clause.where, where_document=clause.where_document)
        return found.ids

    def with_embeddings(self, collection_id: str, database: str, found: list[Rows]) -> list[Rows] | None:
        """Return records with their embeddings; None if one of the records is gone meanwhile."""
        ids = list(dict.fromkeys(record_id for rows in found for record_id in rows.ids))
        known: dict[str, Any] = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            part = ids[start : start + _IDS_AT_ONCE]
            got = self.get(collection_id, database, ids=part, include=["embeddings"])
            assert got.embeddings is not None
            known.update(zip(got.ids, got.embeddings, strict=True))
        if len(known) < len(ids):
            return None
        return [msgspec.structs.replace(rows, embeddings=[known[i] for i in rows.ids]) for rows in found]


def _joined(parts: list[Rows]) -> Rows:
    """Return the records of at least one part, one after the other."""

    def column(name: str) -> Any:
        columns = [getattr(part, name) for part in parts]
        return None if columns[0] is None else [value for each in columns for value in each]

    return Rows(*(column(name) for name in ("ids", "documents", "metadatas", "embeddings", "uris")))


def _rows_of(got: Any, at: int, n_results: int) -> Rows:
    """Return what one query found, from the columns of the bindings."""

    def column(values: Any) -> Any:
        return None if values is None else values[at][:n_results]

    return Rows(
        ids=column(got.ids),
        documents=column(got.documents),
        metadatas=column(got.metadatas),
        embeddings=column(got.embeddings),
        uris=column(got.uris),
        distances=column(got.distances),
    )
