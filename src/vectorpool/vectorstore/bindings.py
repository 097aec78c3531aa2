"""Chroma's Rust bindings, loaded without the rest of Chroma, and what their exceptions mean.

``import chromadb`` takes 1.7 s and 66 MB; the bindings alone take 0.06 s. They import ``chromadb.errors`` when
they first raise, which would run the package's ``__init__`` in the middle of a request; ``import_lean`` puts a
bare package in its place, so that submodules load and nothing else does.

Chroma forgets what waits in the queue of a collection once that leaves its cache of indexes: the queue is applied once
in a client's life, and an index that comes back is read from its files alone. Without files a query then fails with
"Nothing found on disk"; with files it leaves the newest records out and says nothing. With a cache of 16 that began
at 9 collections, as the cache is cut into parts by hash. So nothing ever leaves the cache here: a client that would
hold too many collections is closed, and a new one applies every queue again. So is one that holds a collection which
was written round Chroma (see ``direct_writes``), when its index is asked for.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import chromadb_rust_bindings as rust

from vectorpool.errors import (
    BrokenReplica,
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    InternalError,
    InvalidFilter,
    InvalidRequest,
    RecordNotFound,
    VectorpoolError,
)
from vectorpool.names import CHROMA_DATABASE_FILE, DEFAULT_TENANT

# As large as that of Chroma's server, and never full: an empty cache costs nothing.
_CACHE_COLLECTIONS: Final = 65536

# Collections whose indexes one client may hold before it is closed for a new one; each takes four descriptors and from
# 2 MB of memory on. A new client takes 10 ms, and a collection's first query in it 5 ms or more.
MAX_COLLECTIONS: Final = 32

# Where a method of the bindings that loads an index has the collection's id.
_COLLECTION_AT: Final = {"add": 1, "upsert": 0, "update": 0, "delete": 0, "get": 0, "query": 0, "count": 0}

# Of these, those that need not know the newest vectors, unless they are to return them.
_WITHOUT_INDEX: Final = frozenset({"get", "count"})
_INCLUDE_OF_GET: Final = 6

# Writes that go through Chroma after a new client was needed only because of those that went round it: whoever asks
# for what only Chroma answers, between writes, pays for a new client that often at most.
PAUSE: Final = 64

# Chroma's internal errors that mean: this open client will not work again (see the design of the pool).
_WEDGED = (
    "sending message to compactor",
    "sending backfill request to compactor",
    "Failed to apply logs",
    "Failed to send request",
    "database disk image is malformed",
    "file is not a database",
    # What is in the files, not in the request: an index that cannot be loaded, or that lacks a record's vector.
    "Error constructing hnsw segment reader",
    "Error creating hnsw segment reader",
    "Error getting embedding",
)


def import_lean() -> None:
    """Make ``chromadb`` an importable package without running its ``__init__``; for shard processes only."""
    if "chromadb" in sys.modules:
        return
    spec = importlib.util.find_spec("chromadb")
    assert spec is not None and spec.submodule_search_locations is not None
    package = types.ModuleType("chromadb")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["chromadb"] = package


class Bindings:
    """The bindings on one directory: their methods, called on a client that holds at most ``MAX_COLLECTIONS``.

    Many threads may call. A call that needs a new client waits for those that are under way, and holds later ones back.
    Opening creates the directory's files if there are none; it raises BrokenReplica, also in the middle of a call.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: set[str] = set()
        # Held collections whose queue has operations that the client does not know of.
        self._behind: set[str] = set()
        self._pause = 0
        self._calls = 0
        self._is_turning = False
        self._quiet = threading.Condition()
        self._client: rust.Bindings | None = _open(directory)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return functools.partial(self._call, method)

    def _call(self, method: str, *arguments: Any) -> Any:
        at = _COLLECTION_AT.get(method)
        client = self._enter(method, None if at is None else str(arguments[at]), arguments)
        try:
            return getattr(client, method)(*arguments)
        finally:
            # Before the call counts as ended: the last reference closes a client.
            del client
            self._leave()

    def _enter(self, method: str, collection_id: str | None, arguments: tuple[Any, ...]) -> rust.Bindings:
        with self._quiet:
            self._quiet.wait_for(lambda: not self._is_turning)
            is_full = len(self._held) >= MAX_COLLECTIONS
            if collection_id in self._behind and _asks_index(method, arguments):
                self._turn()
                self._pause = PAUSE
            elif self._client is None or (is_full and collection_id is not None and collection_id not in self._held):
                self._turn()
            elif self._pause and method == "query":
                self._pause = PAUSE
            if collection_id is not None:
                self._held.add(collection_id)
            self._calls += 1
            assert self._client is not None
            return self._client

    def _turn(self) -> None:
        self._is_turning = True
        try:
            self._quiet.wait_for(lambda: self._calls == 0)
            self._client = None
            self._held.clear()
            self._behind.clear()
            self._client = _open(self._directory)
        finally:
            self._is_turning = False
            self._quiet.notify_all()

    # --- Round the client ----------------------------------------------------------------------------

    @contextmanager
    def alone(self, patience_s: float) -> Iterator[bool]:
        """Yield whether the directory's files may be written: no call is under way, and later ones are held back.

        They may not after ``patience_s`` of waiting for calls, nor while writes had better go through Chroma.
        """
        with self._quiet:
            may = self._pause == 0
            if may:
                may = self._quiet.wait_for(lambda: not self._is_turning and self._calls == 0, patience_s)
            else:
                self._pause -= 1
            if may:
                self._is_turning = True
        try:
            yield may
        finally:
            if may:
                with self._quiet:
                    self._is_turning = False
                    self._quiet.notify_all()

    def went_round(self, collection_id: str) -> None:
        """Note, while alone, that a collection's queue was written."""
        if collection_id in self._held:
            self._behind.add(collection_id)

    def catch_up(self, collection_id: str, database: str, dimension: int) -> None:
        """Have Chroma take a collection's queue into its index. Raises what the bindings raise.

        A write would do it as well, and hold the interpreter lock for all of it; a query does not.
        """
        with self._quiet:
            self._quiet.wait_for(lambda: not self._is_turning)
            if collection_id in self._behind:
                self._turn()
        probe = [[1.0] * dimension]
        self._call("query", collection_id, None, probe, 1, None, None, [], DEFAULT_TENANT, database)

    def _leave(self) -> None:
        with self._quiet:
            self._calls -= 1
            if self._calls == 0:
                self._quiet.notify_all()


