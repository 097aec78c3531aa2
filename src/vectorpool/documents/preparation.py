"""One document, from its bytes to the command that makes records of it: read, cut, embed what is not known yet.

*Known chunks.* A chunk whose text the document had before, or that another document with the same bytes has (it was
moved or copied), is not embedded again: its vector is read back, and taken only if the record still has that text.

*Large documents.* More chunks than one command carries (``max_records`` of them, or ``COMMAND_BYTES``) are sent in
parts that no reader sees until the last command. The token of the parts names bytes and recipe, so an ingest that was
interrupted sends and embeds only the parts that are not there. One part of a document is in memory with its vectors.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from vectorpool.answers import DocumentWritten, RecordPage
from vectorpool.bounds import CHUNK_HASH_BYTES
from vectorpool.commands import FindChunks, GetRecords, IngestDocument, KnownChunks, ReadOptions, StageChunks, Vectors
from vectorpool.context import RequestContext
from vectorpool.documents.chunking import Chunk
from vectorpool.documents.library import DocumentBody
from vectorpool.documents.persistence import Persistence
from vectorpool.documents.pipeline import Pipeline
from vectorpool.documents.records import chunk_hash, chunk_ids, chunk_metadata
from vectorpool.documents.router import Router
from vectorpool.embedding import Embedder
from vectorpool.errors import LimitExceeded, NotFound
from vectorpool.extraction.extracts import Skipped
from vectorpool.settings import Settings
from vectorpool.telemetry.spans import stage

_MOST_SKIPPED: Final = 20
COMMAND_BYTES: Final = 8 * 1024**2
# Texts given to the embedder at once: enough to sort by length, few enough that ingests alternate.
_EMBED_WINDOW: Final = 256
# Records whose vectors are read back in one call.
_READ_WINDOW: Final = 256
# What a chunk takes in a command beside its text and its vector, about.
_CHUNK_BYTES: Final = 256

_Row = npt.NDArray[np.float32]


class Source(msgspec.Struct, frozen=True):
    """A document's bytes, their SHA-256, and how they become records."""

    path: str
    body: DocumentBody
    digest: str
    recipe: str
    # The newest commit and the collection that the sync knows: what was deleted since does not come back.
    seen: int | None
    collection_id: str | None


class Prepared(msgspec.Struct, frozen=True):
    """The command that makes records of a document, how many, the tokens embedded for it, and what was passed over."""

    command: IngestDocument
    chunks: int
    tokens: int
    skipped: tuple[Skipped, ...] = ()


