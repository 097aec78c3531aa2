"""One directory and more collections than a client of Chroma may hold: what the client does about it."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from vectorpool.engine import calls
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.errors import BrokenReplica

Filled = tuple[PlainChroma, list[CollectionInfo]]


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """A directory with three times as many collections as its client may hold."""
    monkeypatch.setattr(calls, "MAX_COLLECTIONS", 3)
    chroma = PlainChroma(tmp_path)
    infos = []
    for number in range(9):
        info = chroma.create(f"n-{number}", {"sync_threshold": 1000})
        chroma.upsert(info, ["a", "b"], np.eye(2, 3, dtype=np.float32), None, None, None)
        infos.append(chroma.collection(info.name))
    return chroma, infos


def _open_indexes(directory: Path) -> set[Path]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            path = descriptor.readlink()
            if path.is_relative_to(directory) and path.suffix == ".bin":
                found.add(path.parent)
    return found


def test_threads_of_many_collections_see_everything(filled: Filled) -> None:
    """Threads that read different collections, and one that writes, never meet a client that was closed."""
    chroma, infos = filled
    vector = np.ones((1, 3), np.float32)
    ended = threading.Event()

    def read(thread: int) -> set[int]:
        return {len(chroma.query(infos[(thread * 2 + turn) % 9], vector, 2)[0].ids) for turn in range(60)}

    def write() -> int:
        written = 0
        while not ended.is_set():
            chroma.upsert(infos[written % 9], ["b"], vector, None, None, None)
            written += 1
        return written

    with ThreadPoolExecutor(5) as threads:
        writer = threads.submit(write)
        try:
            seen = [*threads.map(read, range(4))]
        finally:
            ended.set()
        assert writer.result() > 0
    assert seen == [{2}] * 4
    chroma.close()


def test_descriptors_stay_bounded(tmp_path: Path, filled: Filled) -> None:
    """However many collections are read, only as many as one client may hold have files open."""
    chroma, infos = filled
    for info in infos * 2:
        chroma.query(info, np.ones((1, 3), np.float32), 1)
        # A client that was closed takes some milliseconds to let go.
        assert len(_open_indexes(tmp_path)) <= 2 * calls.MAX_COLLECTIONS
    chroma.close()


def test_a_client_that_cannot_be_opened_again_is_a_broken_replica(tmp_path: Path, filled: Filled) -> None:
    """A call that needs a new client, and gets none, says so as every broken replica does; so do the next ones."""
    chroma, infos = filled
    held, *others = infos
    chroma.count(held)
    database = tmp_path / "chroma.sqlite3"
    database.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(BrokenReplica):
            for info in others:
                chroma.count(info)
    chroma.close()
