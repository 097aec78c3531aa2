"""Make the fixture of a jobs' database that an older version left: ``python -m tests.support.old_jobs COMMAND OUT``.

COMMAND is the older version's ``vectorpool``, in an environment of its own; for ``jobs-dbos-3.3.sql`` it was that of
the commit c772330, whose tables had no versions, with DBOS 3.3.0. User 1 has a finished job of two documents, user 2
one of which a part was ingested when the instance was killed, user 3 one that waits. OUT is the database as SQL.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from tests.support import service as support
from tests.support.service import Service

COUNTS = {"1": 2, "2": 60, "3": 3}


def place(store: str, user: str) -> dict[str, str]:
    """Put a user's documents into the store; return their texts by path."""
    folder = Path(store) / f"users/{user}/avatars/7/vectorstore_data"
    folder.mkdir(parents=True)
    texts = {f"{n:05d}.md": f"# Document {n}\n\nThe number of it is {n}.\n" for n in range(COUNTS[user])}
    for path, text in texts.items():
        (folder / path).write_text(text)
    return texts


def main(command: str, out: Path) -> None:
    """Make the database with the older command, and write it as SQL."""
    support.COMMAND = command
    # Settings that the older version does not know.
    ours = support.environment
    later = ("VECTORPOOL_SYNC_ON_WRITE", "VECTORPOOL_SWEEP_INTERVAL_S")
    support.environment = lambda **env: ours(**{name: value for name, value in env.items() if name not in later})
    with tempfile.TemporaryDirectory() as root:
        path = Path(root) / "jobs.sqlite3"
        env = {"VECTORPOOL_JOBS_URL": f"sqlite:///{path}", "VECTORPOOL_JOBS_AT_ONCE": "1"}
        service = Service(Path(root), "--shards", "1", env=env).start()
        for user in COUNTS:
            place(service.store, user)
        first = service.ok("POST", "/users/1/avatars/7/ingest?wait_s=60").json()
        assert first["state"] == "done", first
        running = service.ok("POST", "/users/2/avatars/7/ingest").json()["job_id"]
        service.ok("POST", "/users/3/avatars/7/ingest")
        while not service.ok("GET", f"/users/2/jobs/{running}?limit=100").json()["counts"].get("ingested"):
            pass
        service.kill_all()
        service.close()
        with closing(sqlite3.connect(path)) as db:
            out.write_text("\n".join(db.iterdump()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
