"""Requests that nobody means, by the service's own OpenAPI document and by hand: none breaks or stalls an instance.

One that is refused changes nothing: no commit, and no new user in the store. See ``tests.support.fuzzing``.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st

from tests.protocol import meant
from tests.protocol.conftest import only_ours
from tests.support.fuzzing import HANG_S, Fuzzed, fuzz_allowed, fuzz_refused
from tests.support.service import Service

pytestmark = only_ours

COLLECTIONS = "/api/v2/tenants/{}/databases/default_database/collections"
# What a server error may answer: Chroma's single-node server has no scout_logs, and the others it does not offer.
DOCUMENTED = {
    "/indexing_status": 500,
    "/search": 501,
    "/fork": 501,
    "/fork_count": 501,
    "/functions/attach": 501,
    "/detach": 501,
}
RECORDS = {"ids": ["a", "b"], "embeddings": [[1, 2, 3], [4, 5, 6]], "documents": ["one", "two"]}


class FuzzedProtocol(Fuzzed):
    """An instance, collections to send anything to, and a user's that no request names."""

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.target = ""
        self.refill()
        self._kept = f"{COLLECTIONS.format('kept')}/{self._filled('kept', 'books')}"
        self._before = self._records()

    def takes(self, operation: Any) -> bool:
        return bool(operation.path.startswith("/api/v2"))

    def is_documented(self, path: str, status: int) -> bool:
        return any(path.endswith(end) and status == documented for end, documented in DOCUMENTED.items())

    def aim(self, case: Any, name: str) -> None:
        places = meant.places(name, self.target)
        case.path_parameters.update({k: v for k, v in places.items() if k in case.path_parameters})

    def bodies(self, name: str, body: Any) -> st.SearchStrategy[Any]:
        return meant.bodies(name, body)

    def _filled(self, tenant: str, name: str) -> str:
        collections = COLLECTIONS.format(tenant)
        made: str = self.service.ok("POST", collections, json={"name": name, "get_or_create": True}).json()["id"]
        self.service.ok("POST", f"{collections}/{made}/upsert", json=RECORDS)
        return made

    def _records(self) -> Any:
        body = {"include": ["embeddings", "documents", "metadatas"]}
        return self.service.ok("POST", f"{self._kept}/get", json=body).json()

    def refill(self) -> None:
        """See to it that what requests are sent to exists, also when one of them deleted it."""
        databases = f"/api/v2/tenants/{meant.TENANT}/databases"
        there = {found["name"] for found in self.service.ok("GET", databases).json()}
        for name in {meant.DATABASE, meant.SPARE} - there:
            self.service.ok("POST", databases, json={"name": name})
        collections = COLLECTIONS.format(meant.TENANT)
        for found in self.service.ok("GET", collections).json():
            self.service.ok("DELETE", f"{collections}/{found['name']}")
        self.target, _ = (self._filled(meant.TENANT, name) for name in meant.NAMES)

    def state(self) -> tuple[str, frozenset[str]]:
        """Return the fuzzed user's newest commit, and who has anything in the store."""
        response = self.service.ok("GET", f"/api/v2/tenants/{meant.TENANT}/databases")
        users = frozenset(path.name for path in (Path(self.service.store) / "users").iterdir())
        return response.headers["X-Vectorpool-Commit"], users

    def check(self) -> None:
        """Assert that the kept user's records are what they were, and that the fuzzed user is served."""
        assert self._records() == self._before
        self.refill()
        path = f"{COLLECTIONS.format(meant.TENANT)}/{self.target}/get"
        assert self.service.ok("POST", path, json={"ids": ["a"]}).json()["documents"] == ["one"]


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzedProtocol]:
    """An instance with its defaults, and one shard."""
    service = Service(tmp_path_factory.mktemp("service"), "--shards", "1")
    try:
        yield FuzzedProtocol(service.start())
    finally:
        service.close()


@pytest.mark.timeout(1200)
def test_what_the_document_allows(fuzzed: FuzzedProtocol) -> None:
    """Requests that the OpenAPI document allows reach every operation, and break none."""
    everything = fuzz_allowed(fuzzed, 16, meant.NEVER)
    broken = [told for sent in everything for told in sent.broken]
    assert not broken, "\n".join(broken)
    assert {sent.name for sent in everything if not sent.succeeded} == meant.NEVER
    fuzzed.check()


@pytest.mark.timeout(1200)
def test_what_the_document_refuses(fuzzed: FuzzedProtocol) -> None:
    """Requests that break the OpenAPI document break nothing else."""
    everything = fuzz_refused(fuzzed, 8)
    broken = [told for sent in everything for told in sent.broken]
    assert not broken, "\n".join(broken)
    assert sum(sent.total for sent in everything) > 2 * len(fuzzed.operations)
    fuzzed.check()


