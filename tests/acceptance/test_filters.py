"""Filters over HTTP: the right records, warm and cold, below and above the sync threshold, after evict and restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.service import Service, run_cli

CLOCK = 1733262915.8748221
COLLECTION = "/users/42/collections/notes"


@pytest.fixture
def filled(tmp_path: Path, threshold: int) -> Any:
    """A service with a collection whose records were written by Chroma and by the fast path."""
    service = Service(tmp_path, "--shards", "1").start()
    service.ok("POST", "/users/42/collections", json={"name": "notes", "hnsw": {"sync_threshold": threshold}})
    for number, metadata in enumerate(
        [{"ts": 0.5}, {"ts": CLOCK}, {"ts": 48.137154}, {"n": 2}, {"n": 2.5}, {"n": 3}, {"n": 2**63 - 1}, {"n": 1e308}]
    ):
        vector = [float(number), 1.0, -(float(number) ** 2)]
        record = {"id": f"r{number}", "embedding": vector, "document": f"text {number}", "metadata": metadata}
        service.ok("PUT", f"{COLLECTION}/records", json={"records": [record]})
    yield service
    service.close()


def raw(service: Service, user: str = "42") -> str:
    """Return the path of the collection on Chroma's protocol."""
    collections = f"/api/v2/tenants/{user}/databases/default_database/collections"
    return f"{collections}/{service.ok('GET', f'{collections}/notes').json()['id']}"


def ids(service: Service, where: Any, user: str = "42", **more: Any) -> set[str]:
    """Return the ids that a get and a query find on both protocols, which must be the same."""
    notes = f"/users/{user}/collections/notes"
    got = service.ok("POST", f"{notes}/records/get", json={"where": where, **more}).json()["records"]
    asked = {"where": where, "n_results": 10, **more}
    found = service.ok("POST", f"{notes}/query", json={**asked, "embeddings": [[1.0, 1.0, 1.0]]}).json()["results"][0]
    protocol = raw(service, user)
    answer = service.ok("POST", f"{protocol}/get", json={"where": where, **more}).json()
    # In the order of insertion on both.
    assert answer["ids"] == [record["id"] for record in got]
    results = service.ok("POST", f"{protocol}/query", json={**asked, "query_embeddings": [[1.0, 1.0, 1.0]]}).json()
    assert results["ids"][0] == [match["id"] for match in found]
    assert {record["id"] for record in got} == {match["id"] for match in found}
    return {record["id"] for record in got}


EXPECTED: list[tuple[Any, set[str]]] = [
    ({"ts": CLOCK}, {"r1"}),
    ({"ts": {"$gt": CLOCK}}, set()),
    ({"ts": {"$gte": CLOCK}}, {"r1"}),
    ({"ts": {"$in": [48.137154, 0.5]}}, {"r0", "r2"}),
    ({"n": 2.5}, {"r4"}),
    ({"n": 2}, {"r3"}),
    ({"n": {"$lt": 2.5}}, {"r3"}),
    ({"n": {"$gte": 2.5}}, {"r4", "r5", "r6", "r7"}),
    ({"n": {"$ne": 2.5}}, {"r0", "r1", "r2", "r3", "r5", "r6", "r7"}),
    ({"n": 1e308}, {"r7"}),
    ({"n": 2**63 - 1}, {"r6"}),
    ({"$and": [{"n": {"$in": [2.5, 7.25]}}, {"n": {"$nin": [2]}}]}, {"r4"}),
]


def _as_it_is(service: Service) -> None:
    pass


def _evicted(service: Service) -> None:
    service.ok("POST", "/admin/users/42/evict")


def _restarted(service: Service) -> None:
    service.stop()
    service.delete_replicas()
    service.start()


@pytest.mark.parametrize("threshold", [3, 1000])
def test_numbers_are_compared_by_value(filled: Service) -> None:
    """A float is found by its own value, 2.5 is not 2, and 1e308 is no integer: warm, evicted and restarted."""
    changes: list[Callable[[Service], None]] = [_as_it_is, _evicted, _restarted]
    for change in changes:
        change(filled)
        for where, expected in EXPECTED:
            for include in (["documents"], ["embeddings"]):
                assert ids(filled, where, include=include) == expected, (change.__name__, where)


@pytest.mark.parametrize("threshold", [3, 1000])
def test_an_export_answers_as_the_vectorstore_does(filled: Service, tmp_path: Path) -> None:
    """What another user imports from an export finds the same records."""
    filled.ok("POST", "/admin/users/42/flush")
    exported = str(tmp_path / "exported")
    for arguments in (("export", "42", exported), ("import", exported, "--user", "43")):
        done = run_cli(*arguments, "--store", filled.store)
        assert done.returncode == 0, done.stderr
    for where, expected in EXPECTED:
        assert ids(filled, where, "43") == expected, where


