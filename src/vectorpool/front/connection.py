"""A connection of the HTTP server, with the bounds that the server itself does not have.

The server (uvicorn with httptools) bounds neither the bytes nor the number of headers, joins a header that arrives in
parts at quadratic cost, and waits for ever for headers, for a body, and for a caller to take its answer. What is
refused here is refused before the stages, and the connection ends with it:

- headers beyond ``max_header_bytes`` or ``max_headers``, and requests sent ahead of their answers beyond a few;
- headers that take longer than ``header_timeout_s``; bodies and answers that pass less than
  ``transfer_bytes_per_s`` for ``transfer_timeout_s``, while it is the caller who is waited for;
- connections beyond ``max_connections`` and ``max_connections_per_caller``.

A refusal has the form of the path's protocol, as far as the path is known.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vectorpool.api.refusals import refusal_bytes
from vectorpool.errors import HeadersTooLarge, InvalidRequest, RequestTooSlow, TooManyConnections, VectorpoolError
from vectorpool.front.admission import MAX_TURNED_AWAY, Admission, group_of
from vectorpool.front.browsers import SAFE_HEADERS
from vectorpool.front.cycle import Flow, begin_cycle
from vectorpool.settings import Settings

# Requests that a caller may send ahead of their answers. Clients that do so at all send a few.
MAX_PIPELINED: Final = 32
# Bytes of headers that the parser gets at a time, so that it never joins many of them.
_PIECE_BYTES: Final = 16 * 1024
# A body that is refused for a few bytes too many is passed over to its end, whether its answer came sooner or later.
_PASSED_OVER_BYTES: Final = 256 * 1024
# The parser does not say which path it refuses. The protocol of the path is in its first bytes.
_LINE_BYTES: Final = 64
# A header costs more than its bytes.
_HEADER_OVERHEAD: Final = 4
# How long what a refused caller still sends is read and dropped. A reset would reach it before the refusal does.
_LINGER_S: Final = 2.0
# How long a connection beyond the bounds waits for the request that it is refused.
_TURNED_AWAY_S: Final = 1.0
_HEALTH: Final = b"/health"
_EXPECT: Final = b"expect"


class _Refused(Exception):
    """Ends the parser's work in the middle of its data."""


