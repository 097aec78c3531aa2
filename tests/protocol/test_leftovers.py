"""What a deleted collection leaves behind: nothing that a later record shows as its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma
from tests.support.service import Service
from vectorpool.engine.leftovers import sweep_lists

SECRET = {"secret": ["avatar one"], "plain": "too"}


@pytest.mark.parametrize("whole", ["collection", "database", "native", "avatar"])
def test_lists_go_with_their_collection(tmp_path: Path, whole: str) -> None:
    """A new record never shows the list that a record of a deleted collection had, whatever way that was deleted."""
    service = Service(tmp_path, "--shards", "1").start()
    try:

        def database(avatar: int) -> str:
            return f"/api/v2/tenants/42/databases/avatar-{avatar}"

        made = service.ok("POST", f"{database(1)}/collections", json={"name": "first"}).json()["id"]
        rows = {"ids": ["1", "2"], "embeddings": [[1, 2], [3, 4]], "metadatas": [SECRET, SECRET]}
        service.ok("POST", f"{database(1)}/collections/{made}/add", json=rows)
        path = {
            "collection": f"{database(1)}/collections/first",
            "database": database(1),
            "native": "/users/42/avatars/1/collections/first",
            "avatar": "/users/42/avatars/1",
        }[whole]
        service.ok("DELETE", path)
        other = service.ok("POST", f"{database(2)}/collections", json={"name": "second"}).json()["id"]
        service.ok(
            "POST", f"{database(2)}/collections/{other}/add", json={"ids": ["3", "4"], "embeddings": [[1, 2], [3, 4]]}
        )
        got = service.ok("POST", f"{database(2)}/collections/{other}/get", json={}).json()
        assert (got["ids"], got["metadatas"]) == (["3", "4"], [None, None])
    finally:
        service.close()


def _leaky(directory: Path) -> Path:
    """Fill a directory as plain Chroma does: two records with lists, of which one's collection was deleted."""
    directory.mkdir(parents=True)
    chroma = PlainChroma(directory)
    for name, record in (("kept", "a"), ("deleted", "b")):
        info = chroma.create(name)
        chroma.upsert(info, [record], np.ones((1, 2), np.float32), [{"of": [name]}], None, None)
    chroma.delete_collection("deleted")
    chroma.close()
    return directory


def _added(chroma: PlainChroma) -> object:
    """Add a record without metadata to a new collection, and return the metadata that it has."""
    info = chroma.create("new")
    chroma.upsert(info, ["c"], np.ones((1, 2), np.float32), None, None, None)
    rows = chroma.get(info, include=["metadatas"])
    chroma.close()
    assert rows.metadatas is not None
    return rows.metadatas[0]


def test_plain_chroma_leaves_lists_which_a_sweep_takes(tmp_path: Path) -> None:
    """Without the sweep a new record shows the list of a deleted one, with it none; a second sweep finds nothing."""
    leaky = _leaky(tmp_path / "leaky")
    swept = Path(shutil.copytree(leaky, tmp_path / "swept"))
    assert (sweep_lists(swept), sweep_lists(swept)) == (1, 0)
    assert (_added(PlainChroma(leaky)), _added(PlainChroma(swept))) == ({"of": ["deleted"]}, None)


@pytest.mark.parametrize("content", [b"", b"no database" * 1000, None], ids=["empty", "foreign", "missing"])
def test_a_file_that_cannot_be_swept_is_left_to_chroma(tmp_path: Path, content: bytes | None) -> None:
    """What SQLite cannot read, or what has no lists, is as it was."""
    path = tmp_path / "chroma.sqlite3"
    if content is not None:
        path.write_bytes(content)
    assert sweep_lists(tmp_path) == 0
    assert (path.read_bytes() if path.exists() else None) == content


def test_an_adopted_directory_shows_no_list_of_a_deleted_collection(tmp_path: Path) -> None:
    """Neither the instance that adopts a plain Chroma directory nor the next one shows what Chroma left in it."""
    _leaky(tmp_path / "store" / "users" / "42" / "vectorstore")
    service = Service(tmp_path, "--shards", "1").start()
    collections = "/api/v2/tenants/42/databases/default_database/collections"
    try:
        kept = service.ok("GET", f"{collections}/kept").json()["id"]
        made = service.ok("POST", collections, json={"name": "new"}).json()["id"]
        for record in ("c", "d"):
            service.ok("POST", f"{collections}/{made}/add", json={"ids": [record], "embeddings": [[1, 2]]})
            service.stop()
            service.delete_replicas()
            service.start()
        assert service.ok("POST", f"{collections}/{made}/get", json={}).json()["metadatas"] == [None, None]
        assert service.ok("POST", f"{collections}/{kept}/get", json={}).json()["metadatas"] == [{"of": ["kept"]}]
    finally:
        service.close()
