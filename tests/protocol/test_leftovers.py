"""What a deleted collection leaves behind: nothing that a later record shows as its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.service import Service

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
