"""Bad input, one kind after the other: a problem of a stable code, nothing changed, nothing leaked, and on it goes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.service import Service

NEIGHBOUR_SECRET = "the-neighbours-secret"


@pytest.fixture(scope="module")
def neighbour(service: Service) -> str:
    """Another user, with something that nobody else may see."""
    home = "/users/neighbour-9000"
    service.ok("POST", f"{home}/collections", json={"name": NEIGHBOUR_SECRET})
    record = {"id": NEIGHBOUR_SECRET, "document": NEIGHBOUR_SECRET, "metadata": {"k": NEIGHBOUR_SECRET}}
    service.ok("POST", f"{home}/collections/{NEIGHBOUR_SECRET}/records", json={"records": [record]})
    return home


class Guarded:
    """A user with one collection of two records of dimension 3; asserts after each refusal that nothing moved."""

    def __init__(self, service: Service, user: str) -> None:
        self.service = service
        self.home = f"/users/{user}"
        self.points = f"{self.home}/collections/points"
        service.ok("POST", f"{self.home}/collections", json={"name": "points"})
        records = [{"id": "a", "embedding": [1, 0, 0]}, {"id": "b", "embedding": [0, 1, 0]}]
        service.ok("POST", f"{self.points}/records", json={"records": records})
        self.before = self.state()

    def state(self) -> tuple[str, Any, Any]:
        everything = {"include": ["documents", "metadatas", "embeddings", "uris"]}
        got = self.service.ok("POST", f"{self.points}/records/get", json=everything)
        return got.headers["x-vectorpool-commit"], got.json(), self.service.ok("GET", f"{self.home}/collections").json()

    def refuses(self, method: str, path: str, code: str, status: int, **arguments: Any) -> dict[str, Any]:
        """Send what must be refused, and assert that the world is as it was and the next request works."""
        response = self.service.problem(method, path, code, **arguments)
        assert response.status_code == status
        assert NEIGHBOUR_SECRET not in response.text
        assert len(response.content) < 4000, "a refusal does not repeat what was sent"
        assert self.state() == self.before
        body: dict[str, Any] = response.json()
        return body


@pytest.fixture
def guarded(service: Service, neighbour: str, user: str) -> Iterator[Guarded]:
    it = Guarded(service, user)
    yield it
    # And what was refused did not spoil what is right.
    service.ok("PUT", f"{it.points}/records", json={"records": [{"id": "c", "embedding": [0, 0, 1]}]})
    assert service.ok("GET", f"{it.points}/count").json() == {"count": 3}


# --- Ids ---------------------------------------------------------------------------------------------

LEAVING = ["%2e%2e", "..%2fneighbour-9000", "%2fetc", "a%5cb", "a%00b", "%0a", "%20x", "%e2%80%ae"]


@pytest.mark.parametrize("bad", LEAVING)
def test_user_ids_that_leave_the_prefix(guarded: Guarded, bad: str) -> None:
    """A user id with dots, slashes or control characters names nothing, on every kind of route."""
    for path in (f"/users/{bad}/collections", f"/users/{bad}/avatars/7/documents/x.txt", f"/users/{bad}"):
        guarded.refuses("GET", path, "invalid-id", 400)
    guarded.refuses("POST", f"/users/{bad}/collections", "invalid-id", 400, json={"name": "notes"})
    guarded.refuses("DELETE", f"/users/{bad}", "invalid-id", 400)


@pytest.mark.parametrize("bad", LEAVING)
def test_avatar_ids_that_leave_the_prefix(guarded: Guarded, bad: str) -> None:
    """An avatar id is held to the same rules."""
    avatar = f"{guarded.home}/avatars/{bad}"
    guarded.refuses("POST", f"{avatar}/collections", "invalid-id", 400, json={"name": "notes"})
    guarded.refuses("PUT", f"{avatar}/documents/x.txt", "invalid-id", 400, content=b"x")
    guarded.refuses("DELETE", avatar, "invalid-id", 400)


@pytest.mark.parametrize("bad", ["a/%2e%2e/b", "%2e%2e/%2e%2e/%2e%2e/%2e%2e/neighbour-9000/x", "a%00", "a%0ab"])
def test_document_paths_that_leave_the_prefix(guarded: Guarded, bad: str) -> None:
    """A document's path stays below its avatar."""
    documents = f"{guarded.home}/avatars/7/documents"
    guarded.refuses("PUT", f"{documents}/{bad}", "invalid-id", 400, content=b"x")
    guarded.refuses("GET", f"{documents}/{bad}", "invalid-id", 400)
    guarded.refuses(
        "POST", f"{guarded.home}/avatars/7/ingest?wait_s=50", "invalid-id", 400, json={"paths": ["../../x"]}
    )


