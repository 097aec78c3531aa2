"""The router finds the shard of a user. ``open_router`` picks processes, or the twin inside this process."""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from vectorpool.answers import Answer, PoolView, TaskView
from vectorpool.chroma_bodies import READS, Target
from vectorpool.commands import Command
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.errors import Draining, ShardNotFound
from vectorpool.limits import Given, Quota
from vectorpool.local_paths import open_dir, warm_dir
from vectorpool.operating import ShardView
from vectorpool.settings import Settings
from vectorpool.shard.client import ShardClient
from vectorpool.shard.protocol import Press, shard_of
from vectorpool.shard.quarantine import Quarantine
from vectorpool.shard.restarts import Restarts, view_of
from vectorpool.sources import SYSTEM
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.families import QUARANTINED
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.ledger import Ledger

logger = logging.getLogger(__name__)

# Longest wait for a shard to say how its tasks are: a probe of the instance must not wait for a busy shard.
_TASKS_S = 1.0
_QUARANTINE = "quarantine"
_FIGURES = "figures of the shards"
# A shard that crashes takes along what it counted since it was last asked.
_FIGURES_S = 10.0
# What a process for one user may hold: the vectorstore and some of its past commits.
_ISOLATED_SLOTS = 4
_ISOLATED_WARM_BYTES = 256 * 1024**2


# Returns what a user may have stored, None for no limit, by its id and the limits that a token claims.
QuotaOf: TypeAlias = Callable[[str, Given | None], Quota | None]


def no_quota(user_id: str, claimed: Given | None) -> None:
    """Return no limit."""
    return


class Router(Protocol):
    """The destination of commands."""

    async def start(self) -> None:
        """Start every shard; return when all serve. Raises Misconfigured."""
        ...

    async def stop(self, budget_s: float | None = None) -> None:
        """Take no new work, finish, commit, and end the shards within the budget, ``drain_s`` by default.

        A second call does nothing.
        """
        ...

    def limit(self, quota_of: QuotaOf) -> None:
        """Ask ``quota_of`` at each change what its user may have stored, by the limits of the request's token."""
        ...

    def is_ready(self) -> bool:
        """Whether every shard serves."""
        ...

    async def execute(self, user_id: str, command: Command, context: RequestContext = BACKGROUND) -> Answer:
        """Answer one command. Raises VectorpoolError; DeadlineExceeded or OutcomeUnknown at the deadline.

        If the caller is cancelled, reads stop, and writes that have not begun are dropped.
        """
        ...

    async def execute_body(
        self, user_id: str, target: Target, body: AsyncIterator[bytes], context: RequestContext = BACKGROUND
    ) -> Answer:
        """Answer the command that a body of Chroma's protocol asks for, passing the body on while it arrives.

        Raises VectorpoolError, and what ``body`` raises.
        """
        ...

    async def pool_view(self) -> PoolView:
        """Return every slot of the instance."""
        ...

    def process_ids(self) -> list[int]:
        """Return the processes of the shards, beside this one."""
        ...

    async def press(self, *, is_short: bool) -> None:
        """Tell the shards whether the instance is short of memory."""
        ...

    async def tasks(self) -> list[TaskView]:
        """Return the state of the background tasks of the instance; a shard that does not answer at once has none."""
        ...

    def shards(self) -> list[ShardView]:
        """Return every shard, then the processes of users in quarantine."""
        ...

    async def restart_shard(self, number: int, *, force: bool) -> ShardView:
        """End a shard's process, drained unless ``force``, and return when the next one serves.

        Raises ShardNotFound, StoreUnavailable, ShardUnavailable, Draining.
        """
        ...

    async def figures(self) -> list[Sample]:
        """Return the figures of the shards. Counters never go back, also if a shard was started again."""
        ...


