"""Exports and imports of users as jobs: by the names of targets, with progress, and without a URL in any answer."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Postgres
from tests.support.service import COMMAND, Service, environment

SECRET = "the-secret-of-the-warehouse"
TOKENS = {
    "gateway": 'users = "*"\nadmin = true',
    "ann": 'users = ["ann"]',
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Service]:
    """A service with a warehouse in PostgreSQL, one that is away, and a folder of Parquet files."""
    root = tmp_path_factory.mktemp("exports")
    warehouse = postgres.url.replace("test@", f"test:{SECRET}@")
    away = f"postgresql://test:{SECRET}@127.0.0.1:9/postgres"
    tokens = root / "tokens.toml"
    tables = (
        f'[tokens.{name}]\nsha256 = "{sha256(name.encode()).hexdigest()}"\n{rest}\n' for name, rest in TOKENS.items()
    )
    tokens.write_text("".join(tables))
    targets = f"warehouse={warehouse} away={away} lake=parquet://{root}/lake"
    made = Service(root, "--shards", "1", "--tokens-file", str(tokens), env={"VECTORPOOL_TARGETS": targets}).start()
    made.client.headers["authorization"] = "Bearer gateway"
    yield made
    made.close()


def fill(service: Service, user: str, count: int, *, start: int = 0) -> None:
    """Write records into the collection ``notes``."""
    service.request("POST", f"/users/{user}/collections", json={"name": "notes", "hnsw": {"space": "l2"}})
    made = [
        {"id": f"r{number}", "embedding": [float(number), 1.0, 0.5], "document": f"the text of {number}"}
        for number in range(start, start + count)
    ]
    service.ok("PUT", f"/users/{user}/collections/notes/records", json={"records": made})


def finished(service: Service, location: str, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a job once it is finished."""
    while True:
        job: dict[str, Any] = service.ok("GET", f"{location}?wait_s=30", headers=headers).json()
        if job["state"] in ("done", "failed", "cancelled"):
            return job


def exported(service: Service, user: str, target: str = "warehouse", **more: Any) -> dict[str, Any]:
    """Export a user, and return the finished job."""
    answer = service.ok("POST", f"/users/{user}/exports", json={"target": target, **more})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/users/{user}/jobs/{answer.json()['job_id']}"
    return finished(service, answer.headers["location"])


def records(service: Service, user: str) -> list[dict[str, Any]]:
    """Return all records of the collection ``notes``, with their vectors."""
    body = {"limit": 1000, "include": ["documents", "metadatas", "embeddings"]}
    found = service.ok("POST", f"/users/{user}/collections/notes/records/get", json=body).json()["records"]
    return sorted(found, key=lambda each: each["id"])


def told(service: Service, user: str, events: list[str]) -> list[dict[str, Any]]:
    """Return the open notifications of a user once they are of these events: they come after the end of a job."""
    until_s = time.monotonic() + 60
    while True:
        page = service.ok("GET", "/admin/notifications?state=open").json()["notifications"]
        page = [each for each in page if each.get("user_id") == user]
        if [each["event"] for each in page] == events:
            return page
        assert time.monotonic() < until_s, page
        time.sleep(0.05)


@pytest.mark.parametrize("target", ["warehouse", "lake"])
def test_a_vectorstore_goes_out_and_comes_back(service: Service, target: str) -> None:
    """Record by record, by increments, and to another user for a caller who may touch both."""
    user = f"out-{target}"
    fill(service, user, 30)
    first = exported(service, user, target)
    assert (first["kind"], first["state"], first["avatar_id"]) == ("export", "done", "")
    moved = first["transfer"]
    assert (moved["target"], moved["records"], moved["total"], moved["collections"]) == (target, 30, 30, 1)
    fill(service, user, 2, start=29)
    second = exported(service, user, target)
    assert second["commit"] == first["commit"] + 1
    # A Parquet file is written whole.
    assert second["transfer"]["records"] == (2 if target == "warehouse" else 31)
    assert exported(service, user, target)["transfer"]["is_current"] is True
    answer = service.ok("POST", f"/users/{user}-2/imports", json={"source": target, "source_user": user})
    job = finished(service, answer.headers["location"])
    assert (job["state"], job["commit"], job["transfer"]["records"]) == ("done", 1, 31), job
    assert records(service, f"{user}-2") == records(service, user)
    again = service.ok("POST", f"/users/{user}-2/imports", json={"source": target, "source_user": user})
    job = finished(service, again.headers["location"])
    assert (job["state"], job["code"]) == ("failed", "vectorstore-exists")


