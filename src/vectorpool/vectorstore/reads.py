"""Read commands: each answers a struct of ``answers``. They change nothing, and may run side by side.

Chroma may still touch its files while it reads; that is why a commit captures them with readers held out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from vectorpool import answers
from vectorpool.commands import (
    CountRecords,
    DescribeVectorstore,
    GetAvatar,
    GetCollection,
    GetRecords,
    ListAvatars,
    ListCollections,
    ListIngested,
    ListLost,
    QueryRecords,
    Read,
)
from vectorpool.errors import AvatarNotFound
from vectorpool.names import database_name
from vectorpool.vectorstore.bindings import translate
from vectorpool.vectorstore.chroma import Chroma, CollectionInfo
from vectorpool.vectorstore.direct import Direct
from vectorpool.vectorstore.rows import Rows
from vectorpool.vectorstore.sidecar import Sidecar
from vectorpool.vectorstore.vectors import check_vectors


def describe_collection(chroma: Chroma, sidecar: Sidecar, info: CollectionInfo) -> answers.Collection:
    """Return the answer for one collection, with its record count."""
    hnsw = {key: value for key, value in info.hnsw.items() if key != "space"}
    return answers.Collection(
        name=info.name,
        id=info.id,
        avatar_id=info.avatar_id,
        metadata=info.metadata,
        dimension=info.dimension,
        embedder=sidecar.embedder(info.id),
        space=str(info.hnsw.get("space", "l2")),
        hnsw=hnsw,
        count=chroma.count(info),
    )


def _at(column: list[Any] | None, i: int) -> Any:
    return None if column is None else column[i]


def _sorted(metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Chroma's order of keys differs from one opening to the next; the same state should give the same answer."""
    return metadata if metadata is None else dict(sorted(metadata.items()))


def _records(rows: Rows) -> list[answers.Record]:
    return [
        answers.Record(
            id=record_id,
            document=_at(rows.documents, i),
            metadata=_sorted(_at(rows.metadatas, i)),
            embedding=_at(rows.embeddings, i),
            uri=_at(rows.uris, i),
        )
        for i, record_id in enumerate(rows.ids)
    ]


def _matches(rows: Rows) -> list[answers.Match]:
    return [
        answers.Match(
            id=record_id,
            distance=_at(rows.distances, i),
            document=_at(rows.documents, i),
            metadata=_sorted(_at(rows.metadatas, i)),
            embedding=_at(rows.embeddings, i),
            uri=_at(rows.uris, i),
        )
        for i, record_id in enumerate(rows.ids)
    ]


def _parts(command: GetRecords) -> list[str]:
    return [part for part in command.include if part != "distances"]


