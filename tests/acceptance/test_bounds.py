"""The table of bounds, walked over both protocols: the largest passes, one above is refused with the allowed number.

The shard that served it all is the same process at the end.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from tests.support.service import Service
from tests.support.shards import shard_ids
from vectorpool import bounds

B = "/api/v2/tenants/walker/databases/default_database"
N = "/users/native"
MAX_RECORDS, MAX_QUERIES, MAX_RESULTS, MAX_DIMENSION = 50, 5, 40, 64
# More than the tests make for one user, but for the test of it.
MAX_COLLECTIONS = 64


class Instance(NamedTuple):
    service: Service
    client: httpx.Client
    # The collection of the walker on Chroma's protocol.
    chromas: str


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One shard, with small settings, so that the bodies are small too."""
    env = {
        "VECTORPOOL_MAX_RECORDS": str(MAX_RECORDS),
        "VECTORPOOL_MAX_QUERIES": str(MAX_QUERIES),
        "VECTORPOOL_MAX_RESULTS": str(MAX_RESULTS),
        "VECTORPOOL_MAX_DIMENSION": str(MAX_DIMENSION),
        "VECTORPOOL_MAX_COLLECTIONS": str(MAX_COLLECTIONS),
    }
    service = Service(tmp_path_factory.mktemp("bounds"), "--shards", "1", env=env).start()
    try:
        made = service.client.post(f"{B}/collections", json={"name": "notes"})
        assert made.status_code == 200, made.text
        chromas = f"{B}/collections/{made.json()['id']}"
        first = {"ids": ["first"], "embeddings": [[1, 2, 3]], "documents": ["x"], "metadatas": [{"k": 1}]}
        assert service.client.post(f"{chromas}/add", json=first).status_code == 201
        assert service.client.post(f"{N}/collections", json={"name": "notes"}).status_code == 201
        record = {"id": "first", "embedding": [1, 2, 3], "document": "x", "metadata": {"k": 1}}
        assert service.client.post(f"{N}/collections/notes/records", json={"records": [record]}).status_code == 201
        yield Instance(service, service.client, chromas)
    finally:
        service.close()


class Case(NamedTuple):
    """A bound: how to send ``n`` of something by one route, and the largest ``n``."""

    name: str
    method: str
    path: str
    body: Any
    most: int
    # The least number, if there is one above zero: one below is refused too.
    least: int = 0


def _nested(depth: int) -> dict[str, Any]:
    where: dict[str, Any] = {"k": 1}
    for _ in range(depth - 1):
        where = {"$and": [where]}
    return where


def _any(n: int) -> dict[str, Any]:
    # The joining condition counts too.
    return {"$or": [{"k": i} for i in range(n - 1)]}


def _listed(n: int) -> dict[str, Any]:
    return {"k": {"$in": list(range(n))}}


def _pattern(n: int) -> dict[str, Any]:
    return {"$regex": "x" * n}


def _keys(n: int) -> dict[str, Any]:
    return {f"k{i}": 1 for i in range(n)}


def _values(n: int) -> dict[str, Any]:
    most = bounds.METADATA_LIST.most
    return {f"l{at}": [1] * min(most, n - start) for at, start in enumerate(range(0, n, most))}


def _index_schema(name: str, n: int) -> dict[str, Any]:
    config = {"space": "l2", "hnsw": {name: n}}
    return {
        "defaults": {},
        "keys": {"#embedding": {"float_list": {"vector_index": {"enabled": True, "config": config}}}},
    }


def _c(**members: Any) -> dict[str, Any]:
    return {"ids": ["a"], "embeddings": [[1, 2, 3]], **members}


