"""Ingestion: an avatar's documents become records, texts become questions.

The work is that of a ``Sync``; this module gives it its parts and gathers its report.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import numpy as np

from vectorpool.answers import Answer
from vectorpool.commands import ForgetDocument, GetPipeline, PipelineChoice, QueryRecords, Vectors
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.documents.library import DocumentLibrary
from vectorpool.documents.persistence import Persistence
from vectorpool.documents.pipeline import ChunkCheck, Pipeline
from vectorpool.documents.questions import naming_documents
from vectorpool.documents.reports import DocumentOutcome, IngestReport, OutcomeCallback, ProgressCallback
from vectorpool.documents.router import Router
from vectorpool.documents.sync import Sync, SyncParts
from vectorpool.documents.turns import Turns, Unbounded
from vectorpool.embedding import Embedder
from vectorpool.errors import NotFound
from vectorpool.extraction.workshop import Workshop
from vectorpool.names import check_document_path
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.parts import EMBED


class Ingestor:
    """Converts an avatar's documents to records, and texts to queries."""

    def __init__(
        self,
        library: DocumentLibrary,
        embedder: Embedder,
        router: Router,
        settings: Settings,
        sources: Sources = SYSTEM,
        turns: Turns | None = None,
        workshop: Workshop | None = None,
    ) -> None:
        """The caller starts ``embedder`` before the first call, and closes it and ``workshop``."""
        self.library = library
        self.embedder = embedder
        self.router = router
        self.settings = settings
        self.sources = sources
        self._turns = turns or Unbounded()
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
        """Make an avatar's records match its documents, or only the documents of ``paths``; return every outcome.

        Documents that are no longer in the bucket are forgotten, except those whose records a restore or fork brought:
        they are ``missing``. ``force`` ingests unchanged ones too, and ``choice`` cuts otherwise this time. Raises the
        error that ends the whole sync (see ``sync``), and DeadlineExceeded at the deadline; what was committed until
        then stays.
        """
        outcomes: list[DocumentOutcome] = []
        commit = await self.sync(
            user_id, avatar_id, paths, outcomes.append, force=force, choice=choice, progress=progress, context=context
        )
        return IngestReport(sorted(outcomes, key=lambda outcome: outcome.path), commit)

    async def sync(
        self,
        user_id: str,
        avatar_id: str,
        paths: list[str] | None,
        done: OutcomeCallback,
        *,
        force: bool = False,
        fresh: frozenset[str] = frozenset(),
        choice: PipelineChoice | None = None,
        progress: ProgressCallback | None = None,
        check: ChunkCheck | None = None,
        context: RequestContext = BACKGROUND,
    ) -> int:
        """Do the same, tell ``done`` each outcome, and return the newest commit that was seen (0: none).

        ``force`` leaves out ``fresh``: what an earlier run of the job ingested. ``check`` picks the chunks to keep.
        """
        if choice is None:
            persist = Persistence(context, self.sources)
            choice = await persist(partial(self.choice_of, user_id, avatar_id, context))
        pipeline = Pipeline(self.settings, self.embedder, self.workshop, choice, check)
        parts = SyncParts(self.library, self.embedder, self.router, self.settings, self.sources, pipeline, self._turns)
        sync = Sync(parts, user_id, avatar_id, done, force=force, fresh=fresh, progress=progress, context=context)
        await sync.execute(paths)
        return sync.commit

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

    def recipe(self, path: str, choice: PipelineChoice | None = None) -> str:
        """Return the recipe of a path: equal recipes and bytes give equal records. Raises UnsupportedFormat."""
        return f"{self.embedder.name} {self.pipeline(choice).version(path)}"

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
