"""A shard's process: started with the socket and the memory that it shares with the front, ended; what is lost then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import Final

from vectorpool.errors import InternalError, OutcomeUnknown, ShardUnavailable, VectorpoolError
from vectorpool.platform.native_marks import Marks
from vectorpool.shard.channel import Channel, connect
from vectorpool.shard.protocol import FromShard, Hello, encode_frame, from_shard_decoder

# A shard multiplies a matrix by a vector, in well under a millisecond. A second thread of the linear algebra would spin
# on a core that another shard or the front needs. Measured: ten times the time.
_ONE_THREAD_EACH: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# How long a process that has nothing left to do may take to end.
_END_S: Final = 2.0


async def start_process(marks: Marks) -> tuple[asyncio.subprocess.Process, Channel]:
    """Start a process, and return it with the front's end of its connection. Raises OSError."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        # Large answers and bulk writes cross in fewer system calls.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "vectorpool.shard.process",
            str(theirs.fileno()),
            str(marks.descriptor),
            str(marks.report),
            pass_fds=[theirs.fileno(), marks.descriptor, marks.report],
            env={**_ONE_THREAD_EACH, **os.environ},
            stdin=asyncio.subprocess.DEVNULL,
        )
    finally:
        theirs.close()
    return process, await connect(ours)


async def greet(channel: Channel, hello: Hello, timeout_s: float) -> FromShard | None:
    """Tell a new process what it is, and return its first message; None if none came in time."""
    channel.write(encode_frame(hello))
    try:
        async with asyncio.timeout(timeout_s):
            frame = await channel.read()
    except TimeoutError:
        return None
    return None if frame is None else from_shard_decoder.decode(frame)


async def end(process: asyncio.subprocess.Process | None) -> None:
    """Wait for the end of a process, and kill it if it does not come."""
    if process is None:
        return
    try:
        async with asyncio.timeout(_END_S):
            await process.wait()
    except TimeoutError:
        kill(process)
        await process.wait()


def kill(process: asyncio.subprocess.Process | None) -> None:
    """End a process at once, if there is one."""
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def lost(*, is_change: bool, is_stopping: bool) -> VectorpoolError:
    """Return the error of a request whose shard died before it answered."""
    if is_change:
        return OutcomeUnknown(
            "The user's shard died while it held the write: it may or may not be committed. Read it back, or send an "
            "idempotent write (PUT, DELETE by ids) again."
        )
    if is_stopping:
        return InternalError("The shard ended.")
    return ShardUnavailable("The user's shard died. Send the request again.")