def _chromas() -> list[Case]:
    found = [
        Case("records", "POST", "/upsert", lambda n: {"ids": _ids(n), "embeddings": [[1, 2, 3]] * n}, MAX_RECORDS),
        Case(
            "records, base64",
            "POST",
            "/upsert",
            lambda n: {"ids": _ids(n), "embeddings": [_packed(3)] * n},
            MAX_RECORDS,
        ),
        Case("ids of get", "POST", "/get", lambda n: {"ids": _ids(n)}, bounds.PROTOCOL_IDS.most),
        Case(
            "ids of delete",
            "POST",
            "/delete",
            lambda n: {"ids": [f"none{i}" for i in range(n)]},
            bounds.PROTOCOL_IDS.most,
        ),
        Case("queries", "POST", "/query", lambda n: {"query_embeddings": [[1, 2, 3]] * n}, MAX_QUERIES),
        Case("include", "POST", "/get", lambda n: {"include": ["documents"] * n}, bounds.INCLUDE.most),
        Case("id bytes", "POST", "/upsert", lambda n: _c(ids=["x" * n]), bounds.RECORD_ID_BYTES),
        Case("key bytes", "POST", "/upsert", lambda n: _c(metadatas=[{"x" * n: 1}]), bounds.METADATA_KEY_BYTES),
        Case("keys", "POST", "/upsert", lambda n: _c(metadatas=[_keys(n)]), bounds.METADATA_KEYS.most),
        Case("list", "POST", "/upsert", lambda n: _c(metadatas=[{"list": [1] * n}]), bounds.METADATA_LIST.most),
        Case("values", "POST", "/upsert", lambda n: _c(metadatas=[_values(n)]), bounds.METADATA_VALUES.most),
        Case("depth", "POST", "/get", lambda n: {"where": _nested(n)}, bounds.FILTER_DEPTH),
        Case("listed", "POST", "/get", lambda n: {"where": _listed(n)}, bounds.PROTOCOL_FILTER_VALUES.most),
        Case("patterns", "POST", "/get", lambda n: {"where_document": _pattern(n)}, bounds.FILTER_PATTERN_BYTES.most),
    ]
    found += [
        Case(f"conditions of {verb}", "POST", f"/{verb}", body, bounds.FILTER_TERMS.most)
        for verb, body in (
            ("get", lambda n: {"where": _any(n)}),
            ("delete", lambda n: {"where": _any(n)}),
            ("query", lambda n: {"query_embeddings": [[1, 2, 3]], "where": _any(n)}),
        )
    ]
    return found


def _ids(n: int) -> list[str]:
    return [f"r{i}" for i in range(n)]


def _packed(n: int) -> str:
    return base64.b64encode(b"\0\0\x80?" * n).decode()


def _r(**members: Any) -> dict[str, Any]:
    return {"records": [{"id": "a", "embedding": [1, 2, 3], **members}]}


def _natives() -> list[Case]:
    many = [{"id": "", "embedding": [1, 2, 3]}]
    records, get, query = "/records", "/records/get", "/query"
    return [
        Case("records", "PUT", records, lambda n: {"records": [{**many[0], "id": i} for i in _ids(n)]}, MAX_RECORDS),
        Case("ids of get", "POST", get, lambda n: {"ids": _ids(n)}, MAX_RECORDS),
        Case("ids of delete", "DELETE", records, lambda n: {"ids": [f"none{i}" for i in range(n)]}, MAX_RECORDS),
        Case("queries", "POST", query, lambda n: {"embeddings": [[1, 2, 3]] * n}, MAX_QUERIES),
        Case("results", "POST", query, lambda n: {"embeddings": [[1, 2, 3]], "n_results": n}, MAX_RESULTS),
        Case("page", "POST", get, lambda n: {"limit": n}, MAX_RESULTS),
        Case("id bytes", "PUT", records, lambda n: _r(id="x" * n), bounds.RECORD_ID_BYTES),
        Case("key bytes", "PUT", records, lambda n: _r(metadata={"x" * n: 1}), bounds.METADATA_KEY_BYTES),
        Case("keys", "PUT", records, lambda n: _r(metadata=_keys(n)), bounds.METADATA_KEYS.most),
        Case("list", "PUT", records, lambda n: _r(metadata={"list": [1] * n}), bounds.METADATA_LIST.most),
        Case("values", "PUT", records, lambda n: _r(metadata=_values(n)), bounds.METADATA_VALUES.most),
        Case("depth", "POST", get, lambda n: {"where": _nested(n)}, bounds.FILTER_DEPTH),
        Case("conditions", "POST", get, lambda n: {"where": _any(n)}, bounds.FILTER_TERMS.most),
        Case("listed", "POST", get, lambda n: {"where": _listed(n)}, bounds.FILTER_VALUES.most),
        Case("patterns", "POST", get, lambda n: {"where_document": _pattern(n)}, bounds.FILTER_PATTERN_BYTES.most),
    ]


