"""The life of Chroma's client on one directory: opened for the first call, replaced when it must be, closed.

A client applies the queue of a collection once in its life. An index that leaves the client's cache and comes back is
read from its files alone: without files a query fails with "Nothing found on disk", with files it leaves the newest
records out. With a cache of 16 that began at 9 collections, because the cache is divided by hash. So no index leaves
the cache here: a client that would load too many collections is closed and a new one is opened, which applies every
queue again. The same happens when an index is needed whose queue was written by the fast path (``fast_writes``).
"""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import chromadb_rust_bindings as rust

from vectorpool.answers import ChromaUse
from vectorpool.engine.deletions import Deletions
from vectorpool.engine.directory_state import DirectoryState
from vectorpool.engine.failures import as_broken
from vectorpool.engine.index_bounds import refusals
from vectorpool.engine.index_needs import IndexNeeds
from vectorpool.engine.index_repair import Change, IndexRepair
from vectorpool.errors import BrokenReplica, InvalidRequest
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.platform import allocator, native_marks

# Before the bindings allocate a buffer that they write to a file.
allocator.clear_memory()

# As large as the cache of Chroma's server, and never full: an empty cache costs nothing.
_CACHE_COLLECTIONS: Final = 65536

# Collections whose indexes one client may load before it is replaced. Each takes four descriptors and from 2 MB of
# memory on. A new client takes 10 ms, and the first query of a collection in it 5 ms or more.
MAX_COLLECTIONS: Final = 32

# Calls that delete or overwrite, as an upsert may too.
_DELETING: Final = frozenset({"delete", "update", "update_collection", "delete_collection", "delete_database"})

# Writes that go through Chroma after a client was replaced because of fast writes. A caller that alternates between
# writes and requests that only Chroma answers pays for a new client once in so many writes.
FAST_WRITE_PAUSE: Final = 64