def test_empty_ids(guarded: Guarded) -> None:
    """An empty id is not joined away: no request for nobody becomes one for somebody."""
    for path in (
        "/users//collections",
        "/users/",
        "/users//avatars/7/collections",
        f"{guarded.home}/avatars//collections",
    ):
        response = guarded.service.request("GET", path)
        assert response.status_code in (400, 404), path
        assert response.headers["content-type"] == "application/problem+json"
    guarded.refuses("DELETE", "/users//collections", "invalid-id", 400)
    guarded.refuses("DELETE", f"{guarded.home}/collections//records", "invalid-id", 400, json={"ids": ["a"]})
    body = {"records": [{"id": "", "embedding": [1, 0, 0]}]}
    guarded.refuses("POST", f"{guarded.points}/records", "invalid-id", 400, json=body)
    guarded.refuses("POST", f"{guarded.home}/collections", "invalid-id", 400, json={"name": ""})


def test_ids_of_megabytes_in_the_body(guarded: Guarded) -> None:
    """A record id or a collection name of 3 MB is refused, and not repeated in the answer."""
    huge = "x" * 3_000_000
    body = {"records": [{"id": huge, "embedding": [1, 0, 0]}]}
    guarded.refuses("POST", f"{guarded.points}/records", "invalid-id", 400, json=body)
    guarded.refuses("POST", f"{guarded.points}/records/get", "invalid-id", 400, json={"ids": [huge]})
    guarded.refuses("POST", f"{guarded.home}/collections", "invalid-id", 400, json={"name": huge})


def test_ids_of_kilobytes_in_the_path(guarded: Guarded) -> None:
    """A long id in the path is refused by the rules of ids."""
    huge = "x" * 30_000
    guarded.refuses("GET", f"/users/{huge}/collections", "invalid-id", 400)
    guarded.refuses("GET", f"{guarded.home}/avatars/{huge}", "invalid-id", 400)
    guarded.refuses("GET", f"{guarded.home}/collections/{huge}", "invalid-id", 400)
    guarded.refuses("GET", f"{guarded.home}/avatars/7/documents/{huge}", "invalid-id", 400)


