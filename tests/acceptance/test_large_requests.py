"""Requests at the limits that are promised, on both protocols: answered, or refused with the number; never a defect."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.service import Service

COUNT = 10_050
NOTES = "/users/42/collections/notes"
DATABASE = "/api/v2/tenants/42/databases/default_database"
VECTORS = [[random.Random(n).uniform(-1, 1), random.Random(-n).uniform(-1, 1)] for n in range(COUNT)]
IDS = [f"r{n}" for n in range(COUNT)]
MANY_IDS = [*(f"missing-{n}" for n in range(40_000 - 10)), *IDS[:10]]
# A filter, and the numbers of the records that satisfy it.
FILTERS: dict[str, tuple[dict[str, Any], set[int]]] = {
    "$in": ({"where": {"n": {"$in": list(range(-34_000, 3))}}}, {0, 1, 2}),
    "$nin": ({"where": {"n": {"$nin": list(range(3, 34_003))}}}, {0, 1, 2}),
    "$or": ({"where": {"$or": [{"n": n} for n in range(-1000, 1)]}}, {0}),
    "$and": ({"where": {"$and": [{"n": {"$lt": 1001 - n}} for n in range(1001)]}}, {0}),
    "$contains": ({"where_document": {"$contains": "x" * 60_000}}, set()),
}
TOO_LARGE = {"where": {"n": {"$in": list(range(200_001))}}}
# The native API's own limit for one list of a filter.
NATIVE = "at most 10000 are allowed"
REGEX = {"where_document": {"$regex": "(a{1000}){1000}"}}


@pytest.fixture(scope="module", params=["fast", "without the fast path"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a collection of more records than a query has results; its vectors are in the index files."""
    env = {} if request.param == "fast" else {"VECTORPOOL_FAST_READS": "false"}
    service = Service(tmp_path_factory.mktemp("service"), "--shards", "1", env=env).start()
    service.ok("POST", "/users/42/collections", json={"name": "notes", "hnsw": {"space": "l2"}})
    for part in (slice(0, 5000), slice(5000, 10_000), slice(10_000, None)):
        body = {
            "ids": IDS[part],
            "embeddings": VECTORS[part],
            "documents": [f"text {each}" for each in IDS[part]],
            "metadatas": [{"n": n} for n in range(COUNT)[part]],
        }
        service.ok("POST", f"{raw(service)}/upsert", json=body)
    yield service
    service.close()


def raw(service: Service) -> str:
    """Return the collection's path on Chroma's protocol."""
    return f"{DATABASE}/collections/{service.ok('GET', f'{DATABASE}/collections/notes').json()['id']}"


def filled_is_fast(request: pytest.FixtureRequest) -> bool:
    """Return whether the test's service has the fast path."""
    return "without" not in request.node.name


def send(service: Service, verb: str, body: dict[str, Any]) -> list[tuple[httpx.Response, list[set[str]]]]:
    """Send a get, query or delete on both protocols; return each answer, with the ids that it has."""
    answers = []
    if verb == "get":
        ours = service.request("POST", f"{NOTES}/records/get", json=body)
        theirs = service.request("POST", f"{raw(service)}/get", json=body)
        answers.append((ours, [{each["id"] for each in ours.json()["records"]}] if ours.is_success else []))
        answers.append((theirs, [set(theirs.json()["ids"])] if theirs.is_success else []))
    else:
        ours = service.request("POST", f"{NOTES}/query", json={**body, "embeddings": VECTORS[:4]})
        theirs = service.request("POST", f"{raw(service)}/query", json={**body, "query_embeddings": VECTORS[:4]})
        found = ours.json()["results"] if ours.is_success else []
        answers.append((ours, [{each["id"] for each in matches} for matches in found]))
        answers.append((theirs, [set(ids) for ids in theirs.json()["ids"]] if theirs.is_success else []))
    return answers


