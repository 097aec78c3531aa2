"""A disk that is full under the worker: who asks is told what to do, nothing is lost, jobs go on with room."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.test_jobs import assert_whole, begun, finished, home, ingested, kill_worker_of, place
from tests.support.disks import SmallDisk, small_disk
from tests.support.service import Service


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small") as made:
        yield made


def refused(service: Service, user: str) -> str:
    """Return the detail of the refusal of a job."""
    answer = service.client.post(f"{home(user)}/ingest")
    assert (answer.status_code, answer.json()["code"]) == (503, "jobs-unavailable"), answer.text
    return str(answer.json()["detail"])


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
def test_the_disk_of_the_jobs_is_full(tmp_path: Path, disk: SmallDisk, dies: bool) -> None:
    """A new job is refused with what to do; the one that runs, and its successor's, ends once there is room."""
    env = {"VECTORPOOL_JOBS_URL": f"sqlite:///{disk.path}/jobs.sqlite3"}
    service = Service(tmp_path, "--shards", "1", env=env).start()
    try:
        texts = place(service, 60, user="42")
        others = place(service, 2, user="43")
        job_id = begun(service)
        ingested(service, job_id, 1)
        disk.fill()
        detail = refused(service, "43")
        assert "full" in detail and "room" in detail, detail
        if dies:
            kill_worker_of(service)
            refused(service, "43")
        else:
            count = f"{home('42')}/collections/documents/count"
            until = service.ok("GET", count).json()["count"] + 5
            while service.ok("GET", count).json()["count"] < min(until, 60):
                pass
        disk.free()
        assert finished(service, job_id)["state"] == "done"
        assert_whole(service, texts)
        assert finished(service, begun(service, "43"), "43")["state"] == "done"
        assert_whole(service, others, "43")
    finally:
        service.close()


def test_the_disk_of_working_copies_and_jobs_is_full(tmp_path: Path, disk: SmallDisk) -> None:
    """By default the file of jobs is beside the working copies: commits are refused too, and a job waits for room."""
    service = Service(disk.path, "--shards", "1", store=str(tmp_path / "store")).start()
    try:
        texts = place(service, 60, user="42")
        job_id = begun(service)
        ingested(service, job_id, 1)
        disk.fill()
        until_s = time.monotonic() + 60
        record = {"records": [{"id": "a", "embedding": [1.0], "document": "x" * 100_000}]}
        while (answer := service.client.post("/users/42/avatars/7/collections/other/records", json=record)) is not None:
            if answer.status_code == 404:
                answer = service.client.post("/users/42/avatars/7/collections", json={"name": "other"})
            if answer.status_code == 503 or time.monotonic() > until_s:
                break
        assert answer.json()["code"] == "local-disk-failed" and "room" in answer.json()["detail"], answer.text
        disk.free()
        assert finished(service, job_id)["state"] == "done"
        assert_whole(service, texts)
    finally:
        service.close()


@pytest.mark.long
def test_a_job_whose_end_could_not_be_noted_blocks_no_other(tmp_path: Path) -> None:
    """The engine of the jobs cannot write that one ended; the user's next one runs once it can."""
    path = tmp_path / "jobs.sqlite3"
    service = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_JOBS_URL": f"sqlite:///{path}"}).start()
    try:
        texts = place(service, 2, user="42")
        assert finished(service, begun(service))["state"] == "done"
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE UPDATE OF status ON workflow_status "
                "WHEN NEW.status IN ('SUCCESS', 'ERROR') BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
            assert finished(service, begun(service))["state"] == "done"
            next_one = begun(service)
            assert service.ok("GET", f"/users/42/jobs/{next_one}").json()["state"] == "queued"
            db.execute("DROP TRIGGER full")
        assert finished(service, next_one)["state"] == "done"
        assert_whole(service, texts)
    finally:
        service.close()
