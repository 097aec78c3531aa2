"""The record of jobs, on both databases: what may run, what is kept, and what is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres import Postgres, programs
from vectorpool.documents.reports import DocumentOutcome
from vectorpool.errors import JobNotFound, JobUnfinished, LimitExceeded, Misconfigured, QueueFull
from vectorpool.jobs.engine import Database, database_url
from vectorpool.jobs.store import JobStore
from vectorpool.jobs.views import JobCounts
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources


class Clock(SystemSources):
    """A clock that tests set forward."""

    def __init__(self) -> None:
        self.later_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.later_ms


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres | None]:
    """A server for the tests of this module."""
    if programs() is None:
        yield None
        return
    # Below no directory that only this account may enter.
    directory = Path(tempfile.mkdtemp(prefix="vectorpool-postgres-", dir="/tmp"))
    server = Postgres(directory)
    yield server
    server.kill()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres | None) -> Iterator[JobStore]:
    """A store with a bound of three waiting jobs a user."""
    if request.param == "postgresql" and postgres is None:
        pytest.skip("PostgreSQL is not installed")
    url = postgres.url if request.param == "postgresql" and postgres is not None else ""
    database = Database(Settings(replica_dir=str(tmp_path), jobs_url=url))
    made = JobStore(database.engine, Clock(), user_jobs=3, is_shared=database.is_shared)
    made.create()
    made.create()
    yield made
    made.collect(2**62)
    database.close()


def outcome(path: str, status: str = "ingested") -> DocumentOutcome:
    return DocumentOutcome(path, status, chunks=1)  # type: ignore[arg-type]


def user_of(request: pytest.FixtureRequest) -> str:
    """Return a user of the test's own: PostgreSQL keeps what other tests made."""
    return f"user of {request.node.name}"


def test_a_job_goes_from_queued_to_done(store: JobStore, request: pytest.FixtureRequest) -> None:
    """Each start is the next run, notes are kept by path, and the end has its commit."""
    user = user_of(request)
    job, is_new = store.add(user, "7", "ingest", ["a", "b"], True)
    assert (job.state, is_new, job.attempt) == ("queued", True, 1)
    work = store.begin(job.job_id, 1)
    assert work is not None
    assert (work.paths, work.force, work.run, work.deaths, work.done) == (["a", "b"], True, 1, 0, {})
    assert store.note(job.job_id, 1, [outcome("b"), outcome("a", "failed")], JobCounts(total=2), "b")
    assert store.note(job.job_id, 1, [outcome("a")], JobCounts(total=2, ingested=2), "b")
    shown = store.show(user, job.job_id, 1, "")
    assert (shown.state, shown.path, shown.next_after) == ("running", "b", "a")
    assert shown.documents == [outcome("a")]
    assert store.show(user, job.job_id, 5, "a").documents == [outcome("b")]
    assert store.finish(job.job_id, 1, "done", commit=9, code=None, reason=None)
    done = store.show(user, job.job_id, 0, "")
    assert (done.state, done.commit, done.path, done.counts.ingested) == ("done", 9, None, 2)
    assert store.begin(job.job_id, 1) is None


def test_a_run_that_was_taken_over_is_told_so(store: JobStore, request: pytest.FixtureRequest) -> None:
    """Its notes and its end change nothing; the next run has what it noted, and knows of the death."""
    job, _ = store.add(user_of(request), "7", "ingest", None, False)
    store.begin(job.job_id, 1)
    assert store.note(job.job_id, 1, [outcome("a")], JobCounts(), "a")
    second = store.begin(job.job_id, 1)
    assert second is not None and (second.run, second.deaths, second.path) == (2, 1, "a")
    assert second.done == {"a": outcome("a")}
    assert not store.note(job.job_id, 1, [outcome("z")], JobCounts(), "z")
    assert not store.finish(job.job_id, 1, "failed", commit=0, code="x", reason="x")
    # A run that pauses is not dead, and one that got further forgets earlier deaths.
    assert store.note(job.job_id, 2, [], JobCounts(), "a", is_pausing=True)
    third = store.begin(job.job_id, 1)
    assert third is not None and third.deaths == 1
    assert store.note(job.job_id, 3, [outcome("b")], JobCounts(), "b")
    fourth = store.begin(job.job_id, 1)
    assert fourth is not None and fourth.deaths == 1


def test_what_is_cancelled_does_not_run_and_may_be_retried(store: JobStore, request: pytest.FixtureRequest) -> None:
    """A running one stops at its next note; a retry is the next attempt with all that was asked for."""
    user = user_of(request)
    job, _ = store.add(user, "7", "ingest", ["a"], False)
    store.begin(job.job_id, 1)
    with pytest.raises(JobUnfinished):
        store.retry(user, job.job_id)
    cancelled, was_open = store.cancel(user, job.job_id)
    assert (cancelled.state, was_open) == ("cancelled", True)
    assert store.cancel(user, job.job_id)[1] is False
    assert not store.note(job.job_id, 1, [outcome("a")], JobCounts(), "a")
    assert store.begin(job.job_id, 1) is None
    again = store.retry(user, job.job_id)
    assert (again.state, again.attempt) == ("queued", 2)
    assert store.begin(job.job_id, 1) is None
    work = store.begin(job.job_id, 2)
    assert work is not None and work.paths == ["a"]