def test_ids_of_megabytes_in_the_path(guarded: Guarded) -> None:
    """A path of 3 MB is refused by the parser, with a problem too."""
    address = urlsplit(str(guarded.service.client.base_url))
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(b"GET /users/" + b"x" * 3_000_000 + b"/collections HTTP/1.1\r\nhost: localhost\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in head
    assert json.loads(body)["code"] == "invalid-request"
    assert guarded.state() == guarded.before


@pytest.mark.parametrize("name", ["ab", "a b", "a/b", "-abc", "abc.", "ünïcode", "x" * 513, ".."])
def test_collection_names_that_chroma_refuses(guarded: Guarded, name: str) -> None:
    """A name outside Chroma's rules is refused with those rules, on create and on rename."""
    body = guarded.refuses("POST", f"{guarded.home}/collections", "invalid-id", 400, json={"name": name})
    assert "3 to 512" in body["detail"]
    guarded.refuses("PATCH", guarded.points, "invalid-id", 400, json={"name": name})


def test_ids_repeated_in_one_call(guarded: Guarded) -> None:
    """The first repeated id is named, and none of the call's records is written."""
    records = [{"id": name, "embedding": [0, 0, 1]} for name in ("x", "y", "x")]
    for method in ("POST", "PUT", "PATCH"):
        body = guarded.refuses(method, f"{guarded.points}/records", "invalid-request", 400, json={"records": records})
        assert body["record_id"] == "x" and "'x'" in body["detail"]
    for path in ("records/get", "query"):
        more = {"embeddings": [[1, 0, 0]]} if path == "query" else {}
        guarded.refuses("POST", f"{guarded.points}/{path}", "invalid-request", 400, json={"ids": ["a", "a"], **more})


# --- Embeddings --------------------------------------------------------------------------------------


def test_a_wrong_dimension(guarded: Guarded) -> None:
    """An embedding or a text of another dimension than the collection's is refused, written or asked."""
    record = {"id": "x", "embedding": [1, 0]}
    for method, existing in (("POST", "x"), ("PUT", "x"), ("PATCH", "a")):
        body = {"records": [{**record, "id": existing}]}
        guarded.refuses(method, f"{guarded.points}/records", "dimension-mismatch", 400, json=body)
    guarded.refuses("POST", f"{guarded.points}/query", "dimension-mismatch", 400, json={"embeddings": [[1, 0]]})
    guarded.refuses("POST", f"{guarded.points}/query", "dimension-mismatch", 400, json={"texts": ["a question"]})


def test_ragged_and_empty_embeddings(guarded: Guarded) -> None:
    """Embeddings of one call have one length, and at least one number."""
    records = [{"id": "x", "embedding": [1, 0, 0]}, {"id": "y", "embedding": [1, 0]}]
    guarded.refuses("POST", f"{guarded.points}/records", "invalid-embedding", 400, json={"records": records})
    records = [{"id": "x", "embedding": []}]
    guarded.refuses("POST", f"{guarded.points}/records", "invalid-embedding", 400, json={"records": records})
    guarded.refuses("POST", f"{guarded.points}/query", "invalid-embedding", 400, json={"embeddings": [[1, 0, 0], [1]]})


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
def test_embeddings_that_are_no_numbers(guarded: Guarded, number: str) -> None:
    """NaN and infinity are no JSON, and 1e400 is no double: refused before anything is written."""
    body = f'{{"records": [{{"id": "x", "embedding": [1, {number}, 0]}}]}}'
    guarded.refuses("POST", f"{guarded.points}/records", "malformed-json", 400, content=body)
    guarded.refuses(
        "POST", f"{guarded.points}/query", "malformed-json", 400, content=f'{{"embeddings": [[1, {number}, 0]]}}'
    )


def test_embeddings_beyond_float32(guarded: Guarded) -> None:
    """A double that becomes infinite as float32 is refused with its position."""
    records = [{"id": "x", "embedding": [1, 1e39, 0]}]
    body = guarded.refuses("POST", f"{guarded.points}/records", "invalid-embedding", 400, json={"records": records})
    assert body["position"] == 1
    guarded.refuses("POST", f"{guarded.points}/query", "invalid-embedding", 400, json={"embeddings": [[1, 1e39, 0]]})


def test_embeddings_of_too_many_numbers(guarded: Guarded) -> None:
    """The largest dimension is a stated limit."""
    records = [{"id": "x", "embedding": [0.5] * 8193}]
    body = guarded.refuses("POST", f"{guarded.points}/records", "limit-exceeded", 413, json={"records": records})
    assert (body["limit"], body["count"], body["limit_name"]) == (8192, 8193, "max_dimension")


# --- Sizes -------------------------------------------------------------------------------------------


def test_a_million_records_in_one_call(guarded: Guarded) -> None:
    """The refusal says how many records one call may carry."""
    records = ",".join(f'{{"id":"r{number}","document":"hi"}}' for number in range(1_000_000))
    for method in ("POST", "PUT", "PATCH"):
        body = guarded.refuses(
            method, f"{guarded.points}/records", "limit-exceeded", 413, content=f'{{"records":[{records}]}}'.encode()
        )
        assert (body["limit"], body["count"], body["limit_name"]) == (10_000, 1_000_000, "max_records")
        assert "10000" in body["detail"]


def test_a_million_ids_in_one_call(guarded: Guarded) -> None:
    """Ids to get or delete have the same limit."""
    ids = [f"r{number}" for number in range(1_000_000)]
    guarded.refuses("POST", f"{guarded.points}/records/get", "limit-exceeded", 413, json={"ids": ids})
    guarded.refuses("DELETE", f"{guarded.points}/records", "limit-exceeded", 413, json={"ids": ids})


def test_too_many_queries_and_results(guarded: Guarded) -> None:
    """Queries a call, results a query and records a page are bounded by name."""
    query = f"{guarded.points}/query"
    body = guarded.refuses("POST", query, "limit-exceeded", 413, json={"embeddings": [[1, 0, 0]] * 101})
    assert body["limit_name"] == "max_queries"
    more = {"embeddings": [[1, 0, 0]], "n_results": 10_001}
    assert guarded.refuses("POST", query, "limit-exceeded", 413, json=more)["limit_name"] == "max_results"
    guarded.refuses("POST", f"{guarded.points}/records/get", "limit-exceeded", 413, json={"limit": 10_001})


@pytest.mark.parametrize("announced", [True, False])
def test_bodies_over_the_limit(guarded: Guarded, announced: bool) -> None:
    """A body over the limit is refused, whether its length is announced or it comes in chunks."""
    size = 64 * 1024**2 + 1
    content = b"x" * size if announced else (b"x" * 1024**2 for _ in range(65))
    body = guarded.refuses("PUT", f"{guarded.home}/avatars/7/documents/x.txt", "limit-exceeded", 413, content=content)
    assert (body["limit"], body["limit_name"]) == (64 * 1024**2, "max_body_bytes")


def test_documents_over_the_limit(guarded: Guarded) -> None:
    """A source document has a limit of its own, below that of bodies."""
    path = f"{guarded.home}/avatars/7/documents/x.txt"
    body = guarded.refuses("PUT", path, "limit-exceeded", 413, content=b"x" * (32 * 1024**2 + 1))
    assert body["limit"] == 32 * 1024**2


# --- Bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"records": [',
        b"null",
        b"[]",
        b'"records"',
        b"\xff\xfe",
        b'{"records": [{"id": "\xff", "embedding": [1, 0, 0]}]}',
        b'{"records": [{"id": "\\ud800", "embedding": [1, 0, 0]}]}',
        b'{"records": [{"id": 7, "embedding": [1, 0, 0]}]}',
        b'{"records": [{"embedding": [1, 0, 0]}]}',
        b'{"records": [{"id": "x", "embeding": [1, 0, 0]}]}',
        b'{"records": [{"id": "x", "embedding": ["1", 0, 0]}]}',
        b'{"records": {"id": "x"}}',
        b'{"record": []}',
        b'{"records": [{"id": "x", "document": 5}]}',
        b"[" * 100_000,
        b'{"records": [{"id": "x", "metadata": ' + b'{"a":' * 100_000,
    ],
    ids=range(18),
)
def test_malformed_json(guarded: Guarded, content: bytes) -> None:
    """What is not JSON, or not of the documented shape, is refused; a misspelled member is not passed over."""
    guarded.refuses("POST", f"{guarded.points}/records", "malformed-json", 400, content=content)


