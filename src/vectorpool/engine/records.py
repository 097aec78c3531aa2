"""Records by collection id and database. This module alone decides whether the fast path answers or Chroma does.

The fast path is ``fast_reads`` and ``fast_writes``. Each method asks it first, if the options allow it and the request
is of a kind that it answers, and gives every doubt to Chroma. Callers see the same result either way.

Every method blocks and belongs in a worker thread, except reads with ``at_once``, which return None instead of waiting.
Methods raise BrokenReplica, and what the bindings raise (see ``failures``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import numpy as np

from vectorpool.answers import ChromaUse
from vectorpool.engine.bindings import Client
from vectorpool.engine.calls import MAX_COLLECTIONS
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.chroma_reads import ChromaReader
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.failures import is_unknown_record
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.engine.filters import Condition, LeftToChroma, TooLarge, read_filter
from vectorpool.engine.index_rows import IndexRows
from vectorpool.engine.pace import FAST_SLICE, Pace, fixed_slices
from vectorpool.engine.rows import Batch, Float32, Rows
from vectorpool.engine.tables import Operation
from vectorpool.errors import LimitExceeded

# Records that are looked through in one call.
_PAGE: Final = 1000
# SQLite takes a bounded number of variables in one statement.
_IDS_AT_ONCE: Final = 1000
# How often an answer that Chroma completes is asked for again, because a record was deleted meanwhile.
_ATTEMPTS: Final = 3
# Nearest records among which one that is looked for by its own vector must be.
_NEIGHBOURS: Final = 10


class EngineOptions(msgspec.Struct, frozen=True):
    """What may be chosen: the fast paths, the bytes of vectors that are searched exactly, and the length of a call.

    ``max_indexes`` bounds the indexes that Chroma loads at once, below ``calls.MAX_COLLECTIONS``. ``index_rows``
    keeps the vectors that are searched exactly, for all directories that share it; without it, a directory has its own.
    ``is_untested`` says that the fast paths are off because of the directory's schema.
    """

    fast_reads: bool = True
    fast_writes: bool = True
    exact_bytes: int = 64 * 1024**2
    write_slice_ms: int = 20
    max_indexes: int = MAX_COLLECTIONS
    index_rows: IndexRows | None = None
    is_untested: bool = False

    @property
    def use_when_off(self) -> ChromaUse:
        """Why Chroma is open where a fast path is off."""
        return "schema" if self.is_untested else "setting"


class Records:
    """The records of one open directory. Many threads may read; one at a time writes."""

    def __init__(self, source: DatabaseFile, client: Client, catalogue: Catalogue, options: EngineOptions) -> None:
        self._source = source
        self._client = client
        self._chroma = ChromaReader(client)
        self._pace = Pace(options.write_slice_ms)
        self._use_when_off = options.use_when_off
        self._reader = (
            FastReader(
                source,
                catalogue.known_by_id,
                options.exact_bytes,
                client.unsettled,
                options.index_rows,
                self._chroma,
                client.needs,
            )
            if options.fast_reads
            else None
        )
        keeps = options.fast_reads and options.exact_bytes > 0
        self._writer = FastWriter(source.directory, client, source.lock, keeps=keeps) if options.fast_writes else None

    def close(self) -> None:
        """Close the files of the fast path. Idempotent."""
        if self._reader is not None:
            self._reader.close()
        with self._source.lock:
            self._source.close()
        if self._writer is not None:
            self._writer.close()

    def release_files(self) -> None:
        """Close the files of the fast path, and forget what was read; the next request opens them again."""
        if self._reader is not None:
            self._reader.files_changed()
        if self._writer is not None:
            self._writer.release()

    def forget_undone(self) -> None:
        """Forget vectors of operations that the files do not have any more."""
        if self._reader is not None:
            self._reader.forget_undone()

    # --- Reads ---------------------------------------------------------------------------------------

    def count(self, collection_id: str, database: str, *, at_once: bool = False) -> int | None:
        """Return the number of records. ``at_once``: None if that would take long."""
        if self._reader is not None:
            count = self._reader.count(collection_id, database, at_once=at_once)
            if count is not None or at_once:
                return count
        if at_once:
            return None
        self._leave(collection_id, database)
        return self._client.count(collection_id=collection_id, database=database)

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
        at_once: bool = False,
    ) -> Rows | None:
        """Return records in the order of insertion; filters are JSON. ``at_once``: None if that would take long."""
        if at_once and (where is not None or where_document is not None):
            return None
        condition, is_ours = self._condition(collection_id, database, where, where_document)
        if self._reader is not None and is_ours:
            ask = partial(
                self._reader.get, collection_id, database, ids=ids, limit=limit, offset=offset, condition=condition
            )
            rows = ask(include=include, at_once=at_once)
            if rows is None and "embeddings" in include and not at_once:
                # Without them the row set is still ours; Chroma adds the embeddings by id.
                others = [part for part in include if part != "embeddings"]
                self._leave(collection_id, database)
                found = self._with_embeddings(
                    collection_id, database, lambda: None if (rows := ask(include=others)) is None else [rows]
                )
                rows = found[0] if found else None
            if rows is not None or at_once:
                return rows
        if at_once:
            return None
        self._leave(collection_id, database, is_filter=not is_ours)
        return self._chroma.get(
            collection_id,
            database,
            ids=ids,
            where=where,
            where_document=where_document,
            limit=limit,
            offset=offset,
            include=include,
        )

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
        at_once: bool = False,
    ) -> list[Rows] | None:
        """Return for each row of ``embeddings`` (float32[n, d]) its nearest records, nearest first.

        Filters are JSON. ``at_once``: None if that would take long.
        """
        if at_once and (where is not None or where_document is not None):
            return None
        condition, is_ours = self._condition(collection_id, database, where, where_document)
        if not is_ours:
            # Chroma finds the records, and their vectors are compared here all the same.
            condition = LeftToChroma(where, where_document)
        if self._reader is not None:
            ask = partial(
                self._reader.query, collection_id, database, embeddings, n_results, ids=ids, condition=condition
            )
            found = ask(include, at_once=at_once)
            if found is None and "embeddings" in include and not at_once:
                others = [part for part in include if part != "embeddings"]
                found = self._with_embeddings(collection_id, database, lambda: ask(others))
            if found is not None or at_once:
                return found
            if condition is not None and is_ours:
                found = self._query_among(
                    collection_id, database, embeddings, n_results, ids=ids, condition=condition, include=include
                )
                if found is not None:
                    return found
        if at_once:
            return None
        self._leave(collection_id, database, is_filter=not is_ours)
        return self._chroma.query(
            collection_id,
            database,
            embeddings,
            n_results,
            ids=ids,
            where=where,
            where_document=where_document,
            include=include,
        )

    def _leave(self, collection_id: str, database: str, *, is_filter: bool = False) -> None:
        """Open Chroma for a request that is left to it, and note why. Raises BrokenReplica."""
        if self._client.use is None and self._reader is not None:
            if is_filter:
                self._client.open("filter")
            elif self._reader.is_too_large(collection_id, database):
                self._client.open("size")

    def _with_embeddings(
        self, collection_id: str, database: str, ask: Callable[[], list[Rows] | None]
    ) -> list[Rows] | None:
        """Return what ``ask`` finds, with the embeddings, which Chroma is asked for; None if Chroma has to find it."""
        for _ in range(_ATTEMPTS):
            found = ask()
            whole = None if found is None else self._chroma.with_embeddings(collection_id, database, found)
            if whole is not None or found is None:
                return whole
        return None

    def _query_among(
        self,
        collection_id: str,
        database: str,
        embeddings: Float32,
        n_results: int,
        *,
        ids: Sequence[str] | None,
        condition: Condition,
        include: Sequence[str],
    ) -> list[Rows] | None:
        """Return what Chroma's index finds among the records that satisfy a filter; None if Chroma has to filter."""
        assert self._reader is not None
        self._leave(collection_id, database)
        for _ in range(_ATTEMPTS):
            rows = self._reader.get(
                collection_id, database, ids=ids, limit=None, offset=0, include=(), condition=condition
            )
            if rows is None:
                return None
            try:
                return self._chroma.query(collection_id, database, embeddings, n_results, ids=rows.ids, include=include)
            except Exception as error:
                # A record was deleted meanwhile.
                if not is_unknown_record(error):
                    raise
        return None

    def finds(self, collection_id: str, database: str, ids: Sequence[str]) -> bool:
        """Return whether a search of the fast path finds each record by its own vector; False too if it cannot tell.

        Some are not found though all is well: of many equal vectors, or where an inner product is greater.
        """
        if self._reader is None or not ids:
            return False
        include = ("embeddings",)
        own = self._reader.get(collection_id, database, ids=ids, limit=None, offset=0, include=include)
        if own is None or own.embeddings is None or len(own.ids) != len(ids):
            return False
        queries = np.asarray(own.embeddings, np.float32)
        found = self._reader.query(collection_id, database, queries, _NEIGHBOURS, ())
        return found is not None and all(i in rows.ids for i, rows in zip(own.ids, found, strict=True))

    def existing(self, collection_id: str, database: str, ids: Sequence[str]) -> set[str]:
        """Return which of the ids are there."""
        found: set[str] = set()
        for start in range(0, len(ids), _IDS_AT_ONCE):
            rows = self.get(collection_id, database, ids=ids[start : start + _IDS_AT_ONCE])
            assert rows is not None
            found.update(rows.ids)
        return found

    def check_collection(self, collection_id: str, database: str) -> None:
        """Raise what the bindings raise if there is no such collection; they check a filter before they look for it."""
        self._client.count(collection_id=collection_id, database=database)

    def _condition(
        self, collection_id: str, database: str, where: str | None, where_document: str | None
    ) -> tuple[Condition | None, bool]:
        """Return the condition of two filters, None without any, and whether the fast path evaluates it."""
        if self._reader is None:
            return None, False
        if where is None and where_document is None:
            return None, True
        try:
            condition = read_filter(where, where_document)
        except TooLarge as error:
            what, count, limit = error.args
            raise LimitExceeded(
                f"The filter has {count} {what} or more; at most {limit} are allowed. Split the call.",
                extra={"limit": limit, "limit_name": f"filter {what}", "count": count},
            ) from error
        return condition, condition is not None and self._reader.takes(collection_id, database, condition)

    # --- Writes --------------------------------------------------------------------------------------

    def put(
        self, operation: Operation, collection_id: str, database: str, batch: Batch, applied: Callable[[], None]
    ) -> None:
        """Add or upsert records in slices; ``applied`` is called after each slice that took effect.

        ``batch.embeddings`` is float32[n, d]. ADD skips ids that are there; UPSERT replaces them and merges metadata.
        """
        assert operation in (Operation.ADD, Operation.UPSERT), "other operations have methods of their own"
        self._client.check_index(collection_id)
        call = self._client.add if operation is Operation.ADD else self._client.upsert
        for part in fixed_slices(len(batch.ids), FAST_SLICE):
            records = batch.part(part)
            if not self._write(operation, collection_id, database, records):
                self._prepare(collection_id, database)
                if operation is Operation.UPSERT:
                    self._note_replaced(collection_id, database, records.ids)
                for inner in self._pace.slices(len(records.ids)):
                    call(collection_id=collection_id, database=database, batch=records.part(inner))
                    applied()
            applied()

    def _write(self, operation: Operation, collection_id: str, database: str, batch: Batch) -> bool:
        """Change records by the fast path; return False if Chroma is to be called."""
        return self._writer is not None and self._writer.write(operation, collection_id, database, batch)

    def _prepare(self, collection_id: str, database: str) -> None:
        """Open Chroma for a write that is left to it, and have it take in what waits."""
        self._client.open(self._use_when_off if self._writer is None else None)
        self._client.take_in(collection_id=collection_id, database=database)

    def _note_replaced(self, collection_id: str, database: str, ids: Sequence[str]) -> None:
        deletions = self._client.deletions
        if not deletions.is_known and self.existing(collection_id, database, ids):
            deletions.note()

    def update(self, collection_id: str, database: str, batch: Batch, applied: Callable[[], None]) -> None:
        """Change parts of records in slices; ids that are not there are skipped."""
        self._client.check_index(collection_id)
        for part in fixed_slices(len(batch.ids), FAST_SLICE):
            records = batch.part(part)
            if not self._write(Operation.UPDATE, collection_id, database, records):
                self._prepare(collection_id, database)
                for inner in self._pace.slices(len(records.ids)):
                    self._client.update(collection_id=collection_id, database=database, batch=records.part(inner))
                    applied()
            applied()

    def delete(self, collection_id: str, database: str, ids: Sequence[str], applied: Callable[[], None]) -> int:
        """Delete records by id in slices; return how many ids were named. Ids that are not there are skipped."""
        self._client.check_index(collection_id)
        for part in fixed_slices(len(ids), FAST_SLICE):
            named = ids[part]
            if not self._write(Operation.DELETE, collection_id, database, Batch(named, None)):
                self._prepare(collection_id, database)
                for inner in self._pace.slices(len(named)):
                    self._client.delete(collection_id=collection_id, database=database, ids=named[inner])
                    applied()
            applied()
        return len(ids)

    def refuse_delete(self, collection_id: str, database: str, ids: Sequence[str] | None, limit: int | None) -> None:
        """Pass a deletion that names no record, or has a limit without a filter, to Chroma, which refuses it."""
        self._client.delete(collection_id=collection_id, database=database, ids=ids, limit=limit)

    def with_lists(self, collection_id: str, database: str) -> list[str]:
        """Return the ids of the records that have a list in their metadata.

        Chroma leaves such lists behind when a collection is deleted, and the next record that gets the row of one
        shows it as its own. So these records are deleted one by one before their collection.
        """
        found: list[str] = []
        count = self._client.count(collection_id=collection_id, database=database)
        for offset in range(0, count, _PAGE):
            got = self._client.get(
                collection_id=collection_id, database=database, limit=_PAGE, offset=offset, include=["metadatas"]
            )
            rows = zip(got.ids, got.metadatas, strict=True)
            found += [i for i, metadata in rows if metadata and any(isinstance(v, list) for v in metadata.values())]
        return found
