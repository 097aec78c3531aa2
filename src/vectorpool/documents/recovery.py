"""The documents of a state that a restore or fork brought: their bytes come back from what was kept of them.

A path is written if it is free, or if the service itself wrote what is there; then those bytes are kept first. What
another program put there stays. Bytes are taken only if their SHA-256 is that of the row. A fork also takes the bytes
that are at the source user's path.

*Crash.* The rows are flagged in the commit of the restore or fork (``vectorstore.restored_documents``), so an ingest
deletes none of their records. Documents that were not brought back before a crash are brought back by the same restore,
sent again. *Bounds.* A page of rows is in memory, and ``_AT_ONCE`` documents of at most ``WHOLE_BYTES``; larger ones
are copied by the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final, Literal, NamedTuple

import msgspec

from vectorpool.answers import RecoveredDocuments, RestoredDocument, RestoredPage
from vectorpool.commands import DocumentBytes, ListRestored, ReadOptions, SettleDocuments
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.documents.library import DocumentLibrary, store_errors
from vectorpool.documents.router import Router
from vectorpool.errors import UserNotFound, VectorpoolError
from vectorpool.kept_documents import WHOLE_BYTES, digest_of
from vectorpool.names import document_key
from vectorpool.objects.bucket import ObjectExists, ObjectInfo, ObjectMissing

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 8
_PAGE: Final = 1000
# Kept content may expire between a look and a read; a later day may then have it.
_LOOKS: Final = 2

Fate = Literal["written", "present", "different", "missing", "failed"]


class _Outcome(NamedTuple):
    """What became of one document, and the ETag at its path if that has its bytes."""

    fate: Fate
    etag: str | None = None


class Recovery:
    """Brings back documents. ``source_user_id`` is whose bytes are taken: another user's after a fork."""

    def __init__(self, library: DocumentLibrary, user_id: str, source_user_id: str | None = None) -> None:
        self._library = library
        self._bucket = library.bucket
        self._kept = library.kept
        self._user_id = user_id
        self._source_id = source_user_id or user_id
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._fates: Counter[Fate] = Counter()

    @property
    def result(self) -> RecoveredDocuments | None:
        """What became of the documents so far; None if there were none."""
        fates = self._fates
        if not fates:
            return None
        return RecoveredDocuments(
            fates["written"], fates["present"], fates["different"], fates["missing"], fates["failed"]
        )

    async def run(self, router: Router, context: RequestContext = BACKGROUND) -> RecoveredDocuments | None:
        """Bring back what the newest state of the user was flagged for, and note which paths have their bytes.

        Returns None if the state has no such documents. Raises what the router raises, and at the context's deadline
        OutcomeUnknown; what was brought back until then stays.
        """
        reading = RequestContext(
            context.request_id,
            caller=context.caller,
            read=ReadOptions(consistency="strong"),
            timeout_s=context.remaining_s(),
        )
        reading.start()
        after: tuple[str, str] | None = None
        while True:
            try:
                answer = await router.execute(self._user_id, ListRestored(after=after, limit=_PAGE), reading)
            except UserNotFound:
                # Somebody deleted the vectorstore meanwhile.
                return self.result
            rows = msgspec.json.decode(answer.body, type=RestoredPage).documents
            etags = await reading.within(self.bring_back(rows), changes=True)
            for avatar_id, group in groupby(zip(rows, etags, strict=True), key=lambda pair: pair[0].avatar_id):
                settled = [DocumentBytes(row.path, row.digest, etag) for row, etag in group if etag is not None]
                if settled:
                    command = SettleDocuments(avatar_id=avatar_id, settled=settled)
                    await router.execute(self._user_id, command, reading)
            if len(rows) < _PAGE:
                return self.result
            after = rows[-1].avatar_id, rows[-1].path

    async def bring_back(self, rows: Sequence[RestoredDocument]) -> list[str | None]:
        """Bring back the documents of these rows; return for each the ETag at its path if that has its bytes."""
        outcomes = await asyncio.gather(*(self._try(row) for row in rows))
        self._fates.update(outcome.fate for outcome in outcomes)
        return [outcome.etag for outcome in outcomes]

    async def _try(self, row: RestoredDocument) -> _Outcome:
        async with self._gate:
            try:
                with store_errors(self._bucket, "bringing back a document"):
                    return await self._bring_back(row)
            except VectorpoolError as error:
                # One document that cannot be read or written does not stop the others.
                _log.warning("a document could not be brought back: %s", error.code)
                _log.debug("not brought back: %s of avatar %s: %s", row.path, row.avatar_id, error.detail)
                return _Outcome("failed")

    async def _bring_back(self, row: RestoredDocument) -> _Outcome:
        key = document_key(self._user_id, row.avatar_id, row.path)
        there = await self._library.look(key)
        if there is not None:
            if await self._is_same(there, row):
                return _Outcome("present", there.etag)
            if not await self._kept.is_ours(self._user_id, row.avatar_id, row.path, there.etag):
                return _Outcome("different")
        if row.digest:
            for _ in range(_LOOKS):
                candidate = await self._candidate(row)
                if candidate is not None and (etag := await self._take(candidate, row, there)) is not None:
                    return _Outcome("written", etag)
        return _Outcome("missing" if await self._library.look(key) is None else "different")

    async def _is_same(self, there: ObjectInfo, row: RestoredDocument) -> bool:
        if there.size != row.size:
            return False
        try:
            return there.etag == row.etag or (bool(row.digest) and await self._kept.has(there, row.digest))
        except ObjectMissing:
            return False

    async def _candidate(self, row: RestoredDocument) -> ObjectInfo | None:
        """Return an object that may hold a row's bytes."""
        found = await self._kept.find(self._source_id, row.avatar_id, row.digest)
        if found is not None or self._source_id == self._user_id:
            return found
        live = await self._library.look(document_key(self._source_id, row.avatar_id, row.path))
        if live is None or live.size != row.size or live.size <= WHOLE_BYTES:
            return live
        # What is copied must not be replaced between its check and its copy.
        await self._kept.keep(self._source_id, row.avatar_id, live)
        return await self._kept.find(self._source_id, row.avatar_id, row.digest)

    async def _take(self, candidate: ObjectInfo, row: RestoredDocument, there: ObjectInfo | None) -> str | None:
        """Write a candidate's bytes to a document's path; return their ETag, or None if they are not the row's.

        None also if another program was quicker at a free path.
        """
        try:
            if candidate.size > WHOLE_BYTES:
                return await self._take_large(candidate, row, there)
            data = (await self._bucket.get(candidate.key)).data
        except ObjectMissing:
            return None
        if await asyncio.to_thread(digest_of, data) != row.digest:
            return None
        if there is not None:
            return await self._library.put(self._user_id, row.avatar_id, row.path, data)
        try:
            etag = await self._bucket.create(document_key(self._user_id, row.avatar_id, row.path), data)
        except ObjectExists:
            return None
        await self._kept.mark(self._user_id, row.avatar_id, row.path, etag)
        return etag

    async def _take_large(self, candidate: ObjectInfo, row: RestoredDocument, there: ObjectInfo | None) -> str | None:
        key = document_key(self._user_id, row.avatar_id, row.path)
        if not await self._kept.has(candidate, row.digest):
            return None
        if there is not None:
            await self._library.keep(self._user_id, row.avatar_id, row.path)
        await self._bucket.copy(candidate.key, key)
        etag = (await self._bucket.head(key)).etag
        await self._kept.mark(self._user_id, row.avatar_id, row.path, etag)
        return etag