class Calls:
    """Calls of Chroma on one directory, with at most ``max_indexes`` indexes loaded, and at most ``MAX_COLLECTIONS``.

    Many threads may call. A call that needs a new client waits for the calls in progress and delays later ones. The
    first call opens Chroma, or ``open`` does; that creates the directory's files if there are none. ``use`` is why a
    call opens Chroma, if nothing else is said. Every method raises BrokenReplica if Chroma does not work any more.
    """

    def __init__(
        self,
        directory: Path,
        max_indexes: int = MAX_COLLECTIONS,
        use: ChromaUse = "operation",
        state: DirectoryState | None = None,
    ) -> None:
        self.state = DirectoryState() if state is None else state
        self._usual_use: ChromaUse = use
        self._max_indexes = max_indexes
        self._refusals = refusals(directory)
        self._directory = directory
        self.needs = IndexNeeds()
        self._repair = IndexRepair(directory, self.needs)
        self._loaded: set[str] = set()
        # Loaded collections whose queue has operations that the client does not know.
        self._behind: set[str] = set()
        self._pause = 0
        self._calls = 0
        # How often Chroma was called.
        self.count_of_calls = 0
        self._is_exclusive = False
        self._changed = threading.Condition()
        self._client: rust.Bindings | None = None
        self._use: ChromaUse | None = None
        self._is_closed = False
        if not (directory / CHROMA_DATABASE_FILE).exists():
            self.open()
        self.deletions = Deletions(directory, self.state)

    @property
    def use(self) -> ChromaUse | None:
        """Why Chroma is open; None if it is not."""
        return self._use

    def open(self, use: ChromaUse | None = None) -> None:
        """Open Chroma unless it is open, and note why. Raises BrokenReplica."""
        if self._client is None:
            with self._changed:
                self._open_once(use or self._usual_use)

    def _open_once(self, use: ChromaUse) -> None:
        self._changed.wait_for(lambda: not self._is_exclusive)
        if self._is_closed:
            raise BrokenReplica("The vectorstore was closed before the call.")
        if self._client is None:
            self._replace_client()
            self._use = use

    def release(self) -> None:
        """Close Chroma once no call is in progress; the next call opens it again. The files are closed a moment later.

        Not for a thread that is in a call.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive)
            self._close_client()
        self._repair.forget_files()

    def forget_files(self) -> None:
        """Forget what was read of the files, which others changed or will."""
        self._repair.forget_files()
        self.deletions = Deletions(self._directory, self.state)

    def close(self) -> None:
        """Close the client: descriptors and threads are returned when the last call in progress ends. Idempotent."""
        with self._changed:
            # A client that is being replaced would be opened after the end; files that are written are in use.
            self._changed.wait_for(lambda: not self._is_exclusive)
            self._is_closed = True
            self._client = self._use = None
        self._repair.close()

    @property
    def unsettled(self) -> Container[str]:
        """The collections whose vectors must not be read from the index files at present."""
        return self._repair.unsettled

    def refuses(self, collection_id: str) -> bool:
        """Return whether an index that came with the directory is outside the table of bounds, and is never loaded."""
        return collection_id in self._refusals

    def check_index(self, collection_id: str) -> None:
        """Raise InvalidRequest if ``refuses`` says so."""
        if (error := self._refusals.get(collection_id)) is not None:
            raise InvalidRequest(error.detail, extra=error.extra)

    # --- Calls ---------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        *arguments: Any,
        loads: str | None = None,
        needs_newest: bool = False,
        change: Change | None = None,
    ) -> Any:
        """Call the bindings. The call loads the index of the collection ``loads``, and makes ``change`` to its records.

        ``needs_newest`` says that the answer depends on vectors that the fast path may have queued.
        """
        if loads is not None:
            self.check_index(loads)
        client = self._enter(loads, needs_newest=needs_newest, is_query=method == "query")
        try:
            with native_marks.inside(), nullcontext() if loads is None else self._repair.around(loads, change):
                answer = getattr(client, method)(*arguments)
            if method in _DELETING:
                self.deletions.note(dropped=method == "delete_collection")
            return answer
        except BaseException as error:
            broken = as_broken(error)
            if broken is not None:
                raise broken from error
            raise
        finally:
            # The last reference closes a client, so it goes before the call counts as ended.
            del client
            self._leave()

    def _enter(self, collection_id: str | None, *, needs_newest: bool, is_query: bool) -> rust.Bindings:
        with self._changed:
            self._open_once(self._usual_use)
            is_full = len(self._loaded) >= min(self._max_indexes, MAX_COLLECTIONS)
            if needs_newest and collection_id in self._behind:
                self._replace_client()
                self._pause = FAST_WRITE_PAUSE
            elif is_full and collection_id is not None and collection_id not in self._loaded:
                self._replace_client()
            elif self._pause and is_query:
                self._pause = FAST_WRITE_PAUSE
            if collection_id is not None:
                self._loaded.add(collection_id)
            self._calls += 1
            self.count_of_calls += 1
            assert self._client is not None
            return self._client

    def _leave(self) -> None:
        with self._changed:
            self._calls -= 1
            if self._calls == 0:
                self._changed.notify_all()

    def _replace_client(self) -> None:
        """Close the client once no call is in progress, and open a new one. The condition is held."""
        use = self._use
        self._close_client()
        self._is_exclusive = True
        try:
            # Before it opens: that changes the files.
            self.state.chroma_opens()
            self._client = _open(self._directory)
            self._use = use
        finally:
            self._is_exclusive = False
            self._changed.notify_all()

    def _close_client(self) -> None:
        """Close the client once no call is in progress. The condition is held."""
        self._is_exclusive = True
        try:
            self._changed.wait_for(lambda: self._calls == 0)
            self._client = self._use = None
            self._loaded.clear()
            self._behind.clear()
            self._repair.forget_client()
        finally:
            self._is_exclusive = False
            self._changed.notify_all()

    # --- For the fast path ---------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, timeout_s: float, *, is_needed: bool = False) -> Iterator[bool]:
        """Yield whether the directory's files may be written: no call is in progress, and later ones are delayed.

        The answer is no after ``timeout_s`` of waiting for calls, and while writes should go through Chroma, unless
        ``is_needed``.
        """
        with self._changed:
            is_granted = self._pause == 0 or is_needed
            if is_granted:
                is_granted = self._changed.wait_for(lambda: not self._is_exclusive and self._calls == 0, timeout_s)
            else:
                self._pause -= 1
            if is_granted:
                self._is_exclusive = True
        try:
            yield is_granted
        finally:
            if is_granted:
                with self._changed:
                    self._is_exclusive = False
                    self._changed.notify_all()

    def close_client(self) -> None:
        """Close Chroma while exclusive: what it knows is about to be wrong. The next call opens it again."""
        self._client = self._use = None
        self._loaded.clear()
        self._behind.clear()
        self._repair.forget_client()

    def note_fast_write(self, collection_id: str) -> None:
        """Note, while exclusive, that the queue of a collection was written."""
        if collection_id in self._loaded:
            self._behind.add(collection_id)


def _open(directory: Path) -> rust.Bindings:
    config = rust.SqliteDBConfig(
        hash_type=rust.MigrationHash.MD5,
        migration_mode=rust.MigrationMode.Apply,
        url=str(directory / CHROMA_DATABASE_FILE),
    )
    try:
        with native_marks.inside():
            return rust.Bindings(
                allow_reset=False,
                sqlite_db_config=config,
                persist_path=str(directory),
                hnsw_cache_size=_CACHE_COLLECTIONS,
            )
    except BaseException as error:
        # A panic is a BaseException of the bindings; an exit or an interrupt is not theirs.
        if not isinstance(error, Exception) and as_broken(error) is None:
            raise
        raise BrokenReplica(f"Chroma cannot open the vectorstore: {error}.") from error
