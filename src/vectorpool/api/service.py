"""The parts of one instance that the controllers use. ``app`` builds them; they are never global."""

from __future__ import annotations

from dataclasses import dataclass, field

from vectorpool.allowances.allowances import Allowances
from vectorpool.audit import Audit
from vectorpool.care.parts import Care
from vectorpool.documents.ingest import Ingestor
from vectorpool.documents.library import DocumentLibrary
from vectorpool.embedding import Embedder
from vectorpool.jobs.client import Jobs
from vectorpool.objects.watch import StoreWatch
from vectorpool.settings import Settings
from vectorpool.shard.pressure import MemoryWatch
from vectorpool.shard.router import Router
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures
from vectorpool.telemetry.spans import Tracer
from vectorpool.turns import Turns


@dataclass(frozen=True)
class Service:
    """The parts of one instance, started."""

    settings: Settings
    router: Router
    embedder: Embedder
    library: DocumentLibrary
    ingestor: Ingestor
    audit: Audit
    store: StoreWatch
    # The background tasks of the front.
    supervisor: Supervisor = field(default_factory=lambda: Supervisor(SYSTEM))
    # The figures of the front; a part that has some of its own adds a source to them.
    figures: Figures = field(default_factory=Figures)
    # What begins spans of work that no request waits for; None if traces are off.
    tracer: Tracer | None = None
    # None where nothing measures it.
    memory: MemoryWatch | None = None
    allowances: Allowances = field(default_factory=lambda: Allowances(Settings()))
    # The work of large bodies.
    turns: Turns = field(default_factory=Turns)
    # None in a process that is no server.
    jobs: Jobs | None = None
    # Health, recovery, notifications; None in a process that has none.
    care: Care | None = None

    def note_use(self, user_id: str) -> None:
        """Note that a request used a user's vectorstore, so that its health is checked."""
        if self.care is not None:
            self.care.used.note(user_id)
