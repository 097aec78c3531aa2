"""A sync: the listing of the bucket is what should be, the registry in the sidecar what is; it repairs the difference.

The comparison is a function of both (``comparison``). New and changed documents are prepared (``preparation``) and
committed; those at the same content elsewhere, or again, are not embedded; what is gone is forgotten, last, so that a
document that was moved finds its vectors. Registry row and records are in one commit, which decides whatever crashes:
the next sync begins with what it finds. A document is unchanged if the registry has its recipe (embedder, pipeline and
their numbers) and its ETag, or the SHA-256 of its bytes; then it costs nothing. At most ``_AT_ONCE`` documents are sent
at once, which the vectorstore takes in one commit where they meet in its queue, while at most ``_AHEAD`` next ones are
prepared.

A fault of one document (its format, its size, an id) fails only that document; records that were made of it before
stay. After a failure of the store, the embedder or the shard, the step is repeated for a bounded time, which is safe
because the commands are idempotent. Then the sync ends with that error; committed documents stay committed.

What is deleted meanwhile does not come back. A command names the newest commit and the collection that the sync knew,
and is refused if either was deleted since; that ends the sync. A document is looked for once more after its commit,
forgotten if it is gone, and taken again if it was replaced: a deletion removes the bytes first and forgets then, so one
of the two sees the other. Rows that a restore or fork brought, and whose bytes are nowhere, are left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

import msgspec

from vectorpool.answers import Deleted, DocumentWritten, Ingested, IngestedPage
from vectorpool.commands import (
    Command,
    DiscardParts,
    DocumentBytes,
    ForgetDocument,
    ListIngested,
    PartsOf,
    SettleDocuments,
)
from vectorpool.context import RequestContext
from vectorpool.documents.comparison import Pair, difference, paired
from vectorpool.documents.library import Document, DocumentLibrary
from vectorpool.documents.overlap import finish_at_once, prepared_ahead
from vectorpool.documents.persistence import Persistence
from vectorpool.documents.pipeline import Pipeline
from vectorpool.documents.preparation import Preparation, Prepared, Source
from vectorpool.documents.reports import DocumentOutcome, IngestProgress, ProgressCallback, Status, failed
from vectorpool.documents.router import Router
from vectorpool.documents.turns import Turns
from vectorpool.embedding import Embedder
from vectorpool.errors import (
    AvatarNotFound,
    DocumentNotFound,
    InvalidId,
    InvalidRequest,
    NotFound,
    PartsMissing,
    UserNotFound,
)
from vectorpool.kept_documents import digest_of
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.spans import stage

_AHEAD: Final = 4
_AT_ONCE: Final = 4
_PAGE: Final = 1000
# How often a document is taken that others replace, or whose parts others discard, meanwhile.
_TAKES: Final = 3
# Forgotten only at the end, so that documents that were moved are not embedded again; more than these, before.
_MOST_GONE: Final = 100_000


class SyncParts(msgspec.Struct, frozen=True):
    """What a sync works with."""

    library: DocumentLibrary
    embedder: Embedder
    router: Router
    settings: Settings
    sources: Sources
    pipeline: Pipeline
    turns: Turns


class _Ready(msgspec.Struct, frozen=True):
    """A document with its command, or with an outcome that is known already."""

    path: str
    began_s: float
    prepared: Prepared | None = None
    outcome: DocumentOutcome | None = None


class Sync:
    """One sync of an avatar. ``done`` is told the outcome of each path, once."""

    def __init__(
        self,
        parts: SyncParts,
        user_id: str,
        avatar_id: str,
        done: Callable[[DocumentOutcome], None],
        *,
        force: bool,
        fresh: frozenset[str],
        progress: ProgressCallback | None,
        context: RequestContext,
    ) -> None:
        self._of = parts
        self._user_id = user_id
        self._avatar_id = avatar_id
        self._done_with = done
        self._force = force
        self._fresh = fresh
        self._progress = progress
        self._context = context
        self._persist = Persistence(context, parts.sources)
        self._seen: int | None = None
        self._collection_id: str | None = None
        self._is_first = True
        # Parts that an interrupted ingest left.
        self._left: list[PartsOf] = []
        # Documents with the bytes of their rows, though at another ETag, or a restore brought the rows.
        self._settled: list[DocumentBytes] = []
        self._gone: list[tuple[str, int]] = []
        self.commit = 0
        self._done_count = 0
        self._total = 0
        self._chunks = 0

    async def execute(self, paths: list[str] | None) -> None:
        """Repair the whole avatar, or only ``paths``. Raises the error that ends the sync."""
        named = None if paths is None else sorted(set(paths))
        first = await self._list_ingested(None, named)
        pairs = self._whole(first) if named is None else self._named(named, first)
        # Closed here and not by the garbage collector, so that every preparation ends before its sync.
        async with aclosing(prepared_ahead(pairs, self._begin, _AHEAD)) as ready:
            # The first document goes alone: it creates the collection, which the commands after it name.
            await finish_at_once(ready, self._finish, _AT_ONCE, lambda: self._collection_id is None)
        await self._settle()
        await self._forget_gone()
        if paths is None and self._left:
            await self._send(DiscardParts(avatar_id=self._avatar_id, parts=self._left))

    # --- What there is -------------------------------------------------------------------------------

    async def _whole(self, first: list[Ingested]) -> AsyncGenerator[Pair | DocumentOutcome, None]:
        refused: list[DocumentOutcome] = []

        async def listing() -> AsyncGenerator[Document, None]:
            async with aclosing(self._of.library.pages(self._user_id, self._avatar_id)) as pages:
                async for page in pages:
                    refused.extend(failed(each.name, InvalidId(each.reason)) for each in page.refused)
                    for document in page.documents:
                        yield document

        async with aclosing(paired(listing(), self._registry(first))) as pairs:
            async for pair in pairs:
                while refused:
                    yield refused.pop()
                yield pair
        for outcome in refused:
            yield outcome

    async def _registry(self, first: list[Ingested]) -> AsyncGenerator[Ingested, None]:
        page = first
        while page:
            for known in page:
                yield known
            page = await self._list_ingested(page[-1].path) if len(page) == _PAGE else []

    async def _named(self, paths: list[str], found: list[Ingested]) -> AsyncGenerator[Pair | DocumentOutcome, None]:
        known = {each.path: each for each in found}
        for path in paths:
            there = await self._find(path, known.get(path))
            yield Pair(path, there, known.get(path)) if isinstance(there, Document) else there

    async def _list_ingested(self, after: str | None, paths: list[str] | None = None) -> list[Ingested]:
        limit = _PAGE if paths is None else None
        command = ListIngested(avatar_id=self._avatar_id, paths=paths, after=after, limit=limit)
        try:
            answer = await self._persist(partial(self._of.router.execute, self._user_id, command, self._context))
        except (AvatarNotFound, UserNotFound) as error:
            if after is None:
                self._seen = error.extra.get("commit")
            return []
        page = msgspec.json.decode(answer.body, type=IngestedPage)
        if after is None:
            self.commit = self._seen = answer.commit
            self._collection_id = page.collections.get(self._of.settings.documents_collection)
            self._left = [PartsOf(path, token) for path, token in page.parts]
            self._is_first = self._collection_id is None
        return page.documents

    async def _find(self, path: str, known: Ingested | None = None) -> Document | DocumentOutcome:
        try:
            with stage("store head"):
                return await self._persist(partial(self._of.library.head, self._user_id, self._avatar_id, path))
        except (InvalidRequest, NotFound) as error:
            if isinstance(error, DocumentNotFound) and known is not None:
                if known.restored:
                    return DocumentOutcome(path, "missing", known.chunks)
                self._gone.append((path, known.chunks))
                return DocumentOutcome(path, "removed", known.chunks)
            return failed(path, error)

    # --- Preparing -----------------------------------------------------------------------------------

    async def _begin(self, pair: Pair | DocumentOutcome) -> _Ready:
        self._total += 1
        return await self._prepare(pair)

    async def _prepare(self, pair: Pair | DocumentOutcome) -> _Ready:
        began_s = self._of.sources.monotonic_s()
        if isinstance(pair, DocumentOutcome):
            return _Ready(pair.path, began_s, outcome=pair)
        prepared: Prepared | DocumentOutcome
        try:
            if pair.document is None:
                prepared = self._absent(pair)
            else:
                with stage("prepare"):
                    prepared = await self._take(pair.document, pair.known)
        except (InvalidRequest, NotFound) as error:
            if isinstance(error, NotFound) and not isinstance(error, DocumentNotFound):
                # The vectorstore or the collection was deleted: that is no fault of the document.
                raise
            prepared = failed(pair.path, error)
        if isinstance(prepared, DocumentOutcome):
            return _Ready(pair.path, began_s, outcome=prepared)
        return _Ready(pair.path, began_s, prepared=prepared)

    def _absent(self, pair: Pair) -> DocumentOutcome:
        assert pair.known is not None, "a pair has one side at least"
        if difference(pair, "", "") == "missing":
            return DocumentOutcome(pair.path, "missing", pair.known.chunks)
        self._gone.append((pair.path, pair.known.chunks))
        return DocumentOutcome(pair.path, "removed", pair.known.chunks)

    async def _take(self, document: Document, known: Ingested | None) -> Prepared | DocumentOutcome:
        """Return the command of a document, or that it is unchanged."""
        path, collection = document.path, self._of.settings.documents_collection
        force = self._force and path not in self._fresh
        recipe = f"{self._of.embedder.name} {self._of.pipeline.version(path)}"
        if difference(Pair(path, document, known), recipe, collection, force=force) == "unchanged":
            assert known is not None, "what is unchanged is known"
            return self._unchanged(known, document.etag)
        async with self._of.turns.take(self._user_id, document.size):
            with stage("store get"):
                body = await self._persist(partial(self._of.library.get, self._user_id, self._avatar_id, path))
            digest = await asyncio.to_thread(digest_of, body.data)
            is_same = known is not None and (known.recipe, known.collection, known.digest) == (
                recipe,
                collection,
                digest,
            )
            if known is not None and is_same and known.etag and not force:
                # Stores give a new ETag to the same bytes when they are written again, as a restore does.
                return self._unchanged(known, body.etag)
            source = Source(path, body, digest, recipe, self._seen, self._collection_id)
            return await self._preparation().prepare(source, is_first=self._is_first, force=force)

    def _preparation(self) -> Preparation:
        of = self._of
        return Preparation(
            self._user_id,
            self._avatar_id,
            of.embedder,
            of.router,
            of.settings,
            of.pipeline,
            self._persist,
            self._context,
            self._embedded,
        )

    def _unchanged(self, known: Ingested, etag: str) -> DocumentOutcome:
        if known.restored or known.etag != etag:
            self._settled.append(DocumentBytes(known.path, known.digest, etag))
        return DocumentOutcome(known.path, "unchanged", known.chunks)

    # --- Committing ----------------------------------------------------------------------------------

    async def _finish(self, ready: _Ready) -> None:
        if len(self._gone) > _MOST_GONE:
            await self._forget_gone()
        if len(self._settled) >= self._of.settings.max_records:
            await self._settle()
        prepared = ready.prepared
        if prepared is None:
            assert ready.outcome is not None
            if ready.outcome.status != "removed":
                self._done(ready.outcome)
            return
        outcome: DocumentOutcome | None = None
        for _ in range(_TAKES):
            with stage("commit"):
                outcome, replaced = await self._commit_one(prepared)
            if replaced is None:
                break
            again = await self._prepare(Pair(ready.path, replaced, None))
            if again.prepared is None:
                outcome = again.outcome
                break
            prepared = again.prepared
        assert outcome is not None
        took_s = self._of.sources.monotonic_s() - ready.began_s
        skipped = prepared.skipped if outcome.status == "ingested" else ()
        told = msgspec.structs.replace(outcome, tokens=prepared.tokens, seconds=round(took_s, 3), skipped=skipped)
        self._done(told)

    async def _commit_one(self, prepared: Prepared) -> tuple[DocumentOutcome, Document | None]:
        """Send one document; return its outcome, and what is to be taken again in its place."""
        command = prepared.command
        if self._collection_id is None and isinstance(found := await self._find(command.path), DocumentOutcome):
            # The commit would create the avatar's collection, and only an existing document may do that.
            return found, None
        command = msgspec.structs.replace(command, seen=self._seen, collection_id=self._collection_id)
        try:
            answer = await self._send(command)
        except InvalidRequest as error:
            return failed(command.path, error), None
        except PartsMissing as error:
            found = await self._find(command.path)
            return failed(command.path, error), found if isinstance(found, Document) else None
        written = msgspec.json.decode(answer, type=DocumentWritten)
        self._collection_id = written.collection_id
        found = await self._find(command.path)
        if isinstance(found, DocumentOutcome):
            return await self._forget(command.path, written.written), None
        return (
            DocumentOutcome(command.path, "ingested", written.written),
            found if found.etag != command.etag else None,
        )

    async def _settle(self) -> None:
        """Note at which ETags documents have the bytes that their records were made of."""
        most = self._of.settings.max_records
        while self._settled:
            settled, self._settled = self._settled[:most], self._settled[most:]
            await self._send(SettleDocuments(avatar_id=self._avatar_id, settled=settled))

    async def _forget_gone(self) -> None:
        gone, self._gone = self._gone, []
        for path, chunks in gone:
            self._done(await self._forget(path, chunks))

    async def _forget(self, path: str, chunks: int) -> DocumentOutcome:
        # A restore may have brought the row since it was read or written here.
        command = ForgetDocument(avatar_id=self._avatar_id, path=path, unless_restored=True)
        status: Status = "removed"
        # Another caller, or an attempt whose outcome was unknown, may have forgotten it already.
        with suppress(NotFound):
            answer = await self._send(command)
            if chunks and not msgspec.json.decode(answer, type=Deleted).deleted:
                status = "missing"
        return DocumentOutcome(path, status, chunks)

    async def _send(self, command: Command) -> bytes:
        answer = await self._persist(partial(self._of.router.execute, self._user_id, command, self._context))
        self.commit = max(self.commit, answer.commit)
        return answer.body

    # --- Telling -------------------------------------------------------------------------------------

    def _embedded(self, path: str, count: int) -> None:
        self._chunks += count
        self._report(path)

    def _done(self, outcome: DocumentOutcome) -> None:
        self._done_count += 1
        self._done_with(outcome)
        self._report(outcome.path)

    def _report(self, path: str) -> None:
        if self._progress is not None:
            self._progress(IngestProgress(self._done_count, self._total, self._chunks, path))
