"""HTTP over raw connections: requests that no client library sends, and the time of the server's close."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit


@dataclass
class RawAnswer:
    """A response: the status, the headers by name in lower case, and the body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a problem, or the name of an error of Chroma's protocol."""
        found = json.loads(self.body)
        return str(found.get("code", found.get("error")))


class RawConnection:
    """A connection that sends given bytes unchanged. Use it as a context manager."""

    def __init__(self, url: str, timeout_s: float = 30.0) -> None:
        address = urlsplit(url)
        assert address.hostname and address.port
        self.socket = socket.create_connection((address.hostname, address.port), timeout=timeout_s)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send bytes; return False if the server closed the connection meanwhile."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def request(self, line: str, body: bytes = b"", **headers: str) -> RawAnswer:
        """Send a request with a Host of its own, and return its answer; a header's name has underscores for hyphens."""
        fields = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if body:
            fields.setdefault("content-length", str(len(body)))
        head = f"{line} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        self.send(head.encode("latin-1") + b"\r\n" + body)
        return self.answer()

    def answer(self) -> RawAnswer:
        """Return the next response. Raises ConnectionError if the connection ends instead."""
        line = self._file.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        headers: dict[str, str] = {}
        while (field := self._file.readline().strip()) != b"":
            name, _, value = field.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        status = int(line.split()[1])
        if status == 100:
            return self.answer()
        return RawAnswer(status, headers, self._file.read(int(headers.get("content-length", "0"))))

    def is_closed_within(self, seconds: float) -> bool:
        """Return whether the server closes the connection within this time; bytes that it still sends are read."""
        ends_s = time.monotonic() + seconds
        while (left_s := ends_s - time.monotonic()) > 0:
            self.socket.settimeout(left_s)
            try:
                if not self.socket.recv(65536):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False


def ask(url: str, line: str, body: bytes = b"", **headers: str) -> RawAnswer:
    """Send one request over a connection of its own, and return its answer."""
    with RawConnection(url) as connection:
        return connection.request(line, body, **headers)


def record_of(number: int, **more: Any) -> dict[str, Any]:
    """Return a record of the native API with an embedding of dimension 3."""
    return {"id": str(number), "embedding": [1, 0, number], **more}