class Reader:
    """Answers read commands from one open Chroma directory and its sidecar."""

    def __init__(self, user_id: str, chroma: Chroma, direct: Direct, sidecar: Sidecar, size: Callable[[], int]) -> None:
        self._user_id = user_id
        self._chroma = chroma
        self._direct = direct
        self._sidecar = sidecar
        self._size = size
        self._answer: dict[type, Callable[[Any], msgspec.Struct]] = {
            DescribeVectorstore: self._describe,
            ListAvatars: self._list_avatars,
            GetAvatar: self._get_avatar,
            ListCollections: self._list_collections,
            GetCollection: self._get_collection,
            CountRecords: self._count_records,
            GetRecords: self._get_records,
            QueryRecords: self._query_records,
            ListIngested: self._list_ingested,
            ListLost: self._list_lost,
        }

    def read(self, command: Read) -> msgspec.Struct:
        """Answer one command; raises VectorpoolError, BrokenReplica if Chroma no longer works."""
        try:
            direct = self._read_directly(command, at_once=False)
            return self._answer[type(command)](command) if direct is None else direct
        except Exception as error:
            raise translate(error) from error

    def _describe(self, command: DescribeVectorstore) -> msgspec.Struct:
        avatars = self._chroma.avatars()
        collections = [c for a in (None, *avatars) for c in self._chroma.collections(a)]
        return answers.Vectorstore(
            user_id=self._user_id,
            avatars=len(avatars),
            collections=len(collections),
            records=sum(self._chroma.count(c) for c in collections),
            bytes=self._size(),
            lost_records=self._sidecar.count_losses(),
        )

    def _avatar(self, avatar_id: str) -> answers.Avatar:
        collections = self._chroma.collections(avatar_id)
        return answers.Avatar(
            avatar_id=avatar_id,
            collections=len(collections),
            records=sum(self._chroma.count(c) for c in collections),
            documents=self._sidecar.count_documents(avatar_id),
        )

    def _list_avatars(self, command: ListAvatars) -> msgspec.Struct:
        ids = self._chroma.avatars()
        end = None if command.limit is None else command.offset + command.limit
        return answers.AvatarPage(avatars=[self._avatar(a) for a in ids[command.offset : end]], total=len(ids))

    def _get_avatar(self, command: GetAvatar) -> msgspec.Struct:
        if command.avatar_id not in self._chroma.avatars():
            raise AvatarNotFound(f"The user has no avatar {command.avatar_id!r}. List the avatars to see which.")
        return self._avatar(command.avatar_id)

    def _list_collections(self, command: ListCollections) -> msgspec.Struct:
        if command.avatar_id is not None and command.avatar_id not in self._chroma.avatars():
            raise AvatarNotFound(f"The user has no avatar {command.avatar_id!r}. List the avatars to see which.")
        found = self._chroma.collections(command.avatar_id)
        end = None if command.limit is None else command.offset + command.limit
        page = [describe_collection(self._chroma, self._sidecar, c) for c in found[command.offset : end]]
        return answers.CollectionPage(collections=page, total=len(found))

    def _get_collection(self, command: GetCollection) -> msgspec.Struct:
        return describe_collection(
            self._chroma, self._sidecar, self._chroma.known_collection(command.avatar_id, command.name)
        )

    def _count_records(self, command: CountRecords) -> msgspec.Struct:
        return answers.Count(
            count=self._chroma.count(self._chroma.known_collection(command.avatar_id, command.collection))
        )

    def _get_records(self, command: GetRecords) -> msgspec.Struct:
        rows = self._chroma.get(
            self._chroma.known_collection(command.avatar_id, command.collection),
            ids=command.ids,
            where=command.where,
            where_document=command.where_document,
            limit=command.limit,
            offset=command.offset,
            include=_parts(command),
        )
        return answers.RecordPage(records=_records(rows))

    def _query_records(self, command: QueryRecords) -> msgspec.Struct:
        info = self._chroma.known_collection(command.avatar_id, command.collection)
        array = check_vectors(info, self._sidecar, command.vectors)
        if info.dimension is None:
            # Nothing was ever written: Chroma has no index to ask.
            return answers.QueryResult(results=[[] for _ in array])
        found = self._chroma.query(
            info,
            array,
            command.n_results,
            ids=command.ids,
            where=command.where,
            where_document=command.where_document,
            include=command.include,
        )
        return answers.QueryResult(results=[_matches(rows) for rows in found])

    # --- Round Chroma --------------------------------------------------------------------------------

    def read_directly(self, command: Read, *, at_once: bool) -> msgspec.Struct | None:
        """Answer a plain count, get or query without Chroma; None for what is not, or is not certain.

        ``at_once`` is for an event loop: also None for what would take long. Raises VectorpoolError, as ``read`` does.
        """
        try:
            return self._read_directly(command, at_once=at_once)
        except Exception as error:
            raise translate(error) from error

    def _read_directly(self, command: Read, *, at_once: bool) -> msgspec.Struct | None:
        if not isinstance(command, (CountRecords, GetRecords, QueryRecords)):
            return None
        known = self._chroma.remembered_collection if at_once else self._chroma.known_collection
        info = known(command.avatar_id, command.collection)
        if info is None:
            return None
        place = info.id, database_name(info.avatar_id)
        if isinstance(command, CountRecords):
            count = self._direct.count(*place, at_once=at_once)
            return None if count is None else answers.Count(count=count)
        if command.where or command.where_document:
            return None
        if isinstance(command, GetRecords):
            rows = self._direct.get(
                *place,
                ids=command.ids,
                limit=command.limit,
                offset=command.offset,
                include=_parts(command),
                at_once=at_once,
            )
            return None if rows is None else answers.RecordPage(records=_records(rows))
        if command.ids is not None:
            return None
        array = check_vectors(info, self._sidecar, command.vectors)
        found = self._direct.query(*place, array, command.n_results, command.include, at_once=at_once)
        return None if found is None else answers.QueryResult(results=[_matches(rows) for rows in found])

    def _list_ingested(self, command: ListIngested) -> msgspec.Struct:
        names = {c.id: c.name for c in self._chroma.collections(command.avatar_id)}
        return answers.IngestedPage(documents=self._sidecar.documents(command.avatar_id, names))

    def _list_lost(self, command: ListLost) -> msgspec.Struct:
        lost = self._sidecar.losses(command.limit, command.offset)
        return answers.LostPage(lost=lost, total=self._sidecar.count_losses())