@pytest.mark.parametrize("threshold", [3, 1000])
def test_a_deletion_by_filter_on_chromas_protocol(filled: Service) -> None:
    """It takes what a get shows, up to its limit, warm and after a restart."""
    assert filled.ok("POST", f"{raw(filled)}/delete", json={"where": {"n": 2.5}}).json() == {"deleted": 1}
    _restarted(filled)
    body = {"where": {"n": {"$gt": 2.5}}, "limit": 2}
    assert filled.ok("POST", f"{raw(filled)}/delete", json=body).json() == {"deleted": 2}
    assert filled.ok("POST", f"{raw(filled)}/delete", json={"where": {"ts": CLOCK}}).json() == {"deleted": 1}
    assert filled.ok("GET", f"{raw(filled)}/count").json() == 4
    assert ids(filled, {"n": {"$gte": 2}}) == {"r3", "r7"}


@pytest.mark.parametrize("threshold", [100, 10_000])
def test_every_record_is_found_by_its_own_vector(filled: Service, threshold: int) -> None:
    """After upserts that drift and deletions, 100 queries a call, with embeddings and a filter, on both protocols."""
    hnsw = {"sync_threshold": threshold, "space": "l2"}
    filled.ok("POST", "/users/42/collections", json={"name": "drifting", "hnsw": hnsw})
    native = "/users/42/collections/drifting"
    collections = "/api/v2/tenants/42/databases/default_database/collections"
    protocol = f"{collections}/{filled.ok('GET', f'{collections}/drifting').json()['id']}"
    numbers = np.random.default_rng(2)
    vectors = numbers.normal(size=(600, 3)).astype("<f4")
    for turn in range(2):
        vectors += numbers.normal(scale=0.05, size=vectors.shape).astype("<f4")
        for start in range(0, 600, 40):
            part = range(start, start + 40)
            body = {"ids": [f"d{n}" for n in part], "embeddings": vectors[start : start + 40].tolist()}
            filled.ok("POST", f"{protocol}/upsert", json={**body, "metadatas": [{"n": n % 5} for n in part]})
        filled.ok("POST", f"{protocol}/delete", json={"ids": [f"d{n}" for n in range(turn, 600, 50)]})
    there = [n for n in range(600) if n % 50 != 1]
    for change in (_as_it_is, _evicted, _restarted):
        change(filled)
        for residue in range(5):
            wanted = [n for n in there if n % 5 == residue][:100]
            asked = {"where": {"n": residue}, "n_results": 2, "include": ["embeddings", "distances"]}
            queries = vectors[wanted].tolist()
            answer = filled.ok("POST", f"{protocol}/query", json={**asked, "query_embeddings": queries}).json()
            ours = filled.ok("POST", f"{native}/query", json={**asked, "embeddings": queries}).json()["results"]
            expected = [f"d{n}" for n in wanted]
            assert [found[0] for found in answer["ids"]] == expected
            assert [found[0]["id"] for found in ours] == expected
            nearest = np.array([found[0] for found in answer["embeddings"]], "<f4")
            np.testing.assert_array_equal(nearest, vectors[wanted])


@pytest.mark.parametrize("threshold", [3])
def test_a_deletion_by_filter_takes_what_a_get_shows(filled: Service) -> None:
    """Deleting by 2.5 deletes the record of 2.5 and leaves that of 2."""
    deleted = filled.ok("DELETE", f"{COLLECTION}/records", json={"where": {"n": 2.5}}).json()
    assert deleted == {"deleted": 1}
    assert ids(filled, {"n": {"$gte": 2}}) == {"r3", "r5", "r6", "r7"}


@pytest.mark.parametrize("threshold", [1000])
def test_what_would_delete_or_hide_everything_is_refused(filled: Service) -> None:
    """A filter that joins nothing deletes nothing, and a document with a NUL is refused, on both protocols."""
    nul = {"ids": ["x"], "embeddings": [[1, 2, 3]], "documents": ["a\0b"]}
    for clause in ({"$and": []}, {"$or": []}, {"$and": [{"n": 2}, {"$or": []}]}):
        assert filled.request("POST", f"{raw(filled)}/delete", json={"where": clause}).status_code == 400
        assert filled.request("DELETE", f"{COLLECTION}/records", json={"where": clause}).status_code == 400
    assert filled.request("POST", f"{raw(filled)}/upsert", json=nul).status_code == 400
    record = {"id": "x", "embedding": [1, 2, 3], "document": "a\0b"}
    assert filled.request("PUT", f"{COLLECTION}/records", json={"records": [record]}).status_code == 400
    assert filled.ok("GET", f"{COLLECTION}/count").json() == {"count": 8}
