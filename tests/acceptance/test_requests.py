"""Every request of the served product: its id, its deadline, and a caller that leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chromadb
import httpx
import pytest
from chromadb.errors import ChromaError, NotFoundError

from tests.bench.start import shards_of
from tests.support.service import Service

NOTES = "/users/alice/collections"
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One shard, a short time limit, and a small queue of texts."""
    flags = ("--shards", "1", "--request-timeout-s", "1", "--log-level", "info", "--embedder-queue", "400")
    served = Service(tmp_path_factory.mktemp("requests"), *flags).start()
    served.ok("POST", NOTES, json={"name": "notes"})
    yield served
    served.close()


def _until(is_so: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < ends_s, "it did not come about"
        time.sleep(0.02)


def _line(service: Service, request_id: str) -> str | None:
    """Return the line of the request log about a request."""
    found = re.search(
        rf'^.*"event":"(?:slow )?request".*"id":"{re.escape(request_id)}".*$', service.errors, re.MULTILINE
    )
    return None if found is None else found[0]


def _send_and_leave(service: Service, method: str, path: str, body: bytes, request_id: str, *, declared: int) -> None:
    """Send a request over a connection of its own, wait until it is worked on, and close the connection."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: {request_id}\r\n"
        head += f"content-length: {declared}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.3)


# --- Ids ---------------------------------------------------------------------------------------------


def test_every_answer_names_its_request(service: Service) -> None:
    """The id that the caller sent, or one that is made, is in the response and in the log."""
    mine = service.ok("GET", f"{NOTES}/notes/count", headers={"X-Request-Id": "mine/1"})
    assert mine.headers["x-request-id"] == "mine/1"
    made = service.problem("GET", f"{NOTES}/none/count", "collection-not-found")
    assert re.fullmatch(r"[0-9a-f-]{36}", made.headers["x-request-id"])
    _until(lambda: _line(service, made.headers["x-request-id"]) is not None)
    line = _line(service, "mine/1")
    assert line is not None and '"status":200' in line and "alice" not in line
    # Only what the parser refuses by itself has none.
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(b"this is not HTTP\r\n\r\n")
        refused = b"".join(iter(lambda: connection.recv(65536), b""))
    assert refused.startswith(b"HTTP/1.1 400") and b"x-request-id" not in refused.lower()


def test_chromas_client_puts_the_id_into_its_exceptions(service: Service) -> None:
    """An error's ``trace_id`` is the request's id, which the log has too; an answer without JSON has it in its text."""
    url = httpx.URL(service.url)
    client = chromadb.HttpClient(url.host, url.port or 80, tenant="alice")
    notes = client.get_collection("notes")
    with pytest.raises(NotFoundError) as missing:
        client.get_collection("missing")
    with pytest.raises(ChromaError) as existing:
        client.create_collection("notes")
    with pytest.raises(Exception, match=r"Payload too large \(trace ID: [0-9a-f-]{36}\)") as large:
        # The client itself would cut this into several calls, were it not for its one record.
        notes.add(ids=["large"], embeddings=[[1.0, 2.0, 3.0]], documents=["x" * (41 * 1024**2)])
    in_text = str(large.value).rpartition("trace ID: ")[2].rstrip(")")
    for request_id in (missing.value.trace_id, existing.value.trace_id, in_text):
        assert request_id
        _until(lambda request_id=request_id: _line(service, request_id) is not None)


# --- Deadlines ---------------------------------------------------------------------------------------


@pytest.fixture
def frozen(service: Service) -> Iterator[Service]:
    """The service with a shard that stands still; afterwards it goes on."""
    processes = shards_of(service.pid)
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    yield service
    for process in processes:
        os.kill(process, signal.SIGCONT)
    service.ok("GET", f"{NOTES}/notes/count")


def test_a_read_ends_at_the_deadline(frozen: Service) -> None:
    """Over both paths and in both protocols the caller is told that the time is over and nothing changed."""
    for path in (f"{NOTES}/notes/count", f"{NOTES}/notes"):
        response = frozen.problem("GET", path, "deadline-exceeded")
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    response = frozen.request("GET", "/api/v2/tenants/alice/databases/default_database/collections")
    assert response.status_code == 503
    assert response.json()["error"] == "ChromaError" and "time limit" in response.json()["message"]
    assert response.headers["chroma-trace-id"] == response.headers["x-request-id"]


def test_the_outcome_of_a_write_is_unknown_at_the_deadline(service: Service) -> None:
    """The shard holds the write and says nothing; when it goes on, the write may be there, and later ones are."""
    (process,) = shards_of(service.pid)
    os.kill(process, signal.SIGSTOP)
    body = {"records": [{"id": "doubtful", "embedding": [1, 2, 3]}]}
    try:
        service.problem("PUT", f"{NOTES}/notes/records", "outcome-unknown", json=body)
    finally:
        os.kill(process, signal.SIGCONT)
    body["records"][0]["id"] = "sure"
    service.ok("PUT", f"{NOTES}/notes/records", json=body)
    records = service.ok("POST", f"{NOTES}/notes/records/get", json={}).json()["records"]
    assert {record["id"] for record in records} in ({"sure"}, {"sure", "doubtful"})


def test_the_deadline_does_not_count_while_a_body_arrives(service: Service) -> None:
    """A body that takes longer than the time limit is answered all the same, in both protocols."""

    def slowly(body: bytes) -> Iterator[bytes]:
        for part in (body[:10], body[10:20], body[20:]):
            time.sleep(0.6)
            yield part

    service.ok("POST", f"{NOTES}/notes/records/get", content=slowly(b'{"include": ["documents"],  "limit": 3}'))
    found = service.ok("GET", "/api/v2/tenants/alice/databases/default_database/collections").json()
    path = f"/api/v2/tenants/alice/databases/default_database/collections/{found[0]['id']}/get"
    headers = {"Content-Type": "application/json"}
    service.ok("POST", path, content=slowly(b'{"include": ["documents"],  "limit": 3}'), headers=headers)


# --- Callers that leave ------------------------------------------------------------------------------


def test_a_read_stops_for_a_caller_that_left(frozen: Service) -> None:
    """The request ends as soon as its connection does, long before the shard could answer it."""
    _send_and_leave(frozen, "GET", f"{NOTES}/notes/count", b"", "left-read", declared=0)
    _until(lambda: _line(frozen, "left-read") is not None)
    assert '"status":499' in str(_line(frozen, "left-read"))


def test_embedding_stops_for_a_caller_that_left(tmp_path: Path) -> None:
    """Its texts leave the queue at once, so that others have room, and nothing is written."""
    service = Service(tmp_path, "--shards", "1", "--log-level", "info", "--embedder-queue", "400").start()
    try:
        service.ok("POST", NOTES, json={"name": "notes"})
        texts = [{"id": str(n), "document": f"{n} " + "many words in a long text " * 40} for n in range(400)]
        body = json.dumps({"records": texts}).encode()
        _send_and_leave(service, "PUT", f"{NOTES}/notes/records", body, "left-write", declared=len(body))
        _until(lambda: _line(service, "left-write") is not None)
        assert '"status":499' in str(_line(service, "left-write"))
        # As many texts again fit into the queue: those that waited are gone.
        asked = {"texts": [text["document"][:20] for text in texts[:100]], "n_results": 1}
        service.ok("POST", f"{NOTES}/notes/query", json=asked)
        assert service.ok("GET", f"{NOTES}/notes/count").json() == {"count": 0}
    finally:
        service.close()


def test_a_caller_that_leaves_while_it_sends_is_no_defect(service: Service) -> None:
    """Half a body and then nothing: the request is logged as left, and not as an error of the service."""
    path = "/api/v2/tenants/alice/databases/default_database/collections/0a1b2c3d-0000-4000-8000-000000000000/add"
    for at, where in enumerate((f"{NOTES}/notes/records", path)):
        _send_and_leave(service, "POST", where, b'{"ids": [', f"left-half-{at}", declared=500_000)
        _until(lambda at=at: _line(service, f"left-half-{at}") is not None)
        assert '"status":499' in str(_line(service, f"left-half-{at}"))
    assert "Traceback" not in service.errors
    service.ok("GET", f"{NOTES}/notes/count")
