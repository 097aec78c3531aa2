"""Connections by hand against a real server: headers, time, the number of connections, bodies and answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.support.raw_http import RawAnswer, RawConnection, ask
from tests.support.service import Service

NOTES = "/users/alice/collections/notes"
CHROMA = "/api/v2/tenants/alice/databases/default_database/collections"
# Each path with the name of an error in its protocol.
BOTH = [("/users/alice", "code"), ("/api/v2/tenants/alice", "error")]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose bounds of connections and time are small."""
    flags = ["--shards", "1", "--header-timeout-s", "1", "--transfer-timeout-s", "1"]
    flags += ["--max-connections", "24", "--max-connections-per-caller", "20", "--max-body-bytes", str(4 * 1024**2)]
    served = Service(tmp_path_factory.mktemp("edge"), *flags).start()
    served.ok("POST", "/users/alice/collections", json={"name": "notes"})
    yield served
    served.close()


def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    ends_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends_s, "it did not come about"
        time.sleep(0.05)


def refused(service: Service, data: bytes) -> RawAnswer:
    """Send bytes, and return the refusal; the connection must end with it."""
    with RawConnection(service.url) as connection:
        connection.send(data)
        answer = connection.answer()
        assert answer.headers["connection"] == "close"
        assert connection.is_closed_within(10)
    return answer


# --- Headers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "form"), BOTH)
@pytest.mark.parametrize(
    "headers",
    [
        b"x: " + b"y" * 66_000,
        b"x" * 66_000 + b": y",
        b"".join(b"x%d: %s\r\n" % (number, b"y" * 1000) for number in range(70)),
        b"".join(b"x%d: y\r\n" % number for number in range(101)),
    ],
    ids=["a value", "a name", "bytes", "number"],
)
def test_headers_are_bounded_in_bytes_and_number(service: Service, path: str, form: str, headers: bytes) -> None:
    """More than 64 KiB or a hundred headers are 431, in the form of the path's protocol, before any token is read."""
    answer = refused(service, f"GET {path} HTTP/1.1\r\nhost: localhost\r\n".encode() + headers.rstrip() + b"\r\n\r\n")
    assert answer.status == 431
    body = json.loads(answer.body)
    assert body[form] == ("headers-too-large" if form == "code" else "ChromaError")
    assert answer.headers["content-type"] == ("application/problem+json" if form == "code" else "application/json")


def test_headers_within_the_bounds_are_read(service: Service) -> None:
    """Ninety headers of 60 KiB in all are read, in whatever parts they arrive."""
    fields = b"".join(b"x%d: %s\r\n" % (number, b"y" * 650) for number in range(90))
    with RawConnection(service.url) as connection:
        for _ in range(3):
            whole = b"GET /users/alice HTTP/1.1\r\nhost: localhost\r\n" + fields + b"\r\n"
            for at in range(0, len(whole), 7000):
                connection.send(whole[at : at + 7000])
                time.sleep(0.001)
            assert connection.answer().status == 200


def test_headers_of_megabytes_cost_nothing(service: Service) -> None:
    """Twenty megabytes of one header end after its first 64 KiB: the server reads no more, and others are answered."""
    with RawConnection(service.url) as connection:
        connection.send(b"GET /users/alice HTTP/1.1\r\nhost: localhost\r\nx: ")
        sent = 0
        while sent < 20 and connection.send(b"y" * 1024**2):
            sent += 1
        service.ok("GET", f"{NOTES}/count")
        until(lambda: connection.is_closed_within(0.1))


@pytest.mark.parametrize("tail", [b"x: " + b"y" * 1_000_000, b"".join(b"x%d: y\r\n" % n for n in range(101))])
def test_trailers_count_as_headers(service: Service, tail: bytes) -> None:
    """Headers after a chunked body have the bounds of those before it."""
    head = f"POST {NOTES}/records/get HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with RawConnection(service.url) as connection:
        connection.send(head + b"2\r\n{}\r\n0\r\n" + tail)
        assert connection.answer().status == 431


