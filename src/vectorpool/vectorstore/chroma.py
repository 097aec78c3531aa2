"""A typed face of Chroma's bindings: what commands need, in their words, with our errors.

Every method blocks and belongs in a worker thread. Writes hold the interpreter lock for their whole length,
which is why bulk writes are cut into slices (see ``writes``); reads release it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from vectorpool.errors import BrokenReplica, CollectionNotFound, RecordNotFound
from vectorpool.names import DEFAULT_TENANT, avatar_of_database, database_name
from vectorpool.vectorstore.bindings import is_chroma_error, open_bindings, translate
from vectorpool.vectorstore.direct import Kind
from vectorpool.vectorstore.rows import Rows

# Collections remembered for reads; asking Chroma for one takes a fifth of a millisecond.
_MAX_KNOWN = 256

# Records looked through at once.
_PAGE = 1000

T = TypeVar("T")
Float32 = NDArray[np.float32]


class CollectionInfo(msgspec.Struct, frozen=True):
    """What Chroma says of a collection."""

    id: str
    name: str
    avatar_id: str | None
    metadata: dict[str, Any] | None
    dimension: int | None
    hnsw: dict[str, Any]


def _filter(clause: dict[str, Any] | None) -> str | None:
    return json.dumps(clause) if clause else None


class Chroma:
    """One open Chroma directory."""

    def __init__(self, directory: Path) -> None:
        # Chroma's own protocol asks the bindings as its clients ask; all else goes through the methods here.
        self.rust = open_bindings(directory)
        self._known: dict[tuple[str | None, str], CollectionInfo] = {}
        self._known_by_id: dict[tuple[str, str], Any] = {}

    def close(self) -> None:
        """Close the client: descriptors and threads go back when the last call in progress ends. Twice is once."""
        self.__dict__.pop("rust", None)

    def _call(self, method: Callable[..., T], *arguments: Any) -> T:
        try:
            return method(*arguments)
        except BaseException as error:
            if not is_chroma_error(error):
                raise
            raise translate(error) from error

    # --- Databases and collections -------------------------------------------------------------------

    def avatars(self) -> list[str]:
        """Return the ids of the avatars that have a database, sorted."""
        databases = self._call(self.rust.list_databases, None, 0, DEFAULT_TENANT)
        return sorted(a for d in databases if (a := avatar_of_database(d.name)) is not None)

    def ensure_database(self, avatar_id: str | None) -> bool:
        """Create the avatar's database if it is not there; return whether it was created."""
        name = database_name(avatar_id)
        if any(d.name == name for d in self._call(self.rust.list_databases, None, 0, DEFAULT_TENANT)):
            return False
        self._call(self.rust.create_database, name, DEFAULT_TENANT)
        return True

    def delete_database(self, avatar_id: str) -> None:
        """Delete an avatar's database; its collections must be gone, Chroma would leave their records behind."""
        self._call(self.rust.delete_database, database_name(avatar_id), DEFAULT_TENANT)

    def collections(self, avatar_id: str | None) -> list[CollectionInfo]:
        """Return the collections of an avatar, or the user's own, by name."""
        if avatar_id is not None and avatar_id not in self.avatars():
            return []
        found = self._call(self.rust.list_collections, None, 0, DEFAULT_TENANT, database_name(avatar_id))
        return sorted((self._info(c, avatar_id) for c in found), key=lambda c: c.name)

    def collection(self, avatar_id: str | None, name: str) -> CollectionInfo:
        """Return one collection by name; raise CollectionNotFound."""
        try:
            found = self._call(self.rust.get_collection, name, DEFAULT_TENANT, database_name(avatar_id))
        except CollectionNotFound:
            raise CollectionNotFound(f"There is no collection {name!r}. Create it, or list those that are.") from None
        return self._info(found, avatar_id)

    def kind(self, collection_id: str, database: str) -> Kind:
        """Return what of a collection never changes; raise CollectionNotFound."""
        found = self._call(self.rust.get_collection_by_id, collection_id, DEFAULT_TENANT, database)
        hnsw = found.configuration.get("hnsw") or {}
        return Kind(str(hnsw.get("space") or "l2"), int(hnsw.get("max_neighbors") or 16))

    def known_collection(self, avatar_id: str | None, name: str) -> CollectionInfo:
        """Return one collection as ``collection`` does, or as it did since the last ``forget``: for reads only."""
        known, key = self._known, (avatar_id, name)
        info = known.get(key)
        if info is None:
            info = self.collection(avatar_id, name)
            if len(known) < _MAX_KNOWN:
                # Into the dictionary that was there before Chroma was asked: if a write made a new one meanwhile, what
                # was found is already out of date, and is kept where nobody looks.
                known[key] = info
        return info

    def remembered_collection(self, avatar_id: str | None, name: str) -> CollectionInfo | None:
        """Return one collection if ``known_collection`` need not ask Chroma for it."""
        return self._known.get((avatar_id, name))

    def collection_by_id(self, collection_id: str, database: str) -> Any:
        """Return a collection as the bindings show it, or as they did since ``forget``; raises what they raise."""
        known, key = self._known_by_id, (collection_id, database)
        found = known.get(key)
        if found is None:
            found = self.rust.get_collection_by_id(collection_id, DEFAULT_TENANT, database)
            # Without a dimension it changes with its first record.
            if found.dimension is not None and len(known) < _MAX_KNOWN:
                known[key] = found
        return found

    def forget(self, *, only_new: bool = False) -> None:
        """Know no collection any more, or none that had no record; around every write, by what it may change."""
        if only_new:
            self._known = {key: info for key, info in self._known.items() if info.dimension is not None}
        else:
            self._known, self._known_by_id = {}, {}

    def create_collection(
        self, avatar_id: str | None, name: str, metadata: dict[str, Any] | None, hnsw: dict[str, Any]
    ) -> CollectionInfo:
        """Create a collection; raise CollectionExists."""
        made = self._call(
            self.rust.create_collection,
            name,
            json.dumps({"hnsw": hnsw}),
            None,
            metadata or None,
            False,
            DEFAULT_TENANT,
            database_name(avatar_id),
        )
        return self._info(made, avatar_id)

    def modify_collection(self, collection_id: str, name: str | None, metadata: dict[str, Any] | None) -> None:
        """Rename a collection or replace its metadata."""
        self._call(self.rust.update_collection, collection_id, name, metadata, None)

    def listed(self, collection_id: str, database: str) -> list[str]:
        """Return the ids of a collection's records that have a list in their metadata.

        Chroma leaves such lists behind when a collection is deleted, and the next record that gets one's row shows
        them as its own: these records are deleted one by one before their collection.
        """
        found: list[str] = []
        count = self._call(self.rust.count, collection_id, DEFAULT_TENANT, database)
        for offset in range(0, count, _PAGE):
            got = self._call(
                self.rust.get, collection_id, None, None, _PAGE, offset, None, ["metadatas"], DEFAULT_TENANT, database
            )
            rows = zip(got.ids, got.metadatas, strict=True)
            found += [i for i, metadata in rows if metadata and any(isinstance(v, list) for v in metadata.values())]
        return found

    def delete_collection(self, avatar_id: str | None, name: str) -> None:
        """Delete a collection and its records."""
        self._call(self.rust.delete_collection, name, DEFAULT_TENANT, database_name(avatar_id))

    @staticmethod
    def _info(found: Any, avatar_id: str | None) -> CollectionInfo:
        return CollectionInfo(
            id=str(found.id),
            name=found.name,
            avatar_id=avatar_id,
            metadata=found.metadata,
            dimension=found.dimension,
            hnsw=dict(found.configuration.get("hnsw") or {}),
        )

    # --- Records -------------------------------------------------------------------------------------

    def count(self, info: CollectionInfo) -> int:
        """Return the number of records."""
        return int(self._call(self.rust.count, info.id, DEFAULT_TENANT, database_name(info.avatar_id)))

    def get(
        self,
        info: CollectionInfo,
        *,
        ids: list[str] | None = None,
        where: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
        limit: int | None = None,
        offset: int = 0,
        include: Sequence[str] = (),
    ) -> Rows:
        """Return records in insertion order; raise BrokenReplica if the index lacks one of them."""
        try:
            got = self._call(
                self.rust.get,
                info.id,
                ids,
                _filter(where),
                limit,
                offset,
                _filter(where_document),
                list(include),
                DEFAULT_TENANT,
                database_name(info.avatar_id),
            )
        except RecordNotFound as error:
            # Ids that are not there are left out of an answer; what Chroma found and then missed is a vector.
            raise BrokenReplica("Chroma's index lacks the vector of a record that is there.") from error
        return Rows(got.ids, got.documents, got.metadatas, got.embeddings, got.uris)

    def query(
        self,
        info: CollectionInfo,
        embeddings: Float32,
        n_results: int,
        *,
        ids: list[str] | None = None,
        where: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
        include: Sequence[str] = (),
    ) -> list[Rows]:
        """Return for each row of ``embeddings`` (float32[n, d]) its nearest records, nearest first."""
        try:
            got = self._call(
                self.rust.query,
                info.id,
                ids,
                embeddings,
                n_results,
                _filter(where),
                _filter(where_document),
                list(include),
                DEFAULT_TENANT,
                database_name(info.avatar_id),
            )
        except RecordNotFound as error:
            if ids is not None:
                raise
            raise BrokenReplica("Chroma's index and its records do not agree.") from error

        def column(values: Any, i: int) -> Any:
            return None if values is None else values[i]

        return [
            Rows(
                ids=found,
                documents=column(got.documents, i),
                metadatas=column(got.metadatas, i),
                embeddings=column(got.embeddings, i),
                uris=column(got.uris, i),
                distances=column(got.distances, i),
            )
            for i, found in enumerate(got.ids)
        ]

    def upsert(
        self,
        info: CollectionInfo,
        ids: list[str],
        embeddings: Float32,
        metadatas: list[dict[str, Any] | None] | None,
        documents: list[str | None] | None,
        uris: list[str | None] | None,
    ) -> None:
        """Add or replace records; metadata of replaced ones is merged."""
        self._call(
            self.rust.upsert,
            info.id,
            ids,
            embeddings,
            metadatas,
            documents,
            uris,
            DEFAULT_TENANT,
            database_name(info.avatar_id),
        )

    def update(
        self,
        info: CollectionInfo,
        ids: list[str],
        embeddings: list[Any] | None,
        metadatas: list[dict[str, Any] | None] | None,
        documents: list[str | None] | None,
        uris: list[str | None] | None,
    ) -> None:
        """Change parts of records; None leaves a part as it is."""
        self._call(
            self.rust.update,
            info.id,
            ids,
            embeddings,
            metadatas,
            documents,
            uris,
            DEFAULT_TENANT,
            database_name(info.avatar_id),
        )

    def delete(self, info: CollectionInfo, ids: list[str]) -> None:
        """Delete records by id; ids that are not there are ignored."""
        self._call(self.rust.delete, info.id, ids, None, None, None, DEFAULT_TENANT, database_name(info.avatar_id))
