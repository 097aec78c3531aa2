"""From a document's path and bytes to its passages: the one seam between a sync and everything that reads formats.

A sync knows no format and no strategy. It asks for the version by which the passages of a path are made, stores it, and
makes the passages again when the version changes.
"""

from __future__ import annotations

from vectorpool.documents.chunking import Chunk, ChunkSize, split
from vectorpool.documents.formats import format_of
from vectorpool.embedding import Tokenizer


class Pipeline:
    """How the documents of an avatar become passages. Callable from any thread."""

    def __init__(self, size: ChunkSize, tokenizer: Tokenizer) -> None:
        self._size = size
        self._tokenizer = tokenizer

    def version(self, path: str) -> str:
        """Return a text that changes whenever the same bytes at ``path`` would give other passages.

        Raises UnsupportedFormat for a path that is not read at all.
        """
        entry = format_of(path)
        return f"{entry.name}/{entry.version} {self._size.recipe()}"

    def passages(self, path: str, data: bytes) -> list[Chunk]:
        """Return the passages of a document, in order. Blocking; raises UnsupportedFormat, LimitExceeded."""
        extract = format_of(path).extract(data)
        return split(extract.text, extract.sections, self._size, self._tokenizer)
