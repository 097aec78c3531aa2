"""The operating-system process of a shard: started with its socket and its marks, and ended; what its callers lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys

from vectorpool.errors import InternalError, OutcomeUnknown, ShardUnavailable, VectorpoolError

# A shard multiplies a matrix by a vector, in well under a millisecond. A second thread of the linear algebra would spin
# on a core that another shard or the front needs. Measured: ten times the time.
_ONE_THREAD_EACH = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# How long a process that has nothing left to do may take to end.
_END_S = 2.0


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of the connection to a shard."""
    ends = socket.socketpair()
    for end_of_it in ends:
        # Large answers and bulk writes cross in fewer system calls.
        end_of_it.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return ends


async def launch(socket_descriptor: int, marks_descriptor: int) -> asyncio.subprocess.Process:
    """Start a shard's process, which inherits both descriptors."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vectorpool.shard.process",
        str(socket_descriptor),
        str(marks_descriptor),
        pass_fds=[socket_descriptor, marks_descriptor],
        env={**_ONE_THREAD_EACH, **os.environ},
        stdin=asyncio.subprocess.DEVNULL,
    )


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
