"""Documents to records: read, cut, embed, and send one command a document.

One document is one command, hence one commit: a reader sees all of its chunks or none, and an interrupted
ingest resumes after the last committed document. A document is skipped if the sidecar has its recipe (embedder, format,
chunker and their numbers) and its ETag, or the SHA-256 of its bytes. While one document commits, at most ``_AHEAD``
next ones are read and embedded.

A fault of one document (its format, its size, an id) fails only that document; records that were ingested from it
before stay. After a failure of the store, the embedder or the shard, the step is repeated for a bounded time, which is
safe because the commands are idempotent. Then the ingest ends with that error; committed documents stay committed.

What is deleted meanwhile does not come back. A command names the newest commit and the collection that the ingest knew,
and is refused if either was deleted since; that ends the ingest. A document is looked for once more after its commit,
and forgotten if it is gone: a deletion removes the bytes first and forgets then, so one of the two sees the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from vectorpool.answers import Answer, Deleted, DocumentWritten, Ingested, IngestedPage
from vectorpool.commands import (
    DocumentBytes,
    ForgetDocument,
    GetPipeline,
    IngestDocument,
    ListIngested,
    PipelineChoice,
    QueryRecords,
    SettleDocuments,
    Vectors,
)
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.documents.chunking import Chunk
from vectorpool.documents.library import Document, DocumentLibrary
from vectorpool.documents.pipeline import Pipeline
from vectorpool.documents.questions import naming_documents
from vectorpool.documents.records import chunk_ids, chunk_metadata
from vectorpool.documents.reports import DocumentOutcome, IngestProgress, IngestReport, ProgressCallback, Status, failed
from vectorpool.documents.router import Router
from vectorpool.embedding import Embedder
from vectorpool.errors import (
    AvatarNotFound,
    CommitConflict,
    DeadlineExceeded,
    DocumentNotFound,
    Draining,
    InvalidId,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    RateLimited,
    TryAgain,
    UserNotFound,
)
from vectorpool.extraction.workshop import Workshop
from vectorpool.kept_documents import digest_of
from vectorpool.names import check_document_path
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.parts import EMBED

T = TypeVar("T")

_AHEAD: Final = 2
# Texts given to the embedder at once: enough to sort by length, few enough that ingests alternate.
_EMBED_WINDOW: Final = 256
_ATTEMPTS, _RATE_WAITS = 12, 1000
_LONGEST_WAIT_S: Final = 5.0


class _Prepared(msgspec.Struct, frozen=True):
    """A prepared document: a command to send, or an outcome that is known already."""

    path: str
    command: IngestDocument | None = None
    outcome: DocumentOutcome | None = None


class Ingestor:
    """Converts an avatar's documents to records, and texts to queries."""

    def __init__(
        self,
        library: DocumentLibrary,
        embedder: Embedder,
        router: Router,
        settings: Settings,
        sources: Sources = SYSTEM,
        workshop: Workshop | None = None,
    ) -> None:
        """The caller starts ``embedder`` before the first call, and closes it and ``workshop``."""
        self.library = library
        self.embedder = embedder
        self.router = router
        self.settings = settings
        self.sources = sources
        self.workshop = workshop or Workshop(settings)

    async def ingest(
        self,
        user_id: str,
        avatar_id: str,
        paths: list[str] | None = None,
        *,
        force: bool = False,
        choice: PipelineChoice | None = None,
        progress: ProgressCallback | None = None,
        context: RequestContext = BACKGROUND,
    ) -> IngestReport:
        """Make an avatar's records match its documents, or only the documents of ``paths``.

        Without ``paths``, documents that are no longer in the bucket are forgotten, except those whose records a
        restore or fork brought: they are ``missing``. ``force`` ingests unchanged ones too. Raises the error that ends
        the whole ingest (see the module), and DeadlineExceeded at the deadline; what was committed until then stays.
        """
        run = _Run(self, user_id, avatar_id, force, choice, progress, context)
        return await run.execute(paths)

    async def query(
        self,
        user_id: str,
        avatar_id: str,
        text: str,
        n_results: int = 10,
        *,
        where: dict[str, Any] | None = None,
        where_document: dict[str, Any] | None = None,
        context: RequestContext = BACKGROUND,
    ) -> Answer:
        """Return the ``n_results`` chunks nearest to ``text``: the JSON of answers.QueryResult with one result."""
        vectors = await context.within(self.embedder.embed([text], user_id), part=EMBED)
        command = QueryRecords(
            avatar_id=avatar_id,
            collection=self.settings.documents_collection,
            vectors=self.as_vectors(vectors),
            n_results=n_results,
            where=where,
            where_document=where_document,
        )
        with naming_documents(avatar_id):
            return await self.router.execute(user_id, command, context)

    async def forget(self, user_id: str, avatar_id: str, path: str, *, context: RequestContext = BACKGROUND) -> Answer:
        """Delete the records of a document; return the JSON of answers.Deleted. Raises NotFound."""
        command = ForgetDocument(avatar_id=avatar_id, path=check_document_path(path))
        return await self.router.execute(user_id, command, context)

    def pipeline(self, choice: PipelineChoice | None = None) -> Pipeline:
        """Return how documents become passages: by the settings, and by what an avatar or a request chose."""
        return Pipeline(self.settings, self.embedder, self.workshop, choice)

    async def choice_of(self, user_id: str, avatar_id: str, context: RequestContext) -> PipelineChoice | None:
        """Return the pipeline that was chosen for an avatar, or None."""
        with suppress(NotFound):
            answer = await self.router.execute(user_id, GetPipeline(avatar_id=avatar_id), context)
            return msgspec.json.decode(answer.body, type=PipelineChoice)
        return None

    def as_vectors(self, vectors: np.ndarray[Any, np.dtype[np.float32]]) -> Vectors:
        """Return float32[n, dimension] as a command carries them, with the embedder's name."""
        data = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        return Vectors(self.embedder.dimension, data, self.embedder.name)