class Preparation:
    """Prepares the documents of one avatar. ``embedded`` is told of each number of chunks that were embedded."""

    def __init__(
        self,
        user_id: str,
        avatar_id: str,
        embedder: Embedder,
        router: Router,
        settings: Settings,
        pipeline: Pipeline,
        persist: Persistence,
        context: RequestContext,
        embedded: Any,
    ) -> None:
        self._user_id = user_id
        self._avatar_id = avatar_id
        self._embedder = embedder
        self._router = router
        self._settings = settings
        self._pipeline = pipeline
        self._persist = persist
        self._context = context
        self._embedded = embedded
        self._tokens = 0

    async def prepare(self, source: Source, *, is_first: bool, force: bool) -> Prepared:
        """Return a document's command. ``is_first`` says that the avatar has no records yet; ``force`` embeds all.

        Raises what the pipeline and the router raise, LimitExceeded for a document of too many chunks.
        """
        self._tokens = 0
        chunks, passed_over = await self._persist(partial(self._pipeline.passages, source.path, source.body.data))
        skipped = tuple(passed_over[:_MOST_SKIPPED])
        limit = self._settings.max_document_chunks
        if len(chunks) > limit:
            raise LimitExceeded(
                f"The document {source.path!r} makes {len(chunks)} chunks, and at most {limit} are taken. Split the "
                "document, or raise VECTORPOOL_MAX_DOCUMENT_CHUNKS or VECTORPOOL_CHUNK_TOKENS.",
                extra={"limit": limit},
            )
        parts = list(self._parts(chunks))
        token = self._token(source, parts) if len(parts) > 1 else ""
        known = KnownChunks() if is_first and not token else await self._find(source, token)
        vectors = _Known(self, chunks, {} if force else await self._known_vectors(known, chunks))
        ids = chunk_ids(source.path, len(chunks))
        if not token:
            carried = await self._carried(source, vectors, chunks, ids, slice(0, len(chunks)))
            return Prepared(self._command(source, **carried), len(chunks), self._tokens, skipped)
        for number, part in enumerate(parts):
            if number not in known.parts or force:
                carried = await self._carried(source, vectors, chunks, ids, part)
                await self._stage(source, token, number, carried)
        nothing = {"ids": [], "hashes": b"", "vectors": self.as_vectors(None), "documents": [], "metadatas": []}
        command = self._command(source, **nothing, token=token, parts=len(parts))
        return Prepared(command, len(chunks), self._tokens, skipped)

    def as_vectors(self, vectors: _Row | None) -> Vectors:
        """Return float32[n, dimension] as a command carries them, with the embedder's name."""
        data = b"" if vectors is None else np.ascontiguousarray(vectors, dtype="<f4").tobytes()
        return Vectors(self._embedder.dimension, data, self._embedder.name)

    # --- Commands ------------------------------------------------------------------------------------

    def _parts(self, chunks: list[Chunk]) -> Iterator[slice]:
        """Yield the parts of a document that one command each carries; one part, even of nothing, at least."""
        start, held = 0, 0
        for number, chunk in enumerate(chunks):
            size = len(chunk.text.encode("utf-8", "surrogatepass")) + 4 * self._embedder.dimension + _CHUNK_BYTES
            if number > start and (held + size > COMMAND_BYTES or number - start >= self._settings.max_records):
                yield slice(start, number)
                start, held = number, 0
            held += size
        yield slice(start, len(chunks))

    def _token(self, source: Source, parts: list[slice]) -> str:
        text = f"{source.digest} {source.recipe} {self._settings.documents_collection} {parts}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    async def _carried(
        self, source: Source, vectors: _Known, chunks: list[Chunk], ids: list[str], part: slice
    ) -> dict[str, Any]:
        """Return the members of a command that carries these chunks."""
        texts = [chunk.text for chunk in chunks[part]]
        return {
            "ids": ids[part],
            "hashes": b"".join(chunk_hash(text) for text in texts),
            "vectors": self.as_vectors(await vectors.of(source.path, texts)),
            "documents": texts,
            "metadatas": [
                chunk_metadata(source.path, number, chunk) for number, chunk in enumerate(chunks[part], part.start)
            ],
        }

    def _command(self, source: Source, **carried: Any) -> IngestDocument:
        return IngestDocument(
            avatar_id=self._avatar_id,
            collection=self._settings.documents_collection,
            path=source.path,
            etag=source.body.etag,
            size=len(source.body.data),
            recipe=source.recipe,
            digest=source.digest,
            content_type=source.body.content_type,
            **carried,
        )

    async def _stage(self, source: Source, token: str, number: int, carried: dict[str, Any]) -> None:
        command = StageChunks(
            avatar_id=self._avatar_id,
            collection=self._settings.documents_collection,
            path=source.path,
            token=token,
            number=number,
            seen=source.seen,
            collection_id=source.collection_id,
            **carried,
        )
        answer = await self._persist(partial(self._router.execute, self._user_id, command, self._context))
        msgspec.json.decode(answer.body, type=DocumentWritten)

    # --- Vectors -------------------------------------------------------------------------------------

    async def _find(self, source: Source, token: str) -> KnownChunks:
        command = FindChunks(avatar_id=self._avatar_id, path=source.path, digest=source.digest, token=token)
        try:
            answer = await self._persist(partial(self._router.execute, self._user_id, command, self._reading()))
        except NotFound:
            return KnownChunks()
        return msgspec.json.decode(answer.body, type=KnownChunks)

    def _reading(self) -> RequestContext:
        """Return a context for reads of what is a hint only: an old state costs an embedding, and no correctness."""
        context = RequestContext(
            self._context.request_id,
            caller=self._context.caller,
            read=ReadOptions(consistency="local"),
            timeout_s=self._context.remaining_s(),
        )
        context.start()
        return context

    async def _known_vectors(self, known: KnownChunks, chunks: list[Chunk]) -> dict[bytes, _Row]:
        """Return vectors of the chunks' texts that records have, by the hash of the text."""
        wanted = {chunk_hash(chunk.text) for chunk in chunks} if known.documents else set()
        found: dict[bytes, _Row] = {}
        for former in known.documents:
            hashes = [
                former.hashes[at : at + CHUNK_HASH_BYTES] for at in range(0, len(former.hashes), CHUNK_HASH_BYTES)
            ]
            if len(hashes) != len(former.ids) or not former.document.recipe.startswith(f"{self._embedder.name} "):
                continue
            ids = {h: i for h, i in zip(hashes, former.ids, strict=True) if h in wanted and h not in found}
            named = list(ids.values())
            for start in range(0, len(named), _READ_WINDOW):
                found.update(await self._read(former.document.collection, named[start : start + _READ_WINDOW]))
        return found

    async def _read(self, collection: str, ids: list[str]) -> dict[bytes, _Row]:
        command = GetRecords(
            avatar_id=self._avatar_id, collection=collection, ids=ids, include=("documents", "embeddings")
        )
        try:
            answer = await self._persist(partial(self._router.execute, self._user_id, command, self._reading()))
        except NotFound:
            return {}
        page = await asyncio.to_thread(msgspec.json.decode, answer.body, type=RecordPage)
        rows: dict[bytes, _Row] = {}
        for record in page.records:
            if record.document is not None and record.embedding is not None:
                row = np.array(record.embedding, dtype=np.float32)
                if len(row) == self._embedder.dimension:
                    # By the text that the record has now: a caller may have changed it since.
                    rows[chunk_hash(record.document)] = row
        return rows

    async def embed(self, path: str, texts: list[str]) -> _Row:
        """Return float32[len(texts), dimension]."""
        # At most as many at once as the empty queue holds, or every attempt would be refused.
        window = max(1, min(_EMBED_WINDOW, self._settings.embedder_queue))
        parts = [np.empty((0, self._embedder.dimension), dtype=np.float32)]
        for start in range(0, len(texts), window):
            batch = texts[start : start + window]
            with stage("embed"):
                parts.append(await self._persist(partial(self._embedder.embed, batch, self._user_id)))
            self._tokens += sum(await asyncio.to_thread(self._embedder.tokenizer.count, batch))
            self._embedded(path, len(batch))
        return np.concatenate(parts)


class _Known:
    """The vectors of a document's chunks: those that are known, and those that are embedded when they are needed."""

    def __init__(self, preparation: Preparation, chunks: list[Chunk], known: dict[bytes, _Row]) -> None:
        self._preparation = preparation
        self._known = known

    async def of(self, path: str, texts: list[str]) -> _Row | None:
        if not texts:
            return None
        rows = [self._known.get(chunk_hash(text)) for text in texts]
        missing = [at for at, row in enumerate(rows) if row is None]
        made = await self._preparation.embed(path, [texts[at] for at in missing])
        for at, row in zip(missing, made, strict=True):
            rows[at] = row
        return np.stack([row for row in rows if row is not None])
