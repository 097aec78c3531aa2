"""The pool as a library: real shards, a directory as store, this process as the caller."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vectorpool
from vectorpool.errors import (
    CollectionExists,
    CollectionNotFound,
    DocumentNotFound,
    LimitExceeded,
    Misconfigured,
    UserNotFound,
)
from vectorpool.instance.handles import Pool

# The caller of a shard that is being started again waits at most this long.
RESTART_S = 60.0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Return a pool that the tests of this module share, each with users of its own."""
    root = tmp_path_factory.mktemp("library")
    with vectorpool.open(root / "store", replica_dir=root / "replicas", shards=1, max_body_bytes=4 << 20) as opened:
        yield opened


def shard_ids() -> set[int]:
    """Return the process ids of this process's shards."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"vectorpool.shard.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(int(child))
    return found


def test_records_are_written_and_found(pool: Pool) -> None:
    """With arrays, filters and parts of records, as over HTTP."""
    user = pool.user("records")
    notes = user.create_collection("notes", metadata={"kind": "test"}, space="l2")
    assert notes.upsert(["a", "b"], embeddings=np.eye(2, 3, dtype="<f4"), metadatas=[{"n": 1}, {"n": 2}]) == 2
    assert notes.add(["c"], embeddings=[[0.0, 0.0, 1.0]], documents=["third"]) == 1
    assert notes.update(["c"], metadatas=[{"n": 3}]) == 1
    assert [match.id for match in notes.query(embeddings=[[0.0, 0.1, 1.0]], n_results=2)[0]] == ["c", "b"]
    assert [record.id for record in notes.get(where={"n": {"$gte": 2}})] == ["b", "c"]
    assert notes.get(["c"])[0].document == "third"
    assert notes.info().space == "l2"
    assert notes.info().metadata == {"kind": "test"}
    assert notes.delete(where={"n": 1}) == 1
    assert notes.count() == 2
    assert [collection.name for collection in user.collections()] == ["notes"]
    with pytest.raises(CollectionExists):
        user.create_collection("notes")
    notes.drop()
    with pytest.raises(CollectionNotFound):
        notes.count()


def test_documents_become_passages(pool: Pool) -> None:
    """Put, ingest, ask, list and delete; paths keep their slashes."""
    avatar = pool.user("documents").avatar("7")
    avatar.put_document("hut/prices.md", b"# Prices\n\nA night costs 31 crowns for adults.")
    report = avatar.ingest()
    assert [(outcome.path, outcome.status) for outcome in report.documents] == [("hut/prices.md", "ingested")]
    (passages,) = avatar.query("How much is a night?", n_results=1).results
    assert passages[0].path == "hut/prices.md"
    assert "31 crowns" in passages[0].text
    assert avatar.get_document("hut/prices.md").startswith(b"# Prices")
    assert [document.path for document in avatar.documents().documents] == ["hut/prices.md"]
    assert avatar.info().records == 1
    assert avatar.delete_document("hut/prices.md") == 1
    with pytest.raises(DocumentNotFound):
        avatar.get_document("hut/prices.md")


def test_history_is_there(pool: Pool) -> None:
    """Commits, backups, restore, fork, delete."""
    user = pool.user("history")
    notes = user.create_collection("notes")
    notes.add(["a"], embeddings=[[1.0, 0.0]])
    user.back_up("first")
    notes.add(["b"], embeddings=[[0.0, 1.0]])
    assert user.restore(backup="first").restored_from == 2
    assert notes.count() == 1
    assert user.fork("history-2").user_id == "history-2"
    assert pool.user("history-2").collection("notes").count() == 1
    assert [backup.name for backup in user.backups()] == ["first"]
    assert user.commits(limit=1)[0].restored_from == 2
    info = user.info()
    assert (info.stored.records, info.commit) == (1, user.commits(limit=1)[0].commit)
    user.delete()
    with pytest.raises(UserNotFound):
        user.info()


def test_chromas_client_works_on_top(pool: Pool) -> None:
    """An avatar's database and the user's own; two clients at once; the bounds hold there too."""
    user = pool.user("clients")
    client, other = user.avatar("7").chroma(), user.chroma()
    notes = client.create_collection("notes")
    notes.add(ids=["a", "b"], embeddings=[[1.0, 0.0], [0.0, 1.0]], metadatas=[{"n": 1}, {"n": 2}])
    assert notes.query(query_embeddings=[[0.0, 1.0]], n_results=1)["ids"] == [["b"]]
    assert user.avatar("7").collection("notes").count() == 2
    assert other.list_collections() == []
    assert other.heartbeat() > 0
    with pytest.raises(Exception, match="Payload too large"):
        notes.add(ids=["c"], embeddings=[[0.0, 1.0]], documents=["x" * (5 << 20)])
    assert notes.count() == 2


async def test_the_same_for_asyncio(tmp_path: Path, pool: Pool) -> None:
    """On the caller's loop, beside another pool; Chroma's client for asyncio too; a cancelled call ends."""
    async with vectorpool.open_async(tmp_path / "store", replica_dir=tmp_path / "replicas", shards=1) as opened:
        user = opened.user("42")
        notes = await user.create_collection("notes")
        names = [f"r{number}" for number in range(20)]
        await asyncio.gather(*(notes.upsert([name], embeddings=[[1.0, 0.0]]) for name in names))
        assert await notes.count() == 20
        client = await user.chroma()
        assert [collection.name for collection in await client.list_collections()] == ["notes"]
        asking = asyncio.ensure_future(notes.query(texts=["How?"] * 50))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await notes.count() == 20
        with pytest.raises(UserNotFound):
            await opened.user("records").info()
    with pytest.raises(RuntimeError, match="closed"):
        await notes.count()


def test_a_crash_of_a_shard_ends_no_caller(pool: Pool) -> None:
    """The shard is killed; the write that was acknowledged is there after it."""
    notes = pool.user("crash").create_collection("notes")
    notes.add(["a"], embeddings=[[1.0, 0.0]])
    for process in shard_ids():
        os.kill(process, signal.SIGKILL)
    until = time.monotonic() + RESTART_S
    while True:
        try:
            assert notes.count() == 1
            break
        except vectorpool.errors.VectorpoolError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_threads_share_a_pool(pool: Pool) -> None:
    """Calls of many threads are answered side by side."""
    notes = pool.user("threads").create_collection("notes")
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            notes.upsert([name], embeddings=[[1.0, 0.0]])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(f"r{number}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert notes.count() == 16


def test_a_body_beyond_the_bound_is_refused(pool: Pool) -> None:
    """As over HTTP."""
    with pytest.raises(LimitExceeded):
        pool.user("large").avatar("7").put_document("a.txt", b"x" * (5 << 20))


def test_a_store_that_is_refused_is_a_sentence(tmp_path: Path) -> None:
    """Nothing of it is left behind."""
    (tmp_path / "file").write_text("no directory")
    before = threading.active_count()
    with pytest.raises(Misconfigured):
        vectorpool.open(tmp_path / "file", replica_dir=tmp_path / "replicas", shards=1)
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.05)
    assert threading.active_count() <= before


_PROGRAM = """
import os, sys, vectorpool
pool = vectorpool.open(sys.argv[1], replica_dir=sys.argv[2], shards=1, durability="write-back",
                       write_back_interval_s=3600)
notes = pool.user("42").create_collection("notes")
notes.add(["a"], embeddings=[[1.0, 0.0]])
assert "chromadb" not in sys.modules, "the caller pays for Chroma's package"
if os.fork() == 0:
    try:
        notes.count()
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
# It ends here without closing the pool.
"""


def test_what_was_acknowledged_is_committed_when_the_process_ends(tmp_path: Path) -> None:
    """Under write-back, nothing else commits it. A forked process is told to open a pool of its own."""
    run = [sys.executable, "-c", _PROGRAM, str(tmp_path / "store"), str(tmp_path / "first")]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "before this process was forked" in done.stdout
    with vectorpool.open(tmp_path / "store", replica_dir=tmp_path / "second", shards=1) as pool:
        assert pool.user("42").collection("notes").count() == 1
