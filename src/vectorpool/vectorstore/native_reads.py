"""Read commands of the native API: each returns a struct of ``answers``. They change nothing and may run in parallel.

Chroma may change its files while it reads, so a commit captures them while no reader runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any, Final

import msgspec

from vectorpool import answers
from vectorpool.commands import (
    CountRecords,
    DescribeVectorstore,
    FindChunks,
    GetAvatar,
    GetCollection,
    GetPipeline,
    GetRecords,
    KnownChunks,
    ListAvatars,
    ListCollections,
    ListIngested,
    ListLost,
    ListRestored,
    QueryRecords,
    Read,
)
from vectorpool.commands.handlers import handlers_of, handles
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.engine import Engine
from vectorpool.engine.failures import translate
from vectorpool.engine.records import Records
from vectorpool.engine.rows import Rows
from vectorpool.vectorstore.avatars import avatar_ids, check_avatar, collections_of, known_collection
from vectorpool.vectorstore.filters import as_json
from vectorpool.vectorstore.sidecar import RestoredAt, Sidecar
from vectorpool.vectorstore.vectors import check_vectors


def describe_collection(records: Records, sidecar: Sidecar, info: CollectionInfo) -> answers.Collection:
    """Return the answer for one collection, with its record count."""
    hnsw = {key: value for key, value in info.hnsw.items() if key != "space"}
    return answers.Collection(
        name=info.name,
        id=info.id,
        avatar_id=info.avatar_id,
        metadata=info.metadata,
        dimension=info.dimension,
        embedder=sidecar.embedder(info.id),
        space=info.space,
        hnsw=hnsw,
        count=count_of(records, info),
    )


def count_of(records: Records, info: CollectionInfo) -> int:
    """Return the number of records of a collection."""
    count = records.count(info.id, info.database)
    assert count is not None, "a count that may wait has an answer"
    return count


def _column(column: Iterable[Any] | None) -> Iterable[Any]:
    """Return a column; one that was not asked for has None for each record."""
    return repeat(None) if column is None else column


def _sorted(metadatas: Iterable[dict[str, Any] | None] | None) -> Iterable[dict[str, Any] | None]:
    """Sort the keys: Chroma's order differs from one opening to the next, and equal states must give equal answers."""
    if metadatas is None:
        return repeat(None)
    return [dict(sorted(each.items())) if each and len(each) > 1 else each for each in metadatas]


def _records(rows: Rows) -> list[answers.Record]:
    parts = (_column(rows.documents), _sorted(rows.metadatas), _column(rows.embeddings), _column(rows.uris))
    return list(map(answers.Record, rows.ids, *parts))


def _matches(rows: Rows) -> list[answers.Match]:
    parts = (_column(rows.documents), _sorted(rows.metadatas), _column(rows.embeddings), _column(rows.uris))
    return list(map(answers.Match, rows.ids, _column(rows.distances), *parts))


# The reads that the fast path may answer on the event loop: their handlers take ``at_once`` too.
AT_ONCE: Final = frozenset({CountRecords, GetRecords, QueryRecords})


