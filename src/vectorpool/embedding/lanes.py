"""A lane of the embedding queue: the jobs of its users, their turns, and how many texts each may have waiting.

Nothing here locks: the queue holds its lock around every call.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vectorpool.errors import QueueFull
from vectorpool.telemetry.spans import CURRENT

_RETRY_AFTER_S = 2.0


class Job:
    """One call: its user, which of its texts still wait, and where the results go."""

    def __init__(self, texts: list[str], user_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self.texts = texts
        self.user_id = user_id
        self.waiting = deque(sorted(range(len(texts)), key=lambda i: len(texts[i])))
        self.unfinished = len(texts)
        self.vectors: npt.NDArray[np.float32] | None = None
        self.loop = loop
        self.future: asyncio.Future[npt.NDArray[np.float32]] = loop.create_future()
        self.over = False
        # The span of the request, which the endpoint is told.
        self.traceparent = CURRENT.get()

    def settle(self, error: BaseException | None) -> None:
        """Give the caller its result or its error, on its own loop."""
        self.over = True

        def deliver() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                assert self.vectors is not None
                self.future.set_result(self.vectors)

        # The loop may be closed when a test or a process ends in the middle of a run; then no caller waits.
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(deliver)


Part: TypeAlias = tuple[Job, list[int]]


class Lane:
    """The jobs that wait, by user. The first user has the next turn."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # An ordered set of jobs for each user, so that a job in the middle leaves without a search.
        self._users: OrderedDict[str, OrderedDict[Job, None]] = OrderedDict()
        self._texts: dict[str, int] = {}
        self.waiting = 0

    def __bool__(self) -> bool:
        return bool(self._users)

    def admit(self, job: Job) -> None:
        """Let a job wait. Raises QueueFull.

        A user without waiting texts needs only room for the job. One that has some must leave as much free as it
        would then hold.
        """
        count, own = len(job.texts), self._texts.get(job.user_id, 0)
        free = self.limit - self.waiting
        if count > free:
            raise QueueFull(
                f"{self.waiting} texts wait to be embedded, and {count} more would exceed the limit of {self.limit}. "
                "Send the request again in a moment.",
                retry_after_s=_RETRY_AFTER_S,
            )
        if own and own + count > free - count:
            raise QueueFull(
                f"{own} texts of this user wait to be embedded, and {count} more would leave too little room for other "
                f"users ({free} of {self.limit} are free). Send the request again in a moment.",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._users.setdefault(job.user_id, OrderedDict())[job] = None
        self._texts[job.user_id] = own + count
        self.waiting += count

    def take(self, room: int) -> list[Part]:
        """Return at most ``room`` texts, as parts of jobs: a turn for each user, until the room is used."""
        parts: list[Part] = []
        while self._users and room:
            user_id, jobs = next(iter(self._users.items()))
            job = next(iter(jobs))
            indices = [job.waiting.popleft() for _ in range(min(room, len(job.waiting)))]
            parts.append((job, indices))
            room -= len(indices)
            self._count(user_id, -len(indices))
            if job.waiting:
                jobs.move_to_end(job)
                self._users.move_to_end(user_id)
            else:
                self._remove(job)
        return parts

    def withdraw(self, job: Job) -> None:
        """Remove a job, if it waits here, with the texts that no run has taken."""
        if job in self._users.get(job.user_id, ()):
            self._count(job.user_id, -len(job.waiting))
            job.waiting.clear()
            self._remove(job)

    def clear(self) -> list[Job]:
        """Remove and return all jobs."""
        jobs = [job for of_user in self._users.values() for job in of_user]
        self._users.clear()
        self._texts.clear()
        self.waiting = 0
        return jobs

    def _count(self, user_id: str, change: int) -> None:
        self._texts[user_id] += change
        self.waiting += change

    def _remove(self, job: Job) -> None:
        jobs = self._users[job.user_id]
        del jobs[job]
        if jobs:
            self._users.move_to_end(job.user_id)
        else:
            del self._users[job.user_id]
            del self._texts[job.user_id]
