"""Exports by schedule of two workers over PostgreSQL, while writes go on; and a bucket that is lost afterwards."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.postgres import Postgres
from tests.support.service import Service

pytestmark = pytest.mark.long

USERS = [f"user-{number}" for number in range(6)]
ROUNDS = 12
END_S = 300


def records_of(service: Service, user: str) -> dict[str, tuple[Any, Any]]:
    body = {"limit": 1000, "include": ["documents", "embeddings"]}
    found = service.ok("POST", f"/users/{user}/collections/notes/records/get", json=body).json()["records"]
    return {each["id"]: (each["document"], each["embedding"]) for each in found}


def wait_for(what: Callable[[], bool], why: str) -> None:
    until_s = time.monotonic() + END_S
    while not what():
        assert time.monotonic() < until_s, why
        time.sleep(0.2)


def test_every_exported_record_comes_back_from_a_damaged_bucket(tmp_path: Path, postgres: Postgres) -> None:
    """Two instances export and check while both write; then logs are cut, replaced and deleted, and users imported."""
    base = postgres.url.rpartition("/")[0]
    with psycopg.connect(postgres.url, autocommit=True) as db:
        db.execute("CREATE DATABASE jobs")
        db.execute("CREATE DATABASE warehouse")
    env = {
        "VECTORPOOL_JOBS_URL": f"{base}/jobs",
        "VECTORPOOL_TARGETS": f"warehouse={base}/warehouse",
        "VECTORPOOL_EXPORT_TO": "warehouse",
        "VECTORPOOL_EXPORT_INTERVAL_S": "2",
        "VECTORPOOL_HEALTH_INTERVAL_S": "5",
    }
    store = str(tmp_path / "store")
    with contextlib.ExitStack() as stack:
        services = []
        for name in ("a", "b"):
            made = Service(tmp_path / name, "--shards", "1", store=store, env=env)
            stack.callback(made.close)
            services.append(made.start())
        for user in USERS:
            services[0].ok("POST", f"/users/{user}/collections", json={"name": "notes", "hnsw": {"space": "l2"}})
        for number in range(ROUNDS):
            for at, user in enumerate(USERS):
                made = [
                    {
                        "id": f"r{number}-{each}",
                        "embedding": [number, each, at],
                        "document": f"{number} {each} of {user}",
                    }
                    for each in range(5)
                ]
                home = f"/users/{user}/collections/notes/records"
                services[(number + at) % 2].ok("PUT", home, json={"records": made})
            time.sleep(0.3)
        newest = {user: services[0].ok("GET", f"/users/{user}").json()["commit"] for user in USERS}
        with psycopg.connect(f"{base}/warehouse", autocommit=True) as warehouse:

            def is_current() -> bool:
                try:
                    rows = warehouse.execute("SELECT user_id, commit FROM vectorpool.users").fetchall()
                except psycopg.errors.UndefinedTable:
                    return False
                return dict(rows) == newest

            wait_for(is_current, "the warehouse does not become current")
        wanted = {user: records_of(services[0], user) for user in USERS}
        assert all(len(each) == 5 * ROUNDS for each in wanted.values())
        for user in USERS:
            jobs = services[1].ok("GET", f"/users/{user}/jobs").json()["jobs"]
            assert {each["kind"] for each in jobs} == {"export"}
            written = [
                each["commit"] for each in jobs if each["state"] == "done" and not each["transfer"]["is_current"]
            ]
            assert len(written) == len(set(written)), f"a commit was exported twice: {jobs}"
        for user in USERS:
            wait_for(lambda: services[0].request("GET", f"/users/{user}/health").is_success, "no health check came")  # noqa: B023
        for service in services:
            assert service.stop() == 0, service.errors
        damage(Path(store))
        fresh = Service(tmp_path / "c", "--shards", "1", store=store, env={**env, "VECTORPOOL_EXPORT_TO": ""})
        stack.callback(fresh.close)
        fresh.start()
        for user in USERS:
            location = fresh.ok(
                "POST", f"/users/{user}-again/imports", json={"source": "warehouse", "source_user": user}
            ).headers["location"]
            job = fresh.ok("GET", f"{location}?wait_s=60").json()
            assert job["state"] == "done", job
            assert records_of(fresh, f"{user}-again") == wanted[user]


def damage(store: Path) -> None:
    """Cut, replace and delete the objects of all logs."""
    for at, user in enumerate(USERS):
        for number, path in enumerate(sorted((store / f"users/{user}/vectorstore/log").iterdir())):
            if not path.is_file():
                continue
            match (at + number) % 3:
                case 0:
                    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                case 1:
                    path.write_bytes(bytes(path.stat().st_size))
                case 2:
                    path.unlink()
