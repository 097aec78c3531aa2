"""A user floods the embedder over HTTP and leaves: others are answered meanwhile and after, and nobody gets its 429."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.raw_http import RawConnection
from tests.support.service import Service

QUEUE = 240
TEXTS = 40
# Texts of one call of a user whose share is free: no more than a call may have.
SHARE = 100
WAIT_S = 60.0
LONG = "How long is the warranty, and what does it cover? " * 6


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a short queue before its model, which runs in one thread."""
    env = {"VECTORPOOL_EMBEDDER_QUEUE": str(QUEUE), "VECTORPOOL_EMBEDDER_THREADS": "1"}
    served = Service(tmp_path_factory.mktemp("flood"), "--shards", "1", env=env).start()
    for user in ("hostile", "quiet", "busy"):
        served.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
        record = {"id": "a", "document": "The warranty lasts two years."}
        served.ok("PUT", f"/users/{user}/collections/notes/records", json={"records": [record]})
    yield served
    served.close()


def _flood(service: Service, calls: int) -> list[RawConnection]:
    """Send calls of long texts, each over a connection of its own, without waiting for answers."""
    body = json.dumps({"texts": [f"{n} {LONG}" for n in range(TEXTS)]}).encode()
    head = f"POST /users/hostile/collections/notes/query HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    sent = []
    for _ in range(calls):
        connection = RawConnection(service.url, timeout_s=WAIT_S)
        connection.send(head.encode() + b"\r\n" + body)
        sent.append(connection)
    return sent


def _refused(flood: list[RawConnection]) -> int:
    """Wait for the first answers, and return how many of them are 429."""
    readable, _, _ = select.select([connection.socket for connection in flood], [], [], WAIT_S)
    return sum(connection.answer().status == 429 for connection in flood if connection.socket in readable)


def _ask(service: Service, user: str, texts: list[str]) -> Any:
    return service.request("POST", f"/users/{user}/collections/notes/query", json={"texts": texts, "n_results": 1})


def test_the_next_user_is_answered_at_once(service: Service) -> None:
    """No question, and no long call, of another user is refused: neither beside a flood nor right after it left."""
    flood = _flood(service, 12)
    # The queue takes half of its length from one user; what is above is refused, and the rest waits.
    assert 0 < _refused(flood) < len(flood)
    assert _ask(service, "quiet", ["How long is the warranty?"]).status_code == 200
    for connection in flood:
        connection.close()
    # No pause and no second attempt: what the flood had waiting is nobody's queue.
    for user, texts in (("quiet", ["How long?"]), ("busy", [f"{n} {LONG}" for n in range(TEXTS)]), ("quiet", ["Why?"])):
        answer = _ask(service, user, texts)
        assert answer.status_code == 200, answer.text


def test_what_a_flood_had_waiting_is_dropped(service: Service) -> None:
    """The user itself has its whole share again once its connections are closed."""
    flood = _flood(service, 12)
    assert _refused(flood)
    for connection in flood:
        connection.close()
    end = time.monotonic() + WAIT_S
    while (answer := _ask(service, "hostile", [f"{n} {LONG}" for n in range(SHARE)])).status_code == 429:
        assert time.monotonic() < end, answer.text
        time.sleep(0.02)
    assert answer.status_code == 200, answer.text
