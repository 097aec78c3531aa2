"""A tenant that crashes native code at will, and its neighbours: no request of theirs fails after the second crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.service import Service
from tests.support.shards import shard_ids

CRASHING = str(Path(__file__).parents[1] / "support" / "crashing")
# Chroma answers regular expressions, so the word reaches the bindings.
CRASH = {"query_embeddings": [[1, 0, 0]], "where_document": {"$regex": "crash-here"}}
WAIT_S = 60.0
# Longer than any test: the clock is moved to its end.
QUARANTINE_S = 600


def _start(root: Path, *flags: str, **settings: str) -> Service:
    env = {
        "PYTHONPATH": CRASHING,
        "STAYS_AT": str(root / "stays"),
        "AHEAD_AT": str(root / "ahead"),
        **{f"VECTORPOOL_{name.upper()}": value for name, value in settings.items()},
    }
    return Service(root, "--shards", "1", *flags, env=env).start()


def _until(what: Callable[[], Any]) -> Any:
    """Return what a function returns once that is true."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {WAIT_S} s")


class Tenant:
    """One user of an instance, with a collection of one record on Chroma's protocol."""

    def __init__(self, service: Service, user_id: str) -> None:
        self.client = service.client
        self.user_id = user_id
        base = f"/api/v2/tenants/{user_id}/databases/default_database/collections"
        made = self.client.post(base, json={"name": "notes", "get_or_create": True})
        assert made.status_code == 200, made.text
        self.path = f"{base}/{made.json()['id']}"
        assert self.add("first").status_code == 201

    def add(self, record_id: str) -> httpx.Response:
        body = {"ids": [record_id], "embeddings": [[1, 0, 0]], "documents": ["x"], "metadatas": [{"word": "w"}]}
        return self.client.post(f"{self.path}/add", json=body)

    def ask(self) -> httpx.Response:
        return self.client.post(f"{self.path}/query", json={**CRASH, "where_document": {"$regex": "x"}})

    def crash(self) -> httpx.Response:
        return self.client.post(f"{self.path}/query", json=CRASH)

    def stay(self) -> httpx.Response:
        """Send a query that stays in native code until its process ends."""
        with httpx.Client(base_url=self.client.base_url, timeout=60) as client:
            return client.post(f"{self.path}/query", json={**CRASH, "where_document": {"$regex": "stay-here"}})

    def works(self) -> bool:
        return self.ask().status_code == 200


def _quarantined(service: Service) -> dict[str, Any]:
    return {each["user_id"]: each for each in service.client.get("/admin/pool").json()["quarantined"]}


def _crash_twice(service: Service, hostile: Tenant, *others: Tenant) -> None:
    for _ in range(2):
        answer = hostile.crash()
        assert answer.status_code == 503, answer.text
        _until(lambda: service.client.get("/health/ready").status_code == 200)
        for other in others:
            _until(other.works)


class _Traffic:
    """Reads and writes of a neighbour, one after another, on connections of their own."""

    def __init__(self, service: Service, tenant: Tenant) -> None:
        self.failed: list[str] = []
        self.done = 0
        self._base = service.client.base_url
        self._tenant = tenant
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        before = self._tenant.client
        with httpx.Client(base_url=self._base, timeout=60) as client:
            self._tenant.client = client
            while not self._ends.is_set():
                for answer in (self._tenant.ask(), self._tenant.add(f"r{self.done}")):
                    self.done += 1
                    if answer.status_code >= 300:
                        self.failed.append(answer.text)
        self._tenant.client = before

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ends.set()
            self._thread.join()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """An instance with one shard, whose native code can be made to crash, and one process for suspects."""
    started = _start(tmp_path, quarantine_s=str(QUARANTINE_S), quarantine_processes="1")
    yield started
    started.close()


def test_who_is_in_native_code_beside_it_is_no_suspect(service: Service, tmp_path: Path) -> None:
    """The thread that crashed names its user: a neighbour who is in native code at both crashes is none."""
    hostile, neighbour = Tenant(service, "hostile"), Tenant(service, "neighbour")
    for _ in range(2):
        with ThreadPoolExecutor(1) as threads:
            staying = threads.submit(neighbour.stay)
            _until((tmp_path / "stays").exists)
            assert hostile.crash().status_code == 503
            assert staying.result().status_code == 503
        (tmp_path / "stays").unlink()
        _until(lambda: service.client.get("/health/ready").status_code == 200)
        for tenant in (hostile, neighbour):
            _until(tenant.works)
    assert list(_quarantined(service)) == ["hostile"]


