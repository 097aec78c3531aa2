"""Leaving under write-back: SIGTERM commits what is dirty, and SIGKILL loses no more than the stated window."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.radosgw import Radosgw, missing_programs
from tests.support.service import Service

COLLECTION = "notes"
USERS = ("42", "43", "anna@example.org")
RECORDS = {str(number) for number in range(20)}
INTERVAL_S = 1.0
# A commit that is due waits for its turn and for a busy machine; nobody promises it to the millisecond.
SLACK_S = 10.0
KILLS = 5


def _rows(*names: str) -> dict[str, object]:
    return {"records": [{"id": name, "document": name, "embedding": [0.5, 1.0, 0.25]} for name in names]}


def _path(user: str, rest: str = "records") -> str:
    return f"/users/{user}/collections/{COLLECTION}/{rest}"


def _ids(service: Service, user: str) -> set[str]:
    page = service.ok("POST", _path(user, "records/get"), json={"limit": 10_000, "include": []}).json()["records"]
    return {each["id"] for each in page}


# --- SIGTERM -----------------------------------------------------------------------------------------


def _make_dirty(service: Service) -> None:
    """Let three users hold records that nobody committed."""
    service.start()
    for user in USERS:
        service.ok("POST", f"/users/{user}/collections", json={"name": COLLECTION})
        service.ok("POST", f"/admin/users/{user}/flush")
        service.ok("PUT", _path(user), json=_rows(*RECORDS))
    slots = {slot["user_id"]: slot["dirty"] for slot in service.ok("GET", "/admin/pool").json()["slots"]}
    assert slots == dict.fromkeys(USERS, True)


def _assert_all_there(service: Service) -> None:
    service.start()
    for user in USERS:
        assert _ids(service, user) == RECORDS, f"{user} lost acknowledged records"
    assert service.stop() == 0, service.errors


def test_sigterm_commits_every_dirty_vectorstore(tmp_path: Path) -> None:
    """Under write-back, SIGTERM commits what is dirty; an instance elsewhere has all of it."""
    flags = ("--shards", "2", "--durability", "write-back", "--write-back-interval-s", "3600")
    store = str(tmp_path / "store")
    leaving, other = (Service(tmp_path / name, *flags, store=store) for name in ("here", "elsewhere"))
    try:
        _make_dirty(leaving)
        assert leaving.stop() == 0, leaving.errors
        _assert_all_there(other)
    finally:
        leaving.close()
        other.close()


def _refused_until_nobody_listens(url: str, terminated: threading.Event) -> list[httpx.Response]:
    """Write on new connections until nobody listens any more; return the answers."""
    answers = []
    while True:
        try:
            answers.append(httpx.put(url + _path(USERS[0]), json=_rows("late"), timeout=20))
        except httpx.HTTPError:
            if terminated.is_set():
                return answers
            raise
        time.sleep(0.05)


@pytest.fixture
def gateway() -> Iterator[Radosgw]:
    """A store of the test's own, because it is frozen."""
    if missing := missing_programs():
        pytest.skip(f"radosgw does not run here: not installed: {', '.join(missing)}")
    server = Radosgw.start()
    yield server
    server.close()


def test_a_draining_instance_refuses_new_work(tmp_path: Path, gateway: Radosgw) -> None:
    """While a drain waits for a slow store, new requests get 503 and Retry-After; then all that was dirty is there."""
    store = f"s3://{gateway.make_bucket()}/leaving"
    env = gateway.environ(store)
    flags = ("--shards", "2", "--durability", "write-back", "--write-back-interval-s", "3600", "--store-timeout-s", "5")
    leaving, other = (Service(tmp_path / name, *flags, store=store, env=env) for name in ("here", "elsewhere"))
    try:
        _make_dirty(leaving)
        gateway.freeze()
        terminated = threading.Event()
        leaving.terminate()
        # The signal is on its way to another process; a request that is quicker would be taken, and rightly.
        time.sleep(0.3)
        with ThreadPoolExecutor(1) as threads:
            late = threads.submit(_refused_until_nobody_listens, leaving.url, terminated)
            time.sleep(1.5)
            terminated.set()
            gateway.thaw()
            assert leaving.wait() == 0, leaving.errors
        assert late.result(), "nobody was answered during the drain"
        for response in late.result():
            assert response.status_code == 503, response.text
            assert response.json()["code"] == "draining"
            assert int(response.headers["Retry-After"]) >= 1
        _assert_all_there(other)
    finally:
        leaving.close()
        other.close()