class NativeReader:
    """Answers read commands from one open engine and its sidecar.

    ``size`` returns the bytes of the files, ``live`` those without free pages.
    """

    def __init__(
        self, user_id: str, engine: Engine, sidecar: Sidecar, size: Callable[[], int], live: Callable[[], int]
    ) -> None:
        self._user_id = user_id
        self._catalogue: Catalogue = engine.catalogue
        self._records: Records = engine.records
        self._sidecar = sidecar
        self._size = size
        self._live = live
        handlers = handlers_of(self)
        self._answer = {kind: handler for kind, handler in handlers.items() if kind not in AT_ONCE}
        self._answer_at_once = {kind: handler for kind, handler in handlers.items() if kind in AT_ONCE}

    def read(self, command: Read, *, at_once: bool = False) -> msgspec.Struct | None:
        """Answer one command; raises VectorpoolError, BrokenReplica if Chroma does not work any more.

        ``at_once`` is for an event loop: None if the answer would block for long.
        """
        kind = type(command)
        answer: msgspec.Struct | None = None
        try:
            if kind in self._answer_at_once:
                answer = self._answer_at_once[kind](command, at_once)
            elif not at_once:
                answer = self._answer[kind](command)
            return answer
        except Exception as error:
            raise translate(error) from error

    # --- Vectorstore, avatars, collections -----------------------------------------------------------

    def _count(self, collections: list[CollectionInfo]) -> int:
        return sum(count_of(self._records, info) for info in collections)

    @handles(DescribeVectorstore)
    def _describe(self, command: DescribeVectorstore) -> msgspec.Struct:
        avatars = avatar_ids(self._catalogue)
        collections = [c for a in (None, *avatars) for c in collections_of(self._catalogue, a)]
        return answers.Vectorstore(
            user_id=self._user_id,
            avatars=len(avatars),
            collections=len(collections),
            records=self._count(collections),
            bytes=self._size(),
            documents=self._sidecar.count_all_documents(),
            live_bytes=self._live(),
            lost_records=self._sidecar.count_losses(),
        )

    def _avatar(self, avatar_id: str) -> answers.Avatar:
        collections = collections_of(self._catalogue, avatar_id)
        return answers.Avatar(
            avatar_id=avatar_id,
            collections=len(collections),
            records=self._count(collections),
            documents=self._sidecar.count_documents(avatar_id),
        )

    @handles(ListAvatars)
    def _list_avatars(self, command: ListAvatars) -> msgspec.Struct:
        ids = avatar_ids(self._catalogue)
        end = None if command.limit is None else command.offset + command.limit
        return answers.AvatarPage(avatars=[self._avatar(a) for a in ids[command.offset : end]], total=len(ids))

    @handles(GetAvatar)
    def _get_avatar(self, command: GetAvatar) -> msgspec.Struct:
        check_avatar(self._catalogue, command.avatar_id)
        return self._avatar(command.avatar_id)

    def _describe_collection(self, info: CollectionInfo) -> answers.Collection:
        return describe_collection(self._records, self._sidecar, info)

    @handles(ListCollections)
    def _list_collections(self, command: ListCollections) -> msgspec.Struct:
        if command.avatar_id is not None:
            check_avatar(self._catalogue, command.avatar_id)
        found = collections_of(self._catalogue, command.avatar_id)
        end = None if command.limit is None else command.offset + command.limit
        page = [self._describe_collection(info) for info in found[command.offset : end]]
        return answers.CollectionPage(collections=page, total=len(found))

    @handles(GetCollection)
    def _get_collection(self, command: GetCollection) -> msgspec.Struct:
        info = known_collection(self._catalogue, command.avatar_id, command.name)
        assert info is not None
        return self._describe_collection(info)

    # --- Records -------------------------------------------------------------------------------------

    @handles(CountRecords)
    def _count_records(self, command: CountRecords, at_once: bool) -> msgspec.Struct | None:
        info = known_collection(self._catalogue, command.avatar_id, command.collection, at_once=at_once)
        count = None if info is None else self._records.count(info.id, info.database, at_once=at_once)
        return None if count is None else answers.Count(count=count)

    @handles(GetRecords)
    def _get_records(self, command: GetRecords, at_once: bool) -> msgspec.Struct | None:
        info = known_collection(self._catalogue, command.avatar_id, command.collection, at_once=at_once)
        if info is None:
            return None
        rows = self._records.get(
            info.id,
            info.database,
            ids=command.ids,
            where=as_json(command.where),
            where_document=as_json(command.where_document),
            limit=command.limit,
            offset=command.offset,
            include=[part for part in command.include if part != "distances"],
            at_once=at_once,
        )
        return None if rows is None else answers.RecordPage(records=_records(rows))

    @handles(QueryRecords)
    def _query_records(self, command: QueryRecords, at_once: bool) -> msgspec.Struct | None:
        info = known_collection(self._catalogue, command.avatar_id, command.collection, at_once=at_once)
        if info is None:
            return None
        array = check_vectors(info, self._sidecar, command.vectors)
        if info.dimension is None:
            # The collection never had a record, so Chroma has no index for it.
            return answers.QueryResult(results=[[] for _ in array])
        found = self._records.query(
            info.id,
            info.database,
            array,
            command.n_results,
            ids=command.ids,
            where=as_json(command.where),
            where_document=as_json(command.where_document),
            include=command.include,
            at_once=at_once,
        )
        if found is None:
            return None
        assumed = command.vectors.embedder if self._sidecar.embedder(info.id) is None else None
        return answers.QueryResult(results=[_matches(rows) for rows in found], assumed_embedder=assumed)

    # --- Documents and losses ------------------------------------------------------------------------

    @handles(ListIngested)
    def _list_ingested(self, command: ListIngested) -> msgspec.Struct:
        names = {info.id: info.name for info in collections_of(self._catalogue, command.avatar_id)}
        documents = self._sidecar.documents(
            command.avatar_id, names, paths=command.paths, after=command.after, limit=command.limit
        )
        parts = self._sidecar.parts.tokens(command.avatar_id) if command.after is None else []
        return answers.IngestedPage(documents, {name: id_ for id_, name in names.items()}, parts)

    @handles(FindChunks)
    def _find_chunks(self, command: FindChunks) -> msgspec.Struct:
        names = {info.id: info.name for info in collections_of(self._catalogue, command.avatar_id)}
        return KnownChunks(
            self._sidecar.known_chunks(command.avatar_id, command.path, command.digest, names),
            self._sidecar.parts.numbers(command.avatar_id, command.path, command.token),
            self._sidecar.pipeline(command.avatar_id),
        )

    @handles(GetPipeline)
    def _get_pipeline(self, command: GetPipeline) -> msgspec.Struct:
        return self._sidecar.pipeline(command.avatar_id)

    @handles(ListRestored)
    def _list_restored(self, command: ListRestored) -> msgspec.Struct:
        place = RestoredAt(command.avatar_id, command.path, command.after)
        return answers.RestoredPage(documents=self._sidecar.restored_documents(place, command.limit))

    @handles(ListLost)
    def _list_lost(self, command: ListLost) -> msgspec.Struct:
        lost = self._sidecar.losses(command.limit, command.offset)
        return answers.LostPage(lost=lost, total=self._sidecar.count_losses())
