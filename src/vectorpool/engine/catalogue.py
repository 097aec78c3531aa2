"""The catalogue of one open directory: its databases and collections, and the one cache of known collections.

Questions are answered from Chroma's tables (``fast_catalogue``), if that is allowed, and else by Chroma. Changes are
Chroma's.

Every method blocks and belongs in a worker thread. Methods raise BrokenReplica, and what the bindings raise
(see ``failures``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from vectorpool.engine.bindings import Client
from vectorpool.engine.collection_info import CollectionInfo, DatabaseInfo
from vectorpool.engine.database_file import Doubt
from vectorpool.engine.failures import is_not_found
from vectorpool.engine.fast_catalogue import FastCatalogue
from vectorpool.errors import BrokenReplica

T = TypeVar("T")

# Collections that are remembered; asking Chroma for one takes a fifth of a millisecond.
_MAX_KNOWN = 256


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
    """Databases and collections of one directory. Many threads may read; one at a time writes.

    Without ``fast``, Chroma answers every question.
    """

    def __init__(self, client: Client, fast: FastCatalogue | None = None) -> None:
        self._client = client
        self._fast = fast
        self._known = _Known()
        # No fewer collections than there are, in all databases; None until they were counted.
        self._at_most: int | None = None

    def _ask(self, fast: Callable[[FastCatalogue], T], ask_chroma: Callable[[], T]) -> T:
        """Return an answer from the tables, or else Chroma's."""
        if self._fast is not None:
            try:
                return fast(self._fast)
            except Doubt:
                pass
        return ask_chroma()

    # --- Databases -----------------------------------------------------------------------------------

    def databases(self, *, limit: int | None = None, offset: int = 0) -> list[DatabaseInfo]:
        """Return the databases by name."""
        return self._ask(
            lambda fast: fast.databases(limit, offset),
            lambda: [_database(found) for found in self._client.list_databases(limit=limit, offset=offset)],
        )

    def database_names(self) -> list[str]:
        """Return the names of all databases, sorted."""
        return [found.name for found in self.databases()]

    def has_database(self, name: str) -> bool:
        """Return whether a database is there."""
        return name in self.database_names()

    def database(self, name: str) -> DatabaseInfo:
        """Return one database."""
        found = next((each for each in self.databases() if each.name == name), None)
        return _database(self._client.get_database(name=name)) if found is None else found

    def create_database(self, name: str) -> None:
        """Create a database."""
        self._client.create_database(name=name)

    def delete_database(self, name: str) -> None:
        """Delete a database without collections; Chroma would leave the records of its collections behind."""
        self._client.delete_database(name=name)

    # --- Collections ---------------------------------------------------------------------------------

    def collections(self, database: str, *, limit: int | None = None, offset: int = 0) -> list[CollectionInfo]:
        """Return the collections of a database, in Chroma's order, which is that of their ids."""

        def ask_chroma() -> list[CollectionInfo]:
            found = self._client.list_collections(database=database, limit=limit, offset=offset)
            return [_collection(each, database) for each in found]

        return self._ask(lambda fast: fast.collections(database, limit, offset), ask_chroma)

    def count_collections(self, database: str) -> int:
        """Return the number of collections of a database."""
        return self._ask(
            lambda fast: fast.count_collections(database), lambda: self._client.count_collections(database=database)
        )

    def count_all(self, enough: int) -> int:
        """Return how many collections all databases have; a number below ``enough`` may be too large."""
        if self._at_most is None or self._at_most >= enough:
            self._at_most = sum(self.count_collections(name) for name in self.database_names())
        return self._at_most

    def get(self, database: str, name: str | None) -> CollectionInfo:
        """Return one collection by name, as it is now."""
        found = None if name is None else self._ask(lambda fast: fast.by_name(database, name), lambda: None)
        return self._get(database, name) if found is None else found

    def _get(self, database: str, name: str | None) -> CollectionInfo:
        return _collection(self._client.get_collection(database=database, name=name), database)

    def get_by_id(self, database: str, collection_id: str) -> CollectionInfo:
        """Return one collection by id, as it is now."""
        found = self._ask(lambda fast: fast.by_id(database, collection_id), lambda: None)
        return self._get_by_id(database, collection_id) if found is None else found

    def _get_by_id(self, database: str, collection_id: str) -> CollectionInfo:
        found = self._client.get_collection_by_id(database=database, collection_id=collection_id)
        return _collection(found, database)

    def find(self, database: str, name: str) -> CollectionInfo | None:
        """Return one collection by name, as it is now; None if it or its database is not there."""
        return self._ask(
            lambda fast: fast.by_name(database, name), lambda: _unless_missing(lambda: self._get(database, name))
        )

    def find_by_id(self, database: str, collection_id: str) -> CollectionInfo | None:
        """Return one collection by id, as it is now; None if it or its database is not there."""
        return self._ask(
            lambda fast: fast.by_id(database, collection_id),
            lambda: _unless_missing(lambda: self._get_by_id(database, collection_id)),
        )

    def find_id(self, database: str, name: str) -> str | None:
        """Return the id of a collection; None if there is none, or if none can have that name."""
        try:
            found = self.find(database, name)
        except BrokenReplica:
            raise
        except Exception:
            return None
        return None if found is None else found.id

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
            info = self.find_by_id(database, collection_id)
            if info is not None:
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


def _unless_missing(ask: Callable[[], CollectionInfo]) -> CollectionInfo | None:
    try:
        return ask()
    except Exception as error:
        if is_not_found(error):
            return None
        raise


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