class _Run:
    """One call of ``ingest``."""

    def __init__(
        self,
        ingestor: Ingestor,
        user_id: str,
        avatar_id: str,
        force: bool,
        choice: PipelineChoice | None,
        progress: ProgressCallback | None,
        context: RequestContext,
    ) -> None:
        self._of = ingestor
        self._user_id = user_id
        self._avatar_id = avatar_id
        self._force = force
        self._choice = choice
        self._progress = progress
        self._context = context
        self._known: dict[str, Ingested] = {}
        self._seen: int | None = None
        self._collection_id: str | None = None
        self._outcomes: list[DocumentOutcome] = []
        # Documents with the bytes of their rows, though at another ETag, or a restore brought the rows.
        self._settled: list[DocumentBytes] = []
        self._commit = 0
        self._total = 0
        self._chunks = 0

    async def execute(self, paths: list[str] | None) -> IngestReport:
        if self._choice is None:
            choose = partial(self._of.choice_of, self._user_id, self._avatar_id, self._context)
            self._choice = await self._persist(choose)
        self._pipeline = self._of.pipeline(self._choice)
        self._known = await self._list_ingested()
        documents: list[Document | DocumentOutcome]
        if paths is None:
            documents = []
            async for page in self._of.library.pages(self._user_id, self._avatar_id):
                documents += page.documents
                documents += [failed(refused.name, InvalidId(refused.reason)) for refused in page.refused]
            gone = sorted(self._known.keys() - {d.path for d in documents})
        else:
            documents = [await self._find(path) for path in sorted(set(paths))]
            gone = []
        self._total = len(documents) + len(gone)
        # Closed here and not by the garbage collector, so that every preparation ends before its ingest.
        async with aclosing(self._prepared(documents)) as ready:
            async for prepared in ready:
                await self._finish(prepared)
        await self._settle()
        for path in gone:
            if self._known[path].restored:
                self._done(DocumentOutcome(path, "missing", self._known[path].chunks))
            else:
                await self._forget(path, self._known[path].chunks)
        return IngestReport(sorted(self._outcomes, key=lambda outcome: outcome.path), self._commit)

    async def _settle(self) -> None:
        """Note at which ETags documents have the bytes that their records were made of."""
        most = self._of.settings.max_records
        for start in range(0, len(self._settled), most):
            command = SettleDocuments(avatar_id=self._avatar_id, settled=self._settled[start : start + most])
            answer = await self._persist(partial(self._of.router.execute, self._user_id, command, self._context))
            self._commit = max(self._commit, answer.commit)

    async def _list_ingested(self) -> dict[str, Ingested]:
        command = ListIngested(avatar_id=self._avatar_id)
        try:
            answer = await self._persist(partial(self._of.router.execute, self._user_id, command, self._context))
        except (AvatarNotFound, UserNotFound) as error:
            self._seen = error.extra.get("commit")
            return {}
        self._commit = self._seen = answer.commit
        page = msgspec.json.decode(answer.body, type=IngestedPage)
        self._collection_id = page.collections.get(self._of.settings.documents_collection)
        return {entry.path: entry for entry in page.documents}

    async def _find(self, path: str) -> Document | DocumentOutcome:
        try:
            return await self._persist(partial(self._of.library.head, self._user_id, self._avatar_id, path))
        except (InvalidRequest, NotFound) as error:
            known = self._known.get(path)
            if isinstance(error, DocumentNotFound) and known is not None and known.restored:
                return DocumentOutcome(path, "missing", known.chunks)
            return failed(path, error)

    async def _prepared(self, documents: Sequence[Document | DocumentOutcome]) -> AsyncGenerator[_Prepared, None]:
        """Yield documents in order, ready to send, while at most ``_AHEAD`` of those after them are prepared."""
        tasks: deque[asyncio.Task[_Prepared]] = deque()
        waiting = iter(documents)
        try:
            while True:
                while len(tasks) <= _AHEAD and (document := next(waiting, None)) is not None:
                    tasks.append(asyncio.create_task(self._prepare(document)))
                if not tasks:
                    return
                yield await tasks[0]
                tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, document: Document | DocumentOutcome) -> _Prepared:
        if isinstance(document, DocumentOutcome):
            return _Prepared(document.path, outcome=document)
        path = document.path
        try:
            recipe = f"{self._of.embedder.name} {self._pipeline.version(path)}"
            known = self._known_by(path, recipe)
            if known is not None and known.etag == document.etag:
                return self._unchanged(known, document.etag)
            body = await self._persist(partial(self._of.library.get, self._user_id, self._avatar_id, path))
            digest = await asyncio.to_thread(digest_of, body.data)
            if known is not None and known.etag and known.digest == digest:
                # Stores give a new ETag to the same bytes when they are written again, as a restore does.
                return self._unchanged(known, body.etag)
            chunks, _ = await self._persist(partial(self._pipeline.passages, path, body.data))
            self._check_chunks(path, chunks)
            vectors = await self._embed(path, [chunk.text for chunk in chunks])
        except (InvalidRequest, NotFound) as error:
            return _Prepared(path, outcome=failed(path, error))
        command = IngestDocument(
            avatar_id=self._avatar_id,
            collection=self._of.settings.documents_collection,
            path=path,
            etag=body.etag,
            size=len(body.data),
            recipe=recipe,
            ids=chunk_ids(path, len(chunks)),
            vectors=vectors,
            documents=[chunk.text for chunk in chunks],
            metadatas=[chunk_metadata(path, number, chunk) for number, chunk in enumerate(chunks)],
            digest=digest,
        )
        return _Prepared(path, command=command)

    def _known_by(self, path: str, recipe: str) -> Ingested | None:
        """Return what is known of a document, if the same bytes would give the same records now."""
        known, wanted = self._known.get(path), (recipe, self._of.settings.documents_collection)
        return known if known is not None and not self._force and (known.recipe, known.collection) == wanted else None

    def _unchanged(self, known: Ingested, etag: str) -> _Prepared:
        if known.restored or known.etag != etag:
            self._settled.append(DocumentBytes(known.path, known.digest, etag))
        return _Prepared(known.path, outcome=DocumentOutcome(known.path, "unchanged", known.chunks))

    def _check_chunks(self, path: str, chunks: list[Chunk]) -> None:
        limit = self._of.settings.max_records
        if len(chunks) > limit:
            raise LimitExceeded(
                f"The document {path!r} makes {len(chunks)} chunks, and one command carries {limit}. Split the "
                "document, or raise VECTORPOOL_MAX_RECORDS or VECTORPOOL_CHUNK_TOKENS.",
                extra={"limit": limit},
            )

    async def _embed(self, path: str, texts: list[str]) -> Vectors:
        # At most as many at once as the empty queue holds, or every attempt would be refused.
        window = max(1, min(_EMBED_WINDOW, self._of.settings.embedder_queue))
        parts = [np.empty((0, self._of.embedder.dimension), dtype=np.float32)]
        for start in range(0, len(texts), window):
            batch = texts[start : start + window]
            parts.append(await self._persist(partial(self._of.embedder.embed, batch, self._user_id)))
            self._chunks += len(batch)
            self._report(path)
        return self._of.as_vectors(np.concatenate(parts))

    async def _finish(self, prepared: _Prepared) -> None:
        command = prepared.command
        if command is None:
            assert prepared.outcome is not None
            self._done(prepared.outcome)
            return
        if self._collection_id is None and isinstance(found := await self._find(command.path), DocumentOutcome):
            # The commit would create the avatar's collection, and only an existing document may do that.
            self._done(found)
            return
        command = msgspec.structs.replace(command, seen=self._seen, collection_id=self._collection_id)
        try:
            answer = await self._persist(partial(self._of.router.execute, self._user_id, command, self._context))
        except InvalidRequest as error:
            self._done(failed(prepared.path, error))
            return
        self._commit = max(self._commit, answer.commit)
        self._collection_id = msgspec.json.decode(answer.body, type=DocumentWritten).collection_id
        if isinstance(await self._find(command.path), DocumentOutcome):
            await self._forget(command.path, len(command.ids))
        else:
            self._done(DocumentOutcome(command.path, "ingested", len(command.ids)))

    async def _forget(self, path: str, chunks: int) -> None:
        # A restore may have brought the row since it was read or written here.
        command = ForgetDocument(avatar_id=self._avatar_id, path=path, unless_restored=True)
        status: Status = "removed"
        # Another caller, or an attempt whose outcome was unknown, may have forgotten it already.
        with suppress(NotFound):
            answer = await self._persist(partial(self._of.router.execute, self._user_id, command, self._context))
            self._commit = max(self._commit, answer.commit)
            if chunks and not msgspec.json.decode(answer.body, type=Deleted).deleted:
                status = "missing"
        self._done(DocumentOutcome(path, status, chunks))

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``attempt``; repeat it after a temporary failure, a bounded number of times."""
        # Who embeds more than it may a minute waits for its tokens, and fails only at its time limit.
        left = {False: _ATTEMPTS, True: _RATE_WAITS}
        while True:
            try:
                return await self._context.within(attempt())
            except (Draining, DeadlineExceeded):
                raise
            except (TryAgain, CommitConflict) as error:
                left[isinstance(error, RateLimited)] -= 1
                if not all(left.values()):
                    raise
                wait_s = min(max(error.retry_after_s or 0.0, 0.2), _LONGEST_WAIT_S)
                await self._of.sources.sleep(wait_s * (0.5 + self._of.sources.random()))

    def _done(self, outcome: DocumentOutcome) -> None:
        self._outcomes.append(outcome)
        self._report(outcome.path)

    def _report(self, path: str) -> None:
        if self._progress is not None:
            self._progress(IngestProgress(len(self._outcomes), self._total, self._chunks, path))