def _send(client: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    json = {"content-type": "application/json"}
    return client.request(method, path, content=msgspec.json.encode(body), headers=json)


def _assert_refused(response: httpx.Response, most: float, *, is_chromas: bool) -> None:
    """The refusal is the caller's fault, has the protocol's shape, and says the number that is allowed."""
    assert 400 <= response.status_code < 500, response.text[:500]
    body = response.json()
    text = body["message"] if is_chromas else body["detail"]
    if is_chromas:
        assert set(body) == {"error", "message"}
        assert body["error"] == ("InvalidArgumentError" if response.status_code == 400 else "ChromaError"), body
    else:
        assert body["code"] in ("limit-exceeded", "invalid-id", "invalid-filter", "invalid-request", "malformed-json")
    assert str(most) in text, text


@pytest.fixture(autouse=True)
def _same_shard(instance: Instance) -> Iterator[None]:
    """Whatever a test sends, the shard that served the test before serves the next one."""
    before = shard_ids(instance.service.pid)
    assert len(before) == 1
    yield
    assert shard_ids(instance.service.pid) == before


@pytest.mark.parametrize("case", _chromas(), ids=lambda case: case.name)
def test_chromas_protocol(instance: Instance, case: Case) -> None:
    """Below /api/v2 the largest is not refused for its number, and one more is, in Chroma's shape."""
    path = instance.chromas + case.path
    largest = _send(instance.client, case.method, path, case.body(case.most))
    if case.name.startswith("conditions"):
        # SQLite refuses a tree of more than 1,000 conditions, in Chroma's words.
        assert largest.status_code < 400 or "Expression tree" in largest.text
    elif case.name == "listed":
        assert largest.status_code == 200
    else:
        assert largest.status_code < 300, largest.text[:500]
    _assert_refused(_send(instance.client, case.method, path, case.body(case.most + 1)), case.most, is_chromas=True)


@pytest.mark.parametrize("case", _natives(), ids=lambda case: case.name)
def test_native_api(instance: Instance, case: Case) -> None:
    """On the native API the largest passes, and one more is a problem."""
    path = f"{N}/collections/notes{case.path}"
    largest = _send(instance.client, case.method, path, case.body(case.most))
    assert largest.status_code < 300, largest.text[:500]
    _assert_refused(_send(instance.client, case.method, path, case.body(case.most + 1)), case.most, is_chromas=False)


PLACES = {
    "configuration": lambda name, n: {"configuration": {"hnsw": {name: n}}},
    "schema": lambda name, n: {"schema": _index_schema(name, n)},
    "get_or_create": lambda name, n: {"configuration": {"hnsw": {name: n}}, "get_or_create": True},
    "spann": lambda name, n: {"configuration": {"spann": {name: n}}},
}
NUMBERS = [bounds.INDEX[name] for name in ("max_neighbors", "ef_construction", "ef_search", "batch_size")]
NUMBERS += [bounds.INDEX[name] for name in ("sync_threshold", "num_threads", "resize_factor")]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("bound", NUMBERS, ids=lambda bound: bound.name)
def test_numbers_of_an_index(instance: Instance, bound: bounds.Bound, place: str) -> None:
    """No number of an index outside the table reaches Chroma, wherever it stands; the largest does."""
    for n in (bound.most + 1, *([bound.least - 1] if bound.least else []), 10_000_000):
        response = _send(
            instance.client, "POST", f"{B}/collections", {"name": "never", **PLACES[place](bound.name, int(n))}
        )
        _assert_refused(response, bound.most, is_chromas=True)
    if place == "spann" and bound.name in ("max_neighbors", "ef_construction", "ef_search"):
        return
    response = _send(
        instance.client,
        "POST",
        f"{B}/collections",
        {"name": f"{place}-{bound.name}", **PLACES[place](bound.name, int(bound.most))},
    )
    assert response.status_code == 200 or "are allowed" not in response.text, response.text


@pytest.mark.parametrize("key", bounds.INDEX_METADATA)
def test_numbers_of_an_index_in_metadata(instance: Instance, key: str) -> None:
    """``hnsw:*`` in a collection's metadata obeys the same table on both protocols, at creation and at change."""
    bound = bounds.INDEX_METADATA[key]
    for n in (int(bound.most) + 1, int(bound.least) - 1):
        bodies = [
            ("POST", f"{B}/collections", {"name": "never", "metadata": {key: n}}, True),
            ("POST", f"{B}/collections", {"name": "never", "metadata": {key: n}, "get_or_create": True}, True),
            ("PUT", instance.chromas, {"new_metadata": {key: n}}, True),
            ("POST", f"{N}/collections", {"name": "never", "metadata": {key: n}}, False),
            ("PATCH", f"{N}/collections/notes", {"metadata": {key: n}}, False),
        ]
        for method, path, body, is_chromas in bodies:
            _assert_refused(_send(instance.client, method, path, body), bound.most, is_chromas=is_chromas)


@pytest.mark.parametrize("bound", NUMBERS, ids=lambda bound: bound.name)
def test_numbers_of_an_index_that_is_changed(instance: Instance, bound: bounds.Bound) -> None:
    """A new configuration of a collection obeys the table too."""
    body = {"new_configuration": {"hnsw": {bound.name: int(bound.most) + 1}}}
    _assert_refused(_send(instance.client, "PUT", instance.chromas, body), bound.most, is_chromas=True)


def test_native_index(instance: Instance) -> None:
    """The native API's index has the same table."""
    for name in ("max_neighbors", "ef_construction", "ef_search", "sync_threshold"):
        most = int(bounds.INDEX[name].most)
        body = {"name": "never", "hnsw": {name: most + 1}}
        _assert_refused(_send(instance.client, "POST", f"{N}/collections", body), most, is_chromas=False)
        body = {"name": f"native-{name}", "hnsw": {name: most}}
        assert _send(instance.client, "POST", f"{N}/collections", body).status_code == 201


def test_no_links_then_an_add(instance: Instance) -> None:
    """A collection without links, which ended the process at its first record, cannot be made."""
    made = _send(
        instance.client,
        "POST",
        f"{B}/collections",
        {"name": "linkless", "configuration": {"hnsw": {"max_neighbors": 0}}},
    )
    _assert_refused(made, 1024, is_chromas=True)
    assert instance.client.get(f"{B}/collections/linkless").status_code == 404


def test_dimension(instance: Instance) -> None:
    """An embedding of more numbers than max_dimension is refused as array, as base64, as question and natively."""
    path = _collection(instance, "wide")
    assert _send(instance.client, "POST", f"{path}/add", _c(embeddings=[[1.0] * MAX_DIMENSION])).status_code == 201
    assert _send(instance.client, "POST", f"{path}/upsert", _c(embeddings=[_packed(MAX_DIMENSION)])).status_code == 200
    more = MAX_DIMENSION + 1
    for wide in (more, 200_000):
        for verb, body in (
            ("add", _c(embeddings=[[1.0] * wide])),
            ("upsert", _c(embeddings=[_packed(wide)])),
            ("update", _c(embeddings=[[1.0] * wide])),
            ("query", {"query_embeddings": [[1.0] * wide]}),
        ):
            _assert_refused(_send(instance.client, "POST", f"{path}/{verb}", body), MAX_DIMENSION, is_chromas=True)
        native = _send(instance.client, "PUT", f"{N}/collections/notes/records", _r(embedding=[1.0] * wide))
        _assert_refused(native, MAX_DIMENSION, is_chromas=False)


def _collection(instance: Instance, name: str) -> str:
    made = _send(instance.client, "POST", f"{B}/collections", {"name": name})
    assert made.status_code == 200, made.text
    return f"{B}/collections/{made.json()['id']}"


def test_results(instance: Instance) -> None:
    """A question on Chroma's protocol may ask for any number, as clients do, and never gets more than max_results."""
    path = _collection(instance, "results")
    body = {"query_embeddings": [[1, 2, 3]], "n_results": 2**32 - 1}
    for start in range(0, MAX_RESULTS, 20):
        ids = [f"r{i}" for i in range(start, start + 20)]
        sent = _send(instance.client, "POST", f"{path}/add", {"ids": ids, "embeddings": [[1, 2, 3]] * 20})
        assert sent.status_code == 201
    found = _send(instance.client, "POST", f"{path}/query", body)
    assert len(found.json()["ids"][0]) == MAX_RESULTS
    assert _send(instance.client, "POST", f"{path}/add", _c(ids=["one more"])).status_code == 201
    _assert_refused(_send(instance.client, "POST", f"{path}/query", body), MAX_RESULTS, is_chromas=True)


def test_different_keys_of_a_collection(instance: Instance) -> None:
    """Records of one collection have so many different keys together; known keys always pass, on both protocols."""
    most, each = bounds.COLLECTION_KEYS.most, bounds.METADATA_KEYS.most
    path = _collection(instance, "keys")
    assert _send(instance.client, "POST", f"{N}/collections", {"name": "keys"}).status_code == 201
    native = f"{N}/collections/keys/records"
    for start in range(0, most, each):
        metadata = {f"k{i}": 1 for i in range(start, start + each)}
        assert _send(instance.client, "POST", f"{path}/upsert", _c(metadatas=[metadata])).status_code == 200
        assert _send(instance.client, "PUT", native, _r(metadata=metadata)).status_code == 200
    for metadata, is_refused in (({"k0": 2}, False), ({"one more": 1}, True)):
        for verb in ("upsert", "update"):
            sent = _send(instance.client, "POST", f"{path}/{verb}", _c(metadatas=[metadata]))
            if is_refused:
                _assert_refused(sent, most, is_chromas=True)
            else:
                assert sent.status_code == 200, sent.text
        for method in ("PUT", "PATCH"):
            sent = _send(instance.client, method, native, _r(metadata=metadata))
            if is_refused:
                _assert_refused(sent, most, is_chromas=False)
            else:
                assert sent.status_code == 200, sent.text


def _make(instance: Instance, user: str, kind: str, number: int) -> httpx.Response:
    """Make one collection, or one database, of a user, in one of the ways there are."""
    tenant, native = f"/api/v2/tenants/{user}/databases", f"/users/{user}"
    if kind == "databases":
        if number % 2:
            return _send(instance.client, "POST", tenant, {"name": f"avatar-{number}"})
        return _send(instance.client, "POST", f"{native}/avatars/{number}/collections", {"name": "notes"})
    paths = [f"{tenant}/default_database/collections", f"{native}/collections", f"{native}/avatars/7/collections"]
    return _send(instance.client, "POST", paths[number % 3], {"name": f"col-{number}"})


@pytest.mark.parametrize("kind", ["collections", "databases"])
def test_collections_and_databases_of_a_user(instance: Instance, kind: str) -> None:
    """A user has so many in all, on both protocols; what is there stays in use, and one that is deleted makes room."""
    user = f"many-{kind}"
    # The user's own database is there from the first request.
    first = 1 if kind == "databases" else 0
    for number in range(first, MAX_COLLECTIONS):
        assert _make(instance, user, kind, number).status_code in (200, 201)
    for number in range(MAX_COLLECTIONS, MAX_COLLECTIONS + 3):
        refused = _make(instance, user, kind, number)
        assert refused.status_code == 413 and str(MAX_COLLECTIONS) in refused.text, refused.text
    tenant, native = f"/api/v2/tenants/{user}/databases", f"/users/{user}"
    if kind == "databases":
        more = f"{tenant}/avatar-more/collections"
        assert _send(instance.client, "POST", more, {"name": "notes", "get_or_create": True}).status_code == 413
        assert _send(instance.client, "POST", f"{native}/collections", {"name": "more"}).status_code == 201
        assert instance.client.delete(f"{native}/avatars/2").status_code in (200, 204)
    else:
        own = f"{tenant}/default_database/collections"
        assert _send(instance.client, "POST", own, {"name": "col-0", "get_or_create": True}).status_code == 200
        record = {"records": [{"id": "a", "embedding": [1, 2, 3]}]}
        assert _send(instance.client, "PUT", f"{native}/collections/col-1/records", record).status_code == 200
        assert instance.client.delete(f"{native}/collections/col-1").status_code in (200, 204)
    assert _make(instance, user, kind, MAX_COLLECTIONS + 4).status_code in (200, 201)
    assert _make(instance, user, kind, MAX_COLLECTIONS + 5).status_code == 413


HOSTILE = {
    "9,000 branches": ("get", {"where": {"$or": [{"k": i} for i in range(9_000)]}}),
    "9,000 branches of text": ("get", {"where_document": {"$or": [{"$contains": f"w{i}"} for i in range(9_000)]}}),
    "100 levels": ("query", {"query_embeddings": [[1, 2, 3]], "where": _nested(100)}),
    "20,000 records": ("add", {"ids": [f"i{i}" for i in range(20_000)], "embeddings": [[1, 2, 3]] * 20_000}),
    "2,000 queries": ("query", {"query_embeddings": [[1, 2, 3]] * 2_000}),
    "an id of 1 MB": ("add", _c(ids=["x" * 1_000_000])),
    "2.5 million keys": ("upsert", _c(metadatas=[{f"{i:x}": 1 for i in range(2_500_000)}])),
    "5 million ids": ("get", {"ids": ["a"] * 5_000_000}),
    "5 million empty embeddings": ("add", _c(embeddings=[[]] * 5_000_000)),
    "5 million numbers as embeddings": ("add", _c(embeddings=[1] * 5_000_000)),
    "5 million values": ("upsert", _c(metadatas=[{"k": [1] * 5_000_000}])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_refused(instance: Instance, name: str) -> None:
    """What once ended or stalled a shard is refused as the caller's fault, and the shard goes on."""
    verb, body = HOSTILE[name]
    response = _send(instance.client, "POST", f"{instance.chromas}/{verb}", body)
    assert 400 <= response.status_code < 500, response.text[:300]
    assert set(response.json()) == {"error", "message"}
    assert instance.client.get(f"{instance.chromas}/count").status_code == 200