class ShardRouter:
    """Shards as processes."""

    def __init__(self, settings: Settings) -> None:
        count = settings.shards or os.cpu_count() or 1
        self._settings = settings
        self._supervisor = Supervisor(SYSTEM)
        self._quarantine = Quarantine(
            settings,
            SYSTEM,
            make_client=self._isolated,
            owner_of=self._owner,
            settle=self._settle,
            clean=partial(_drop_isolated, Path(settings.replica_dir)),
        )
        crashed = self._quarantine.note_crash
        self._ledger = Ledger()
        self.clients = [
            ShardClient(number, count, settings, self._supervisor, crashed, ledger=self._ledger)
            for number in range(count)
        ]
        self._restarts = Restarts(settings)
        self._stopping = False
        self._quota_of: QuotaOf = no_quota

    def limit(self, quota_of: QuotaOf) -> None:
        """Ask this for quotas from now on."""
        self._quota_of = quota_of

    async def start(self) -> None:
        """Start every shard at the same time; if one cannot start, none stays behind."""
        await asyncio.to_thread(drop_former_shards, Path(self._settings.replica_dir), len(self.clients))
        await asyncio.to_thread(_drop_isolated, Path(self._settings.replica_dir))
        results = await asyncio.gather(*(c.start() for c in self.clients), return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                await asyncio.gather(*(c.stop(0.0) for c in self.clients))
                raise error
        self._supervisor.start(_QUARANTINE, self._quarantine.run)
        self._supervisor.start(_FIGURES, self._watch_figures)

    async def stop(self, budget_s: float | None = None) -> None:
        """Drain every shard at the same time, and log what could not be finished."""
        if self._stopping:
            return
        self._stopping = True
        budget_s = self._settings.drain_s if budget_s is None else budget_s
        await self._supervisor.stop(budget_s, [_QUARANTINE, _FIGURES])
        for report in await asyncio.gather(*(c.stop(budget_s) for c in self._all_clients())):
            if report is not None and (report.unfinished or report.uncommitted):
                logger.error(
                    "drained with %d requests unfinished and %d vectorstores not committed",
                    report.unfinished,
                    len(report.uncommitted),
                )

    def is_ready(self) -> bool:
        """Whether every shard serves."""
        return not self._stopping and all(client.is_ready for client in self.clients)

    async def execute(self, user_id: str, command: Command, context: RequestContext = BACKGROUND) -> Answer:
        """Send the command to the user's shard."""
        if self._stopping:
            raise Draining("The instance is shutting down. Send the request to another one.")
        client = self._owner(user_id) if user_id not in self._quarantine else await self._apart(user_id, context)
        quota = self._quota_of(user_id, context.claimed) if command.is_change else None
        return await client.execute(user_id, command, context, quota)

    async def execute_body(
        self, user_id: str, target: Target, body: AsyncIterator[bytes], context: RequestContext = BACKGROUND
    ) -> Answer:
        """Send the body to the user's shard."""
        if self._stopping:
            raise Draining("The instance is shutting down. Send the request to another one.")
        client = self._owner(user_id) if user_id not in self._quarantine else await self._apart(user_id, context)
        quota = None if target.operation in READS else self._quota_of(user_id, context.claimed)
        return await client.execute_body(user_id, target, body, context, quota)

    def _owner(self, user_id: str) -> ShardClient:
        """Return the shard that the user's hash names."""
        return self.clients[shard_of(user_id, len(self.clients))]

    async def _apart(self, user_id: str, context: RequestContext) -> ShardClient:
        """Return the process of a user in quarantine. Raises Quarantined, DeadlineExceeded."""
        return await context.within(self._quarantine.client_of(user_id))

    def _isolated(self, number: int, crashed: Callable[[set[str]], None]) -> ShardClient:
        """Return a process for one user; what it may hold is a small part of what a shard may."""
        own = self._settings
        settings = msgspec.structs.replace(
            own,
            open_slots=min(own.open_slots, _ISOLATED_SLOTS),
            warm_bytes=min(own.warm_bytes, _ISOLATED_WARM_BYTES),
        )
        return ShardClient(number, 1, settings, self._supervisor, crashed, is_isolated=True, ledger=self._ledger)

    async def _settle(self, budget_s: float) -> bool:
        """Have every shard commit what is acknowledged; return whether all of it is committed. Raises TimeoutError."""
        left = await asyncio.gather(*(client.settle(budget_s) for client in self.clients))
        return not any(left)

    def _all_clients(self) -> list[ShardClient]:
        return [*self.clients, *self._quarantine.clients]

    def process_ids(self) -> list[int]:
        """Return the processes of the shards, and of users in quarantine."""
        return [client.process_id for client in self._all_clients() if client.process_id is not None]

    async def press(self, *, is_short: bool) -> None:
        """Tell every shard."""
        await asyncio.gather(*(client.tell(Press(is_short)) for client in self._all_clients()))

    async def pool_view(self) -> PoolView:
        """Gather the slots of every shard; one that is being started again has none."""
        views = await asyncio.gather(*(c.view() for c in self._all_clients()), return_exceptions=True)
        merged = _merge([view for view in views if isinstance(view, PoolView)])
        merged.tasks += self._supervisor.view()
        merged.quarantined = self._quarantine.view()
        return merged

    def shards(self) -> list[ShardView]:
        """Show every shard, then those of users in quarantine."""
        return [view_of(client) for client in self._all_clients()]

    async def restart_shard(self, number: int, *, force: bool) -> ShardView:
        """Restart one shard; the others serve meanwhile."""
        if self._stopping:
            raise Draining("The instance is shutting down.")
        if not 0 <= number < len(self.clients):
            raise ShardNotFound(f"There is no shard {number}. The shards are 0 to {len(self.clients) - 1}.")
        await self._restarts.restart(self.clients[number], force=force)
        return view_of(self.clients[number])

    async def tasks(self) -> list[TaskView]:
        """Gather the tasks of every shard, and those that watch the shards."""
        shown = await asyncio.gather(*(c.tasks(_TASKS_S) for c in self.clients), return_exceptions=True)
        return self._supervisor.view() + [task for tasks in shown if isinstance(tasks, list) for task in tasks]

    async def figures(self) -> list[Sample]:
        """Ask every shard; one that does not answer in time is silent, and its counters stay as they were known."""
        gauges = await asyncio.gather(*(client.figures(_TASKS_S) for client in self._all_clients()))
        quarantined = Sample(QUARANTINED.name, (), len(self._quarantine.view()))
        return [*self._ledger.samples(), *(sample for shown in gauges for sample in shown), quarantined]

    async def _watch_figures(self) -> None:
        while True:
            await SYSTEM.sleep(_FIGURES_S)
            await self.figures()


def drop_former_shards(replica_dir: Path, shards: int) -> None:
    """Remove the files of shards that an instance with fewer shards does not have any more."""
    for path in (*warm_dir(replica_dir).glob("shard-*"), *open_dir(replica_dir, 0).parent.glob("shard-*")):
        number = path.name.removeprefix("shard-").removesuffix(".swept")
        if not number.isdigit() or int(number) < shards:
            continue
        if not path.is_dir():
            path.unlink(missing_ok=True)
        elif not _is_in_use(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_in_use(directory: Path) -> bool:
    """Whether a process has locked a directory: a shard whose front was killed still commits what it holds."""
    try:
        with directory.with_name(directory.name + ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _drop_isolated(replica_dir: Path, number: int | None = None) -> None:
    """Remove what a process of a user in quarantine left among the cached objects, or what all of them left."""
    name = f"isolated-{'*' if number is None else number}"
    for path in [*warm_dir(replica_dir).glob(name), *warm_dir(replica_dir).glob(f"{name}.swept")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _merge(views: list[PoolView]) -> PoolView:
    merged = PoolView(slots=[], open_slots=0, open_slots_limit=0, local_bytes=0, local_bytes_limit=0, waiting=0)
    for view in views:
        merged.slots += view.slots
        merged.open_slots += view.open_slots
        merged.open_slots_limit += view.open_slots_limit
        merged.local_bytes += view.local_bytes
        merged.local_bytes_limit += view.local_bytes_limit
        merged.waiting += view.waiting
        merged.tasks += view.tasks
        for name, count in view.store.requests.items():
            merged.store.requests[name] = merged.store.requests.get(name, 0) + count
        merged.store.failed += view.store.failed
        merged.store.bytes_sent += view.store.bytes_sent
        merged.store.bytes_received += view.store.bytes_received
    merged.slots.sort(key=lambda slot: slot.last_use_ms, reverse=True)
    return merged


def open_router(settings: Settings) -> Router:
    """Return the router that the settings ask for; it is not started yet."""
    if settings.shards == -1:
        # Only the twin loads a pool, and with it Chroma, into this process.
        twin = importlib.import_module("vectorpool.shard.inprocess")
        router: Router = twin.InProcessRouter(settings)
        return router
    return ShardRouter(settings)
