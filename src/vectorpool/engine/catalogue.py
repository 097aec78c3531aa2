"""The catalogue of one open directory: its databases and collections, and the one cache of known collections.

Every method blocks and belongs in a worker thread. Methods raise BrokenReplica, and what the bindings raise
(see ``failures``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from vectorpool.engine.bindings import Client
from vectorpool.engine.failures import is_not_found
from vectorpool.errors import BrokenReplica
from vectorpool.names import avatar_of_database

# Collections that are remembered; asking Chroma for one takes a fifth of a millisecond.
_MAX_KNOWN = 256


class DatabaseInfo(msgspec.Struct, frozen=True):
    """What Chroma says of a database."""

    id: str
    name: str


class CollectionInfo(msgspec.Struct, frozen=True):
    """What Chroma says of a collection. ``dimension`` is None until the first record."""

    id: str
    name: str
    database: str
    metadata: dict[str, Any] | None
    dimension: int | None
    configuration: dict[str, Any]
    schema: Any

    @property
    def avatar_id(self) -> str | None:
        """The avatar whose collection it is; None for a collection of the user's own."""
        return avatar_of_database(self.database)

    @property
    def hnsw(self) -> dict[str, Any]:
        """The configuration of the index."""
        return dict(self.configuration.get("hnsw") or {})

    @property
    def space(self) -> str:
        """The distance function: ``l2``, ``cosine`` or ``ip``. It never changes."""
        return str(self.hnsw.get("space") or "l2")

    @property
    def metadata_keys(self) -> set[str]:
        """The metadata keys of its records that the schema knows."""
        keys = self.schema.get("keys") if isinstance(self.schema, dict) else None
        return {key for key in keys if not key.startswith("#")} if isinstance(keys, dict) else set()

    @property
    def max_neighbors(self) -> int:
        """The links of an element of the index, which decide the layout of its files. The number never changes."""
        return int(self.hnsw.get("max_neighbors") or 16)


class _Known:
    """Collections by (database, name) and by (database, id)."""

    def __init__(self) -> None:
        self.by_name: dict[tuple[str, str], CollectionInfo] = {}
        self.by_id: dict[tuple[str, str], CollectionInfo] = {}

    def add(self, info: CollectionInfo) -> None:
        if len(self.by_id) < _MAX_KNOWN:
            self.by_name[info.database, info.name] = info
            self.by_id[info.database, info.id] = info

    def with_dimension(self) -> _Known:
        kept = _Known()
        kept.by_name = {key: info for key, info in self.by_name.items() if info.dimension is not None}
        kept.by_id = {key: info for key, info in self.by_id.items() if info.dimension is not None}
        return kept


