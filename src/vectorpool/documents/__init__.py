"""Source files to records: the library in the bucket, formats, chunks, ingestion.

Promises: only ``users/<u>/avatars/<a>/vectorstore_data/`` is read and written, and beside it the kept bytes of what was
replaced or deleted there; a document is one command and so one atomic change; an unchanged document costs nothing; one
bad document fails alone. It uses vectorstores only through a Router that executes commands, and models only through an
Embedder.
"""

from __future__ import annotations

from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import Document, DocumentLibrary, DocumentPage
from vectorpool.documents.recovery import Recovery
from vectorpool.documents.reports import IngestProgress, IngestReport
from vectorpool.documents.router import Router

__all__ = [
    "Document",
    "DocumentLibrary",
    "DocumentPage",
    "IngestProgress",
    "IngestReport",
    "Ingestor",
    "Recovery",
    "Router",
]