def test_extensions_of_chunks_are_bounded(service: Service) -> None:
    """A chunk's extension of megabytes is refused like headers are."""
    head = f"POST {NOTES}/records/get HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    with RawConnection(service.url) as connection:
        connection.send(head + b"2;" + b"x" * 1_000_000)
        assert connection.answer().status == 431


def test_requests_sent_ahead_are_bounded(service: Service) -> None:
    """A few requests sent at once are answered in their order; thousands are cut."""
    line = b"GET /users/alice/collections/notes/count HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with RawConnection(service.url) as connection:
        connection.send(line * 10)
        assert [connection.answer().status for _ in range(10)] == [200] * 10
    with RawConnection(service.url) as connection:
        connection.send(line * 10_000)
        assert connection.is_closed_within(10)
    service.ok("GET", f"{NOTES}/count")


@pytest.mark.parametrize(
    ("path", "code"), [("/users/J\xf6rg", "invalid-request"), ("/api/v2/J\xf6rg", "InvalidArgumentError")]
)
def test_raw_bytes_in_the_request_line_are_refused(service: Service, path: str, code: str) -> None:
    """Bytes that are not even escaped end in the parser, in the form of the path's protocol."""
    answer = ask(service.url, f"GET {path}")
    assert (answer.status, answer.code) == (400, code)


# --- Time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "form"), BOTH)
def test_headers_that_do_not_arrive_are_refused(service: Service, path: str, form: str) -> None:
    """Half of the headers, however they trickle, are 408 after header_timeout_s."""
    with RawConnection(service.url) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nx: ".encode())
        for _ in range(6):
            time.sleep(0.25)
            connection.send(b"y")
        answer = connection.answer()
    assert (answer.status, json.loads(answer.body)[form]) == (
        408,
        "request-too-slow" if form == "code" else "ChromaError",
    )


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r\n\r\n"])
def test_a_connection_that_sends_nothing_is_closed(service: Service, data: bytes) -> None:
    """Also one that sent only what the parser passes over, also after an answer."""
    with RawConnection(service.url) as connection:
        connection.send(data)
        assert connection.is_closed_within(5)
    with RawConnection(service.url) as connection:
        assert connection.request("GET /users/alice").status == 200
        connection.send(data or b"G")
        assert connection.is_closed_within(5)


@pytest.mark.parametrize(
    ("path", "form"), [(f"{NOTES}/records", "code"), (f"{NOTES}/query", "code"), (f"{CHROMA}/0/add", "error")]
)
def test_a_body_that_does_not_get_on_is_refused(service: Service, path: str, form: str) -> None:
    """A body of which less than transfer_bytes_per_s arrives is 408, with a length and in chunks."""
    for framing in ("content-length: 500000", "transfer-encoding: chunked"):
        with RawConnection(service.url) as connection:
            connection.send(
                f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
                + f"{framing}\r\n\r\n".encode()
            )
            for _ in range(8):
                time.sleep(0.2)
                connection.send(b"{" if framing.startswith("content") else b"1\r\n{\r\n")
            answer = connection.answer()
            assert answer.status == 408
            assert json.loads(answer.body)[form] == ("request-too-slow" if form == "code" else "ChromaError")
            assert connection.is_closed_within(10)


