"""A database of jobs that an older version left is taken up: no job of it is lost, and new ones run."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.crash.test_jobs import assert_whole, begun, finished
from tests.support.old_jobs import COUNTS, place
from tests.support.service import Service

OLD = Path(__file__).parent / "data" / "jobs-dbos-3.3.sql"


def test_jobs_of_an_older_version_go_on(tmp_path: Path) -> None:
    """Tables from before they had versions, by an older DBOS: finished, running and waiting jobs keep their ids."""
    path = tmp_path / "jobs.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD.read_text())
        # As if it ended just now: finished jobs are kept for a bounded time.
        now_ms = int(time.time() * 1000)
        db.execute("UPDATE vectorpool_jobs SET finished_ms = ? WHERE finished_ms IS NOT NULL", (now_ms,))
        db.execute("UPDATE workflow_status SET completed_at = ? WHERE completed_at IS NOT NULL", (now_ms,))
        db.commit()
        old = dict(db.execute("SELECT user_id, id FROM vectorpool_jobs").fetchall())
        states = dict(db.execute("SELECT user_id, state FROM vectorpool_jobs").fetchall())
    assert states == {"1": "done", "2": "running", "3": "queued"}
    service = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_JOBS_URL": f"sqlite:///{path}"}).start()
    try:
        texts = {user: place(service.store, user) for user in COUNTS}
        for user in ("2", "3"):
            job = finished(service, old[user], user)
            assert (job["state"], job["counts"]["total"]) == ("done", COUNTS[user]), job
            assert_whole(service, texts[user], user)
        shown = finished(service, old["1"], "1")
        assert (shown["state"], shown["counts"]["ingested"]) == ("done", 2)
        assert [each["path"] for each in shown["documents"]] == ["00000.md"]
        assert finished(service, begun(service, "1"), "1")["state"] == "done"
        assert_whole(service, texts["1"], "1")
    finally:
        service.close()