DEEP = b"[" * 10_000 + b"]" * 10_000
DEEP_WHERE = b'{"$and":[' * 5_000 + b'{"n":1}' + b"]}" * 5_000
HUGE = b"9" * 5_000
HOSTILE = {
    "empty": b"",
    "null": b"null",
    "deep": DEEP,
    "deep and open": b"[" * 10_000,
    "deep where": b'{"ids":["x"],"embeddings":[[1,2,3]],"query_embeddings":[[1,2,3]],"where":' + DEEP_WHERE + b"}",
    "deep metadata": b'{"name":"books2","ids":["x"],"embeddings":[[1,2,3]],"metadatas":[{"n":' + DEEP + b"}]}",
    "NUL": rb'{"name":"a\u0000b","ids":["a\u0000b"],"embeddings":[[1,2,3]],"documents":["\u0000"]}',
    "raw NUL": b'{"name":"a\x00b","ids":["a\x00b"],"embeddings":[[1,2,3]]}',
    "half a pair": rb'{"name":"abc\ud800","ids":["\ud800"],"embeddings":[[1,2,3]],"documents":["\udfff"]}',
    "huge integer": b'{"ids":["x"],"embeddings":[[' + HUGE + b',2,3]],"limit":' + HUGE + b',"n_results":' + HUGE + b"}",
    "huge in metadata": b'{"ids":["x"],"embeddings":[[1,2,3]],"metadatas":[{"n":' + HUGE + b"}]}",
    "2**63 and 2**64": b'{"ids":["x"],"embeddings":[[1,2,3]],"metadatas":[{"n":9223372036854775808}],'
    b'"limit":18446744073709551616}',
    "large counts": b'{"query_embeddings":[[1,2,3]],"n_results":4294967295,"limit":4294967295,"offset":4294967295}',
    "1e400": b'{"ids":["x"],"embeddings":[[1e400,2,3]],"query_embeddings":[[1e400,2,3]],"metadatas":[{"n":1e400}]}',
    "1e39": b'{"ids":["x"],"embeddings":[[1e39,2,3]],"query_embeddings":[[1e39,2,3]]}',
    "NaN": b'{"ids":["x"],"embeddings":[[NaN,2,3]],"query_embeddings":[[NaN,2,3]],"metadatas":[{"n":NaN}]}',
    "truncated UTF-8": b'{"name":"ab\xe2\x82","ids":["\xe2\x82"],"embeddings":[[1,2,3]]}',
    "truncated": b'{"ids":["x"],"embeddings":[[1,2',
    "3 MB id": b'{"name":"' + b"x" * 3_000_000 + b'","ids":["' + b"x" * 3_000_000 + b'"],"embeddings":[[1,2,3]]}',
    "no numbers": b'{"ids":["x"],"embeddings":[[]],"query_embeddings":[[]]}',
    "many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(50_000)) + b"}",
}
ENCODED = {
    "gzip": ("gzip", gzip.compress(b'{"ids":["x"],"embeddings":[[1,2,3]]}')),
    "not gzip": ("gzip", b"{}"),
    "a gzip bomb": ("gzip", gzip.compress(b" " * 30_000_000)),
    "unknown": ("zzz", b"{}"),
}
BODIES = {**{name: ({}, body) for name, body in HOSTILE.items()}} | {
    name: ({"content-encoding": encoding}, body) for name, (encoding, body) in ENCODED.items()
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_bodies(fuzzed: FuzzedProtocol, name: str) -> None:
    """A body that is made to break a parser or an index breaks no operation that takes a body."""
    headers, body = BODIES[name]
    broken: list[str] = []
    for operation in fuzzed.operations:
        if operation.method.upper() not in ("POST", "PUT", "PATCH"):
            continue
        names = {"tenant": "fuzzed", "database": "default_database", "collection": fuzzed.target, "name": "f"}
        path = operation.path.format_map(names)
        told = f"{operation.method.upper()} {path} {headers} {body[:200]!r}, {len(body)} bytes"
        try:
            response = fuzzed.service.request(
                operation.method.upper(),
                path,
                content=body,
                headers={"content-type": "application/json", **headers},
                timeout=HANG_S,
            )
        except httpx.HTTPError as error:
            broken.append(f"{told}\n  {error!r}")
            continue
        if response.status_code >= 500 and not fuzzed.is_documented(operation.path, response.status_code):
            broken.append(f"{told}\n  {response.status_code} {response.text[:300]}")
    assert not broken, "\n".join(broken)
    fuzzed.check()
