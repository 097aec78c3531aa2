"""Several instances over one bucket, requests routed anyhow, all killed and frozen: nothing acknowledged is lost.

The seed is printed, and VECTORPOOL_TEST_SEED gives it back: who is treated how, in which order. When exactly it happens
depends on the machine.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash.chaos import Chaos
from tests.crash.traffic import COLLECTION, Client, Expectation, Reader, Writer, versions_of
from tests.support.radosgw import Radosgw, missing_programs
from tests.support.service import COMMAND, Service, environment

INSTANCES = 3
WRITERS = 5
READERS = 2
USERS = tuple(f"user-{number}" for number in range(12))
FLAGS = ("--shards", "1", "--store-timeout-s", "3", "--store-retries", "1", "--log-level", "warning")
_HEAL_S = 60


@dataclass(frozen=True)
class Place:
    """Where the instances' bucket is; ``gateway`` is the store's own process, if it has one."""

    store: str
    env: dict[str, str]
    gateway: Radosgw | None


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A store of the test's own, because it is killed: radosgw, a directory, or the better of both."""
    if request.param == "directory" or (request.param == "default" and missing_programs()):
        yield Place(str(tmp_path / "store"), {}, None)
        return
    if missing := missing_programs():
        pytest.skip(f"radosgw does not run here: not installed: {', '.join(missing)}")
    server = Radosgw.start()
    try:
        store = f"s3://{server.make_bucket()}/many"
        yield Place(store, server.environ(store), server)
    finally:
        server.close()


def _read_all(service: Service, user: str) -> dict[str, int]:
    """Return the versions of a user's records, waiting while what was in doubt is found out."""
    deadline_s = time.monotonic() + _HEAL_S
    body = {"limit": 10_000, "include": ["documents", "metadatas", "embeddings"]}
    while True:
        response = service.request("POST", f"/users/{user}/collections/{COLLECTION}/records/get", json=body)
        if response.status_code != 503 or time.monotonic() > deadline_s:
            break
        time.sleep(0.2)
    if response.status_code == 404:
        return {}
    assert response.is_success, f"{response.status_code} {response.text[:1000]}"
    page = response.json()["records"]
    for each in page:
        direction = each["embedding"][1] / each["embedding"][0]
        assert direction == pytest.approx(int(each["document"]), rel=1e-4), f"another version's embedding: {each}"
    return versions_of(page)


def _differences(services: Sequence[Service], writers: Sequence[Writer]) -> tuple[set[tuple[str, str]], list[str]]:
    """Return the records that any instance shows otherwise than as acknowledged, and what is wrong in words."""
    lost: set[tuple[str, str]] = set()
    words: list[str] = []
    for user in USERS:
        records = {each.record_id: each for writer in writers for each in writer.records[user]}
        states = [_read_all(service, user) for service in services]
        if any(state != states[0] for state in states):
            words.append(f"the instances do not agree about {user}")
        for number, state in enumerate(states):
            words += [f"{record_id} of {user} was never sent" for record_id in state.keys() - records.keys()]
            for record_id, record in records.items():
                if what := Expectation.of(record).differs(state.get(record_id)):
                    lost.add((user, record_id))
                    words.append(f"instance {number}: {what}")
    return lost, words


def _scrub(place: Place, root: Path) -> None:
    done = subprocess.run(
        [COMMAND, "scrub", "--all", "--store", place.store, "--replica-dir", str(root / "scrub")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(**place.env),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(USERS)} users scrubbed, 0 damaged" in done.stdout


def _defects(services: Sequence[Service]) -> str:
    """Return the end of what the instances logged of defects of theirs."""
    return "".join(f"\n--- {s.replica_dir}\n{s.errors[s.errors.find('Traceback') :][:6000]}" for s in services)


def _seed() -> int:
    return int(os.environ.get("VECTORPOOL_TEST_SEED") or random.SystemRandom().randrange(1 << 32))


@pytest.mark.parametrize(
    ("place", "kills", "freeze_share"),
    [
        pytest.param("default", 10, 0.15, id="default"),
        pytest.param("directory", 200, 0.1, id="directory-long", marks=pytest.mark.long),
        pytest.param("radosgw", 200, 0.1, id="radosgw-long", marks=pytest.mark.long),
    ],
    indirect=["place"],
)
@pytest.mark.timeout(6000)
def test_many_instances_lose_nothing_acknowledged(
    place: Place, kills: int, freeze_share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever dies or freezes, every strong read and the end show each acknowledged write, once; logs scrub clean."""
    seed = _seed()
    services = [Service(tmp_path / f"i{n}", *FLAGS, store=place.store, env=place.env) for n in range(INSTANCES)]
    writers = [Writer(services, USERS, f"w{n}", seed + n) for n in range(WRITERS)]
    readers = [Reader(services, USERS, f"r{n}", seed + 100 + n, writers) for n in range(READERS)]
    clients: list[Client] = [*writers, *readers]
    chaos = Chaos(services, place.gateway, kills=kills, freeze_share=freeze_share, seed=seed + 1000)
    try:
        for service in services:
            service.start()
        for user in USERS:
            services[0].ok("POST", f"/users/{user}/collections", json={"name": COLLECTION})
        for client in clients:
            client.start()
        chaos.run(timeout_s=60 + 20 * kills)
        time.sleep(1.0)
        for client in clients:
            client.ended.set()
        for client in clients:
            client.join(60)
            assert not client.is_alive(), f"{client.name} waits for ever"
        lost, differences = _differences(services, writers)
        counts = sum((client.counts for client in clients), Counter())
        wrong = [what for client in clients for what in client.wrong]
        with capsys.disabled():
            print(f"\nseed {seed}, store {place.store}: {dict(counts)} {dict(chaos.counts)}")
            print(
                f"acknowledged={counts['acknowledged']} unknown={counts['unknown']} lost={len(lost)} "
                f"kills={chaos.counts['kills']} freezes={chaos.counts['freezes']} "
                f"store outages={chaos.counts['store outages']}"
            )
        assert not chaos.failures, chaos.failures
        assert not differences, f"{len(differences)} times:\n" + "\n".join(differences[:20])
        assert not wrong, f"{len(wrong)} times:\n" + "\n".join(wrong[:20]) + _defects(services)
        assert chaos.counts["kills"] >= kills
        assert counts["acknowledged"] > 5 * kills
        assert counts["reads"] > kills
        for service in services:
            assert service.stop() == 0, service.errors
        _scrub(place, tmp_path)
    finally:
        for client in clients:
            client.ended.set()
        for service in services:
            service.close()
