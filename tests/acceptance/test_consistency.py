"""Two instances on one store: what a request may ask of a read, and what it gets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.service import Service

COUNT = "/users/42/collections/notes/count"
RECORDS = "/users/42/collections/notes/records"


@pytest.fixture
def instances(tmp_path: Path) -> Iterator[list[Service]]:
    """Two instances with a store in common and nothing else."""
    store = str(tmp_path / "shared-store")
    both = [Service(tmp_path / str(n), "--shards", "1", store=store).start() for n in range(2)]
    yield both
    for one in both:
        one.close()


def _put(service: Service, record_id: str) -> int:
    record = {"id": record_id, "embedding": [1.0, 2.0, 3.0]}
    return int(service.ok("PUT", RECORDS, json={"records": [record]}).headers["x-vectorpool-commit"])


def _count(service: Service, **headers: str) -> int:
    return int(service.ok("GET", COUNT, headers=headers).json()["count"])


def test_a_read_is_as_fresh_as_it_asks_to_be(instances: list[Service]) -> None:
    """Strong sees another instance's write at once, local does not, and a least commit is always reached."""
    ours, theirs = instances
    ours.ok("POST", "/users/42/collections", json={"name": "notes"})
    _put(ours, "a")
    assert _count(theirs) == 1
    seq = _put(ours, "b")
    local = {"X-Vectorpool-Consistency": "local"}
    assert _count(theirs, **local) == 1
    assert _count(theirs, **{"X-Vectorpool-Consistency": "bounded(86400000)"}) == 1
    assert _count(theirs, **local, **{"X-Vectorpool-Min-Commit": str(seq)}) == 2
    _put(ours, "c")
    assert _count(theirs, **{"X-Vectorpool-Consistency": "bounded(0)"}) == 3
    _put(ours, "d")
    assert _count(theirs) == 4


def test_a_least_commit_that_nobody_made_is_refused(instances: list[Service]) -> None:
    """The problem says which commit there is, and the next request works."""
    ours, theirs = instances
    ours.ok("POST", "/users/42/collections", json={"name": "notes"})
    seq = _put(ours, "a")
    refusal = theirs.problem("GET", COUNT, "commit-not-reached", headers={"X-Vectorpool-Min-Commit": str(seq + 1)})
    assert refusal.status_code == 412
    assert refusal.headers["x-vectorpool-commit"] == str(seq)
    assert _count(theirs) == 1


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Vectorpool-Consistency", "sometimes"),
        ("X-Vectorpool-Consistency", "strong(5)"),
        ("X-Vectorpool-Consistency", "bounded(99999999)"),
        ("X-Vectorpool-Min-Commit", "-1"),
        ("X-Vectorpool-Min-Commit", "9" * 5000),
    ],
)
def test_a_wrong_header_is_refused(service: Service, header: str, value: str) -> None:
    """A header that does not say what it should is a problem that says what to send."""
    assert "Send" in service.problem("GET", COUNT, "invalid-request", headers={header: value}).json()["detail"]


def test_writes_through_either_instance_are_all_there_once(instances: list[Service]) -> None:
    """Of 60 concurrent writes to one user, spread over two instances, each acknowledged one is there, once."""
    instances[0].ok("POST", "/users/42/collections", json={"name": "notes"})
    dice = random.Random(7)

    def write(number: int) -> str | None:
        record = {"id": f"r{number}", "embedding": [1.0, 2.0, 3.0]}
        answer = dice.choice(instances).request("POST", RECORDS, json={"records": [record]})
        if answer.status_code == 201:
            return record["id"]  # type: ignore[return-value]
        assert answer.json()["code"] == "commit-conflict", answer.text
        return None

    with ThreadPoolExecutor(6) as threads:
        acknowledged = {record_id for record_id in threads.map(write, range(60)) if record_id is not None}
    assert acknowledged
    for service in instances:
        found = service.ok("POST", f"{RECORDS}/get", json={"include": []}).json()["records"]
        assert sorted(record["id"] for record in found) == sorted(acknowledged)
