"""Large JSON against a real server: others are answered meanwhile, and it is refused or read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.raw_http import RawAnswer, RawConnection
from tests.support.service import Service

NOTES = "/users/hostile/collections/notes"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a hostile user and a quiet one."""
    served = Service(tmp_path_factory.mktemp("bodies"), "--shards", "1").start()
    for user in ("hostile", "quiet"):
        served.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    yield served
    served.close()


class Quiet:
    """A user that asks all the time, and counts the answers."""

    def __init__(self, service: Service) -> None:
        self._url = f"{service.url.rstrip('/')}/users/quiet/collections/notes/count"
        self._is_over = threading.Event()
        self.answered = 0
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Quiet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def wait(self) -> None:
        """Wait until one more request is answered."""
        before, deadline = self.answered, time.monotonic() + 60
        while self.answered == before:
            assert time.monotonic() < deadline and self._thread.is_alive(), "the neighbour is not answered"
            time.sleep(0.001)

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._is_over.is_set():
                assert client.get(self._url).status_code == 200
                self.answered += 1
                time.sleep(0.005)


def send(service: Service, line: str, body: bytes) -> RawAnswer:
    """Send a large body, and return the answer."""
    with RawConnection(service.url, timeout_s=120) as connection:
        return connection.request(line, body, content_type="application/json")


EMPTY = b"[]," * 19_000_000
HOSTILE = {
    "empty lists as records": ("PUT", "/records", b'{"records":[' + EMPTY + b"[]]}"),
    "empty lists in a record": ("PUT", "/records", b'{"records":[{"id":"a","metadata":{"k":[' + EMPTY + b"[]]}}]}"),
    "empty lists in a filter": ("POST", "/records/get", b'{"where":{"$and":[' + EMPTY + b"[]]}}"),
    "empty lists as questions": ("POST", "/query", b'{"embeddings":[' + EMPTY + b"[]]}"),
    "numbers as ids": ("POST", "/records/get", b'{"ids":[' + b"0," * 25_000_000 + b"0]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_body_of_millions_of_values_stops_nobody(service: Service, name: str) -> None:
    """It is 413 with the bound's name, and a neighbour is answered beside it."""
    method, path, body = HOSTILE[name]
    with Quiet(service) as quiet:
        quiet.wait()
        answer = send(service, f"{method} {NOTES}{path}", body)
        quiet.wait()
    assert (answer.status, answer.code) == (413, "limit-exceeded")
    assert json.loads(answer.body)["limit_name"]


def test_a_name_of_megabytes_is_refused(service: Service) -> None:
    """A tenant's or a database's body names a thing; one of megabytes is not read as JSON."""
    for path in ("/api/v2/tenants", "/api/v2/tenants/hostile/databases"):
        assert send(service, f"POST {path}", b'{"name":"abc","x":[' + b"[]," * 1_000_000 + b"[]]}").status == 413


def test_a_large_write_within_the_bounds_is_read(service: Service) -> None:
    """Thousands of records with texts full of quotes and brackets arrive as they were sent."""
    records = [
        {"id": f"r{n}", "embedding": [float(n), 0.5, -1e-3], "document": 'a "b" \\ [1,{2}] ' * 40, "metadata": {"n": n}}
        for n in range(5000)
    ]
    with Quiet(service) as quiet:
        answer = send(service, f"PUT {NOTES}/records", json.dumps({"records": records}).encode())
    assert answer.status == 200, answer.body[:500]
    assert quiet.answered
    asked = {"ids": ["r0", "r4999"], "include": ["documents", "metadatas"]}
    got = service.ok("POST", f"{NOTES}/records/get", json=asked).json()["records"]
    assert [record["document"] for record in got] == [records[0]["document"], records[4999]["document"]]
