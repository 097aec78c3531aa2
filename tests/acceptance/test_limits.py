"""Limits as they are served: set by an operator, by settings and by claims, on both protocols and two instances."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import chromadb
import httpx
import pytest
from chromadb.config import Settings as ChromaSettings
from chromadb.errors import ChromaError, RateLimitError

from tests.acceptance.test_tokens import bearer
from tests.support.service import Service
from tests.support.tokens import SECRET
from vectorpool.names import limits_key

ADMIN = bearer("an-admin-key-of-enough-bytes-0123456789")
_users = itertools.count(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """Two instances over one store, which look for changed limits every second."""
    root = tmp_path_factory.mktemp("limits")
    env = {"VECTORPOOL_ADMIN_KEY": "an-admin-key-of-enough-bytes-0123456789", "VECTORPOOL_TOKEN_SECRET": SECRET}
    flags = ("--shards", "1", "--limits-refresh-s", "1", "--limit-collections", "50")
    made = []
    for name in "ab":
        (root / name).mkdir()
        made.append(Service(root / name, *flags, store=str(root / "store"), env=env).start())
    yield made
    for service in made:
        service.close()


@pytest.fixture
def user() -> str:
    return f"limited-{next(_users)}"


def token(service: Service, user: str, **grant: Any) -> dict[str, str]:
    grant = {"users": [user], "access": "write", "name": user} | grant
    return bearer(service.ok("POST", "/admin/tokens", json=grant, headers=ADMIN).json()["token"])


def set_limits(service: Service, user: str, **limits: float | None) -> Any:
    return service.ok("PUT", f"/admin/users/{user}/limits", json=limits, headers=ADMIN).json()


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def records(*ids: str) -> dict[str, Any]:
    return {"records": [{"id": i, "embedding": [1, 2]} for i in ids]}


def make_notes(service: Service, user: str, headers: dict[str, str]) -> str:
    made = service.ok("POST", f"/users/{user}/collections", json={"name": "notes"}, headers=headers).json()
    return f"/api/v2/tenants/{user}/databases/default_database/collections/{made['id']}"


def test_a_rate_is_refused_in_the_form_of_each_protocol(pair: list[Service], user: str) -> None:
    """On the short path and beside it; other users go on, and the client of Chroma raises its own exception."""
    service = pair[0]
    headers = token(service, user)
    chroma = make_notes(service, user, headers)
    shown = set_limits(service, user, requests_per_s=0.01, burst=3)
    assert shown["in_force"]["requests_per_s"] == {"value": 0.01, "source": "stored"}
    assert shown["in_force"]["collections"] == {"value": 50, "source": "setting"}
    native = f"/users/{user}/collections/notes"
    first = service.ok("POST", f"{native}/query", json={"embeddings": [[1, 2]]}, headers=headers)
    assert first.headers["ratelimit-policy"] == '"requests";q=3;w=300'
    assert first.headers["ratelimit"].startswith('"requests";r=2;t=')
    service.ok("GET", f"{native}/count", headers=headers)
    service.ok("POST", f"{chroma}/get", json={}, headers=headers)
    for method, path, body in (
        ("POST", f"{native}/query", {"embeddings": [[1, 2]]}),
        ("GET", native, None),
        ("PUT", f"{native}/records", records("a")),
        ("DELETE", native, None),
        ("GET", f"/users/{user}/usage", None),
    ):
        refused = service.problem(method, path, "rate-limited", json=body, headers=headers)
        problem = refused.json()
        assert (problem["limit_name"], problem["limit"]) == ("requests_per_s", 0.01)
        assert 1 <= int(refused.headers["retry-after"]) <= 100
        assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    for path in ("query", "get", "add"):
        refused = service.request("POST", f"{chroma}/{path}", json={"ids": ["a"]}, headers=headers)
        assert (refused.status_code, refused.json()["error"]) == (429, "RateLimitError")
        assert "requests_per_s" in refused.json()["message"] and int(refused.headers["retry-after"]) >= 1
    url = httpx.URL(service.url)
    with pytest.raises((RateLimitError, ValueError), match="requests a second"):
        chromadb.HttpClient(
            url.host, url.port, tenant=user, headers=headers, settings=ChromaSettings(anonymized_telemetry=False)
        )
    other = token(service, f"{user}-other")
    make_notes(service, f"{user}-other", other)
    # The rate is counted on each instance by itself.
    pair[1].ok("GET", f"{native}/count", headers=headers)


def test_what_is_stored_is_limited_on_both_protocols(pair: list[Service], user: str) -> None:
    """507 names the limit and the numbers; reading and deleting go on; usage tells it all."""
    service = pair[0]
    headers = token(service, user)
    chroma, native = make_notes(service, user, headers), f"/users/{user}/collections/notes"
    set_limits(service, user, records=3, collections=1, documents=1)
    service.ok("PUT", f"{native}/records", json=records("a", "b"), headers=headers)
    refused = service.problem("PUT", f"{native}/records", "quota-exceeded", json=records("c", "d"), headers=headers)
    assert refused.status_code == 507
    problem = refused.json()
    assert (problem["limit_name"], problem["limit"], problem["stored"], problem["count"]) == ("records", 3, 2, 4)
    body = {"ids": ["c", "d"], "embeddings": [[1, 2], [3, 4]]}
    long = json.dumps({**body, "documents": ["x" * 200_000, "y" * 200_000]}).encode()
    for sent in (json.dumps(body).encode(), long):
        for operation in ("add", "upsert"):
            below = service.request(
                "POST", f"{chroma}/{operation}", content=sent, headers={**headers, "content-type": "application/json"}
            )
            assert (below.status_code, below.json()["error"]) == (507, "ChromaError")
            assert "limit of records is 3" in below.json()["message"]
    url = httpx.URL(service.url)
    client = chromadb.HttpClient(
        url.host, url.port, tenant=user, headers=headers, settings=ChromaSettings(anonymized_telemetry=False)
    )
    with pytest.raises(ChromaError, match="limit of collections is 1"):
        client.create_collection("more")
    assert client.get_collection("notes").count() == 2
    service.problem("POST", f"/users/{user}/collections", "quota-exceeded", json={"name": "more"}, headers=headers)
    service.ok("PUT", f"/users/{user}/avatars/7/documents/a.md", content=b"text", headers=headers)
    service.ok("PUT", f"/users/{user}/avatars/7/documents/a.md", content=b"other", headers=headers)
    documents = service.problem(
        "PUT", f"/users/{user}/avatars/8/documents/b.md", "quota-exceeded", content=b"text", headers=headers
    )
    assert documents.json()["limit_name"] == "documents"
    usage = service.ok("GET", f"/users/{user}/usage", headers=headers).json()
    assert (usage["collections"], usage["records"], usage["documents"]["objects"]) == (1, 2, 1)
    assert usage["bytes"]["files"] >= usage["bytes"]["live"] > 0 < usage["bytes"]["history"]["bytes"]
    assert usage["limits"]["records"] == {"value": 3, "source": "stored"}
    assert usage["problem"] is None and usage["kept"]["documents"] == 1
    service.ok("DELETE", f"/users/{user}/avatars/7/documents/a.md", headers=headers)
    service.ok("PUT", f"/users/{user}/avatars/8/documents/b.md", content=b"text", headers=headers)
    set_limits(service, user, records=0, collections=0, documents=0)
    assert service.ok("GET", f"{native}/count", headers=headers).json() == {"count": 2}
    service.ok("DELETE", f"{native}/records", content=b'{"ids": ["a"]}', headers=headers)
    service.ok("DELETE", native, headers=headers)
    errors = "".join(service.errors)
    assert "Traceback" not in errors, "a refusal is no failure of ours"


def test_the_other_instance_honours_limits_within_a_minute(pair: list[Service], user: str) -> None:
    """Set, changed and deleted at one; a broken object there is reported by both and keeps the last good one."""
    here, there = pair
    headers = token(here, user)
    make_notes(here, user, headers)
    path, limits = f"/users/{user}/collections/notes/records", f"/admin/users/{user}/limits"

    def in_force(service: Service) -> Any:
        return service.ok("GET", limits, headers=ADMIN).json()

    set_limits(here, user, records=1)
    eventually(lambda: in_force(there)["stored"] == {"records": 1}, "the other instance has not heard of it")
    there.problem("PUT", path, "quota-exceeded", json=records("a", "b"), headers=headers)
    stored = Path(here.store) / limits_key(user)
    stored.write_bytes(b'{"limits": {"records": "many"}}')
    for service in pair:
        eventually(lambda service=service: in_force(service)["problem"] is not None, "it is not reported")
        shown = in_force(service)
        assert "those that were read before are in force" in shown["problem"]
        assert shown["in_force"]["records"] == {"value": 1, "source": "stored"}
        assert "cannot be read" in service.errors and user not in service.errors
    assert here.ok("GET", f"/users/{user}/usage", headers=headers).json()["problem"] == in_force(here)["problem"]
    here.ok("DELETE", limits, headers=ADMIN)
    here.ok("PUT", path, json=records("a", "b"), headers=headers)
    eventually(lambda: in_force(there)["stored"] is None, "the other instance has not heard of the deletion")
    there.ok("PUT", path, json=records("c"), headers=headers)


def test_nonsense_is_refused(pair: list[Service], user: str) -> None:
    """Unknown names with the nearest, numbers that cannot be, in requests and in grants; nothing is stored."""
    service, path = pair[0], f"/admin/users/{user}/limits"
    for body, said in (
        ('{"recods": 5}', "Did you mean records"),
        ('{"records": -5}', "0 to"),
        ('{"records": 1e400}', ""),
        ('{"records": NaN}', ""),
        ('{"records": 99999999999999999999}', "0 to"),
        ('{"burst": 1.5}', "whole number"),
        ("[]", ""),
        ("", "empty"),
        ('{"records": ' + "1" * 20_000 + "}", ""),
    ):
        refused = service.request("PUT", path, content=body.encode(), headers=ADMIN)
        assert refused.status_code in (400, 413) and said in refused.json()["detail"], (body[:50], refused.text)
    for limits in ({"recods": 5}, {"records": -1}, {"burst": 0}):
        grant = {"users": [user], "limits": limits}
        service.problem("POST", "/admin/tokens", "invalid-request", json=grant, headers=ADMIN)
    shown = service.ok("GET", path, headers=ADMIN).json()
    assert (shown["stored"], shown["problem"]) == (None, None)
    service.problem("PUT", path, "forbidden", json={}, headers=token(service, user))


def test_a_claim_narrows_and_never_widens(pair: list[Service], user: str) -> None:
    """A token with limits has its own rate and its own quota beside the user's; a wider claim changes nothing."""
    service = pair[0]
    whole, native = token(service, user), f"/users/{user}/collections/notes"
    make_notes(service, user, whole)
    set_limits(service, user, records=5)
    narrow = token(service, user, limits={"records": 2, "requests_per_s": 0.01, "burst": 2}, name="narrow")
    wide = token(service, user, limits={"records": 500}, name="wide")
    refused = service.problem("PUT", f"{native}/records", "quota-exceeded", json=records(*"abc"), headers=narrow)
    assert refused.json()["limit"] == 2
    service.ok("PUT", f"{native}/records", json=records(*"ab"), headers=narrow)
    limited = service.problem("GET", f"{native}/count", "rate-limited", headers=narrow)
    assert "The token" in limited.json()["detail"]
    assert limited.headers["ratelimit-policy"] == '"token-requests";q=2;w=200'
    service.ok("PUT", f"{native}/records", json=records(*"abcde"), headers=whole)
    assert (
        service.problem("PUT", f"{native}/records", "quota-exceeded", json=records("f"), headers=wide).json()["limit"]
        == 5
    )
    shown = service.ok("GET", f"/users/{user}/usage", headers=wide).json()["limits"]["records"]
    assert shown == {"value": 5, "source": "stored"}


