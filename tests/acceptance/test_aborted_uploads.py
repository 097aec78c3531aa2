"""A caller that breaks off its upload costs a line of the log, and no more."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.service import Service

RECORDS = "/api/v2/tenants/u/databases/default_database/collections/8b3f5c1e-3a9b-4d64-9a51-5d0f0ad1f001/add"
PATHS = [
    ("PUT", "/users/u/avatars/a/documents/x.txt"),
    ("POST", "/users/u/collections/notes/records"),
    ("POST", "/users/u/collections/notes/query"),
    ("POST", RECORDS),
    ("POST", "/api/v2/tenants"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    served = Service(tmp_path_factory.mktemp("service"), "--shards", "1").start()
    yield served
    served.close()


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize("sent", [10, 600_000])
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_an_aborted_upload_is_one_line(service: Service, method: str, path: str, sent: int, ending: str) -> None:
    """However much of a body came, and however the connection ended, the log has one line of the request."""
    request_id = f"abort-{len(path)}-{sent}-{ending}"
    url = urlsplit(service.url)
    before = len(service.errors.splitlines())
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\nx-request-id: {request_id}\r\n"
        )
        connection.sendall(f"{head}content-type: application/json\r\n\r\n".encode() + b"[" * sent)
        time.sleep(0.1)
        if ending == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(100):
        if request_id in service.errors:
            break
        time.sleep(0.05)
    # What a defect would log comes with the line or right after it.
    time.sleep(0.1)
    lines = service.errors.splitlines()[before:]
    assert len(lines) == 1, lines
    assert request_id in lines[0] and '"status":499' in lines[0]