def test_events_list_and_cancel_know_exports(service: Service) -> None:
    """As they do ingests: a stream of changes, the list of jobs, the end of one that retries, and its retry."""
    fill(service, "views", 3)
    done = exported(service, "views")
    events = service.ok("GET", f"/users/views/jobs/{done['job_id']}/events").text
    assert "event: done" in events and '"target":"warehouse"' in events
    # One that cannot reach its target begins again for minutes.
    location = service.ok("POST", "/users/views/exports", json={"target": "away"}).headers["location"]
    joined = service.ok("POST", "/users/views/exports", json={"target": "away", "at": 1}).headers["location"]
    assert joined != location
    same = service.ok("POST", "/users/views/exports", json={"target": "away", "at": 1}).headers["location"]
    assert same == joined, "one that asks for the same as one that waits"
    for each in (location, joined):
        assert service.ok("DELETE", each).json()["state"] == "cancelled"
    assert service.ok("POST", f"{joined}/retry").json()["attempt"] == 2
    assert service.ok("DELETE", joined).json()["state"] == "cancelled"
    listed = service.ok("GET", "/users/views/jobs").json()["jobs"]
    assert [each["kind"] for each in listed] == ["export"] * 3


def test_users_name_targets_and_nothing_else(service: Service) -> None:
    """No URL, no other user's records, nothing of workers; and the user must have something."""
    fill(service, "ann", 2)
    fill(service, "bob", 2)
    exported(service, "bob")
    ann = {"authorization": "Bearer ann"}
    for target in ("postgresql://127.0.0.1/postgres", "/etc", "parquet:///etc", "lake2", ""):
        refused = service.problem("POST", "/users/ann/exports", "unknown-target", json={"target": target}, headers=ann)
        assert "warehouse" in refused.json()["detail"]
        service.problem("POST", "/users/ann/imports", "unknown-target", json={"source": target}, headers=ann)
    theirs = {"source": "warehouse", "source_user": "bob"}
    service.problem("POST", "/users/ann/imports", "forbidden", json=theirs, headers=ann)
    service.problem("POST", "/users/bob/exports", "forbidden", json={"target": "lake"}, headers=ann)
    # The routes of workers take tokens for every user alone.
    service.problem("POST", "/users/ann/commands", "forbidden", content=b"", headers=ann)
    service.problem("PUT", "/users/ann/directory", "forbidden", content=b"x" * 1000, headers=ann)
    service.problem("POST", "/users/ann/commands", "malformed-json", content=b"no command")
    location = service.ok("POST", "/users/nobody/exports", json={"target": "lake"}).headers["location"]
    assert finished(service, location)["code"] == "user-not-found"
    service.problem("POST", "/users/ann/exports", "malformed-json", json={"target": "lake", "url": "x"}, headers=ann)


def test_a_refusal_of_the_target_ends_the_job_and_is_told(service: Service, postgres: Postgres) -> None:
    """With its reason; what is told is settled by the next export that works; no credential appears anywhere."""
    fill(service, "told", 2)
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("CREATE SCHEMA IF NOT EXISTS vectorpool")
        exported(service, "told")
        db.execute("ALTER TABLE vectorpool.records RENAME TO records_elsewhere")
        try:
            fill(service, "told", 1, start=5)
            job = exported(service, "told")
            assert (job["state"], job["code"]) == ("failed", "target-refused"), job
            assert told(service, "told", ["export-failed"])[0]["subject"] == "warehouse"
        finally:
            db.execute("DROP TABLE IF EXISTS vectorpool.records")
            db.execute("ALTER TABLE vectorpool.records_elsewhere RENAME TO records")
    assert exported(service, "told")["state"] == "done"
    told(service, "told", [])
    seen = service.ok("GET", "/users/told/jobs").text + service.ok("GET", "/admin/notifications").text
    seen += service.ok("GET", "/admin/audit").text + service.errors + "".join(service.output)
    for directory, _, files in os.walk(service.replica_dir):
        for name in files:
            path = Path(directory) / name
            if path.suffix.startswith(".sqlite3") and path.exists():
                seen += path.read_bytes().decode("latin-1")
    assert SECRET not in seen