def test_bodies_and_requests_at_once_are_limited(pair: list[Service], user: str) -> None:
    """413 by the announced length and while a body arrives, on both protocols; 429 beyond the requests at once."""
    service = pair[0]
    headers = token(service, user)
    chroma, native = make_notes(service, user, headers), f"/users/{user}/collections/notes"
    set_limits(service, user, request_bytes=2000, concurrent_requests=1)
    body = json.dumps(records(*(f"r{number}" for number in range(100)))).encode()
    parts = [body[:1000], body[1000:2500], body[2500:]]
    for content in (body, iter(parts)):
        refused = service.request("PUT", f"{native}/records", content=content, headers=headers)
        assert (refused.status_code, refused.json()["limit_name"]) == (413, "request_bytes"), refused.text
    for content in (body, iter(parts)):
        kind = {**headers, "content-type": "application/json"}
        refused = service.request("POST", f"{chroma}/upsert", content=content, headers=kind)
        assert refused.status_code == 413 and "request_bytes" in refused.json()["message"], refused.text
    service.ok("PUT", f"{native}/records", json=records("a"), headers=headers)
    url, held = httpx.URL(service.url), list[socket.socket]()
    head = f"PUT {native}/records HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"

    def is_refused() -> bool:
        # One that meets a request of the last turn is refused itself.
        held.append(socket.create_connection((url.host, url.port)))
        held[-1].sendall(f"{head}authorization: {headers['Authorization']}\r\n\r\n{{".encode())
        return service.request("GET", f"{native}/count", headers=headers).status_code == 429

    eventually(is_refused, "nothing is under way")
    refused = service.problem("GET", f"{native}/count", "rate-limited", headers=headers)
    assert refused.json()["limit_name"] == "concurrent_requests"
    assert refused.headers["ratelimit"] == '"concurrent";r=0'
    for connection in held:
        connection.close()
    count = partial(service.request, "GET", f"{native}/count", headers=headers)
    eventually(lambda: count().status_code == 200, "it is still under way")