class Connection(HttpToolsProtocol):
    """One connection. ``settings`` has its bounds, ``admission`` counts it."""

    # Defaults are the class's own: most connections never change them.
    _refusal: VectorpoolError | None = None
    _turned_away: VectorpoolError | None = None
    _is_over = False
    _is_admitted = False
    _head_timer: asyncio.TimerHandle | None = None
    _body_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None
    # Where the parser is: before or in the headers of a request, or after them.
    _in_head = True
    _has_begun = False
    _has_cycle = False
    _head = b""
    _head_bytes = 0
    _trailers = 0
    _trailer_bytes = 0
    _piece_bytes = 0
    _idle_bytes = 0
    _passed_bytes = 0
    _dropped_bytes = 0
    _unsent_bytes = 0

    def __init__(self, settings: Settings, admission: Admission, **server: Any) -> None:
        super().__init__(**server)
        self._bounds = settings
        self._admission = admission
        self._caller: str | None = None
        # The callers behind a proxy whose requests are under way here, the oldest first.
        self._forwarded: deque[str | None] = deque()

    # --- The transport -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection, and give its first request its time."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._caller = self._admission.caller_of(self.client[0] if self.client else "")
        try:
            self._admission.admit(self._caller)
            self._is_admitted = True
            self._start_head_timer(self._bounds.header_timeout_s)
        except TooManyConnections as error:
            if self._admission.turned_away >= MAX_TURNED_AWAY:
                self._is_over = True
                transport.abort()
                return
            self._admission.turned_away += 1
            self._turned_away = error
            self._start_head_timer(_TURNED_AWAY_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and what it counted."""
        for timer in (self._head_timer, self._body_timer, self._answer_timer):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        if self._is_admitted:
            self._is_admitted = False
            self._admission.leave(self._caller)
        elif self._turned_away is not None:
            self._turned_away = None
            self._admission.turned_away -= 1
        while self._forwarded:
            self._release_forwarded()
        self._is_over = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give data to the parser: headers in small parts, and no more of them than the bounds allow."""
        rest: bytes | memoryview = data if len(data) <= _PIECE_BYTES else memoryview(data)
        while len(rest) > _PIECE_BYTES and not self._is_over:
            size = _PIECE_BYTES if self._in_head else len(rest)
            self._take(rest[:size])
            rest = rest[size:]
        if len(rest) and not self._is_over:
            self._take(rest)
        if not self._is_over:
            self._watch()

    def _take(self, piece: bytes | memoryview) -> None:
        """Give a piece to the parser; refuse headers and trailers that are too long, although they have no end yet."""
        self._piece_bytes = size = len(piece)
        self._idle_bytes += size
        was_in_head = self._in_head
        self._head = bytes(piece[:_LINE_BYTES]) if was_in_head and not self._has_begun else b""
        super().data_received(piece)  # type: ignore[arg-type]
        # Data that ends a body and begins the next headers is not counted: what follows it is.
        if self._in_head and was_in_head:
            self._head_bytes += size
        # A part may belong to the request before.
        waiting = self._head_bytes if self._in_head else self._idle_bytes
        if waiting > self._bounds.max_header_bytes + _PIECE_BYTES and not self._is_over:
            self._refuse(self._too_large())

    def eof_received(self) -> None:
        """The caller sends no more. While it is refused, it has read what there is."""
        if self._is_over:
            self.transport.close()

    def pause_writing(self) -> None:
        """The caller takes its answer more slowly than it is made."""
        super().pause_writing()
        if self._answer_timer is None:
            self._unsent_bytes = self.transport.get_write_buffer_size()
            self._answer_timer = self.loop.call_later(self._bounds.transfer_timeout_s, self._check_answer)

    def resume_writing(self) -> None:
        """The caller has taken what there is."""
        super().resume_writing()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    # --- The parser ----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise self._refusing(
                InvalidRequest(f"More than {MAX_PIPELINED} requests wait for answers. Send them after their answers.")
            )
        self._has_begun = True
        self._has_cycle = False
        self._trailers = self._trailer_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after the body."""
        if self._in_head:
            self.headers.append((name.lower(), value))
        else:
            self._drop_trailer(len(name) + len(value) + _HEADER_OVERHEAD)

    def _drop_trailer(self, size: int) -> None:
        self._idle_bytes = 0
        self._trailers += 1
        self._trailer_bytes += size
        # Together with the headers before the body.
        count, taken = len(self.headers) + self._trailers, self._field_bytes() + self._trailer_bytes
        if taken > self._bounds.max_header_bytes or count > self._bounds.max_headers:
            raise self._refusing(self._too_large())

    def on_headers_complete(self) -> None:
        """All headers are here: the request goes to the stages, unless it or its connection is one too many."""
        # The parser got no more than this of them: usually little enough to need no count.
        bounds, received = self._bounds, self._head_bytes + self._piece_bytes
        is_long = received > bounds.max_header_bytes and self._field_bytes() > bounds.max_header_bytes
        if is_long or len(self.headers) > bounds.max_headers:
            raise self._refusing(self._too_large())
        self._in_head = False
        self._head_bytes = self._idle_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._turned_away is not None and not self.url.startswith(_HEALTH):
            raise self._refusing(self._turned_away)
        if _EXPECT in dict(self.headers) and (_EXPECT, b"100-continue") in [(n, v.lower()) for n, v in self.headers]:
            self.expect_100_continue = True
        self._take_forwarded()
        begin_cycle(self)
        self._has_cycle = True
        if self._turned_away is not None:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._idle_bytes = 0
        self._passed_bytes += len(body)
        if self.cycle.response_complete:
            # The request was answered without its body, which may pass if it is of the usual size, or a little more.
            self._dropped_bytes += len(body)
            if self._dropped_bytes > self._bounds.max_body_bytes + _PASSED_OVER_BYTES:
                raise self._refusing(InvalidRequest("The request is answered already. Send no more of its body."))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is here as a whole."""
        self._in_head = True
        self._has_begun = False
        self._head_bytes = self._idle_bytes = self._passed_bytes = self._dropped_bytes = 0
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered."""
        self._release_forwarded()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not take: by its reason here, or as no HTTP."""
        error = self._refusal
        if error is None:
            error = InvalidRequest(
                "This is not HTTP, or its path is longer than 64 KiB or not percent-encoded. Ids belong in less."
            )
        self._refuse(error)

    # --- Bounds --------------------------------------------------------------------------------------

    def _field_bytes(self) -> int:
        """Return the bytes of the path and the headers."""
        return len(self.url) + sum(len(name) + len(value) + _HEADER_OVERHEAD for name, value in self.headers)

    def _too_large(self) -> VectorpoolError:
        bounds = self._bounds
        if self._in_head and len(getattr(self, "url", b"")) > bounds.max_header_bytes // 2:
            return InvalidRequest(f"The path is longer than {bounds.max_header_bytes} bytes. Ids belong in less.")
        return HeadersTooLarge(
            f"The headers of the request take more than {bounds.max_header_bytes} bytes (max_header_bytes) or are more "
            f"than {bounds.max_headers} (max_headers). Send fewer."
        )

    def _refusing(self, error: VectorpoolError) -> _Refused:
        """Return what ends the parser's work, so that ``send_400_response`` refuses with ``error``."""
        self._refusal = error
        return _Refused(error.detail)

    def _take_forwarded(self) -> None:
        """Find the caller behind a trusted proxy, and count its request."""
        counted = None
        is_health = self.url.startswith(_HEALTH)
        if (
            self._caller is None
            and not is_health
            and (address := self._admission.forwarded_caller(self.headers)) is not None
        ):
            self.scope["client"] = (address, 0)
            counted = group_of(address)
            try:
                self._admission.take(counted)
            except TooManyConnections as error:
                raise self._refusing(error) from None
        self._forwarded.append(counted)

    def _release_forwarded(self) -> None:
        if self._forwarded and (counted := self._forwarded.popleft()) is not None:
            self._admission.release(counted)

    def _is_busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self.cycle is not None and not self.cycle.response_complete

    # --- Time ----------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """After each part of data: whatever the connection waits for now has a timer."""
        if self.transport.is_closing():
            return
        if not self._in_head:
            if self._body_timer is None:
                self._restart_body_timer()
        elif not self._is_busy() and self._head_timer is None and self.timeout_keep_alive_task is None:
            self._start_head_timer(self._bounds.header_timeout_s)

    def _start_head_timer(self, seconds: float) -> None:
        self._head_timer = self.loop.call_later(seconds, self._end_head)

    def _end_head(self) -> None:
        """The time for the headers is over. A caller that sent nothing has nothing to be told."""
        self._head_timer = None
        if self._turned_away is not None:
            self._refuse(self._turned_away)
        elif self._has_begun:
            seconds = self._bounds.header_timeout_s
            self._refuse(
                RequestTooSlow(
                    f"The headers did not arrive within {seconds:g} s (header_timeout_s). Send them at once."
                )
            )
        else:
            self._is_over = True
            self.transport.close()

    def _restart_body_timer(self) -> None:
        self._passed_bytes = 0
        assert isinstance(self.flow, Flow)
        self.flow.was_paused = self.flow.read_paused
        self._body_timer = self.loop.call_later(self._bounds.transfer_timeout_s, self._check_body)

    def _check_body(self) -> None:
        """Refuse a body that did not get on, unless it is this side that does not read."""
        assert isinstance(self.flow, Flow)
        is_ours = self.flow.was_paused or (self._is_busy() and self.cycle.waiting_for_100_continue)
        if is_ours or self._passed_bytes >= self._least_bytes():
            self._restart_body_timer()
            return
        self._body_timer = None
        bounds = self._bounds
        self._refuse(
            RequestTooSlow(
                f"Less than {bounds.transfer_bytes_per_s} bytes a second of the body arrived for "
                f"{bounds.transfer_timeout_s:g} s (transfer_bytes_per_s, transfer_timeout_s). Send it faster, or in "
                "smaller requests."
            )
        )

    def _check_answer(self) -> None:
        """Cut a connection whose caller does not take its answer."""
        unsent = self.transport.get_write_buffer_size()
        taken, self._unsent_bytes = self._unsent_bytes - unsent, unsent
        if taken < self._least_bytes():
            self._answer_timer = None
            self._is_over = True
            self.transport.abort()
            return
        self._answer_timer = self.loop.call_later(self._bounds.transfer_timeout_s, self._check_answer)

    def _least_bytes(self) -> float:
        return self._bounds.transfer_bytes_per_s * self._bounds.transfer_timeout_s

    # --- Refusals ------------------------------------------------------------------------------------

    def _refuse(self, error: VectorpoolError) -> None:
        """Answer the request that arrives with a refusal, and end the connection."""
        self._is_over = True
        if self.transport.is_closing():
            return
        is_answered = False
        if self._in_head or not self._has_cycle:
            # Between the parts of another request's answer a refusal would be taken for a part of it.
            is_in_turn = not self._is_busy()
        else:
            is_answered = self.cycle.response_complete and not self.pipeline
            is_in_turn = is_answered or (not self.cycle.response_started and not self.pipeline)
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not is_in_turn:
            self.transport.abort()
            return
        # The answer of an answered request may still be on its way: a reset would overtake it.
        if not is_answered:
            headers = [*self.server_state.default_headers, *SAFE_HEADERS]
            self.transport.write(refusal_bytes(error, self._path(), headers))
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)

    def _path(self) -> str:
        """Return the path of the request that arrives, as far as it is known."""
        url: bytes = getattr(self, "url", b"")
        if not url and len(words := self._head.split(b" ")) > 1:
            url = words[1].partition(b"\r")[0]
        return unquote(url.partition(b"?")[0].decode("latin-1")) or "/"
