"""The parts of one instance that the controllers use. ``app`` builds them; they are never global."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.embedding import Embedder
from vectorpool.settings import Settings
from vectorpool.shard.router import Router
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures
from vectorpool.telemetry.spans import Tracer


@dataclass(frozen=True)
class Service:
    """The parts of one instance, started."""

    settings: Settings
    router: Router
    embedder: Embedder
    library: DocumentLibrary
    ingestor: Ingestor
    # The background tasks of the front.
    supervisor: Supervisor = field(default_factory=lambda: Supervisor(SYSTEM))
    # The figures of the front; a part that has some of its own adds a source to them.
    figures: Figures = field(default_factory=Figures)
    # What begins spans of work that no request waits for; None if traces are off.
    tracer: Tracer | None = None