def test_texts_to_embed_are_limited(pair: list[Service], user: str) -> None:
    """Questions, records with text and documents take the tokens of one minute; embeddings of one's own are free."""
    service = pair[0]
    headers, native = token(service, user), f"/users/{user}/collections/notes"
    make_notes(service, user, headers)
    set_limits(service, user, embedding_tokens_per_min=60)
    text = "one two three four five six seven eight nine ten " * 5
    service.ok("PUT", f"{native}/records", json={"records": [{"id": "a", "document": text}]}, headers=headers)
    left = service.ok("GET", f"/users/{user}/usage", headers=headers).json()["rates"]["embedding_tokens_left"]
    assert 0 < left < 20
    service.ok("POST", f"{native}/query", json={"texts": [text]}, headers=headers)
    refused = service.problem("POST", f"{native}/query", "rate-limited", json={"texts": ["a"]}, headers=headers)
    assert refused.json()["limit_name"] == "embedding_tokens_per_min" and int(refused.headers["retry-after"]) > 1
    more = {"records": [{"id": "b", "document": "text"}]}
    service.problem("PUT", f"{native}/records", "rate-limited", json=more, headers=headers)
    service.problem("POST", f"/users/{user}/avatars/7/query", "rate-limited", json={"text": "a"}, headers=headers)
    service.ok("POST", f"{native}/query", json={"embeddings": [[0.5] * 384]}, headers=headers)


