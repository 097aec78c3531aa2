"""The head of an answer: its lines are the server's own, whether they are constant or checked for this answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tests.unit.front.test_connection import Transport
from vectorpool.front.browsers import PAGE_HEADERS, SAFE_HEADERS
from vectorpool.front.cycle import Cycle, line_of

DATE = [(b"date", b"Sat, 28 Nov 2026 02:35:12 GMT")]


def cycle_of(
    kind: type[RequestResponseCycle], transport: Transport, method: str = "GET", *, keep_alive: bool = True
) -> RequestResponseCycle:
    """Return the cycle of one request."""
    return kind(
        scope={"type": "http", "method": method},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=logging.getLogger(),
        access_logger=logging.getLogger(),
        access_log=False,
        default_headers=DATE,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


async def written(kind: type[RequestResponseCycle], headers: Any, method: str, **how: bool) -> tuple[bytes, bool]:
    """Return what a cycle writes for an answer of two parts, and whether it closes the connection."""
    transport = Transport()
    cycle = cycle_of(kind, transport, method, **how)
    await cycle.send({"type": "http.response.start", "status": 201, "headers": headers})
    await cycle.send({"type": "http.response.body", "body": b"{", "more_body": True})
    await cycle.send({"type": "http.response.body", "body": b"}", "more_body": False})
    assert cycle.response_complete
    return transport.written, transport.ended


@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "headers",
    [
        [
            (b"content-type", b"application/json"),
            (b"X-Vectorpool-Commit", b"7"),
            *SAFE_HEADERS,
            (b"content-length", b"2"),
        ],
        [(b"Content-Length", b"2"), *PAGE_HEADERS],
        [(b"content-length", b"2"), (b"connection", b"close")],
        [(b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")],
        [(b"x-request-id", b"a")],
        [],
    ],
)
async def test_an_answer_is_written_as_the_server_writes_it(headers: Any, method: str, keep_alive: bool) -> None:
    """Each byte of an answer is the same as that of the server's own cycle, and so is the end of the connection."""
    ours = await written(Cycle, headers, method, keep_alive=keep_alive)
    assert ours == await written(RequestResponseCycle, headers, method, keep_alive=keep_alive)
    assert ours[0].startswith(b"HTTP/1.1 201 Created\r\ndate: ")


@pytest.mark.parametrize(
    "header", [(b"x-name", b"a\r\nset-cookie: b"), (b"x name", b"a"), (b"x-name\r", b"a"), (b"x-name", b"\0")]
)
async def test_a_header_that_could_be_two_is_refused(header: tuple[bytes, bytes]) -> None:
    """A line break or a control character in a header never reaches the connection."""
    with pytest.raises(RuntimeError):
        line_of(header)
    transport = Transport()
    with pytest.raises(RuntimeError):
        await cycle_of(Cycle, transport).send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), header]}
        )
    assert transport.written == b""


async def test_a_body_of_another_length_than_announced_is_refused() -> None:
    """The announced length holds for answers with a head of ours too."""
    cycle = cycle_of(Cycle, Transport())
    await cycle.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    with pytest.raises(RuntimeError, match="longer"):
        await cycle.send({"type": "http.response.body", "body": b"{}", "more_body": False})


async def test_an_answer_for_a_caller_that_is_gone_is_dropped() -> None:
    """Nothing is written to a connection that is lost."""
    transport = Transport()
    cycle = cycle_of(Cycle, transport)
    cycle.disconnected = True
    await cycle.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    assert transport.written == b"" and not cycle.response_started
