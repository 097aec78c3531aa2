"""From a document's path and bytes to its passages: the one seam between a sync and everything that reads formats.

A sync knows no format and no strategy. It asks for the version by which the passages of a path are made, stores it, and
makes the passages again when the version changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from vectorpool.commands import PipelineChoice
from vectorpool.documents.chunking import Chunk, ChunkSize, split
from vectorpool.embedding import Embedder
from vectorpool.extraction.extracts import Extract, Skipped
from vectorpool.extraction.formats import version_of
from vectorpool.extraction.workshop import Workshop
from vectorpool.settings import Settings
from vectorpool.telemetry.spans import stage

ChunkCheck = Callable[[list[Chunk]], Awaitable[list[Chunk]]]


class Passages(NamedTuple):
    """The passages of a document, in order, and the files of an archive that were passed over."""

    chunks: list[Chunk]
    skipped: tuple[Skipped, ...] = ()


class Pipeline:
    """How the documents of an avatar become passages: by the settings, and by what was chosen instead."""

    def __init__(
        self,
        settings: Settings,
        embedder: Embedder,
        workshop: Workshop,
        choice: PipelineChoice | None = None,
        check: ChunkCheck | None = None,
    ) -> None:
        """``choice`` is the avatar's, or a request's; None and what it leaves open are the settings'.

        ``check`` picks the chunks of a document that are kept.
        """
        self._check = check
        choice = choice or PipelineChoice()
        self.strategy = choice.strategy or settings.chunk_strategy
        self.size = ChunkSize.fitting(
            choice.chunk_tokens or settings.chunk_tokens,
            settings.chunk_overlap_tokens if choice.chunk_overlap_tokens is None else choice.chunk_overlap_tokens,
            embedder.tokenizer,
            embedder.max_tokens,
        )
        self._tokenizer = embedder.tokenizer
        self._most_tokens = max(1, embedder.max_tokens - embedder.tokenizer.special_tokens)
        self._workshop = workshop

    def version(self, path: str) -> str:
        """Return a text that changes whenever the same bytes at ``path`` would give other passages.

        Raises UnsupportedFormat for a path that is not read at all.
        """
        return f"{version_of(path)} {self.size.recipe(self.strategy)}"

    async def passages(self, path: str, data: bytes, content_type: str | None = None) -> Passages:
        """Return the passages of a document. Raises an InvalidRequest that says why there are none, QueueFull."""
        with stage("extract"):
            extract = await self._workshop.read(path, data, content_type)
        with stage("cut"):
            chunks = await asyncio.to_thread(self.cut, extract)
        if self._check is not None:
            with stage("validate"):
                chunks = await self._check(chunks)
        return Passages(chunks, extract.skipped)

    def cut(self, extract: Extract) -> list[Chunk]:
        """Return the passages of a text, in order. Blocking. Raises LimitExceeded."""
        return split(
            extract.text, extract.sections, self.size, self._tokenizer, self.strategy, most_tokens=self._most_tokens
        )
