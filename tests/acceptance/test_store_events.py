"""Events of the bucket at a served instance: what another program put is ingested without a request for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.service import Service

DOCUMENTS = "users/42/avatars/7/vectorstore_data"
GAUGE = 'vectorpool_jobs{state="done"}'


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        tmp_path_factory.mktemp("service"), "--shards", "1", env={"VECTORPOOL_SYNC_ON_WRITE": "true"}
    ).start()
    yield made
    made.close()


def ended(service: Service, what: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + 120
    while not what():
        assert time.monotonic() < end, service.errors
        time.sleep(0.1)


def test_events_and_a_changed_pipeline_lead_to_records(service: Service) -> None:
    """A put and a deletion by another program are followed, a new pipeline cuts again, and jobs are counted."""
    home, path = Path(service.store) / DOCUMENTS, "/users/42/avatars/7/documents/a%20b.txt"
    home.mkdir(parents=True)
    text = " ".join(f"Sentence number {n} of the text." for n in range(40))
    (home / "a b.txt").write_text(text)
    assert service.ok("GET", path).headers["x-vectorpool-in-step"] == "false"
    event = {"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": f"{DOCUMENTS}/a+b.txt"}}}]}
    taken = service.ok("POST", "/admin/events/s3", json=event).json()
    assert taken == {"avatars": 1, "documents": 1, "ignored": 0}
    (listed,) = service.ok("GET", "/users/42/jobs").json()["jobs"]
    job = service.ok("GET", f"/users/42/jobs/{listed['job_id']}?wait_s=100").json()
    assert (job["kind"], job["counts"]["ingested"]) == ("sync", 1), job

    got = service.ok("GET", path)
    assert (got.text, got.headers["x-vectorpool-in-step"]) == (text, "true")
    assert service.client.head(path).headers["x-vectorpool-in-step"] == "true"
    before = service.ok("GET", f"{path}?chunks=true").json()
    assert before["in_step"] and before["chunks"] == len(before["passages"])
    assert all(text[each["start"] : each["end"]] == each["text"] for each in before["passages"])
    second = service.ok("GET", f"{path}?chunks=true&limit=1&offset=1").json()
    assert (second["chunks"], second["passages"]) == (before["chunks"], before["passages"][1:2])

    service.ok("PUT", "/users/42/avatars/7/pipeline", json={"strategy": "tokens", "chunk_tokens": 20})
    ended(service, lambda: service.ok("GET", f"{path}?chunks=true").json()["chunks"] > before["chunks"])

    (home / "a b.txt").write_text("Another text.")
    assert service.ok("GET", path).headers["x-vectorpool-in-step"] == "false"
    assert service.ok("GET", f"{path}?chunks=true").json()["in_step"] is False
    (home / "a b.txt").unlink()
    service.ok("POST", "/admin/events/s3", json=event)
    ended(service, lambda: not service.ok("GET", "/users/42/avatars/7/collections/documents/count").json()["count"])
    assert service.client.get(f"{path}?chunks=true").status_code == 404
    ended(service, lambda: GAUGE in service.ok("GET", "/metrics").text)


def test_a_put_and_a_deletion_are_synced_by_themselves(service: Service) -> None:
    """Without a request for an ingest, records come and go with their documents."""
    home = "/users/43/avatars/7"

    def paths() -> set[str]:
        body = {"limit": 100, "include": ["metadatas"]}
        answer = service.client.post(f"{home}/collections/documents/records/get", json=body)
        return {each["metadata"]["path"] for each in answer.json().get("records", [])}

    for name in ("a.md", "b.md"):
        service.ok("PUT", f"{home}/documents/{name}", content=f"The text of {name}.".encode())
    ended(service, lambda: paths() == {"a.md", "b.md"})
    service.ok("DELETE", f"{home}/documents/a.md")
    assert paths() == {"b.md"}
    assert {job["kind"] for job in service.ok("GET", "/users/43/jobs").json()["jobs"]} == {"sync"}


def test_a_user_without_jobs_has_none(service: Service) -> None:
    """With the limit ``jobs`` of 0 an ingest is refused by its name; puts go on, and nothing is scheduled."""
    service.ok("PUT", "/admin/users/44/limits", json={"jobs": 0})
    service.ok("PUT", "/users/44/avatars/7/documents/a.md", content=b"Some text.")
    refused = service.problem("POST", "/users/44/avatars/7/ingest", "limit-exceeded").json()
    assert (refused["limit_name"], refused["limit"]) == ("jobs", 0)
    service.problem("POST", "/users/44/avatars/7/embed", "limit-exceeded", files={"file": ("b.md", b"Text.")})
    assert service.ok("GET", "/users/44/jobs").json()["jobs"] == []
    service.ok("DELETE", "/admin/users/44/limits")
    assert service.ok("POST", "/users/44/avatars/7/ingest?wait_s=100").json()["counts"]["ingested"] == 1