def test_a_retry_takes_the_failed_documents_only(store: JobStore, request: pytest.FixtureRequest) -> None:
    """Those that went well are not in it, and without a failed one there is nothing to retry."""
    user = user_of(request)
    job, _ = store.add(user, "7", "ingest", None, False)
    store.begin(job.job_id, 1)
    store.note(job.job_id, 1, [outcome("a"), outcome("b", "failed")], JobCounts(), None)
    store.finish(job.job_id, 1, "done", commit=1, code=None, reason=None)
    store.retry(user, job.job_id)
    work = store.begin(job.job_id, 2)
    assert work is not None and (work.paths, work.done) == (["b"], {})
    store.note(job.job_id, work.run, [outcome("b")], JobCounts(), None)
    store.finish(job.job_id, work.run, "done", commit=2, code=None, reason=None)
    with pytest.raises(LimitExceeded):
        store.retry(user, job.job_id)


def test_scheduled_syncs_of_an_avatar_join_the_one_that_waits(store: JobStore, request: pytest.FixtureRequest) -> None:
    """Not one that runs, not another avatar's; and too many paths are the whole avatar."""
    user = user_of(request)
    first, _ = store.add(user, "7", "sync", ["b"], False)
    joined, is_new = store.add(user, "7", "sync", ["a"], False)
    assert (joined.job_id, is_new) == (first.job_id, False)
    assert store.add(user, "8", "sync", ["a"], False)[1] is True
    work = store.begin(first.job_id, 1)
    assert work is not None and work.paths == ["a", "b"]
    later, is_new = store.add(user, "7", "sync", [f"{n}" for n in range(400)], False)
    assert is_new and later.job_id != first.job_id
    store.add(user, "7", "sync", [f"x{n}" for n in range(400)], False)
    work = store.begin(later.job_id, 1)
    assert work is not None and work.paths is None


def test_waiting_jobs_of_a_user_are_bounded(store: JobStore, request: pytest.FixtureRequest) -> None:
    """The fourth is refused, another user's is not."""
    user = user_of(request)
    for _ in range(3):
        store.add(user, "7", "ingest", None, False)
    with pytest.raises(QueueFull, match="user_jobs"):
        store.add(user, "7", "ingest", None, False)
    assert store.add(f"{user} too", "7", "ingest", None, False)[1] is True


def test_jobs_are_listed_newest_first_and_to_their_user_only(store: JobStore, request: pytest.FixtureRequest) -> None:
    """By avatar and state, in pages; and another user's job is not found."""
    user = user_of(request)
    made = []
    for avatar in ("7", "8", "7"):
        store._sources.later_ms += 1  # type: ignore[attr-defined]
        made.append(store.add(user, avatar, "ingest", None, False)[0].job_id)
    assert [job.job_id for job in store.page(user, None, None, 10, "").jobs] == made[::-1]
    page = store.page(user, ["7"], None, 1, "")
    assert ([job.job_id for job in page.jobs], page.next_after) == ([made[2]], made[2])
    assert [job.job_id for job in store.page(user, ["7"], None, 1, made[2]).jobs] == [made[0]]
    store.begin(made[0], 1)
    assert [job.job_id for job in store.page(user, None, "running", 10, "").jobs] == [made[0]]
    assert store.page(user, [], None, 10, "").jobs == []
    with pytest.raises(JobNotFound):
        store.show("somebody else", made[0], 0, "")


def test_finished_jobs_are_deleted_after_their_time(store: JobStore, request: pytest.FixtureRequest) -> None:
    """With their documents; a waiting one stays."""
    user = user_of(request)
    waiting, _ = store.add(user, "8", "ingest", None, False)
    job, _ = store.add(user, "7", "ingest", None, False)
    store.begin(job.job_id, 1)
    store.note(job.job_id, 1, [outcome("a")], JobCounts(), None)
    store.finish(job.job_id, 1, "done", commit=0, code=None, reason=None)
    ended = store.show(user, job.job_id, 0, "").finished_ms
    assert ended is not None
    assert store.collect(ended) == 0
    assert store.collect(ended + 1) == 1
    assert [each.job_id for each in store.page(user, None, None, 10, "").jobs] == [waiting.job_id]


def test_a_file_belongs_to_one_process(tmp_path: Path) -> None:
    """A second one is refused, and told what to do; when the first is gone it may have the file."""
    settings = Settings(replica_dir=str(tmp_path))
    first = Database(settings)
    with pytest.raises(Misconfigured, match="PostgreSQL"):
        Database(settings)
    first.close()
    Database(settings).close()


@pytest.mark.parametrize(
    ("text", "url", "is_shared"),
    [
        ("sqlite:////var/jobs.db", "sqlite:////var/jobs.db", False),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d", True),
        ("postgres://h/d", "postgresql+psycopg://h/d", True),
    ],
)
def test_urls_of_the_database(text: str, url: str, is_shared: bool) -> None:
    """Both kinds are understood, others are refused without repeating what may be a password."""
    assert database_url(Settings(jobs_url=text)) == (url, is_shared)
    for bad in ("mysql://u:secret@h/d", "sqlite://", "sqlite:///", "jobs.db"):
        with pytest.raises(Misconfigured) as refused:
            database_url(Settings(jobs_url=bad))
        assert "secret" not in refused.value.detail
