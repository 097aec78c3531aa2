"""Jobs while their workers are killed: every document exactly once, on SQLite and on PostgreSQL with two workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Postgres
from tests.support.service import COMMAND, Service, environment

HOME = "/users/{user}/avatars/7"
END_S = 240


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a file of jobs of its own; each test has a user of its own."""
    made = Service(tmp_path_factory.mktemp("service"), "--shards", "1").start()
    yield made
    made.close()


def home(user: str) -> str:
    return HOME.format(user=user)


def put(service: Service, count: int, *, user: str = "42", start: int = 0) -> dict[str, str]:
    """Put small documents, and return their texts by path."""
    texts = {f"{n:05d}.md": f"# Document {n}\n\nThe number of it is {n}.\n" for n in range(start, start + count)}
    for path, text in texts.items():
        service.ok("PUT", f"{home(user)}/documents/{path}", content=text.encode())
    return texts


def place(service: Service, count: int, *, user: str) -> dict[str, str]:
    """Put documents as another program does, straight in the store."""
    folder = Path(service.store) / f"users/{user}/avatars/7/vectorstore_data"
    folder.mkdir(parents=True)
    texts = {f"{n:05d}.md": f"# Document {n}\n\nThe number of it is {n}.\n" for n in range(count)}
    for path, text in texts.items():
        (folder / path).write_text(text)
    return texts


def begun(service: Service, user: str = "42") -> str:
    """Return the id of a new job, once the worker has started and takes it."""
    until = time.monotonic() + END_S
    while True:
        answer = service.client.post(f"{home(user)}/ingest")
        if answer.status_code == 202:
            return str(answer.json()["job_id"])
        assert answer.json()["code"] == "jobs-unavailable" and time.monotonic() < until, answer.text


def finished(service: Service, job_id: str, user: str = "42") -> Any:
    """Return a job once it is finished; requests meanwhile may be refused, as workers come and go."""
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        answer = service.client.get(f"/users/{user}/jobs/{job_id}?wait_s=2&limit=1")
        if answer.status_code == 200 and answer.json()["state"] in ("done", "failed", "cancelled"):
            return answer.json()
    raise AssertionError(f"the job did not end: {answer.text}\n{service.errors}")


def ingested(service: Service, job_id: str, least: int, user: str = "42") -> int:
    """Return how many documents a job has ingested, once they are so many."""
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        shown = service.client.get(f"/users/{user}/jobs/{job_id}?limit=1")
        if shown.status_code == 200 and shown.json()["counts"].get("ingested", 0) >= least:
            return int(shown.json()["counts"]["ingested"])
        time.sleep(0.05)
    raise AssertionError(f"{shown.text}\n{service.errors}")


def worker_of(service: Service) -> int | None:
    """Return the process id of the service's worker."""
    listed = subprocess.run(
        ["pgrep", "-P", str(service.pid), "-f", "vectorpool.jobs.process"], capture_output=True, text=True, check=False
    )
    found = listed.stdout.split()
    return int(found[0]) if found else None


def kill_worker_of(service: Service) -> None:
    if (pid := worker_of(service)) is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def records_of(service: Service, user: str) -> dict[str, str]:
    """Return the texts of all records by id."""
    texts: dict[str, str] = {}
    while True:
        body = {"limit": 5000, "offset": len(texts), "include": ["documents"]}
        page = service.ok("POST", f"{home(user)}/collections/documents/records/get", json=body).json()["records"]
        texts |= {record["id"]: record["document"] for record in page}
        if len(page) < 5000:
            return texts


def assert_whole(service: Service, texts: dict[str, str], user: str = "42") -> None:
    """Each document is there once, as one chunk, and nothing else."""
    assert records_of(service, user) == {f"{path}#0000": text.strip() for path, text in texts.items()}


def assert_written_once(service: Service, count: int, user: str = "42") -> None:
    """The commits wrote ``count`` records in all, so none of them twice."""
    commits = service.ok("GET", f"/users/{user}/commits?limit=1000").json()["commits"]
    assert (sum(each["added"] for each in commits), sum(each["deleted"] for each in commits)) == (count, 0)


