"""One open directory of Chroma: the face of the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np

from vectorpool.answers import ChromaUse
from vectorpool.engine.bindings import Client
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.checkup import EngineCheckup, check_up, cut_queues
from vectorpool.engine.collection_ids import wait_until_closed
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.database_file import DatabaseFile
from vectorpool.engine.deletions import mark_empty
from vectorpool.engine.directory_state import DirectoryState, Kind
from vectorpool.engine.failures import translate
from vectorpool.engine.fast_catalogue import FastCatalogue
from vectorpool.engine.fast_drops import FastDropper
from vectorpool.engine.fast_writes import RECORDED_FROM_BYTES
from vectorpool.engine.free_pages import zero_free_pages
from vectorpool.engine.index_files import is_unsound
from vectorpool.engine.index_needs import IndexNeeds
from vectorpool.engine.pace import YIELD_S
from vectorpool.engine.records import EngineOptions, Records
from vectorpool.errors import BrokenReplica, InternalError, NotFound
from vectorpool.names import CHROMA_DATABASE_FILE

# Records of one page of an examination, which bounds the memory that it takes.
_EXAMINED_AT_ONCE: Final = 500
# Chroma's files are closed some milliseconds after its client.
_CLOSE_WITHIN_S: Final = 0.1


class Engine:
    """Chroma on one directory, which is opened when something needs it, or to create the files. Raises BrokenReplica.

    Many threads may read; one at a time writes.
    """

    def __init__(self, directory: Path, options: EngineOptions, state: DirectoryState | None = None) -> None:
        self._directory = directory
        if is_unsound(directory):
            raise BrokenReplica("A file of the vectorstore's index is shorter than it says, or its numbers are wrong.")
        self._client = Client(
            directory, options.max_indexes, "operation" if options.fast_reads else options.use_when_off, state
        )
        try:
            # Held by a fast read, and by a fast write: neither sees the files while the other uses them. A read of the
            # records may ask the catalogue.
            source = DatabaseFile(directory, threading.RLock())
            self.catalogue = Catalogue(self._client, FastCatalogue(source) if options.fast_reads else None)
            self.records = Records(source, self._client, self.catalogue, options)
            self._dropper = FastDropper(source, self._client) if options.fast_writes else None
        except BaseException:
            self._client.close()
            raise

    def close(self) -> None:
        """Close every file; descriptors and threads are returned when the last call in progress ends. Idempotent."""
        self.records.close()
        self._client.close()

    @property
    def chroma_use(self) -> ChromaUse | None:
        """Why Chroma is open; None if it is not."""
        return self._client.use

    @property
    def index_needs(self) -> IndexNeeds:
        """Which collections need an index."""
        return self._client.needs

    @property
    def calls_of_chroma(self) -> int:
        """How often Chroma was called."""
        return self._client.count_of_calls

    def release_chroma(self) -> None:
        """Close Chroma, and note it once its files are closed; the next call opens it again.

        No read and no write may run, and no file of the directory may be open but by this engine.
        """
        self._client.release()
        self.records.release_files()
        try:
            wait_until_closed(self._directory, within_s=_CLOSE_WITHIN_S)
        except TimeoutError:
            # The next capture looks again.
            return
        self._client.state.chroma_closed()

    def release_files(self) -> None:
        """Close every file, and forget what was read, because the files will change; no read and no write may run."""
        self.records.release_files()
        self._client.forget_files()
        self.catalogue.forget()

    def files_changed(self, *, is_undone: bool) -> None:
        """Read the files anew, which changed in place; ``is_undone``: operations were taken back."""
        self.release_files()
        if is_undone:
            self.records.forget_undone()

    def settle_deletions(self, now_ms: int) -> None:
        """Mark what was deleted since the last call, and remove folders of dropped indexes; before a capture.

        No read or write may run meanwhile. Raises sqlite3.Error and OSError.
        """
        self._client.deletions.settle(now_ms)

    def zero_free_pages(self, *, is_worth_it: bool) -> None:
        """Overwrite the free pages that Chroma and deletions left, if Chroma is closed; before a capture of everything.

        That is while it is not known what changed, and of a small file only after Chroma, because each capture of such
        a file is one of everything. Where it is known, it is forgotten if ``is_worth_it``. No read or write may run
        meanwhile. Raises OSError.
        """
        state = self._client.state
        if state.is_chroma_open or not (is_worth_it or state.changed is None):
            return
        size = (self._directory / CHROMA_DATABASE_FILE).stat().st_size
        if state.kind is Kind.UNKNOWN or size >= RECORDED_FROM_BYTES:
            state.tracked_write()
            zero_free_pages(self._directory)

    def drop_collection(self, info: CollectionInfo, applied: Callable[[], None]) -> int:
        """Delete a collection with its records; return how many there were.

        ``applied`` is called before the first effect, and perhaps again.
        """
        if self._dropper is not None:
            dropped = self._dropper.drop(info, applied)
            if dropped is not None:
                return dropped
        return self._leave_drop(info, applied)

    def _leave_drop(self, info: CollectionInfo, applied: Callable[[], None]) -> int:
        count = 0
        if self._client.refuses(info.id):
            # Its index is never loaded, and nothing else needs to be.
            applied()
        else:
            count = self._client.count(collection_id=info.id, database=info.database)
            applied()
            self.records.delete(info.id, info.database, self.records.with_lists(info.id, info.database), applied)
        self._client.delete_collection(database=info.database, name=info.name)
        # Deletions hold the interpreter lock; other threads run before the next one.
        time.sleep(YIELD_S)
        return count

    def check_up(self, samples: int, random: Callable[[], float]) -> EngineCheckup:
        """Look at every collection, and at ``samples`` records of each; raise BrokenReplica if Chroma cannot.

        The directory is a copy that was opened for this, and is thrown away.
        """
        drawn = cut_queues(self._directory, self.records.finds, samples=samples, random=random)
        self.release_files()
        self._client.open()
        found = [info for name in self.catalogue.database_names() for info in self.catalogue.collections(name)]
        try:
            return check_up(self._client, found, self._records_of, drawn, samples=samples, random=random)
        except BrokenReplica:
            raise
        except Exception as error:
            cause = translate(error)
            raise BrokenReplica(f"Chroma cannot read this vectorstore: {cause.detail}") from error

    def _records_of(self, collection_id: str, database: str) -> int | None:
        return self.records.count(collection_id, database)

    def record_ids(self) -> Iterator[tuple[CollectionInfo, list[str]]]:
        """Yield the ids of all records, in pages of one collection each."""
        for database in self.catalogue.database_names():
            for info in self.catalogue.collections(database):
                offset = 0
                while not self._client.refuses(info.id):
                    page = self._client.get(
                        collection_id=info.id, database=database, limit=_EXAMINED_AT_ONCE, offset=offset
                    )
                    if page.ids:
                        yield info, list(page.ids)
                    offset += len(page.ids)
                    if len(page.ids) < _EXAMINED_AT_ONCE:
                        break

    def examine(self) -> None:
        """Read everything once; raise BrokenReplica if Chroma cannot."""
        try:
            self._examine()
        except BrokenReplica:
            raise
        except Exception as error:
            cause = translate(error)
            if not isinstance(cause, (InternalError, NotFound)):
                raise
            # No filter and no id of a caller was involved, so the fault is in the files.
            raise BrokenReplica(f"Chroma cannot read this replica: {cause.detail}") from error

    def _examine(self) -> None:
        self._client.open()
        for database in self.catalogue.database_names():
            for info in self.catalogue.collections(database):
                if self._client.refuses(info.id):
                    continue
                where = {"collection_id": info.id, "database": database}
                count = self._client.count(**where)
                for offset in range(0, count, _EXAMINED_AT_ONCE):
                    page = self._client.get(**where, limit=_EXAMINED_AT_ONCE, offset=offset, include=["embeddings"])
                    if len(page.ids) != min(_EXAMINED_AT_ONCE, count - offset):
                        raise BrokenReplica(f"A collection counts {count} records and does not return them.")
                if count and info.dimension is not None:
                    self._client.query(**where, embeddings=np.ones((1, info.dimension), np.float32), n_results=1)


def migrate(directory: Path) -> None:
    """Bring the schema of an older directory to this version's, as Chroma does when it opens one. Blocking."""
    client = Client(directory)
    client.open()
    client.close()
    wait_until_closed(directory)


def create_empty(directory: Path) -> None:
    """Fill an empty directory with Chroma's files, as for a user without a record. Blocking."""
    client = Client(directory)
    client.open()
    client.close()
    wait_until_closed(directory)
    mark_empty(directory)
