"""Restarts of shards by operators: what was acknowledged is committed first, and only one shard's users notice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from vectorpool.errors import ShardUnavailable, StoreUnavailable
from vectorpool.operating import ShardState, ShardView
from vectorpool.settings import Settings
from vectorpool.shard.client import START_S, ShardClient
from vectorpool.sources import SYSTEM

# How often a restart looks whether it may go on.
_LOOK_S: Final = 0.02


def view_of(client: ShardClient) -> ShardView:
    """Return what is known of a shard's process, without asking it."""
    state: ShardState = "starting" if not client.is_ready else "draining" if client.is_draining else "ready"
    return ShardView(
        shard=client.shard,
        state="down" if client.is_stopping else state,
        process_id=client.process_id,
        requests=client.requests,
        starts=client.starts,
        deaths=client.deaths,
        ready_since_ms=client.ready_since_ms if client.is_ready else None,
        is_isolated=client.is_isolated,
    )


class Restarts:
    """The restarts of one instance. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._under_way: dict[ShardClient, asyncio.Task[None]] = {}

    async def restart(self, client: ShardClient, *, force: bool) -> None:
        """End a shard's process, and return when the next one serves; callers at the same time share one restart.

        Without ``force`` it finishes what is under way and commits, within ``drain_s``; acknowledged writes that are
        left under write-back refuse the restart. Raises StoreUnavailable, ShardUnavailable. A caller that leaves does
        not stop it.
        """
        task = self._under_way.get(client)
        if task is None:
            task = self._under_way[client] = asyncio.create_task(self._restart(client, force))
            task.add_done_callback(lambda done: self._end(client, done))
        await asyncio.shield(task)

    def _end(self, client: ShardClient, task: asyncio.Task[None]) -> None:
        del self._under_way[client]
        if not task.cancelled():
            # The callers have the error too, unless all of them left.
            task.exception()

    async def _restart(self, client: ShardClient, force: bool) -> None:
        before, client.is_draining = client.starts, True
        if not force:
            try:
                await self._finish(client)
            except StoreUnavailable:
                client.is_draining = False
                raise
        # It has drained and ends, or does not answer, or was not to be asked. What it had committed is in the log.
        client.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while client.starts == before and not client.is_stopping:
                    await SYSTEM.sleep(_LOOK_S)
        if client.starts == before:
            raise ShardUnavailable("The shard does not serve yet. The output of the service says why.")

    async def _finish(self, client: ShardClient) -> None:
        """Wait for what is under way, and drain. Raises StoreUnavailable if acknowledged writes would be lost."""
        budget_s = self._settings.drain_s
        with suppress(TimeoutError):
            async with asyncio.timeout(budget_s / 2):
                while not client.is_idle:
                    await SYSTEM.sleep(_LOOK_S)
        if self._settings.durability == "write-back":
            try:
                left = await client.settle(budget_s / 2)
            except TimeoutError:
                left = 1
            if left:
                raise StoreUnavailable(
                    "Acknowledged writes are not committed, and would be lost: the shard goes on as it was. Send the "
                    "request again when the store takes commits, or with force=true to lose them."
                )
        await client.drain(budget_s)