def receipt_of(service: Service, user: str, target: str) -> dict[str, Any]:
    """Return what the receipt of a deletion says of a target, once that is something."""
    until_s = time.monotonic() + 120
    while True:
        told = service.ok("GET", f"/admin/users/{user}/deletion").json()
        for each in told["targets"]:
            if each["target"] == target and (each["deleted_at_ms"] or each["reason"]):
                return dict(each)
        assert time.monotonic() < until_s, told
        time.sleep(0.05)


@pytest.mark.parametrize("path", ["/users/{}", "/admin/users/{}"])
def test_a_deletion_goes_on_to_every_target(service: Service, postgres: Postgres, path: str) -> None:
    """With the result in its receipt, of a target that is away too; and nothing of the user comes back."""
    user = f"gone-{len(path)}"
    fill(service, user, 4)
    for target in ("warehouse", "lake"):
        assert exported(service, user, target)["state"] == "done"
    service.ok("DELETE", path.format(user))
    for target in ("warehouse", "lake"):
        told = receipt_of(service, user, target)
        assert told["deleted_at_ms"] and told["records"] == 4, told
    away = receipt_of(service, user, "away")
    assert away["deleted_at_ms"] is None and "127.0.0.1:9" in away["reason"] and SECRET not in away["reason"]
    with psycopg.connect(postgres.url) as db:
        row = db.execute("SELECT count(*) FROM vectorpool.records WHERE user_id = %s", (user,)).fetchone()
        assert row == (0,)
    assert exported(service, user)["code"] == "user-not-found"
    location = service.ok("POST", f"/users/{user}/imports", json={"source": "lake"}).headers["location"]
    assert finished(service, location)["code"] == "user-not-found"
    # Made anew, it is exported again.
    fill(service, user, 1)
    assert exported(service, user)["transfer"]["records"] == 1
    done = service.ok("GET", f"/users/{user}/jobs?state=done").json()["jobs"]
    assert [each["kind"] for each in done].count("forget") == 2


@pytest.mark.long
def test_a_reset_and_a_command_reach_targets_between_two_rounds(tmp_path: Path, postgres: Postgres) -> None:
    """Chroma's reset asks for the deletions itself; for a command straight on the bucket a worker looks."""
    targets = f"warehouse={postgres.url} lake=parquet://{tmp_path}/lake"
    env = {"VECTORPOOL_TARGETS": targets, "VECTORPOOL_ALLOW_RESET": "true"}
    made = Service(tmp_path / "service", "--shards", "1", env=env).start()
    try:
        for user in ("by-command", "by-reset"):
            fill(made, user, 3)
            for target in ("warehouse", "lake"):
                assert exported(made, user, target)["state"] == "done"
        deletion = subprocess.run(
            [COMMAND, "admin", "delete", "by-command", "--yes", "--store", made.store],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment(),
        )
        assert deletion.returncode == 0, deletion.stderr
        for target in ("warehouse", "lake"):
            assert receipt_of(made, "by-command", target)["records"] == 3
        made.ok("POST", "/api/v2/reset")
        for target in ("warehouse", "lake"):
            assert receipt_of(made, "by-reset", target)["records"] == 3
        with psycopg.connect(postgres.url) as db:
            sql = "SELECT count(*) FROM vectorpool.records WHERE user_id LIKE 'by-%'"
            assert db.execute(sql).fetchone() == (0,)
    finally:
        made.close()
