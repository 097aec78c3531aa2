"""Large bodies pass to the shard while they arrive: in pieces of any size, and without a trace if the client goes."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.service import Service

COLLECTIONS = "/api/v2/tenants/42/databases/avatar-7/collections"
RECORDS, DIMENSION = 6000, 384


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one shard."""
    service = Service(tmp_path_factory.mktemp("streaming"), "--shards", "1").start()
    yield service
    service.close()


def _large() -> bytes:
    vectors = np.random.default_rng(7).random((RECORDS, DIMENSION), np.float32)
    rows = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    return json.dumps({"ids": [str(number) for number in range(RECORDS)], "embeddings": rows}).encode()


def _ragged(body: bytes) -> Iterator[bytes]:
    at, size = 0, 1
    while at < len(body):
        yield body[at : at + size]
        at, size = at + size, size * 3 % 700_001 + 1


def _count(service: Service, collection: str) -> int:
    return int(service.ok("GET", f"{COLLECTIONS}/{collection}/count").json())


def _begin_and_leave(service: Service, path: str, body: bytes, *, sent: int) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(head.encode() + body[:sent])
        # What was sent is on its way to the shard when the client goes.
        time.sleep(0.3)


def test_a_body_in_pieces_is_one_write(service: Service) -> None:
    """12 MB of base64 in pieces of 1 byte to 700 kB, of no announced length, become one commit with every vector."""
    made = service.ok("POST", COLLECTIONS, json={"name": "pieces"})
    collection, before = made.json()["id"], int(made.headers["X-Vectorpool-Commit"])
    body = _large()
    response = service.client.post(
        f"{COLLECTIONS}/{collection}/add",
        content=_ragged(body),
        headers={"Content-Type": "application/json"},
        timeout=120,
    )
    assert response.status_code == 201, response.text
    assert int(response.headers["X-Vectorpool-Commit"]) == before + 1
    assert _count(service, collection) == RECORDS
    got = service.ok("POST", f"{COLLECTIONS}/{collection}/get", json={"ids": ["4321"], "include": ["embeddings"]})
    sent = np.frombuffer(base64.b64decode(json.loads(body)["embeddings"][4321]), "<f4")
    assert np.array_equal(np.array(got.json()["embeddings"][0], np.float32), sent)


def test_a_client_that_goes_leaves_nothing(service: Service) -> None:
    """Bodies that end in the middle write nothing, and the next request is answered."""
    collection = service.ok("POST", COLLECTIONS, json={"name": "left"}).json()["id"]
    body = _large()
    for sent in (10, 300_000, 5_000_000):
        _begin_and_leave(service, f"{COLLECTIONS}/{collection}/add", body, sent=sent)
    assert _count(service, collection) == 0
    service.ok("POST", f"{COLLECTIONS}/{collection}/add", json={"ids": ["a"], "embeddings": [[1, 2]]})
    assert _count(service, collection) == 1


def test_a_shard_that_dies_in_the_middle_of_a_body(service: Service) -> None:
    """The client is told to send it again: nothing of it was applied, and sent again it is."""
    collection = service.ok("POST", COLLECTIONS, json={"name": "killed"}).json()["id"]
    body = _large()

    def pieces() -> Iterator[bytes]:
        yield body[:2_000_000]
        time.sleep(0.3)
        for child in Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split():
            if b"vectorpool.shard.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
        time.sleep(0.3)
        yield body[2_000_000:]

    path = f"{COLLECTIONS}/{collection}/add"
    response = service.client.post(path, content=pieces(), headers={"Content-Type": "application/json"}, timeout=60)
    assert response.status_code == 503, response.text
    assert response.json()["error"] == "ChromaError"
    again = service.client.post(path, content=body, headers={"Content-Type": "application/json"}, timeout=120)
    while again.status_code == 503:
        time.sleep(0.2)
        again = service.client.post(path, content=body, headers={"Content-Type": "application/json"}, timeout=120)
    assert again.status_code == 201, again.text
    assert _count(service, collection) == RECORDS