def test_a_wrong_member_is_named(guarded: Guarded) -> None:
    """The detail says which record and which member."""
    records = [{"id": "x", "embedding": [1, 0, 0]}, {"id": "y", "embedding": [1, "0", 0]}]
    body = guarded.refuses("POST", f"{guarded.points}/records", "malformed-json", 400, json={"records": records})
    assert "records[1].embedding[1]" in body["detail"]


@pytest.mark.parametrize(
    "record",
    [
        {"id": "x"},
        {"id": "x", "uri": "file:x"},
        {"id": "x", "metadata": {"k": 1}},
    ],
)
def test_records_without_anything_to_embed(guarded: Guarded, record: dict[str, Any]) -> None:
    """A new record needs a document or an embedding."""
    guarded.refuses("POST", f"{guarded.points}/records", "invalid-request", 400, json={"records": [record]})
    guarded.refuses("PUT", f"{guarded.points}/records", "invalid-request", 400, json={"records": [record]})


def test_calls_that_say_nothing(guarded: Guarded) -> None:
    """No records, no selection, no question, no change: each is refused instead of doing nothing, or everything."""
    points = guarded.points
    guarded.refuses("POST", f"{points}/records", "invalid-request", 400, json={"records": []})
    guarded.refuses("PATCH", f"{points}/records", "invalid-request", 400, json={"records": [{"id": "a"}]})
    guarded.refuses("DELETE", f"{points}/records", "invalid-request", 400, json={})
    guarded.refuses("DELETE", f"{points}/records", "invalid-request", 400, json={"ids": []})
    guarded.refuses("POST", f"{points}/query", "invalid-request", 400, json={})
    both = {"texts": ["x"], "embeddings": [[1, 0, 0]]}
    guarded.refuses("POST", f"{points}/query", "invalid-request", 400, json=both)
    guarded.refuses("PATCH", points, "invalid-request", 400, json={})
    guarded.refuses("POST", f"{guarded.home}/avatars/7/query", "invalid-request", 400, json={})


