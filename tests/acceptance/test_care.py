"""Health, the canary, recovery and notifications of the served product, over HTTP and by the command line."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import COMMAND, Service, environment
from vectorpool import names
from vectorpool.care.canary import canary_id

RECORDS = {"records": [{"id": f"n{number}", "embedding": [1.0, number]} for number in range(3)]}


@pytest.fixture
def service(tmp_path: Path) -> Any:
    """An instance whose rounds come every second."""
    running = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_HEALTH_INTERVAL_S": "1"}).start()
    yield running
    running.stop()


def _fill(service: Service, user: str) -> None:
    path = f"/users/{user}/collections"
    assert service.client.post(path, json={"name": "notes"}).status_code == 201
    for record in RECORDS["records"]:
        assert service.client.put(f"{path}/notes/records", json={"records": [record]}).status_code == 200


def _until(service: Service, path: str, holds: Any) -> Any:
    """Ask until the answer is as it should be, for a bounded time."""
    until_s = time.monotonic() + 60
    while True:
        answer = service.client.get(path)
        if answer.status_code == 200 and holds(answer.json()):
            return answer.json()
        assert time.monotonic() < until_s, answer.text
        time.sleep(0.1)


def _admin(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    url = str(service.client.base_url)
    return subprocess.run(
        [COMMAND, "admin", *arguments, "--service", url], capture_output=True, text=True, timeout=60, env=environment()
    )


def test_care_of_a_served_instance(service: Service) -> None:
    """Used users are checked by themselves, damage is told and recovered, and callers cannot touch the canary."""
    _fill(service, "42")
    health = _until(service, "/users/42/health", lambda told: told["state"] == "healthy")
    assert health["records"] == 3 and {check["state"] for check in health["checks"]} == {"ok"}
    told = _until(service, "/admin/health", lambda told: told["canary"]["state"] in ("ok", "failed"))
    assert told["canary"]["state"] == "ok", told
    canary = told["canary"]["user_id"]
    assert canary.startswith("vectorpool-canary-") and told["checked"]["healthy"] >= 1
    assert _admin(service, "health").returncode == 0

    # No tenant owns a canary, by neither protocol and by no body.
    for method, path in (
        ("GET", f"/users/{canary}/collections"),
        ("PUT", f"/users/{canary}/collections/canary/records"),
        ("GET", f"/api/v2/tenants/{canary}"),
        ("DELETE", f"/users/{canary}"),
        ("POST", f"/api/v2/tenants/{canary_id('another')}/databases/default_database/collections"),
    ):
        assert service.client.request(method, path, json=RECORDS).status_code == 403, path
    for path, body in (("/users/42/fork", {"user_id": canary}), ("/api/v2/tenants", {"name": canary})):
        assert service.client.post(path, json=body).status_code == 403, path

    # The newest commit is cut behind the instance's back; its open replica has everything.
    newest = Path(service.store) / (names.log_prefix("42") + names.commit_name(4))
    newest.write_bytes(newest.read_bytes()[:-20])
    checked = service.client.post("/admin/users/42/health").json()
    assert checked["state"] == "damaged"
    shown = _admin(service, "health", "42")
    assert shown.returncode == 1 and "damaged" in shown.stdout and "recover" in shown.stdout
    notifications = service.client.get("/admin/notifications", params={"event": "damage-found"}).json()["notifications"]
    assert [each["user_id"] for each in notifications] == ["42"]
    notification = notifications[0]["id"]
    seen = service.client.post(f"/admin/notifications/{notification}/acknowledge").json()
    assert seen["state"] == "acknowledged"

    plan = service.client.post("/admin/users/42/recover", params={"dry_run": "true"}).json()
    assert plan["plan"]["chosen"]["kind"] == "replica" and plan.get("report") is None
    assert "replica of commit 4: 3 records" in _admin(service, "recover", "42", "--dry-run").stdout
    beside = _admin(service, "recover", "42", "--dry-run", "--into", "new").stdout
    assert "default_database/notes comes back as notes-recovered-5" in beside
    assert service.client.post("/admin/users/42/recover", params={"into": "other"}).status_code == 400
    done = _admin(service, "recover", "42", "--yes", "--json")
    report = json.loads(done.stdout)["report"]
    assert (report["commit"], report["records"]) == (5, 3)
    page = service.client.get("/admin/users/42/recoveries/5/records").json()
    assert sorted(each["id"] for each in page["records"]) == ["n0", "n1", "n2"]
    assert service.client.get("/admin/users/42/recoveries/4").json()["code"] == "recovery-not-found"
    assert service.client.post("/admin/users/42/recover").json()["code"] == "not-damaged"
    assert service.client.post("/admin/users/42/evict").status_code == 200
    assert service.client.get("/users/42/collections/notes/count").json() == {"count": 3}
    _until(service, "/users/42/health", lambda told: told["state"] == "healthy" and told["commit"] == 5)
    assert "recovered" in _admin(service, "notifications").stdout

    # What is told of a user goes with the user.
    assert service.client.delete("/admin/users/42").status_code == 200
    left = service.client.get("/admin/notifications", params={"user": "42"}).json()["notifications"]
    assert left == []
    assert service.client.post("/admin/users/42/recover").json()["code"] == "user-not-found"
    text = service.client.get("/metrics").text
    for name in ("health_checks_total", "canary_rounds_total", "canary_seconds", "recoveries_total"):
        assert f"vectorpool_{name}" in text