def test_a_slow_body_that_gets_on_is_read(service: Service) -> None:
    """Slow, but above the rate: it takes longer than transfer_timeout_s, and is answered."""
    body = json.dumps({"records": [{"id": "slow", "embedding": [1, 0, 0], "document": "x" * 60_000}]}).encode()
    with RawConnection(service.url) as connection:
        connection.send(
            f"PUT {NOTES}/records HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        )
        for at in range(0, len(body), 8000):
            connection.send(body[at : at + 8000])
            time.sleep(0.35)
        assert connection.answer().status == 200


def test_a_body_after_its_answer_does_not_keep_the_connection(service: Service) -> None:
    """A refused request's body may still arrive, but neither slowly nor without an end."""
    head = b"PUT /users/a%ff/collections HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    with RawConnection(service.url) as connection:
        connection.send(head)
        assert connection.answer().status == 400
        assert connection.is_closed_within(10)
    with RawConnection(service.url) as connection:
        connection.send(head)
        assert connection.answer().status == 400
        # It is read for two seconds more, so that the answer arrives, and then cut.
        chunk, ends_s = b"%x\r\n%s\r\n" % (1024**2, b"x" * 1024**2), time.monotonic() + 30
        while (is_open := connection.send(chunk)) and time.monotonic() < ends_s:
            pass
        assert not is_open
    # What has the usual size passes, and the connection goes on.
    with RawConnection(service.url) as connection:
        assert connection.request("PUT /users/a%ff/collections", b"x" * 1_000_000).status == 400
        assert connection.request("GET /users/alice").status == 200


def test_an_answer_that_is_not_taken_is_cut(service: Service) -> None:
    """A caller that asks for megabytes and reads nothing loses its connection; one that reads gets them."""
    records = [{"id": f"big-{n}", "embedding": [1, 0, n], "document": "x" * 400_000} for n in range(8)]
    service.ok("POST", "/users/big/collections", json={"name": "notes"})
    service.ok("PUT", "/users/big/collections/notes/records", json={"records": records[:4]})
    service.ok("PUT", "/users/big/collections/notes/records", json={"records": records[4:]})
    line = b"POST /users/big/collections/notes/records/get HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}"
    with RawConnection(service.url) as connection:
        for _ in range(8):
            connection.send(line)
        time.sleep(6)
        # What the kernel holds can still be read, and then the connection ends in the middle of an answer.
        received = 0
        try:
            while piece := connection.socket.recv(1 << 20):
                received += len(piece)
        except OSError:
            pass
        assert received < 8 * 8 * 400_000
    assert len(service.ok("POST", "/users/big/collections/notes/records/get", json={}).content) > 8 * 400_000


def test_too_long_a_body_is_refused_unread(service: Service) -> None:
    """By its announced length alone: a caller that waits for 100 Continue sends none of it, on both protocols."""
    headers = {"content_length": str(60 * 1024**3), "expect": "100-continue", "content_type": "application/json"}
    for line in (f"PUT {NOTES}/records", f"POST {NOTES}/query", "PUT /users/alice/avatars/7/documents/x.txt"):
        answer = ask(service.url, line, **headers)
        assert (answer.status, answer.code) == (413, "limit-exceeded")
    found = service.ok("GET", CHROMA).json()[0]["id"]
    for operation in ("add", "query"):
        assert ask(service.url, f"POST {CHROMA}/{found}/{operation}", **headers).status == 413


def _held(stack: ExitStack, url: str, path: str, size: int, **headers: str) -> RawConnection:
    """Send most of a body, and keep the connection: the request is under way."""
    connection = stack.enter_context(RawConnection(url))
    fields = {"host": "localhost", "content-length": str(size + 100), "content-type": "application/json", **headers}
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    connection.send(head.encode() + b"\r\n" + b"[" * size)
    return connection


def _resident_bytes(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def test_bodies_under_way_have_one_budget_and_memory_comes_back(tmp_path: Path) -> None:
    """One user holds half of the budget and is then refused, others are not; what was held goes back to the system."""
    budget = 200 * 1024**2
    flags = ["--shards", "1", "--max-body-bytes-under-way", str(budget), "--transfer-timeout-s", "60"]
    service = Service(tmp_path, *flags).start()
    try:
        for user in ("alice", "bob"):
            service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
        with ExitStack() as stack:
            for _ in range(9):
                _held(stack, service.url, f"{NOTES}/records", 10 * 1024**2)
            # Nine tenths of alice's share arrived when two tenths more are refused.
            more = {"content_length": str(20 * 1024**2), "expect": "100-continue"}
            until(lambda: ask(service.url, f"PUT {NOTES}/records", **more).status == 429)
            held = _resident_bytes(service.pid)
            for path, code in ((f"{NOTES}/query", "queue-full"), (f"{CHROMA}/0/add", "RateLimitError")):
                answer = ask(service.url, f"POST {path}", content_type="application/json", **more)
                assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, code, "1")
            records = {"records": [{"id": "a", "embedding": [1, 0], "document": "x" * 2 * 1024**2}]}
            service.ok("PUT", "/users/bob/collections/notes/records", json=records)
        until(lambda: _resident_bytes(service.pid) < held - 60 * 1024**2, 30)
        service.ok("PUT", f"{NOTES}/records", json=records)
    finally:
        service.close()


def test_callers_behind_a_trusted_proxy_are_told_apart(tmp_path: Path) -> None:
    """Each has its own number of requests under way; the proxy's connections are not one caller's."""
    flags = ["--shards", "1", "--max-connections-per-caller", "2", "--trusted-proxies", "127.0.0.1"]
    service = Service(tmp_path, *flags).start()
    try:
        service.ok("POST", "/users/alice/collections", json={"name": "notes"})
        with ExitStack() as stack:
            forwarded = {"x-forwarded-for": "198.51.100.1, 203.0.113.7"}
            held = [_held(stack, service.url, f"{NOTES}/query", 10, **forwarded) for _ in range(2)]
            mine, other = "203.0.113.7", "198.51.100.1"
            until(lambda: ask(service.url, "GET /users/alice", x_forwarded_for=mine).status == 429)
            for path, code in (("/users/alice", "too-many-connections"), ("/api/v2/heartbeat", "RateLimitError")):
                answer = ask(service.url, f"GET {path}", x_forwarded_for=mine)
                assert (answer.status, answer.code) == (429, code)
                assert ask(service.url, f"GET {path}", x_forwarded_for=other).status == 200
                assert ask(service.url, f"GET {path}").status == 200
            assert ask(service.url, "GET /health/live", x_forwarded_for=mine).status == 200
            held[0].close()
            until(lambda: ask(service.url, "GET /users/alice", x_forwarded_for=mine).status == 200)
    finally:
        service.close()


# --- Number ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code"), [("/users/alice", "too-many-connections"), ("/api/v2/tenants/alice", "RateLimitError")]
)
def test_a_caller_has_so_many_connections(service: Service, path: str, code: str) -> None:
    """The one too many is 429 in the form of the path's protocol; health is answered; a closed one makes room."""
    with ExitStack() as stack:
        service.client.close()
        service.client = httpx.Client(base_url=service.url, timeout=60)
        until(lambda: ask(service.url, f"GET {path}").status == 200)
        held = [stack.enter_context(RawConnection(service.url)) for _ in range(20)]
        # An idle connection that had an answer stays.
        assert [connection.request(f"GET {path}").status for connection in held] == [200] * 20
        until(lambda: ask(service.url, f"GET {path}").status == 429)
        answer = ask(service.url, f"GET {path}")
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, code, "1")
        assert ask(service.url, "GET /health/live").status == 200
        held[0].close()
        until(lambda: ask(service.url, f"GET {path}").status == 200)


def test_half_open_connections_are_gone_soon(service: Service) -> None:
    """Two hundred connections that send nothing or half: each is closed, and the service takes new ones."""
    with ExitStack() as stack:
        opened = []
        for number in range(200):
            connection = stack.enter_context(RawConnection(service.url))
            connection.send(b"" if number % 2 else b"POST /users/alice/collections HTTP/1.1\r\nhost:")
            opened.append(connection)
        for connection in opened:
            assert connection.is_closed_within(10)
        service.ok("GET", f"{NOTES}/count")