# --- Memory -------------------------------------------------------------------------------------------


def memory(service: Service, **arguments: Any) -> Any:
    return service.ok("GET", "/admin/pool", **arguments).json()["memory"]


def test_an_instance_short_of_memory_refuses_cold_users_and_recovers(pair: list[Service], tmp_path: Path) -> None:
    """Bodies of 120 MB take it over the mark: cold users get 503, idle ones are closed; without them all are served."""
    for name in ("warm", "cold"):
        make_notes(pair[0], name, token(pair[0], name))
    # What an instance takes that has little open.
    used = memory(pair[1], headers=ADMIN)["used"]
    high, low = used + 48 * 1024**2, used + 32 * 1024**2
    service = Service(
        tmp_path,
        *("--shards", "1", "--memory-limit-bytes", str(high), "--memory-high-percent", "100"),
        *("--memory-low-percent", str(100 * low / high)),
        store=pair[0].store,
    ).start()
    held = []
    try:
        service.ok("GET", "/users/warm/collections")
        assert memory(service)["is_short"] is False
        url = httpx.URL(service.url)
        for number in range(2):
            held.append(socket.create_connection((url.host, url.port)))
            held[-1].sendall(
                f"PUT /users/big{number}/avatars/7/documents/a.md HTTP/1.1\r\nhost: localhost\r\n".encode()
            )
            held[-1].sendall(b"content-length: 62000000\r\n\r\n" + b"x" * 60_000_000)
        eventually(lambda: memory(service)["is_short"], "bodies of 120 MB are not noticed")
        seen = set()

        def is_refused() -> bool:
            # One of them is open, or is being closed; the other is cold.
            for name in ("warm", "cold"):
                answer = service.request("GET", f"/users/{name}/collections")
                seen.add(answer.status_code)
                if answer.status_code == 503:
                    assert answer.json()["code"] == "memory-short" and int(answer.headers["retry-after"]) >= 1
            return {200, 503} <= seen

        eventually(is_refused, f"cold users are not refused: {seen}")
        service.ok("GET", "/health/live")

        def is_closed() -> bool:
            for connection in held:
                # A body that stops arriving would be cut off.
                connection.sendall(b"x" * 100)
            return not [s for s in service.ok("GET", "/admin/pool").json()["slots"] if s["state"] == "ready"]

        eventually(is_closed, "idle vectorstores are not closed")
        for connection in held:
            connection.close()
        eventually(lambda: not memory(service)["is_short"], f"memory is not given back: {memory(service)}")
        for name in ("warm", "cold"):
            service.ok("GET", f"/users/{name}/collections")
        assert "memory is short" in service.errors and "memory is enough again" in service.errors
    finally:
        for connection in held:
            connection.close()
        service.close()
