"""Quotas: what a write would add to a vectorstore is compared with what the user may have stored, before it is applied.

The counts are those of this replica with the writes that were applied to it, so they are right after a restore, a fork,
an import and another instance's commit. They are taken from the files once, when the first write with a quota needs
them, and from then on each write tells what it changes. A write without a quota tells nothing; then the next one with
a quota counts again.

Bytes are those of the files as of the last commit, without the free pages in them, and what was written since.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from vectorpool.commands import Write
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.engine import Engine
from vectorpool.errors import BrokenReplica, QuotaExceeded, VectorpoolError
from vectorpool.limits import Quota
from vectorpool.vectorstore.sidecar import Sidecar

_encode = msgspec.json.Encoder().encode


class Counts(msgspec.Struct):
    """What a replica holds; None: not counted."""

    collections: int | None = None
    records: int | None = None
    documents: int | None = None


class Admission:
    """One write within a quota: it asks before each addition, and tells each removal.

    Every method that adds raises QuotaExceeded, before anything was changed if it is called first.
    """

    def __init__(self, quota: Quota, counter: Counter) -> None:
        self._quota = quota
        self._counter = counter
        # What the write changes, and whether it deleted documents without counting them.
        self.collections = 0
        self.records = 0
        self.documents = 0
        self.lost_documents = False

    def add_collection(self) -> None:
        """Ask for a new collection."""
        if (limit := self._quota.collections) is not None:
            self._check("collections", limit, self._counter.collections() + self.collections, 1)
            self.collections += 1

    def add_records(self, info: CollectionInfo, ids: Sequence[str]) -> None:
        """Ask for records of a collection; those that are there already do not count."""
        if (limit := self._quota.records) is not None:
            new = len(set(ids) - self._counter.existing(info, ids))
            self._check("records", limit, self._counter.records() + self.records, new)
            self.records += new

    def add_document(
        self, avatar_id: str, path: str, info: CollectionInfo | None, ids: Sequence[str], former: CollectionInfo | None
    ) -> None:
        """Ask for a document with records, all at once: before the first change of a write that has several.

        ``info`` is the collection of the records, None if it is made with them; ``former`` that of the records that the
        document has now.
        """
        before = self._counter.chunks(avatar_id, path)
        if before is None and (limit := self._quota.documents) is not None:
            self._check("documents", limit, self._counter.documents() + self.documents, 1)
            self.documents += 1
        if info is None and (limit := self._quota.collections) is not None:
            self._check("collections", limit, self._counter.collections() + self.collections, 1)
        if (limit := self._quota.records) is not None:
            new = set(ids) if info is None else set(ids) - self._counter.existing(info, ids)
            freed = 0
            if before is not None and former is not None:
                gone = [i for i in before[1] if info is None or former.id != info.id or i not in set(ids)]
                freed = len(self._counter.existing(former, gone))
            self._check("records", limit, self._counter.records() + self.records - freed, len(new))

    def remove_document(self, avatar_id: str, path: str) -> None:
        """Tell that a document's row is deleted."""
        if self._quota.documents is not None and self._counter.chunks(avatar_id, path) is not None:
            self.documents -= 1

    def remove_records(self, info: CollectionInfo, ids: Sequence[str]) -> None:
        """Tell which records are to be deleted."""
        if self._quota.records is not None:
            self.records -= len(self._counter.existing(info, ids))

    def remove_collection(self, records: int) -> None:
        """Tell that a collection with so many records was deleted, and the documents that became its records."""
        self.collections -= 1
        self.records -= records
        self.lost_documents = True

    @staticmethod
    def _check(name: str, limit: int, count: int, more: int) -> None:
        if more and count + more > limit:
            raise exceeded(name, limit, count, more)


class Counter:
    """Counts what one open replica holds. One thread at a time. ``live_bytes`` returns its bytes."""

    def __init__(self, engine: Engine, sidecar: Sidecar, live_bytes: Callable[[], int]) -> None:
        self._engine = engine
        self._sidecar = sidecar
        self._live_bytes = live_bytes
        self._counts = Counts()

    def begin(self, command: Write, quota: Quota) -> Admission:
        """Return what a write is to ask. Raises QuotaExceeded if the bytes are too many for anything but a deletion."""
        if quota.bytes_stored is not None and not command.frees:
            count, more = self._live_bytes(), bytes_of(command)
            if count + more > quota.bytes_stored:
                raise exceeded("bytes_stored", quota.bytes_stored, count, more)
        return Admission(quota, self)

    def end(self, admission: Admission | None) -> None:
        """Note what a write changed, or that it did not tell."""
        if admission is None:
            self._counts = Counts()
            return
        counts = self._counts
        if counts.collections is not None:
            counts.collections += admission.collections
        if counts.records is not None:
            counts.records += admission.records
        if counts.documents is not None:
            counts.documents = None if admission.lost_documents else counts.documents + admission.documents

    # --- Counts --------------------------------------------------------------------------------------

    def collections(self) -> int:
        """Return how many collections there are, in all databases."""
        if self._counts.collections is None:
            catalogue = self._engine.catalogue
            self._counts.collections = sum(map(catalogue.count_collections, catalogue.database_names()))
        return self._counts.collections

    def records(self) -> int:
        """Return how many records there are, in all collections."""
        if self._counts.records is None:
            catalogue = self._engine.catalogue
            every = [info for name in catalogue.database_names() for info in catalogue.collections(name)]
            self._counts.records = sum(map(self._count, every))
        return self._counts.records

    def _count(self, info: CollectionInfo) -> int:
        try:
            return self._engine.records.count(info.id, info.database) or 0
        except BrokenReplica:
            raise
        except VectorpoolError:
            # A collection outside the bounds of an index: it is never loaded, and can only be deleted.
            return 0

    def documents(self) -> int:
        """Return how many documents were ingested, of all avatars."""
        if self._counts.documents is None:
            self._counts.documents = self._sidecar.count_all_documents()
        return self._counts.documents

    def existing(self, info: CollectionInfo, ids: Sequence[str]) -> set[str]:
        """Return which ids are records of a collection."""
        return self._engine.records.existing(info.id, info.database, list(dict.fromkeys(ids))) if ids else set()

    def chunks(self, avatar_id: str, path: str) -> tuple[str, list[str]] | None:
        """Return the collection's id and the records of a document, or None."""
        return self._sidecar.chunks(avatar_id, path)


def bytes_of(command: Write) -> int:
    """Return about how many bytes a write adds: its vectors, its texts and its metadata."""
    vectors = getattr(command, "vectors", None)
    size = 0 if vectors is None else len(vectors.data)
    for column in ("documents", "uris"):
        size += sum(len(text.encode("utf-8", "replace")) for text in getattr(command, column, None) or () if text)
    metadatas = getattr(command, "metadatas", None)
    return size if metadatas is None else size + len(_encode(metadatas))


def exceeded(name: str, limit: int, count: int, more: int) -> QuotaExceeded:
    """Return the error of a write that would add ``more`` to ``count``."""
    return QuotaExceeded(
        f"The user's limit of {name} is {limit}; there are {count}, and this would add {more}. Delete some, or ask the "
        "operator for a higher limit. Reading and deleting go on.",
        extra={"limit_name": name, "limit": limit, "count": count + more, "stored": count},
    )
