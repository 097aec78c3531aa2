"""Starting a shard's process, with the socket and the memory that it shares with the front."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from typing import Final

from vectorpool.platform.native_marks import Marks

# A shard multiplies a matrix by a vector, in well under a millisecond. A second thread of the linear algebra would spin
# on a core that another shard or the front needs. Measured: ten times the time.
_ONE_THREAD_EACH: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


async def start_process(
    marks: Marks,
) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]:
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
            pass_fds=[theirs.fileno(), marks.descriptor],
            env={**_ONE_THREAD_EACH, **os.environ},
            stdin=asyncio.subprocess.DEVNULL,
        )
    finally:
        theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 20)
    return process, reader, writer
