"""The served product killed at random moments under writes: nothing that was acknowledged is lost.

Each writer upserts, in one call, a record of its own that is new and one that it changes every time. So after the
kills it can be seen whether an acknowledged call is there, whether one is there by half, and whether one is there
that was overtaken. The seed of the moments is printed.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service import COMMAND, Service, environment
from tests.support.store import S3Server

USERS = ("42", "43", "anna@example.org")
WRITERS_A_USER = 2
COLLECTION = "notes"


class Writer(threading.Thread):
    """Upserts until it is told to end, and remembers what was sent and what was acknowledged."""

    def __init__(self, service: Service, user: str, number: int, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._dice = dice
        self.user = user
        self.name = f"w{number}"
        self.sent = 0
        self.acknowledged: list[int] = []
        self.unknown = 0
        self.wrong: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            turn = self.sent
            self.sent += 1
            embedding = [self._dice.random() for _ in range(8)]
            records = [
                {"id": f"{self.name}-{turn}", "document": str(turn), "embedding": embedding},
                {"id": f"{self.name}-newest", "document": str(turn), "embedding": embedding},
            ]
            try:
                response = self._service.client.put(
                    f"/users/{self.user}/collections/{COLLECTION}/records", json={"records": records}, timeout=30
                )
            except (httpx.HTTPError, RuntimeError):
                # The connection broke with the service, or the service is down.
                self.unknown += 1
                self.ended.wait(0.1)
                continue
            if response.is_success:
                self.acknowledged.append(turn)
            elif response.status_code in (429, 503):
                self.unknown += 1
                self.ended.wait(0.1)
            else:
                self.wrong.append(f"{response.status_code} {response.text[:300]}")

    def check(self) -> int:
        """Hold the store against what was acknowledged; return how many acknowledged writes are lost."""
        found: dict[str, str] = {}
        page = self._service.ok(
            "POST",
            f"/users/{self.user}/collections/{COLLECTION}/records/get",
            json={"limit": 10_000, "include": ["documents"]},
        ).json()["records"]
        for record in page:
            if record["id"].startswith(f"{self.name}-"):
                assert record["id"] not in found, f"{record['id']} is there twice"
                found[record["id"]] = record["document"]
        newest = int(found.pop(f"{self.name}-newest", "-1"))
        turns = {int(record_id.rpartition("-")[2]) for record_id in found}
        lost = set(self.acknowledged) - turns
        assert turns <= set(range(self.sent)), "something is there that was never sent"
        assert newest == max(turns, default=-1), "a call is there by half, or an older one came after a newer one"
        assert not self.wrong, self.wrong[:3]
        return len(lost)


def _kill_under_writes(service: Service, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("VECTORPOOL_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    dice = random.Random(seed)
    service.start()
    for user in USERS:
        service.ok("POST", f"/users/{user}/collections", json={"name": COLLECTION})
    writers = [
        Writer(service, user, number, random.Random(seed + 10 * index + number))
        for index, user in enumerate(USERS)
        for number in range(WRITERS_A_USER)
    ]
    for writer in writers:
        writer.start()
    counts = []
    for _ in range(kills):
        time.sleep(0.1 + dice.random() * 1.2)
        service.kill_all()
        counts.append(sum(len(writer.acknowledged) for writer in writers))
        service.start()
    for writer in writers:
        writer.ended.set()
    for writer in writers:
        writer.join(60)
        assert not writer.is_alive()
    lost = sum(writer.check() for writer in writers)
    acknowledged = sum(len(writer.acknowledged) for writer in writers)
    unknown = sum(writer.unknown for writer in writers)
    with capsys.disabled():
        print(
            f"\nseed {seed}: {kills} kills, {acknowledged} acknowledged writes, "
            f"{unknown} without an answer or refused, {lost} lost"
        )
    assert lost == 0
    assert acknowledged > kills
    # It was killed while it wrote: between the first kill and the last, writes were acknowledged.
    assert counts[-1] > counts[0]
    assert service.stop() == 0, service.errors


def _scrub(store: str, env: dict[str, str], root: Path) -> None:
    done = subprocess.run(
        [COMMAND, "scrub", "--all", "--store", store, "--replica-dir", str(root / "scrub")],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(**env),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(USERS)} users scrubbed, 0 damaged" in done.stdout


@pytest.fixture
def on_a_directory(tmp_path: Path) -> Iterator[tuple[Service, dict[str, str]]]:
    """A service over a directory."""
    service = Service(tmp_path, "--shards", "2")
    yield service, {}
    service.close()


@pytest.fixture
def on_radosgw(tmp_path: Path, radosgw_server: S3Server) -> Iterator[tuple[Service, dict[str, str]]]:
    """A service over a real S3."""
    store = f"s3://{radosgw_server.make_bucket()}/killed"
    env = radosgw_server.environ(store)
    service = Service(tmp_path, "--shards", "2", store=store, env=env)
    yield service, env
    service.close()


@pytest.mark.parametrize(
    ("where", "kills"),
    [
        pytest.param("on_a_directory", 5, id="directory"),
        pytest.param("on_radosgw", 3, id="radosgw"),
        pytest.param("on_a_directory", 60, id="directory-long", marks=pytest.mark.long),
        pytest.param("on_radosgw", 60, id="radosgw-long", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1200)
def test_kills_lose_no_acknowledged_write(
    where: str, kills: int, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """After SIGKILLs of the whole service at random moments, every acknowledged write is there once, and logs scrub."""
    service, env = request.getfixturevalue(where)
    _kill_under_writes(service, kills, capsys)
    _scrub(service.store, env, tmp_path)
