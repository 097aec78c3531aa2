"""The cycle of one request and its answer on a connection: the HTTP server's own, with a cheaper head of the answer.

The server (uvicorn) checks each header of each answer by two regular expressions. Most headers of an answer are
constants of this service, so their lines are checked and made once. The rest of an answer is the server's work, and so
is every answer whose length is not announced or that says how its connection goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterable
from typing import Final
from urllib.parse import unquote

import httptools
from litestar.types import Message
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from vectorpool.api.problems import PROBLEM_MEDIA_TYPE
from vectorpool.front.browsers import PAGE_HEADERS, SAFE_HEADERS

Header = tuple[bytes, bytes]

_LENGTH: Final = b"content-length"
# Headers that decide how the answer is framed, or how its connection goes on.
_FRAMING: Final = frozenset({_LENGTH, b"transfer-encoding", b"connection"})
# Each answer has another one.
_PASSING: Final = frozenset({b"x-request-id", b"chroma-trace-id"})
_TYPES: Final = ((b"content-type", b"application/json"), (b"content-type", PROBLEM_MEDIA_TYPE.encode()))


class _Done:
    """What a ``send`` returns that has nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE: Final = _Done()


def line_of(header: Header) -> bytes:
    """Return the line of a header. Raises RuntimeError if it could be read as something else."""
    name, value = header
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        raise RuntimeError("An answer has a header that is none.")
    return b"%b: %b\r\n" % (name.lower(), value)


# Lines that are remembered, and the longest of them. One too many makes the memory begin anew.
_MAX_LINES: Final = 512
_MAX_REMEMBERED: Final = 64


class _OwnFraming(Exception):
    """The answer says itself how it is framed, or how its connection goes on."""


class _Lines(dict[Header, bytes]):
    """The lines of headers, each checked and made once while it is remembered."""

    def __missing__(self, header: Header) -> bytes:
        line = line_of(header)
        name = header[0].lower()
        if name in _FRAMING and header[0] != _LENGTH:
            raise _OwnFraming
        if len(line) <= _MAX_REMEMBERED and name not in _PASSING:
            if len(self) >= _MAX_LINES:
                self.clear()
                self.update(_CONSTANT_LINES)
            self[header] = line
        return line


# Constants of this service.
_CONSTANT_LINES: Final = {header: line_of(header) for header in (*_TYPES, *SAFE_HEADERS, *PAGE_HEADERS)}
_line: Final = _Lines(_CONSTANT_LINES).__getitem__


class _Defaults:
    """The lines of the server's own headers, the date above all, which it makes anew once a second."""

    headers: Iterable[Header] = ()
    lines = b""

    def of(self, headers: Iterable[Header]) -> bytes:
        if headers is not self.headers:
            self.headers, self.lines = headers, b"".join(map(line_of, headers))
        return self.lines


_DEFAULTS: Final = _Defaults()


class Flow(FlowControl):
    """Remembers whether reading was paused, because then it is not the caller who is slow."""

    was_paused = False

    def pause_reading(self) -> None:
        self.was_paused = True
        super().pause_reading()


class Cycle(RequestResponseCycle):
    """One request and its answer."""

    # The head of an answer that waits for the body, so that both go out in one write.
    _held: bytes | None = None

    def send(self, message: Message) -> Awaitable[None]:  # type: ignore[override]
        """Send a message of the answer."""
        if message["type"] == "http.response.body" and (head := self._held) is not None:
            self._held = None
            if self.disconnected:
                return _DONE
            body: bytes = message.get("body", b"")
            is_whole = not message.get("more_body") and len(body) == self.expected_content_length
            if is_whole and not self.flow.write_paused and self.scope["method"] != "HEAD":
                self.transport.writelines((head, body))
                self._end()
                return _DONE
            self.transport.write(head)
        elif (
            message["type"] == "http.response.start"
            and not self.response_started
            and not self.disconnected
            and not self.flow.write_paused
            and (head := self._head(message["status"], message["headers"])) is not None
        ):
            self.response_started = True
            self.waiting_for_100_continue = False
            self._held = head
            return _DONE
        return super().send(message)  # type: ignore[arg-type]

    def _end(self) -> None:
        """Complete the answer, as the server does."""
        self.expected_content_length = 0
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _head(self, status: int, headers: Iterable[Header]) -> bytes | None:
        """Return the head of an answer whose length is announced; None leaves it to the server."""
        headers = list(headers)
        fields = dict(headers)
        length = fields.get(_LENGTH)
        # Of two headers with one name, either may be about the framing.
        if length is None or not length.isdigit() or len(fields) != len(headers):
            return None
        try:
            lines = b"".join(map(_line, headers))
        except _OwnFraming:
            return None
        self.expected_content_length = int(length)
        self.chunked_encoding = False
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        return b"".join((STATUS_LINE[status], _DEFAULTS.of(self.default_headers), lines, end))


# URLs that are remembered, and the longest of them. One too many makes the memory begin anew.
_MAX_URLS: Final = 1024
_MAX_URL: Final = 512
_urls: dict[bytes, tuple[str, bytes, bytes]] = {}


def _parts_of(url: bytes) -> tuple[str, bytes, bytes]:
    """Return the decoded path of a request's URL, the path as it came, and the query."""
    parts = _urls.get(url)
    if parts is None:
        parsed = httptools.parse_url(url)
        path = parsed.path.decode("ascii")
        parts = unquote(path) if "%" in path else path, parsed.path, parsed.query or b""
        if len(url) <= _MAX_URL:
            if len(_urls) >= _MAX_URLS:
                _urls.clear()
            _urls[url] = parts
    return parts


def begin_cycle(connection: HttpToolsProtocol) -> None:
    """Complete a request's scope, and start its cycle or put it into the row: as the server does, with cycles of ours.

    The server's own method also looks for WebSockets and a bound of connections, which a connection here has not.
    """
    parser, scope = connection.parser, connection.scope
    version = parser.get_http_version()
    scope["method"] = parser.get_method().decode("ascii")
    scope["http_version"] = version
    scope["path"], scope["raw_path"], scope["query_string"] = _parts_of(connection.url)
    former = connection.cycle
    connection.cycle = Cycle(
        scope=scope,
        transport=connection.transport,
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=False,
        default_headers=connection.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=connection.expect_100_continue,
        keep_alive=version != "1.0" and parser.should_keep_alive(),
        on_response=connection.on_response_complete,
    )
    if former is None or former.response_complete:
        connection._start_asgi_task(connection.cycle, connection.app)
    else:
        connection.flow.pause_reading()
        connection.pipeline.appendleft((connection.cycle, connection.app))