@pytest.mark.parametrize(
    "metadata",
    [
        {"chroma:document": "x"},
        {"": 1},
        {"k": None},
        {"k": []},
        {"k": [1, "x"]},
        {"k": {"deep": 1}},
        {"k": 2**63},
    ],
)
def test_metadata_that_chroma_cannot_keep(guarded: Guarded, metadata: dict[str, Any]) -> None:
    """Metadata that would end Chroma's compactor, or be lost, never gets there."""
    records = [{"id": "x", "embedding": [1, 0, 0], "metadata": metadata}]
    guarded.refuses("POST", f"{guarded.points}/records", "invalid-request", 400, json={"records": records})
    body = {"name": "new", "metadata": metadata}
    guarded.refuses("POST", f"{guarded.home}/collections", "invalid-request", 400, json=body)


def test_lists_in_the_metadata_of_collections(guarded: Guarded) -> None:
    """Only records' metadata may hold lists."""
    body = {"name": "new", "metadata": {"k": [1, 2]}}
    guarded.refuses("POST", f"{guarded.home}/collections", "invalid-request", 400, json=body)
    guarded.refuses("PATCH", guarded.points, "invalid-request", 400, json={"metadata": {"k": [1, 2]}})


@pytest.mark.parametrize(
    "bad", [{"where": {"k": {"$like": 1}}}, {"where": {}}, {"where_document": {"$eq": "x"}}, {"where": {"$and": []}}]
)
def test_filters_that_chroma_does_not_know(guarded: Guarded, bad: dict[str, Any]) -> None:
    """A filter of the wrong shape deletes nothing, finds nothing, and is refused by name."""
    guarded.refuses("DELETE", f"{guarded.points}/records", "invalid-filter", 400, json=bad)
    guarded.refuses("POST", f"{guarded.points}/records/get", "invalid-filter", 400, json=bad)
    guarded.refuses("POST", f"{guarded.points}/query", "invalid-filter", 400, json={**bad, "embeddings": [[1, 0, 0]]})


def test_a_regex_that_does_not_compile(guarded: Guarded) -> None:
    """A regular expression that Chroma cannot read is the caller's mistake, and the store goes on."""
    body = {"where_document": {"$regex": "(["}}
    guarded.refuses("POST", f"{guarded.points}/records/get", "invalid-filter", 400, json=body)


@pytest.mark.parametrize(
    "hnsw", [{"ef_search": 0}, {"max_neighbors": 1}, {"space": "cubic"}, {"sync_threshold": -1}, {"m": 3}]
)
def test_indexes_that_make_no_sense(guarded: Guarded, hnsw: dict[str, Any]) -> None:
    """Numbers of the index have bounds."""
    response = guarded.service.request("POST", f"{guarded.home}/collections", json={"name": "new", "hnsw": hnsw})
    assert response.status_code == 400
    assert response.json()["code"] in ("invalid-request", "malformed-json")
    assert guarded.state() == guarded.before


# --- Names of nothing --------------------------------------------------------------------------------


