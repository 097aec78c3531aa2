"""The parts of one instance that the controllers use. ``app`` builds them; they are never global."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.embedding import Embedder
from vectorpool.jobs.client import Jobs
from vectorpool.settings import Settings
from vectorpool.shard.router import Router
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor


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
    # None in a process that is no server.
    jobs: Jobs | None = None