class Catalogue:
    """Databases and collections of one directory. Many threads may read; one at a time writes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known = _Known()
        # No fewer collections than there are, in all databases; None until they were counted.
        self._at_most: int | None = None

    # --- Databases -----------------------------------------------------------------------------------

    def databases(self, *, limit: int | None = None, offset: int = 0) -> list[DatabaseInfo]:
        """Return the databases in the order of their creation."""
        return [_database(found) for found in self._client.list_databases(limit=limit, offset=offset)]

    def database_names(self) -> list[str]:
        """Return the names of all databases in the order of their creation."""
        return [found.name for found in self._client.list_databases()]

    def has_database(self, name: str) -> bool:
        """Return whether a database is there."""
        return name in self.database_names()

    def database(self, name: str) -> DatabaseInfo:
        """Return one database."""
        return _database(self._client.get_database(name=name))

    def create_database(self, name: str) -> None:
        """Create a database."""
        self._client.create_database(name=name)

    def delete_database(self, name: str) -> None:
        """Delete a database without collections; Chroma would leave the records of its collections behind."""
        self._client.delete_database(name=name)

    # --- Collections ---------------------------------------------------------------------------------

    def collections(self, database: str, *, limit: int | None = None, offset: int = 0) -> list[CollectionInfo]:
        """Return the collections of a database, in Chroma's order."""
        found = self._client.list_collections(database=database, limit=limit, offset=offset)
        return [_collection(each, database) for each in found]

    def count_collections(self, database: str) -> int:
        """Return the number of collections of a database."""
        return self._client.count_collections(database=database)

    def count_all(self, enough: int) -> int:
        """Return how many collections all databases have; a number below ``enough`` may be too large."""
        if self._at_most is None or self._at_most >= enough:
            self._at_most = sum(self.count_collections(name) for name in self.database_names())
        return self._at_most

    def get(self, database: str, name: str | None) -> CollectionInfo:
        """Return one collection by name, as it is now."""
        return _collection(self._client.get_collection(database=database, name=name), database)

    def get_by_id(self, database: str, collection_id: str) -> CollectionInfo:
        """Return one collection by id, as it is now."""
        found = self._client.get_collection_by_id(database=database, collection_id=collection_id)
        return _collection(found, database)

    def find(self, database: str, name: str) -> CollectionInfo | None:
        """Return one collection by name, as it is now; None if it or its database is not there."""
        try:
            return self.get(database, name)
        except Exception as error:
            if is_not_found(error):
                return None
            raise

    def find_id(self, database: str, name: str) -> str | None:
        """Return the id of a collection; None if there is none, or if none can have that name."""
        try:
            return self.get(database, name).id
        except BrokenReplica:
            raise
        except Exception:
            return None

    def create(
        self,
        database: str,
        name: str,
        *,
        metadata: dict[str, Any] | None,
        configuration: str | None,
        schema: str | None = None,
        get_or_create: bool = False,
    ) -> CollectionInfo:
        """Create a collection; ``configuration`` and ``schema`` are JSON."""
        if self._at_most is not None:
            self._at_most += 1
        made = self._client.create_collection(
            database=database,
            name=name,
            metadata=metadata,
            configuration=configuration,
            schema=schema,
            get_or_create=get_or_create,
        )
        return _collection(made, database)

    def update(
        self,
        collection_id: str,
        *,
        name: str | None,
        metadata: dict[str, Any] | None,
        configuration: str | None = None,
    ) -> None:
        """Rename a collection, or replace its metadata or configuration."""
        self._client.update_collection(
            collection_id=collection_id, name=name, metadata=metadata, configuration=configuration
        )

    def refresh(self, info: CollectionInfo) -> CollectionInfo:
        """Return a collection as it is now, and remember that: its schema learns metadata keys from writes."""
        info = self.get_by_id(info.database, info.id)
        self._known.add(info)
        return info

    # --- The cache of known collections --------------------------------------------------------------

    def known(self, database: str, name: str) -> CollectionInfo | None:
        """Return a collection as it was at some time since the last ``forget``; None if it is not there."""
        cache = self._known
        info = cache.by_name.get((database, name))
        if info is None:
            info = self.find(database, name)
            if info is not None:
                # Into the cache that was there before Chroma was asked. A write that replaced the cache meanwhile made
                # this entry obsolete, and nothing reads the replaced cache.
                cache.add(info)
        return info

    def remembered(self, database: str, name: str) -> CollectionInfo | None:
        """Return a collection if ``known`` need not ask Chroma."""
        return self._known.by_name.get((database, name))

    def known_by_id(self, database: str, collection_id: str) -> CollectionInfo | None:
        """Return a collection as ``known`` does, by its id."""
        cache = self._known
        info = cache.by_id.get((database, collection_id))
        if info is None:
            try:
                info = self.get_by_id(database, collection_id)
            except Exception as error:
                if is_not_found(error):
                    return None
                raise
            cache.add(info)
        return info

    def known_anywhere(self, database: str, collection_id: str) -> CollectionInfo | None:
        """Return a collection as ``known_by_id`` does, from ``database`` or else from any other.

        Chroma's server finds a collection by its id, whatever database the path names.
        """

        def candidates() -> Iterator[str]:
            yield database
            yield from self.database_names()

        for name in candidates():
            info = self.known_by_id(name, collection_id)
            if info is not None:
                return info
        return None

    def forget(self, *, only_new: bool = False) -> None:
        """Forget every collection, or those without a record. Called around every write, by what it may change."""
        self._known = self._known.with_dimension() if only_new else _Known()


def _database(found: Any) -> DatabaseInfo:
    return DatabaseInfo(str(found.id), found.name)


def _collection(found: Any, database: str) -> CollectionInfo:
    return CollectionInfo(
        id=str(found.id),
        name=found.name,
        database=database,
        metadata=found.metadata,
        dimension=found.dimension,
        configuration=found.configuration,
        schema=found.schema,
    )
