"""The replica that a vectorstore has open, if it has one, and the lock between those who use it and who replaces it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from vectorpool.answers import Answer, ChromaUse, SchemaState
from vectorpool.commands import Read
from vectorpool.errors import UserNotFound
from vectorpool.platform.threads import run_to_end
from vectorpool.vectorstore.read_write_lock import ReadWriteLock
from vectorpool.vectorstore.replica import Replica, ReplicaClosed

T = TypeVar("T")


class OpenReplica:
    """``replica`` is None until one is built, and after it was dropped. ``workers`` runs what blocks.

    ``is_absent`` says whether nothing is stored for the user, although an empty replica may be open.
    """

    def __init__(self, workers: Executor, is_absent: Callable[[], bool]) -> None:
        self.replica: Replica | None = None
        self.lock = ReadWriteLock()
        self._workers = workers
        self._is_absent = is_absent

    @property
    def seq(self) -> int:
        """The commit that the replica was built from or made; 0 if there is none."""
        return self.replica.position.seq if self.replica is not None else 0

    def engine_state(self) -> tuple[SchemaState | None, ChromaUse | None]:
        """Return whether the fast paths were tested on the replica's schema, and why Chroma is open on it."""
        return (None, None) if self.replica is None else (self.replica.schema_state, self.replica.chroma_use)

    def size_bytes(self) -> int:
        """Return the size of the working directory as of the last commit, in bytes."""
        return self.replica.size_bytes() if self.replica is not None else 0

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function`` returns in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    async def read(self, command: Read) -> Answer:
        """Answer a read from the replica as it is.

        Raises BrokenReplica if Chroma no longer works, ReplicaClosed if there is no replica to read from, UserNotFound.
        A cancelled read keeps the replica open until its thread ends.
        """
        async with self.lock.shared():
            if (answer := self.read_at_once(command)) is not None:
                return answer
            replica = self.replica
            if replica is None:
                raise ReplicaClosed
            if self._is_absent():
                raise UserNotFound("Nothing is stored for this user. A first write creates the vectorstore.")
            seq = replica.position.seq
            return Answer(await run_to_end(self._workers, replica.read, command), seq)

    def read_at_once(self, command: Read) -> Answer | None:
        """Answer a read as ``read`` does, on the event loop; None if something has to be waited for, or is missing."""
        replica = self.replica
        if replica is None or self._is_absent() or self.lock.is_exclusive:
            return None
        body = replica.read_at_once(command)
        return None if body is None else Answer(body, replica.position.seq)

    async def copy_to(self, directory: Path) -> int:
        """Copy the files of a clean replica into an empty directory; return its commit. The caller holds the lock."""
        if self.replica is None:
            raise ReplicaClosed
        await self.run(self.replica.copy_to, directory)
        return self.replica.position.seq

    async def discard(self) -> None:
        """Close the replica and remove its directory, without a commit, when no read uses it any more."""
        async with self.lock.exclusive():
            await self.drop()

    async def drop(self) -> None:
        """Do the same; the caller holds the lock alone."""
        if self.replica is not None:
            replica, self.replica = self.replica, None
            await self.run(replica.discard)
