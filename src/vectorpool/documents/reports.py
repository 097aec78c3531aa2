"""Reports of an ingest: the outcome of each document, the whole result, and the progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from vectorpool.errors import VectorpoolError
from vectorpool.extraction.extracts import Skipped

# ``missing``: a restore or fork brought the records of a document whose bytes are not kept.
Status = Literal["ingested", "unchanged", "removed", "missing", "failed"]


class DocumentOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result for one document; ``reason`` says why it failed, ``code`` is the error's code.

    ``tokens`` were embedded for it, without those of chunks that were known; it took ``seconds`` from its first byte.
    ``skipped`` are files of an archive that were passed over, and attachments of mail, each with its reason: the first
    twenty.
    """

    path: str
    status: Status
    chunks: int = 0
    reason: str | None = None
    code: str | None = None
    tokens: int = 0
    seconds: float = 0.0
    skipped: tuple[Skipped, ...] = ()


class IngestReport(msgspec.Struct, frozen=True):
    """Every document looked at, by path, and the newest commit seen (0: none)."""

    documents: list[DocumentOutcome]
    commit: int

    def count(self, status: Status) -> int:
        """Return the number of documents with this status."""
        return sum(outcome.status == status for outcome in self.documents)


class IngestProgress(msgspec.Struct, frozen=True):
    """The progress of an ingest: documents that are done, of those seen so far, and chunks embedded.

    ``path`` is the current one.
    """

    documents_done: int
    documents_total: int
    chunks_embedded: int
    path: str


ProgressCallback = Callable[[IngestProgress], None]
OutcomeCallback = Callable[[DocumentOutcome], None]


def failed(path: str, error: VectorpoolError) -> DocumentOutcome:
    """Return the outcome of a document that could not be ingested."""
    return DocumentOutcome(path, "failed", reason=error.detail, code=error.code)
