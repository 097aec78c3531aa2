"""Jobs while their workers are killed: every document exactly once, on SQLite and on PostgreSQL with two workers."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.postgres import Postgres, programs
from tests.support.service import COMMAND, Service, environment

HOME = "/users/42/avatars/7"
END_S = 240


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with a database of jobs of its own."""
    made = Service(tmp_path, "--shards", "1").start()
    yield made
    made.close()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A database server, where one is installed."""
    if programs() is None:
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="vectorpool-postgres-", dir="/tmp"))
    server = Postgres(directory)
    yield server
    with contextlib.suppress(subprocess.CalledProcessError):
        server.kill()
    shutil.rmtree(directory, ignore_errors=True)


def put(service: Service, count: int, *, start: int = 0) -> dict[str, str]:
    """Put small documents, and return their texts by path."""
    texts = {f"{n:03d}.md": f"# Document {n}\n\nThe number of it is {n}.\n" for n in range(start, start + count)}
    for path, text in texts.items():
        service.ok("PUT", f"{HOME}/documents/{path}", content=text.encode())
    return texts


def begun(service: Service) -> str:
    """Return the id of a new job, once the worker has started and takes it."""
    until = time.monotonic() + END_S
    while True:
        answer = service.client.post(f"{HOME}/ingest")
        if answer.status_code == 202:
            return str(answer.json()["job_id"])
        assert answer.json()["code"] == "jobs-unavailable" and time.monotonic() < until, answer.text


def finished(service: Service, job_id: str) -> Any:
    """Return a job once it is finished; requests meanwhile may be refused, as workers come and go."""
    until = time.monotonic() + END_S
    while time.monotonic() < until:
        answer = service.client.get(f"/users/42/jobs/{job_id}?wait_s=2")
        if answer.status_code == 200 and answer.json()["state"] in ("done", "failed", "cancelled"):
            return answer.json()
    raise AssertionError(f"the job did not end: {answer.text}\n{service.errors}")


def worker_of(service: Service) -> int | None:
    """Return the process id of the service's worker."""
    listed = subprocess.run(
        ["pgrep", "-P", str(service.pid), "-f", "vectorpool.jobs.process"], capture_output=True, text=True, check=False
    )
    found = listed.stdout.split()
    return int(found[0]) if found else None


def assert_whole(service: Service, texts: dict[str, str]) -> None:
    """Each document is there once, as one chunk, and nothing else."""
    records = service.ok("POST", f"{HOME}/collections/documents/records/get", json={"limit": 10_000}).json()["records"]
    assert sorted(record["id"] for record in records) == [f"{path}#0000" for path in sorted(texts)]
    assert {record["metadata"]["path"]: record["document"] for record in records} == {
        path: text.strip() for path, text in texts.items()
    }