def test_a_tenant_that_crashes_at_will(service: Service, tmp_path: Path) -> None:
    """Neighbours lose no request after the second crash; the tenant is served alone, and returns after quiet time."""
    hostile, neighbour = Tenant(service, "hostile"), Tenant(service, "neighbour")
    _crash_twice(service, hostile, neighbour)
    (shard,) = shard_ids(service.pid)
    view = _quarantined(service)
    assert list(view) == ["hostile"] and view["hostile"]["crashes"] == 2 and view["hostile"]["process_id"] is None
    traffic = _Traffic(service, neighbour)
    with traffic.running():
        for _ in range(3):
            _until(hostile.works)
            alone = _quarantined(service)["hostile"]["process_id"]
            assert alone is not None and alone != shard
            assert hostile.crash().status_code == 503
        before = traffic.done
        _until(lambda: traffic.done > before)
    assert traffic.failed == []
    assert traffic.done > 0 and shard in shard_ids(service.pid)
    assert _quarantined(service)["hostile"]["crashes"] == 5
    # Its writes in quarantine are in the log, and the shard of its hash serves them once it returned.
    _until(lambda: hostile.add("in quarantine").status_code == 201)
    (tmp_path / "ahead").write_text(str(QUARANTINE_S + 1))
    _until(lambda: not _quarantined(service))
    assert shard_ids(service.pid) == [shard]
    assert hostile.client.get(f"{hostile.path}/count").json() == 2
    assert not list((service.replica_dir / "warm").glob("isolated-*"))
    # Crashes that are longer ago than the time do not count.
    assert hostile.crash().status_code == 503
    _until(neighbour.works)
    assert _quarantined(service) == {}


def test_suspects_without_a_place_are_refused(service: Service) -> None:
    """With every process taken, a further suspect is refused as ``quarantined`` in both shapes, and nobody else is."""
    first, second, neighbour = (Tenant(service, name) for name in ("first", "second", "neighbour"))
    _crash_twice(service, first, second, neighbour)
    _until(first.works)
    _crash_twice(service, second, neighbour)
    answer = second.ask()
    assert (answer.status_code, answer.json()["error"]) == (503, "ChromaError")
    assert "quarantine_processes" in answer.json()["message"] and int(answer.headers["retry-after"]) >= 1
    native = service.client.get("/users/second/collections")
    assert (native.status_code, native.json()["code"]) == (503, "quarantined")
    assert native.headers["retry-after"]
    assert neighbour.works() and first.works()
    assert set(_quarantined(service)) == {"first", "second"}


def test_write_back_windows_are_committed_before_a_suspect_runs(tmp_path: Path) -> None:
    """A neighbour's acknowledged writes are in the log before a suspect's command; without a store it is refused."""
    service = _start(
        tmp_path,
        durability="write-back",
        write_back_interval_s="600",
        quarantine_s=str(QUARANTINE_S),
        quarantine_processes="1",
    )
    store = Path(service.store)
    moved = store.with_name("elsewhere")
    try:
        hostile, neighbour = Tenant(service, "hostile"), Tenant(service, "neighbour")
        for tenant in (hostile, neighbour):
            assert service.client.post(f"/admin/users/{tenant.user_id}/flush").status_code == 200
        _crash_twice(service, hostile, neighbour)
        assert neighbour.add("window").status_code == 201
        assert _is_dirty(service, "neighbour")
        assert hostile.works()
        assert not _is_dirty(service, "neighbour")
        # The store goes away: the suspect is refused, at once after the first attempt, and the neighbour goes on.
        assert neighbour.add("another window").status_code == 201
        store.rename(moved)
        store.write_text("no directory")
        for _ in range(2):
            refused = hostile.ask()
            assert refused.status_code == 503, refused.text
            assert refused.json()["error"] == "ChromaError" and "writes of other users" in refused.json()["message"]
        store.unlink()
        moved.rename(store)
        _until(hostile.works)
        assert not _is_dirty(service, "neighbour")
    finally:
        service.close()


def _is_dirty(service: Service, user_id: str) -> bool:
    slots = service.client.get("/admin/pool").json()["slots"]
    return any(slot["dirty"] for slot in slots if slot["user_id"] == user_id)