@pytest.mark.parametrize("include", [["documents", "metadatas", "distances"], ["embeddings", "distances"]])
def test_four_queries_with_ten_thousand_results(filled: Service, include: list[str]) -> None:
    """Every query has all its results, with the columns, and finds the record of its own vector first."""
    body = {"query_embeddings": VECTORS[:4], "n_results": 10_000, "include": include}
    answer = filled.ok("POST", f"{raw(filled)}/query", json=body).json()
    ours = filled.ok(
        "POST", f"{NOTES}/query", json={"embeddings": VECTORS[:4], "n_results": 10_000, "include": include}
    )
    for n, (ids, matches) in enumerate(zip(answer["ids"], ours.json()["results"], strict=True)):
        assert len(set(ids)) == 10_000 and ids[0] == f"r{n}"
        assert len({match["id"] for match in matches}) == 10_000 and matches[0]["id"] == f"r{n}"
        if "documents" in include:
            assert answer["documents"][n] == [f"text {each}" for each in ids]
            assert answer["metadatas"][n] == [{"n": int(each[1:])} for each in ids]
        else:
            assert answer["embeddings"][n][0] == pytest.approx(VECTORS[n])


def test_forty_thousand_ids(filled: Service, request: pytest.FixtureRequest) -> None:
    """Chroma's protocol answers them, or names its limit; the native API refuses more than ``max_records``."""
    refused = filled.request("POST", f"{NOTES}/records/get", json={"ids": MANY_IDS})
    assert refused.status_code == 413 and refused.json()["limit"] == 10_000
    answer = filled.request("POST", f"{raw(filled)}/get", json={"ids": MANY_IDS})
    if answer.is_success:
        assert answer.json()["ids"] == IDS[:10]
    else:
        assert answer.status_code == 413 and "32,000" in answer.json()["message"]
    assert answer.is_success == filled_is_fast(request)
    deleted = filled.ok("POST", f"{raw(filled)}/delete", json={"ids": [f"missing-{n}" for n in range(40_000)]})
    assert deleted.json() == {"deleted": 40_000}
    assert filled.ok("GET", f"{raw(filled)}/count").json() == COUNT


@pytest.mark.parametrize("verb", ["get", "query"])
@pytest.mark.parametrize("name", FILTERS)
def test_large_filters(filled: Service, request: pytest.FixtureRequest, name: str, verb: str) -> None:
    """The fast path answers them in slices; Chroma answers, or its limit is named."""
    body, numbers = FILTERS[name]
    for answer, found in send(filled, verb, body):
        if answer.is_success:
            assert all(ids == {f"r{n}" for n in numbers} for ids in found) and found
        elif NATIVE in answer.text:
            assert name in ("$in", "$nin") and answer.json()["code"] == "invalid-filter"
        else:
            assert answer.status_code == 413 and not filled_is_fast(request), answer.text
            assert any(limit in answer.text for limit in ("32,000", "1,000", "50,000")), answer.text


@pytest.mark.parametrize("verb", ["get", "query"])
def test_what_is_too_large_is_refused(filled: Service, verb: str) -> None:
    """More values than one list may have, with the number; a regular expression that cannot be compiled: a reason."""
    native, protocol = (answer for answer, _ in send(filled, verb, TOO_LARGE))
    assert native.status_code == 400 and NATIVE in native.text
    assert protocol.status_code == 400 and "40000" in protocol.text
    for answer, _ in send(filled, verb, REGEX):
        assert answer.status_code == 400 and "regular expression" in answer.text


def test_large_deletions(filled: Service, request: pytest.FixtureRequest) -> None:
    """What a filter refuses, deletes nothing; what it finds, is deleted."""
    for body in (TOO_LARGE, REGEX):
        for method, path in (("POST", f"{raw(filled)}/delete"), ("DELETE", f"{NOTES}/records")):
            assert filled.request(method, path, json=body).status_code in (400, 413)
    assert filled.ok("GET", f"{raw(filled)}/count").json() == COUNT
    for name, (body, numbers) in FILTERS.items():
        if not filled_is_fast(request) or name == "$contains":
            continue
        assert filled.ok("POST", f"{raw(filled)}/delete", json=body).json() == {"deleted": len(numbers)}
        part = sorted(numbers)
        restored = {"ids": [f"r{n}" for n in part], "embeddings": [VECTORS[n] for n in part]}
        restored |= {"metadatas": [{"n": n} for n in part], "documents": [f"text r{n}" for n in part]}
        filled.ok("POST", f"{raw(filled)}/upsert", json=restored)
    assert filled.ok("GET", f"{raw(filled)}/count").json() == COUNT