def test_a_worker_that_is_killed_again_and_again_loses_nothing(service: Service) -> None:
    """Its successor takes the job up; documents that were committed are not made again."""
    texts = put(service, 40)
    dice = random.Random(seed := int(time.time()))
    print(f"seed {seed}")
    job_id = begun(service)
    for _ in range(3):
        time.sleep(0.5 + dice.random() * 3)
        if (pid := worker_of(service)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    job = finished(service, job_id)
    assert (job["state"], job["counts"]["total"], job["counts"]["failed"]) == ("done", 40, 0), job
    assert job["counts"]["ingested"] + job["counts"]["unchanged"] == 40
    assert_whole(service, texts)
    # One commit a document: nothing was written twice.
    commits = service.ok("GET", "/users/42/commits?limit=1000").json()["commits"]
    assert len(commits) == 40


def test_a_service_that_is_killed_finishes_the_job_after_its_start(tmp_path: Path) -> None:
    """The job keeps its id, and is not forgotten with the process."""
    service = Service(tmp_path, "--shards", "1").start()
    try:
        texts = put(service, 20)
        job_id = begun(service)
        time.sleep(2)
        service.kill_all()
        service.start()
        assert finished(service, job_id)["state"] == "done"
        assert_whole(service, texts)
    finally:
        service.close()


def test_a_job_is_followed_cancelled_and_retried(service: Service) -> None:
    """What it committed stays, the rest comes with the retry; its events end with its state."""
    texts = put(service, 30)
    job_id = begun(service)
    # It loads its model first, so it is far from its end.
    until = time.monotonic() + END_S
    while service.ok("GET", f"/users/42/jobs/{job_id}").json()["state"] == "queued":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert service.ok("DELETE", f"/users/42/jobs/{job_id}").json()["state"] == "cancelled"
    events = service.ok("GET", f"/users/42/jobs/{job_id}/events")
    assert events.headers["content-type"].startswith("text/event-stream") and "event: cancelled" in events.text
    # A document whose commit was under way may still come.
    time.sleep(2)
    count = service.client.get(f"{HOME}/collections/documents/count").text
    time.sleep(1)
    assert service.client.get(f"{HOME}/collections/documents/count").text == count
    retried = service.request("POST", f"/users/42/jobs/{job_id}/retry")
    assert (retried.status_code, retried.headers["location"]) == (202, f"/users/42/jobs/{job_id}")
    job = finished(service, job_id)
    assert (job["state"], job["attempt"], job["counts"]["total"]) == ("done", 2, 30)
    assert_whole(service, texts)
    listed = service.ok("GET", "/users/42/jobs?avatar=7&state=done").json()["jobs"]
    assert [each["job_id"] for each in listed] == [job_id]
    service.problem("GET", "/users/43/jobs/" + job_id, "job-not-found")


def test_two_workers_and_a_database_that_goes_away_for_a_while(tmp_path: Path, postgres: Postgres) -> None:
    """Two instances share jobs; one is killed with its worker, the database too, and every document is there once."""
    env = {"VECTORPOOL_JOBS_URL": postgres.url}
    store = str(tmp_path / "store")
    one = Service(tmp_path / "one", "--shards", "1", store=store, env=env).start()
    other = Service(tmp_path / "other", "--shards", "1", store=store, env=env).start()
    try:
        texts = put(one, 30)
        job_id = begun(one)
        # Whichever has it: both show it.
        until = time.monotonic() + END_S
        while True:
            shown = other.client.get(f"/users/42/jobs/{job_id}")
            if shown.status_code == 200 and shown.json()["counts"]["ingested"]:
                break
            assert time.monotonic() < until, shown.text
            time.sleep(0.2)
        one.kill_all()
        assert finished(other, job_id)["state"] == "done"
        assert_whole(other, texts)

        texts |= put(other, 10, start=30)
        job_id = begun(other)
        time.sleep(1)
        postgres.kill()
        time.sleep(5)
        postgres.start()
        job = finished(other, job_id)
        assert job["state"] == "done", job
        assert_whole(other, texts)
    finally:
        one.close()
        other.close()


def test_a_worker_of_its_own_sends_to_the_service(tmp_path: Path, postgres: Postgres) -> None:
    """``vectorpool worker`` runs the jobs of an instance that runs none itself."""
    env = {"VECTORPOOL_JOBS_URL": postgres.url, "VECTORPOOL_JOBS_AT_ONCE": "0"}
    service = Service(tmp_path, "--shards", "1", env=env).start()
    url = str(service.client.base_url)
    worker = subprocess.Popen(
        [COMMAND, "worker", "--store", service.store],
        env=environment(VECTORPOOL_JOBS_URL=postgres.url, VECTORPOOL_SERVICE_URL=url),
        start_new_session=True,
    )
    try:
        texts = put(service, 5)
        job_id = begun(service)
        assert finished(service, job_id)["counts"]["ingested"] == 5
        assert_whole(service, texts)
        listed = subprocess.run(
            [COMMAND, "jobs", "42", "--service-url", url], env=environment(), capture_output=True, text=True, check=True
        )
        assert listed.stdout.startswith(f"{job_id}  done") and "5 ingested" in listed.stdout
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)
        service.close()


def test_a_put_and_a_deletion_are_synced_by_themselves(tmp_path: Path) -> None:
    """Without a request for an ingest, records come and go with their documents."""
    service = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_SYNC_ON_WRITE": "true"}).start()
    try:
        texts = put(service, 3)
        until = time.monotonic() + END_S
        while True:
            counted = service.client.get(f"{HOME}/collections/documents/count")
            if counted.status_code == 200 and counted.json()["count"] == 3:
                break
            assert time.monotonic() < until, service.errors
            time.sleep(0.2)
        assert_whole(service, texts)
        kinds = {job["kind"] for job in service.ok("GET", "/users/42/jobs").json()["jobs"]}
        assert kinds == {"sync"}
    finally:
        service.close()
