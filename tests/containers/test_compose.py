"""compose.yaml as it stands, in real containers with the limits of Cloud Run; a second file names images made here.

Callers write and read through nginx while instances are killed, drained, cut off, frozen, short of memory and replaced.
Nothing acknowledged is lost, no read misses an acknowledged write, and a retry cures whatever fails.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.containers.docker import ROOT, docker, state, wait_until
from tests.containers.fleet import INSTANCES, Fleet, Traffic

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

HUT = b"# Prices\n\nA night costs 31 crowns."
PAUSE_S = 60.0


@pytest.fixture(scope="module")
def fleet(full_image: str, standins: str) -> Iterator[Fleet]:
    """The fleet, brought up once for these tests."""
    fleet = Fleet(full_image, standins)
    try:
        fleet.compose("up", "--detach", "--wait")
        yield fleet
    finally:
        fleet.compose("down", "--volumes", "--timeout", "2", check=False)


@pytest.fixture(autouse=True)
def _whole(fleet: Fleet) -> None:
    """Every instance is healthy before a test."""
    for each in INSTANCES:
        fleet.wait_healthy(each)


def test_it_is_healthy_at_the_first_start(fleet: Fleet) -> None:
    """One command brings it up; a request needs the token; a document becomes an answer by way of the worker."""
    assert fleet.compose("ps", "--services", "--status", "running").split() == [
        *INSTANCES,
        "minio",
        "nginx",
        "postgres",
        "worker",
    ]
    with fleet.client() as client:
        home = "/users/42/avatars/7"
        assert client.get(f"{home}/collections", headers={"Authorization": ""}).status_code == 401
        assert client.put(f"{home}/documents/hut.md", content=HUT).status_code == 201
        report = client.post(f"{home}/ingest?wait_s=50").json()
        assert report["state"] == "done", report
        found = client.post(f"{home}/query", json={"text": "What does a night cost?"}).json()
        assert "31 crowns" in found["results"][0][0]["text"]
        assert client.get("/api/v2/tenants/42/databases/avatar-7/collections_count").json() == 1


def test_a_user_has_one_instance(fleet: Fleet) -> None:
    """nginx sends all of a user's requests to one instance, however the id is spelled, and users to both."""
    with fleet.client() as client:
        homes: dict[str, set[str]] = {}
        for number in range(20):
            user = f"hash-{number}@example.org"
            paths = [f"/users/{user}/collections", f"/users/{user.replace('@', '%40')}/collections"]
            paths += [f"/admin/users/{user}/deletion", f"/api/v2/tenants/{user}/databases/default_database/collections"]
            for path in paths:
                before = fleet.answered()
                client.get(path)
                homes.setdefault(user, set()).update(fleet.answered() - before)
    assert all(len(home) == 1 for home in homes.values()), homes
    assert {next(iter(home)) for home in homes.values()} == set(INSTANCES)


def test_one_is_killed(fleet: Fleet) -> None:
    """Its users are served by the other one, and by it again when it is back."""
    with Traffic(fleet, "killed") as traffic:
        traffic.wait_for_more()
        docker("kill", fleet.name("api-1"))
        traffic.wait_for_more()
        docker("start", fleet.name("api-1"))
        fleet.wait_healthy("api-1")
        traffic.wait_for_more()
    traffic.check()


def test_one_is_drained(fleet: Fleet) -> None:
    """SIGTERM: it ends by itself with code 0, and no answer is other than done or 503 with Retry-After."""
    with Traffic(fleet, "drained") as traffic:
        traffic.wait_for_more()
        docker("stop", "-t", "20", fleet.name("api-2"))
        assert state(fleet.name("api-2"), ".State.ExitCode") == "0"
        traffic.wait_for_more()
        docker("start", fleet.name("api-2"))
        fleet.wait_healthy("api-2")
        traffic.wait_for_more()
    traffic.check()
    assert set(traffic.answers) <= {"done", "503, Retry-After"}, traffic.answers


def test_one_is_cut_off_from_the_store(fleet: Fleet) -> None:
    """It acknowledges nothing meanwhile; when the network is back, a retry passes."""
    network, name = f"{fleet.project}_inner", fleet.name("api-1")
    with Traffic(fleet, "cut-off") as traffic:
        traffic.wait_for_more()
        docker("network", "disconnect", network, name)
        wait_until(lambda: traffic.answers["503, Retry-After"] > 0, lambda: str(traffic.answers))
        docker("network", "connect", "--alias", "api-1", network, name)
        traffic.wait_for_more()
    traffic.check()


def test_one_is_frozen(fleet: Fleet) -> None:
    """It answers nothing for a minute: the other one serves its users, and what it wakes up to harms nothing."""
    with Traffic(fleet, "frozen") as traffic:
        traffic.wait_for_more()
        docker("pause", fleet.name("api-1"))
        until = time.monotonic() + PAUSE_S
        traffic.wait_for_more()
        time.sleep(max(0.0, until - time.monotonic()))
        docker("unpause", fleet.name("api-1"))
        traffic.wait_for_more()
    traffic.check()


def test_one_is_out_of_memory(fleet: Fleet) -> None:
    """Its /tmp, which is memory, is filled up to its limit of 2 GiB. The kernel ends what it will; nothing is lost."""
    name = fleet.name("api-2")
    with Traffic(fleet, "memory") as traffic:
        traffic.wait_for_more()
        docker("exec", name, "dd", "if=/dev/zero", "of=/tmp/fill", "bs=1M", "count=2000", check=False)
        traffic.wait_for_more()
        docker("exec", name, "rm", "-f", "/tmp/fill", check=False)
        fleet.wait_healthy("api-2")
        traffic.wait_for_more()
    traffic.check()


def test_a_rolling_restart_under_load(fleet: Fleet) -> None:
    """Each instance is replaced by a new container; no answer is other than done or 503 with Retry-After."""
    with Traffic(fleet, "rolling") as traffic:
        for each in INSTANCES:
            traffic.wait_for_more()
            fleet.compose("up", "--detach", "--wait", "--no-deps", "--force-recreate", each)
            traffic.wait_for_more()
    traffic.check()
    assert set(traffic.answers) <= {"done", "503, Retry-After"}, traffic.answers
    # nginx finds the new containers, also those that have another address.
    before = fleet.answered()
    with fleet.client() as client:

        def both_answer() -> bool:
            for number in range(20):
                client.get(f"/users/after-{number}/collections")
            return set(fleet.answered() - before) == set(INSTANCES)

        wait_until(both_answer, lambda: f"{fleet.answered() - before}")


def test_what_is_deployed_is_tried_by_the_smoke_test(fleet: Fleet) -> None:
    """The script that the pipeline runs after a deployment passes here, and fails without a token that is known."""
    script = str(ROOT / "deploy" / "smoke")
    for token, code in (("only-for-trying-it", 0), ("unknown", 22)):
        env = {**os.environ, "VECTORPOOL_TOKEN": token, "NO_PROXY": "*", "no_proxy": "*"}
        ended = subprocess.run([script, fleet.url], env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stdout + ended.stderr
