"""What callers are shown of jobs."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from vectorpool.documents.reports import DocumentOutcome

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
# ``ingest``: somebody asked for it; ``sync``: a document was put or deleted, or found out of step. ``export`` and
# ``import`` move a whole vectorstore to a target and from one; ``forget`` deletes a deleted user at a target.
JobKind = Literal["ingest", "sync", "export", "import", "forget"]
TRANSFERS: Final = frozenset({"export", "import", "forget"})
FINISHED: Final = frozenset({"done", "failed", "cancelled"})


class JobCounts(msgspec.Struct):
    """Documents by outcome, those seen so far (``total``), and the chunks and tokens that were embedded."""

    total: int = 0
    ingested: int = 0
    unchanged: int = 0
    removed: int = 0
    missing: int = 0
    failed: int = 0
    chunks: int = 0
    tokens: int = 0

    @property
    def done(self) -> int:
        """Return how many documents have an outcome."""
        return self.ingested + self.unchanged + self.removed + self.missing + self.failed


class JobOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is to be told to others of a job's documents. ``document_id`` is the caller's own name of the document."""

    webhook_url: str | None = None
    webhook_key: str | None = None
    validation_url: str | None = None
    document_id: str | None = None


class Transfer(msgspec.Struct):
    """What an export or import moves, and how far it is.

    ``target`` is a name of the operator's. ``at`` is the commit that an export was asked for, None for the newest;
    ``source_user`` the user whose records an import takes. ``records`` were written so far, of ``total``, which is 0 as
    long as it is not known; an export that follows on another writes only what changed. ``deleted`` records and
    ``dropped`` collections went from the target. ``is_current`` says that the target had the commit already.
    """

    target: str
    at: int | None = None
    source_user: str | None = None
    records: int = 0
    total: int = 0
    deleted: int = 0
    collections: int = 0
    dropped: int = 0
    is_current: bool = False

    def asks_for(self, other: Transfer) -> bool:
        """Return whether another one asks for the same."""
        return (self.target, self.at, self.source_user) == (other.target, other.at, other.source_user)


class Job(msgspec.Struct, omit_defaults=True):
    """One job. Times are in ms since 1970.

    ``state``: ``done`` also if documents failed, each with its reason; ``failed`` if the job itself did, with ``code``
    and ``reason``. ``attempt`` counts the retries that were asked for. ``path`` is the document it works on.
    ``documents`` is a page by path, after which ``next_after`` asks for the next; beyond 10,000 only failed ones are
    kept, up to as many. ``version`` changes whenever anything of the job does. ``number`` names jobs of VectorFlow's
    clients, which know only numbers. An export or import has ``transfer``, and an empty ``avatar_id``; its ``commit``
    is the one that was exported, or made.
    """

    job_id: str
    state: JobState
    avatar_id: str
    kind: JobKind
    created_ms: int
    attempt: int = 1
    started_ms: int | None = None
    finished_ms: int | None = None
    counts: JobCounts = msgspec.field(default_factory=JobCounts)
    commit: int = 0
    path: str | None = None
    code: str | None = None
    reason: str | None = None
    documents: list[DocumentOutcome] | None = None
    next_after: str | None = None
    version: int = 0
    number: int | None = None
    transfer: Transfer | None = None


class JobPage(msgspec.Struct, omit_defaults=True):
    """A user's jobs, newest first, without their documents; ``next_after`` asks for the next page."""

    jobs: list[Job]
    next_after: str | None = None


class JobsByState(msgspec.Struct):
    """How many jobs the database has in each state; finished ones are there for ``jobs_retention_s``."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0


# As the documents of the API show one.
EXAMPLE_JOB: Final = Job(
    job_id="1780000000000-0a1b2c3d-000",
    state="done",
    avatar_id="7",
    kind="ingest",
    created_ms=1_780_000_000_000,
    started_ms=1_780_000_000_250,
    finished_ms=1_780_000_002_000,
    counts=JobCounts(total=1, ingested=1, chunks=6, tokens=1100),
    commit=18,
    documents=[DocumentOutcome("handbook/warranty.md", "ingested", chunks=6, tokens=1100, seconds=1.4)],
    version=5,
)

EXAMPLE_TRANSFER: Final = Job(
    job_id="1780000000000-0a1b2c3d-000",
    state="done",
    avatar_id="",
    kind="export",
    created_ms=1_780_000_000_000,
    started_ms=1_780_000_000_250,
    finished_ms=1_780_000_002_000,
    commit=18,
    transfer=Transfer("warehouse", records=6, total=6, collections=1),
    version=4,
)
