"""Workers that are killed inside a transfer: the next one goes on, and what was moved is whole, and there once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest

from tests.crash.test_jobs import kill_worker_of, worker_of
from tests.support.postgres import Postgres
from tests.support.service import Service

RECORDS = 2500
DIMENSION = 16
END_S = 240
ROUNDS = 6


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lake")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, lake: Path) -> Iterator[Service]:
    """A service with a user of many records, and a database in which its tables are already."""
    targets = f"warehouse={postgres.url} lake=parquet://{lake}"
    made = Service(tmp_path_factory.mktemp("service"), "--shards", "1", env={"VECTORPOOL_TARGETS": targets}).start()
    fill(made, "first", 1)
    fill(made, "42", RECORDS)
    finished(made, begun(made, "first", "exports", target="warehouse"))
    yield made
    made.close()


def fill(service: Service, user: str, count: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(count, DIMENSION)).round(3).tolist()
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes", "hnsw": {"space": "l2"}})
    for start in range(0, count, 2000):
        made = [
            {"id": f"r{number}", "embedding": vectors[number], "document": f"the text of {number}"}
            for number in range(start, min(start + 2000, count))
        ]
        service.ok("PUT", f"/users/{user}/collections/notes/records", json={"records": made})


def records(service: Service, user: str) -> dict[str, Any]:
    """Return the records of a user by id; none twice."""
    found: dict[str, Any] = {}
    while True:
        body = {"limit": 2000, "offset": len(found), "include": ["documents", "embeddings"]}
        page = service.ok("POST", f"/users/{user}/collections/notes/records/get", json=body).json()["records"]
        assert not found.keys() & {each["id"] for each in page}
        found |= {each["id"]: (each["document"], each["embedding"]) for each in page}
        if len(page) < 2000:
            return found


def begun(service: Service, user: str, what: str, **body: Any) -> str:
    """Return where a new job is; a worker that was killed may be starting again."""
    until_s = time.monotonic() + END_S
    while True:
        answer = service.client.post(f"/users/{user}/{what}", json=body)
        if answer.status_code == 202:
            return str(answer.headers["location"])
        assert answer.json()["code"] == "jobs-unavailable" and time.monotonic() < until_s, answer.text


def finished(service: Service, location: str) -> dict[str, Any]:
    until_s = time.monotonic() + END_S
    while time.monotonic() < until_s:
        answer = service.client.get(f"{location}?wait_s=2")
        if answer.status_code == 200 and answer.json()["state"] in ("done", "failed", "cancelled"):
            job: dict[str, Any] = answer.json()
            return job
    raise AssertionError(f"the job did not end: {answer.text}\n{service.errors}")


def wait_for(what: Callable[[], Any], why: str) -> None:
    until_s = time.monotonic() + END_S
    while not what():
        assert time.monotonic() < until_s, why
        time.sleep(0.005)


@contextmanager
def held(postgres: Postgres, mode: str) -> Iterator[Callable[[], bool]]:
    """Lock the table of records; yield what tells whether somebody waits for it."""
    with psycopg.connect(postgres.url) as holder, psycopg.connect(postgres.url, autocommit=True) as looker:
        holder.execute(f"LOCK TABLE vectorpool.records IN {mode} MODE".encode())
        sql = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'vectorpool.records'::regclass"
        yield lambda: looker.execute(sql).fetchone() is not None
        holder.rollback()


def in_database(postgres: Postgres, user: str) -> dict[str, Any]:
    sql = "SELECT id, document, embedding FROM vectorpool.records WHERE user_id = %s"
    with psycopg.connect(postgres.url) as db:
        rows = db.execute(sql, (user,)).fetchall()
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: (row[1], [float(np.float32(each)) for each in row[2]]) for row in rows}


def in_file(lake: Path, user: str) -> dict[str, Any]:
    rows = pq.read_table(lake / f"{user}.parquet").to_pylist()
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: (row["document"], row["embedding"]) for row in rows}


def assert_imported_once(service: Service, user: str, wanted: dict[str, Any]) -> None:
    assert records(service, user) == wanted
    log = Path(service.store) / f"users/{user}/vectorstore/log"
    assert len([path for path in log.iterdir() if path.is_file()]) == 1
    assert service.ok("GET", f"/users/{user}").json()["commit"] == 1


def test_an_export_to_postgresql_and_an_import_go_on(service: Service, postgres: Postgres) -> None:
    """The database holds the worker between two rows; it is killed there."""
    wanted = records(service, "42")
    location = ""
    with held(postgres, "SHARE") as is_waited_for:
        location = begun(service, "42", "exports", target="warehouse")
        wait_for(is_waited_for, "the export did not come to its records")
        kill_worker_of(service)
    job = finished(service, location)
    assert (job["state"], job["transfer"]["records"]) == ("done", RECORDS), job
    assert in_database(postgres, "42") == wanted
    again = finished(service, begun(service, "42", "exports", target="warehouse"))
    assert again["transfer"]["is_current"], again

    with held(postgres, "ACCESS EXCLUSIVE") as is_waited_for:
        location = begun(service, "43", "imports", source="warehouse", source_user="42")
        wait_for(is_waited_for, "the import did not come to its records")
        kill_worker_of(service)
    job = finished(service, location)
    assert (job["state"], job["commit"]) == ("done", 1), job
    assert_imported_once(service, "43", wanted)


@pytest.mark.long
def test_an_export_to_parquet_goes_on(service: Service, lake: Path) -> None:
    """The worker is killed while the new file is written; the old one stays until the next worker's is whole."""
    wanted = records(service, "42")
    location = begun(service, "42", "exports", target="lake")
    unfinished = lake / "42.parquet.new"
    wait_for(lambda: unfinished.exists() or (lake / "42.parquet").exists(), "the export did not begin its file")
    kill_worker_of(service)
    job = finished(service, location)
    assert job["state"] == "done", job
    assert in_file(lake, "42") == wanted
    assert not unfinished.exists()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_transfers_that_are_killed_anywhere(service: Service, postgres: Postgres, lake: Path) -> None:
    """At random moments, from the first look at the log to the last answer: each ends whole, or says why not."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    wanted = records(service, "42")
    for number in range(ROUNDS):
        # A worker that dies again and again is started later and later.
        service.restart()
        for what, body in (
            ("exports", {"target": "warehouse"}),
            ("exports", {"target": "lake"}),
            ("imports", {"source": "warehouse", "source_user": "42"}),
        ):
            user = f"again-{number}" if what == "imports" else "42"
            if what == "exports":
                # Something to export.
                record = {"id": "r0", "embedding": wanted["r0"][1], "document": f"changed {number}"}
                service.ok("PUT", "/users/42/collections/notes/records", json={"records": [record]})
                wanted["r0"] = (record["document"], wanted["r0"][1])
            location = begun(service, user, what, **body)
            time.sleep(rng.random() * 1.2)
            wait_for(lambda: worker_of(service) is not None, "no worker runs")
            kill_worker_of(service)
            began_s = time.monotonic()
            job = finished(service, location)
            print(f"round {number}: {what} {body}, over {time.monotonic() - began_s:.1f} s after the kill")
            assert job["state"] == "done", job
            if what == "imports":
                assert_imported_once(service, user, wanted)
            elif body["target"] == "lake":
                assert in_file(lake, "42") == wanted
                finished(service, begun(service, "42", "exports", target="warehouse"))
            assert in_database(postgres, "42").keys() == wanted.keys()
        assert in_database(postgres, "42") == wanted
