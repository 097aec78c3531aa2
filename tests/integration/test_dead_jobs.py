"""A job that failed for good is told to operators, and no more once a retry of it is done."""

from __future__ import annotations

from pathlib import Path

from vectorpool.documents.ingest import Ingestor
from vectorpool.errors import WorkerDied
from vectorpool.jobs.engine import Database
from vectorpool.jobs.hooks import Hooks
from vectorpool.jobs.run import Runner
from vectorpool.jobs.store import JobStore
from vectorpool.notifications import Notification, Notifications
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM


class _Ingestor(Ingestor):
    """Finds nothing to do."""

    def __init__(self) -> None:
        pass

    async def sync(self, *_: object, **__: object) -> int:
        return 7


async def test_a_dead_job_is_told_until_its_retry_is_done(tmp_path: Path) -> None:
    """The notification names the job, its avatar and the reason; a retry that ends well settles it."""
    settings = Settings(replica_dir=str(tmp_path))
    database = Database(settings)
    store = JobStore(database.engine, SYSTEM, user_jobs=3, is_shared=False)
    store.create()
    told = Notifications(MemoryBucket(), settings)

    async def ingestor() -> Ingestor:
        return _Ingestor()

    async def shown() -> list[Notification]:
        return (await told.page(limit=10)).notifications

    runner = Runner(store, ingestor, Hooks(None, settings, SYSTEM), told, SYSTEM, None)  # type: ignore[arg-type]
    job, _ = store.add("42", "7", "ingest", ["a"], False)
    await runner.give_up(job.job_id, 1, WorkerDied("five workers died"))
    (dead,) = await shown()
    assert (dead.event, dead.user_id, dead.subject, dead.state) == ("job-dead", "42", job.job_id, "open")
    assert dead.reason == "five workers died" and dead.detail["avatar_id"] == "7"
    again = store.retry("42", job.job_id)
    await runner.run(job.job_id, again.attempt)
    (settled,) = await shown()
    assert settled.state == "settled"