def test_unknown_users(guarded: Guarded) -> None:
    """Asking for a user who is not there neither finds nor creates one."""
    nobody = "/users/nobody-1"
    for method, path, body in (
        ("GET", nobody, None),
        ("GET", f"{nobody}/avatars", None),
        ("GET", f"{nobody}/collections", None),
        ("GET", f"{nobody}/collections/points", None),
        ("GET", f"{nobody}/collections/points/count", None),
        ("POST", f"{nobody}/collections/points/query", {"embeddings": [[1, 0, 0]]}),
        ("POST", f"{nobody}/collections/points/records/get", {}),
        ("DELETE", nobody, None),
    ):
        guarded.refuses(method, path, "user-not-found", 404, json=body)
    records = {"records": [{"id": "a", "embedding": [1, 0, 0]}]}
    for method, path, body in (
        ("POST", f"{nobody}/collections/points/records", records),
        ("DELETE", f"{nobody}/collections/points", None),
    ):
        # A write is about what is in the collection, and says so.
        guarded.refuses(method, path, "collection-not-found", 404, json=body)
    guarded.refuses("GET", nobody, "user-not-found", 404)


def test_unknown_avatars_and_collections(guarded: Guarded, neighbour: str) -> None:
    """What is not there is not there, also if a neighbour has it."""
    guarded.refuses("GET", f"{guarded.home}/avatars/8", "avatar-not-found", 404)
    guarded.refuses("DELETE", f"{guarded.home}/avatars/8", "avatar-not-found", 404)
    guarded.refuses("GET", f"{guarded.home}/avatars/8/documents", "avatar-not-found", 404)
    guarded.refuses("POST", f"{guarded.home}/avatars/8/ingest?wait_s=50", "avatar-not-found", 404)
    response = guarded.service.request("GET", f"{guarded.home}/avatars/8/collections/points")
    assert response.json()["code"] in ("avatar-not-found", "collection-not-found")
    guarded.refuses("GET", f"{guarded.home}/collections/nothing", "collection-not-found", 404)
    guarded.refuses("DELETE", f"{guarded.home}/collections/nothing", "collection-not-found", 404)
    records = {"records": [{"id": "a", "embedding": [1, 0, 0]}]}
    guarded.refuses("PUT", f"{guarded.home}/collections/nothing/records", "collection-not-found", 404, json=records)
    # The neighbour's collection is there, but not for this user; the answer must not say more than the caller did.
    response = guarded.service.request("GET", f"{guarded.home}/collections/{NEIGHBOUR_SECRET}")
    assert response.json()["code"] == "collection-not-found"
    uuid = guarded.service.ok("GET", f"{neighbour}/collections/{NEIGHBOUR_SECRET}").json()["id"]
    guarded.refuses("GET", f"{guarded.home}/collections/{uuid}", "collection-not-found", 404)


def test_unknown_paths_and_methods(guarded: Guarded) -> None:
    """A path or a method that is not served is a problem too, and 405 says what is."""
    guarded.refuses("GET", "/nothing", "not-found", 404)
    guarded.refuses("GET", f"{guarded.home}/nothing", "not-found", 404)
    response = guarded.service.problem("PUT", guarded.points, "method-not-allowed")
    assert response.headers["allow"] == "DELETE, GET, OPTIONS, PATCH"
    guarded.refuses("GET", f"{guarded.home}/collections?limit=x", "invalid-request", 400)
    guarded.refuses("GET", f"{guarded.home}/collections?offset=-1", "invalid-request", 400)


@pytest.mark.parametrize("name", ["limit", "offset"])
def test_a_page_of_a_number_that_nothing_holds(guarded: Guarded, name: str) -> None:
    """A count beyond 32 bits is refused wherever there are pages; the largest that fits is not."""
    for path in ("collections", "lost", "avatars"):
        guarded.refuses("GET", f"{guarded.home}/{path}", "invalid-request", 400, params={name: str(2**70)})
    answer = guarded.service.ok("GET", f"{guarded.home}/collections", params={"offset": str(2**32 - 1)})
    assert answer.json()["collections"] == []
    got = f"{guarded.points}/records/get"
    assert guarded.service.ok("POST", got, json={"offset": 2**32 - 1}).json()["records"] == []
    guarded.refuses("POST", got, "malformed-json", 400, json={"offset": 2**32})
