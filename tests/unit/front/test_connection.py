"""A connection of the HTTP server without a network: what it gives the parser, and what it refuses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from tests.unit.front.parts import Answering
from vectorpool.front.admission import MAX_TURNED_AWAY, Admission
from vectorpool.front.connection import MAX_PIPELINED, Connection
from vectorpool.settings import Settings


class Transport(asyncio.Transport):
    """Keeps what is written, and knows whether it was closed or cut."""

    def __init__(self, address: str = "10.0.0.1") -> None:
        super().__init__({"peername": (address, 4711), "sockname": ("10.0.0.9", 80)})
        self.written = b""
        self.ended = False
        self.aborted = False
        self.unsent = 0

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.ended or self.aborted

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Made:
    """A connection, its transport, and the application behind it."""

    def __init__(self, settings: Settings, admission: Admission | None = None, address: str = "10.0.0.1") -> None:
        self.app = Answering()
        config = Config(self.app, ws="none", lifespan="off", log_config=None, proxy_headers=False)
        config.load()
        self.admission = admission or Admission(settings)
        self.connection = Connection(
            settings, self.admission, config=config, server_state=ServerState(), app_state={}, _loop=None
        )
        self.transport = Transport(address)
        self.connection.connection_made(self.transport)

    @property
    def statuses(self) -> list[int]:
        """The statuses of what was written."""
        return [int(part[:3]) for part in self.transport.written.split(b"HTTP/1.1 ")[1:]]


async def settle() -> None:
    """Let every task run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_headers_in_single_bytes() -> None:
    """However small its parts, a request within the bounds is read."""
    made = Made(Settings())
    for byte in b"GET /a HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 20_000 + b"\r\n\r\n":
        made.connection.data_received(bytes([byte]))
    await settle()
    assert made.statuses == [200]
    assert dict(made.app.seen[0]["headers"])[b"long"] == b"y" * 20_000


@pytest.mark.parametrize("part", [1, 1000, 16 * 1024, 300_000])
async def test_the_bound_of_bytes(part: int) -> None:
    """A header is refused before much more than the bound is read, in whatever parts it comes."""
    made = Made(Settings(max_header_bytes=4096))
    data = b"GET /a HTTP/1.1\r\nhost: x\r\nlong: " + b"y" * 300_000
    for at in range(0, len(data), part):
        made.connection.data_received(data[at : at + part])
        if made.transport.ended:
            assert at <= 4096 + 16 * 1024 + part
            break
    assert made.statuses == [431]
    assert made.app.seen == []
    # What still comes is dropped.
    made.connection.data_received(b"GET /b HTTP/1.1\r\nhost: x\r\n\r\n")
    await settle()
    assert made.statuses == [431]


async def test_a_large_body_with_the_next_request_behind_it() -> None:
    """Data that ends a body and begins other headers is not taken for headers beyond the bound."""
    made = Made(Settings(max_header_bytes=1024))
    body = b"x" * 100_000
    head = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    made.connection.data_received(head + body[:50_000])
    made.connection.data_received(body[50_000:] + b"GET /b HTTP/1.1\r\nhost")
    await settle()
    made.connection.data_received(b": x\r\n\r\n")
    await settle()
    assert made.statuses == [200, 200]


async def test_requests_ahead_of_their_answers() -> None:
    """So many wait in their order; one more ends the connection."""
    for more, statuses in ((0, [200] * (MAX_PIPELINED + 1)), (1, [])):
        made = Made(Settings())
        made.connection.data_received(b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n" * (MAX_PIPELINED + 1 + more))
        for _ in range(MAX_PIPELINED):
            await settle()
        assert made.transport.aborted == bool(more)
        assert made.statuses[: len(statuses)] == statuses


async def test_connections_beyond_the_bound() -> None:
    """They wait for their one refusal, health excepted; beyond a number they are cut, and a closed one makes room."""
    settings = Settings(max_connections_per_caller=1)
    first = Made(settings)
    refused = [Made(settings, first.admission) for _ in range(MAX_TURNED_AWAY)]
    assert Made(settings, first.admission).transport.aborted
    assert not Made(settings, first.admission, "10.0.0.2").transport.aborted
    refused[0].connection.data_received(b"GET /users HTTP/1.1\r\nhost: x\r\n\r\n")
    refused[1].connection.data_received(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    await settle()
    assert refused[0].statuses == [429] and b"too-many-connections" in refused[0].transport.written
    assert refused[1].statuses == [200] and b"connection: close" in refused[1].transport.written
    for made in (first, *refused):
        made.connection.connection_lost(None)
    assert first.admission.turned_away == 0
    again = Made(settings, first.admission)
    again.connection.data_received(b"GET /users HTTP/1.1\r\nhost: x\r\n\r\n")
    await settle()
    assert again.statuses == [200]
    again.connection.connection_lost(None)
    assert (first.admission.connections, first.admission.callers) == (1, 1)


async def test_an_answer_that_is_not_taken() -> None:
    """Without progress the connection is cut; with enough of it, it stays."""
    for taken, is_cut in ((0, True), (10_000, False)):
        made = Made(Settings(transfer_timeout_s=9.0, transfer_bytes_per_s=1000))
        made.transport.unsent = 1_000_000
        made.connection.pause_writing()
        for _ in range(3):
            made.transport.unsent -= taken
            if not made.transport.aborted:
                # What the timer would call.
                made.connection._check_answer()
        assert made.transport.aborted == is_cut
        made.connection.connection_lost(None)
