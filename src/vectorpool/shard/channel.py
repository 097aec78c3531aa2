"""One end of the connection between the front and a shard: whole frames in, frames out.

A frame is handed over in the step of the event loop that read its last byte. A stream would wake a task for each part
of it, which costs more than all else that is done with a small frame.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from vectorpool.shard.protocol import LENGTH_BYTES, MAX_FRAME_BYTES

# Gets a frame's message; returns whether further ones may come.
Take: TypeAlias = Callable[[bytes], bool]

_LIMIT_BYTES: Final = 1 << 20


class Channel(asyncio.Protocol):
    """Frames of one connection. ``read`` returns one, ``deliver`` hands all further ones over as they arrive."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        # The beginning of a frame that is not whole yet, and whole ones that were not taken yet.
        self._part = bytearray()
        self._waiting: deque[bytes] = deque()
        self._take: Take | None = None
        self._is_over = False
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        # Whether the other side takes less than is written.
        self.is_full = False
        self._is_free = asyncio.Event()

    # --- For the event loop --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        # A transport of uvloop is of no class of asyncio.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=_LIMIT_BYTES)

    def data_received(self, data: bytes) -> None:
        """Hand over every frame that is whole now."""
        if not self._part and len(data) >= LENGTH_BYTES:
            end = int.from_bytes(data[:LENGTH_BYTES], "little") + LENGTH_BYTES
            if end == len(data):
                self._give(data[LENGTH_BYTES:])
                return
        part = self._part
        part += data
        at = 0
        while len(part) - at >= LENGTH_BYTES:
            length = int.from_bytes(part[at : at + LENGTH_BYTES], "little")
            if length > MAX_FRAME_BYTES:
                self._end()
                return
            end = at + LENGTH_BYTES + length
            if len(part) < end:
                break
            with memoryview(part) as view:
                frame = bytes(view[at + LENGTH_BYTES : end])
            at = end
            self._give(frame)
        del part[:at]

    def eof_received(self) -> None:
        """The other side is gone; the transport closes."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing comes any more, and nothing can be sent."""
        self._end()
        self._is_free.set()

    def pause_writing(self) -> None:
        """The other side does not read."""
        self.is_full = True
        self._is_free.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self.is_full = False
        self._is_free.set()

    def _give(self, frame: bytes) -> None:
        if self._is_over:
            return
        if self._take is None:
            self._waiting.append(frame)
            self._changed.set()
            return
        try:
            goes_on = self._take(frame)
        except Exception as error:
            self._failure, goes_on = error, False
        if not goes_on:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._changed.set()

    # --- For its owner -------------------------------------------------------------------------------

    async def read(self) -> bytes | None:
        """Return the next frame's message, or None when the other side is gone. Not while frames are delivered."""
        while not self._waiting and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        return self._waiting.popleft() if self._waiting else None

    async def deliver(self, take: Take) -> None:
        """Call ``take`` with the message of every frame; return when it returned False, or the other side is gone.

        Raises what ``take`` raises.
        """
        self._take = take
        while self._waiting and not self._is_over:
            self._give(self._waiting.popleft())
        try:
            while not self._is_over:
                self._changed.clear()
                await self._changed.wait()
        finally:
            self._take = None
        if self._failure is not None:
            raise self._failure

    def write(self, frame: bytes | bytearray) -> None:
        """Send a frame. Raises RuntimeError if the connection is closed."""
        assert self._transport is not None
        self._transport.write(frame)

    async def drain(self) -> None:
        """Return once there is room for more. Raises ConnectionResetError if the connection is lost."""
        while self.is_full and not self.is_closing():
            await self._is_free.wait()
        if self.is_closing():
            raise ConnectionResetError("the connection to the shard is lost")

    def is_closing(self) -> bool:
        """Whether the connection is closed, or is being closed."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection once what was written is sent. Idempotent."""
        if self._transport is not None:
            self._transport.close()


async def connect(end: socket.socket) -> Channel:
    """Return a channel over one end of a socket pair."""
    _, channel = await asyncio.get_running_loop().create_connection(Channel, sock=end)
    return channel
