"""A disk that is full under the worker: who asks is told what to do, nothing is lost, jobs go on with room."""

from __future__ import annotations

from collections.abc import Iterator
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