def _asks_index(method: str, arguments: tuple[Any, ...]) -> bool:
    return method not in _WITHOUT_INDEX or (method == "get" and "embeddings" in arguments[_INCLUDE_OF_GET])


def open_bindings(directory: Path) -> Bindings:
    """Open Chroma on ``directory``, creating its files if there are none. Raises BrokenReplica."""
    return Bindings(directory)


def _open(directory: Path) -> rust.Bindings:
    config = rust.SqliteDBConfig(
        hash_type=rust.MigrationHash.MD5,
        migration_mode=rust.MigrationMode.Apply,
        url=str(directory / CHROMA_DATABASE_FILE),
    )
    try:
        return rust.Bindings(
            allow_reset=False,
            sqlite_db_config=config,
            persist_path=str(directory),
            hnsw_cache_size=_CACHE_COLLECTIONS,
        )
    except BaseException as error:
        if not is_chroma_error(error):
            raise
        raise BrokenReplica(f"Chroma cannot open the vectorstore: {error}.") from error


def is_chroma_error(error: BaseException) -> bool:
    """Tell whether ``error`` is the bindings' own; a Rust panic is a BaseException of theirs."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def translate(error: BaseException) -> VectorpoolError:
    """Return what an exception of the bindings means to a caller."""
    if isinstance(error, VectorpoolError):
        return error
    kind, text = type(error).__name__, str(error)
    if kind == "PanicException" or any(mark in text for mark in _WEDGED):
        return BrokenReplica(f"Chroma stopped working on this replica: {text[:300]}.")
    if kind == "InvalidArgumentError" and "dimension" in text:
        return DimensionMismatch(text)
    if kind == "InvalidArgumentError" and ("where" in text.lower() or "Regex" in text):
        return InvalidFilter(f"Chroma refuses the filter: {text}. Correct it.")
    if kind == "NotFoundError":
        return CollectionNotFound(f"{text} List the collections to see their names.")
    if "already exists" in text:
        return CollectionExists(f"{text}. Choose another name, or pass get_or_create.")
    if "Error finding id" in text:
        return RecordNotFound("The query is restricted to ids of which one is not in the collection. Leave it out.")
    if kind in ("InvalidArgumentError", "TypeError", "ValueError", "UnicodeEncodeError", "OverflowError"):
        return InvalidRequest(f"Chroma refuses the request: {text[:500]}.")
    return InternalError(f"Chroma failed: {text[:300]}.")