def command(service: Service, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what ``vectorpool jobs`` did."""
    return subprocess.run(
        [COMMAND, "jobs", user, *arguments, "--service-url", str(service.client.base_url)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=END_S,
    )


def test_a_worker_that_is_killed_again_and_again_loses_nothing(service: Service) -> None:
    """Its successor takes the job up; documents that were committed are not made again."""
    user, count = "killed", 16
    texts = put(service, count, user=user)
    job_id = begun(service, user)
    for least in (1, 5):
        ingested(service, job_id, least, user)
        kill_worker_of(service)
    job = finished(service, job_id, user)
    assert (job["state"], job["counts"]["total"], job["counts"].get("failed", 0)) == ("done", count, 0), job
    assert job["counts"]["ingested"] + job["counts"].get("unchanged", 0) == count
    assert_whole(service, texts, user)
    assert_written_once(service, count, user)


def test_a_job_is_followed_cancelled_and_retried(service: Service) -> None:
    """By the command line and by HTTP: what it committed stays, the rest comes with the retry."""
    user, count = "cancelled", 500
    texts = place(service, count, user=user)
    job_id = begun(service, user)
    ingested(service, job_id, 1, user)
    cancelled = command(service, user, job_id, "--cancel")
    assert cancelled.returncode == 0 and f"{job_id}  cancelled" in cancelled.stdout
    events = service.ok("GET", f"/users/{user}/jobs/{job_id}/events")
    assert events.headers["content-type"].startswith("text/event-stream") and "event: cancelled" in events.text

    def counted() -> int:
        return int(service.ok("GET", f"{home(user)}/collections/documents/count").json()["count"])

    # A document whose commit was under way may still come; then nothing does.
    before, seen_s = counted(), time.monotonic()
    while time.monotonic() - seen_s < 2:
        if (now := counted()) != before:
            before, seen_s = now, time.monotonic()
        time.sleep(0.2)
    assert before < count, "it was cancelled before its end"
    retried = command(service, user, job_id, "--retry")
    assert retried.returncode == 0 and f"{job_id}  queued" in retried.stdout
    followed = command(service, user, job_id, "--follow")
    assert followed.returncode == 0 and f"{job_id}  done" in followed.stdout, followed
    job = finished(service, job_id, user)
    assert (job["state"], job["attempt"], job["counts"]["total"]) == ("done", 2, count)
    assert_whole(service, texts, user)
    listed = command(service, user, "--avatar", "7", "--state", "done")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [job_id]
    assert command(service, user, "0", "--follow").returncode == 1
    service.problem("GET", "/users/43/jobs/" + job_id, "job-not-found")


def test_what_is_replaced_or_deleted_under_an_ingest_is_as_the_bucket_says(service: Service) -> None:
    """While a job works on them: a replaced document has its new text, a deleted one does not come back."""
    user, count = "changed", 60
    texts = place(service, count, user=user)
    job_id = begun(service, user)
    ingested(service, job_id, 1, user)
    names = sorted(texts)
    # Behind, at, and before the place where the job is.
    for at in (0, 1, count // 2, count - 2):
        texts[names[at]] = f"Replaced {at}."
        service.ok("PUT", f"{home(user)}/documents/{names[at]}", content=texts[names[at]].encode())
    for at in (2, 3, count // 2 + 1, count - 1):
        del texts[names[at]]
        service.ok("DELETE", f"{home(user)}/documents/{names[at]}")
    assert finished(service, job_id, user)["state"] == "done"
    # What was replaced behind the job is for the next one; nothing that is deleted is there in between.
    paths = {each.rpartition("#")[0] for each in records_of(service, user)}
    assert paths == set(texts)
    assert finished(service, begun(service, user), user)["state"] == "done"
    assert_whole(service, texts, user)


def test_a_service_that_is_killed_finishes_the_job_after_its_start(service: Service) -> None:
    """The job keeps its id, and is not forgotten with the process."""
    user = "restarted"
    texts = place(service, 60, user=user)
    job_id = begun(service, user)
    ingested(service, job_id, 1, user)
    service.kill_all()
    service.start()
    assert finished(service, job_id, user)["state"] == "done"
    assert_whole(service, texts, user)


class Worker:
    """``vectorpool worker`` as a process."""

    def __init__(self, service: Service, url: str) -> None:
        # The store's own variables, such as keys; a service without a worker of its own says how many jobs it runs.
        own = ("VECTORPOOL_JOBS_AT_ONCE", "VECTORPOOL_JOBS_URL", "VECTORPOOL_SERVICE_URL")
        env = {name: value for name, value in service.env.items() if name not in own}
        self.process = subprocess.Popen(
            [COMMAND, "worker", "--store", service.store],
            env=environment(**env, VECTORPOOL_JOBS_URL=url, VECTORPOOL_SERVICE_URL=str(service.client.base_url)),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        assert self.process.stdout is not None and "runs jobs" in self.process.stdout.readline()

    def close(self) -> None:
        self.process.kill()
        self.process.wait(30)


def test_workers_die_and_the_database_goes_away(tmp_path: Path, postgres: Postgres) -> None:
    """Of two workers one dies, then the database is gone for a while, and each document is there once."""
    env = {"VECTORPOOL_JOBS_URL": postgres.url, "VECTORPOOL_JOBS_AT_ONCE": "0"}
    service = Service(tmp_path, "--shards", "1", env=env).start()
    workers: list[Worker] = []
    try:
        texts = place(service, 120, user="42")
        job_id = begun(service)
        workers.append(Worker(service, postgres.url))
        ingested(service, job_id, 1)
        # The second has nothing to do while the first lives: of a user one job runs at a time.
        workers.append(Worker(service, postgres.url))
        workers[0].close()
        seen = ingested(service, job_id, 5)
        postgres.kill()
        refused = service.client.get(f"/users/42/jobs/{job_id}")
        assert refused.status_code == 503 and refused.json()["code"] == "jobs-unavailable"
        postgres.start()
        job = finished(service, job_id)
        assert (job["state"], job["counts"]["total"], job["counts"].get("failed", 0)) == ("done", 120, 0), job
        assert seen <= 120
        assert_whole(service, texts)
        assert_written_once(service, 120)
    finally:
        for worker in workers:
            worker.close()
        service.close()


@pytest.mark.long
def test_two_instances_share_jobs_and_one_dies_with_its_worker(tmp_path: Path, postgres: Postgres) -> None:
    """Both show the job; the other one's worker finishes it, and outlives a minute without the database."""
    env = {"VECTORPOOL_JOBS_URL": postgres.url}
    store = str(tmp_path / "store")
    one = Service(tmp_path / "one", "--shards", "1", store=store, env=env).start()
    other = Service(tmp_path / "other", "--shards", "1", store=store, env=env).start()
    try:
        texts = put(one, 30, user="shared")
        job_id = begun(one, "shared")
        ingested(other, job_id, 1, "shared")
        one.kill_all()
        assert finished(other, job_id, "shared")["state"] == "done"
        assert_whole(other, texts, "shared")
        texts |= put(other, 60, user="shared", start=30)
        job_id = begun(other, "shared")
        ingested(other, job_id, 1, "shared")
        postgres.kill()
        time.sleep(60)
        postgres.start()
        job = finished(other, job_id, "shared")
        assert job["state"] == "done", job
        assert_whole(other, texts, "shared")
    finally:
        one.close()
        other.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_job_of_ten_thousand_documents_is_cancelled_half_way(service: Service) -> None:
    """It stops, what it committed is whole, and the retry brings the rest."""
    user, count = "many", 10_000
    texts = place(service, count, user=user)
    job_id = begun(service, user)
    until = time.monotonic() + 900
    while service.ok("GET", f"/users/{user}/jobs/{job_id}?limit=1").json()["counts"].get("ingested", 0) < count // 2:
        assert time.monotonic() < until
        time.sleep(1)
    assert service.ok("DELETE", f"/users/{user}/jobs/{job_id}").json()["state"] == "cancelled"
    time.sleep(5)
    there = records_of(service, user)
    assert count // 2 <= len(there) < count
    assert all(texts[each.rpartition("#")[0]].strip() == text for each, text in there.items())
    time.sleep(5)
    assert len(records_of(service, user)) == len(there)
    service.request("POST", f"/users/{user}/jobs/{job_id}/retry")
    until = time.monotonic() + 900
    while service.ok("GET", f"/users/{user}/jobs/{job_id}?limit=1").json()["state"] not in ("done", "failed"):
        assert time.monotonic() < until
        time.sleep(1)
    assert_whole(service, texts, user)