# --- SIGKILL -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Stream(threading.Thread):
    """Upserts one record after the other for one user, and flushes now and then; knows when what was acknowledged."""

    service: Service
    user: str
    first: int
    seed: int
    acknowledged: list[tuple[int, float]] = field(default_factory=list)
    # The newest number that a flush covers; none yet, and numbers begin at 0.
    flushed: int = -1
    sent: int = 0

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def run(self) -> None:
        dice = random.Random(self.seed)
        client = httpx.Client(base_url=self.service.url, timeout=20)
        number = self.first
        while True:
            try:
                self.sent = number
                client.put(_path(self.user), json=_rows(str(number))).raise_for_status()
                self.acknowledged.append((number, time.monotonic()))
                if dice.random() < 0.02:
                    client.post(f"/admin/users/{self.user}/flush").raise_for_status()
                    self.flushed = number
            except httpx.HTTPError:
                # The instance was killed.
                client.close()
                return
            number += 1


def test_write_back_loses_no_more_than_its_window(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What SIGKILL takes under write-back is the newest writes only, none older than the interval, none flushed."""
    seed = int(os.environ.get("VECTORPOOL_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    dice = random.Random(seed)
    service = Service(
        tmp_path, "--shards", "1", "--durability", "write-back", "--write-back-interval-s", str(INTERVAL_S)
    )
    kept: dict[str, set[str]] = {user: set() for user in USERS}
    first = acknowledged = flushed = lost = 0
    ages_s = []
    try:
        service.start()
        for user in USERS:
            service.ok("POST", f"/users/{user}/collections", json={"name": COLLECTION})
            service.ok("POST", f"/admin/users/{user}/flush")
        for kill in range(KILLS):
            streams = [Stream(service, user, first, seed + 10 * kill + n) for n, user in enumerate(USERS)]
            for stream in streams:
                stream.start()
            time.sleep(dice.uniform(1.5, 4.5))
            killed_s = time.monotonic()
            service.kill_all()
            for stream in streams:
                stream.join(30)
                assert not stream.is_alive()
            service.start()
            for stream in streams:
                there = _ids(service, stream.user)
                assert kept[stream.user] <= there, "what survived one kill was lost by the next"
                new = sorted(int(each) for each in there - kept[stream.user])
                assert new == list(range(first, first + len(new))), "a write is there without one before it"
                assert not new or new[-1] <= stream.sent
                gone = [(number, at_s) for number, at_s in stream.acknowledged if str(number) not in there]
                assert all(number > stream.flushed for number, _ in gone), "a flushed write was lost"
                ages_s += [killed_s - at_s for _, at_s in gone]
                kept[stream.user] = there
                acknowledged += len(stream.acknowledged)
                flushed += stream.flushed >= 0
                lost += len(gone)
            first = max(stream.sent for stream in streams) + 1
        oldest_s = max(ages_s, default=0.0)
        with capsys.disabled():
            print(
                f"\nseed {seed}: acknowledged={acknowledged} flushes={flushed} kills={KILLS} lost={lost} "
                f"oldest lost write was {oldest_s:.2f} s old (interval {INTERVAL_S:.0f} s)"
            )
        assert oldest_s <= INTERVAL_S + SLACK_S
        assert acknowledged > 10 * KILLS
    finally:
        service.close()
