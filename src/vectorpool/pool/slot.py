"""A slot: one user's place in the pool, its state, its pins and the jobs that wait for its writer."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from vectorpool.answers import Answer
from vectorpool.pool.states import Cold, Committing, Evicting, Ready, State, check_transition
from vectorpool.telemetry.parts import Timing
from vectorpool.vectorstore.ticket import Ticket
from vectorpool.vectorstore.vectorstore import Vectorstore

# Uses of a slot between two reads that are tried at once, if none of them can be.
_LONGEST_PAUSE: Final = 31


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def _future_bool() -> asyncio.Future[bool]:
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class WriteJob:
    """One write. ``size`` is its share of the queue's bytes; ``request_id`` names its request in the log.

    ``timing`` gets what it took, from ``queued_s`` on (monotonic seconds).
    """

    ticket: Ticket
    size: int
    request_id: str = ""
    timing: Timing = field(default_factory=Timing)
    queued_s: float = 0.0
    done: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class FlushJob:
    """Commit uncommitted writes."""

    done: asyncio.Future[None] = field(default_factory=_future)


@dataclass(slots=True)
class CatchUpJob:
    """Take in other instances' commits."""

    done: asyncio.Future[None] = field(default_factory=_future)


@dataclass(slots=True)
class HealJob:
    """Build the replica anew."""

    done: asyncio.Future[None] = field(default_factory=_future)


@dataclass(slots=True)
class EraseJob:
    """Remove from the files what was deleted."""

    done: asyncio.Future[None] = field(default_factory=_future)


@dataclass(slots=True)
class InstallJob:
    """Put the indexes that were built in ``directory`` into the newest state; the result is whether they fitted."""

    directory: Path
    done: asyncio.Future[bool] = field(default_factory=_future_bool)


@dataclass(slots=True)
class RestoreJob:
    """Make the state of commit ``seq`` the newest; the result is the number of the new commit."""

    seq: int
    done: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(slots=True)
class EndJob:
    """Delete the vectorstore; the result is the number of objects deleted. ``documents`` is for the receipt."""

    documents: int | None = None
    done: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


Job: TypeAlias = WriteJob | FlushJob | CatchUpJob | HealJob | EraseJob | InstallJob | RestoreJob | EndJob


class Slot:
    """One user's place in the pool. Only the pool changes it."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.state: State = Cold()
        # Requests and tasks that use the slot now; it is not evicted while there are any.
        self.pins = 0
        self.jobs: deque[Job] = deque()
        self.queued_bytes = 0
        self.writer: asyncio.Task[None] | None = None
        # A catch-up that has not started serves every request that asks for one meanwhile.
        self.catch_up: CatchUpJob | None = None
        self.heal: HealJob | None = None
        self.last_use_s = 0.0
        self.last_use_ms = 0
        # Leases since it was opened, for operators.
        self.uses = 0
        # Reads are not tried at once before there were so many: the last ones that were took too long for that.
        self._long_until_uses = self._long_pause = 0
        self.dirty_since_s: float | None = None
        # The last hydrate, once it had a place: when it began and ended, and how long it waited for the store.
        self.hydrate_began_s = self.hydrate_ended_s = self.hydrate_store_s = 0.0

    def become(self, state: State) -> None:
        """Change the state; anything but an allowed transition is a defect."""
        self.state = check_transition(self.state, state)

    @property
    def may_be_quick(self) -> bool:
        """Whether a read should be tried at once."""
        return self.uses >= self._long_until_uses

    def note_quick(self, is_quick: bool) -> None:
        """Note whether a read was answered at once. The more of them were not, one after another, the rarer a try."""
        self._long_pause = 0 if is_quick else min(2 * self._long_pause + 1, _LONGEST_PAUSE)
        self._long_until_uses = self.uses + self._long_pause

    @property
    def store(self) -> Vectorstore | None:
        """The open vectorstore, if there is one."""
        match self.state:
            case Ready(store) | Committing(store) | Evicting(store, _):
                return store
            case _:
                return None
