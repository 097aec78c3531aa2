"""The in-process twin: one shard without a process, for tests, the command line and tiny machines.

Native code that crashes ends the whole instance here. So there is no quarantine: no other process could serve a user.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from vectorpool.answers import Answer, PoolView, TaskView
from vectorpool.chroma_bodies import Target
from vectorpool.commands import Command, Read
from vectorpool.context import BACKGROUND, RequestContext
from vectorpool.errors import InvalidRequest, ShardNotFound, ShardUnavailable
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.metered import MeteredBucket
from vectorpool.objects.stores import open_bucket
from vectorpool.operating import ShardView
from vectorpool.platform.privacy import keep_private
from vectorpool.pool.pool import Pool
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.shard.bodies import check_size, decoded
from vectorpool.shard.protocol import label_of
from vectorpool.shard.router import QuotaOf, drop_former_shards, no_quota
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.families import SHARD_UP
from vectorpool.telemetry.figures import Figures, Sample
from vectorpool.turns import Turns

logger = logging.getLogger(__name__)


class InProcessRouter:
    """The interface of the router over one pool in this process."""

    def __init__(self, settings: Settings, *, bucket: Bucket | None = None, sources: Sources = SYSTEM) -> None:
        self._settings = settings
        self._figures = Figures()
        self._bucket = None if bucket is None else MeteredBucket(bucket, figures=self._figures)
        self._sources = sources
        self._pool: Pool | None = None
        self._ready_since_ms: int | None = None
        self._quota_of: QuotaOf = no_quota
        self._turns = Turns()

    def limit(self, quota_of: QuotaOf) -> None:
        """Ask this for quotas from now on."""
        self._quota_of = quota_of

    async def start(self) -> None:
        """Open the bucket and the pool. From now on, this process's files are private."""
        keep_private()
        if self._bucket is None:
            self._bucket = MeteredBucket(open_bucket(self._settings), figures=self._figures)
        await asyncio.to_thread(drop_former_shards, Path(self._settings.replica_dir), 1)
        self._pool = Pool(
            StoreFactory(self._bucket, self._settings, sources=self._sources, figures=self._figures),
            self._settings,
            self._sources,
        )
        self._figures.add_source(self._pool.samples)
        await self._pool.start()
        self._ready_since_ms = self._sources.now_ms()

    async def stop(self, budget_s: float | None = None) -> None:
        """Drain the pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            report = await pool.drain(self._settings.drain_s if budget_s is None else budget_s)
            if report.unfinished or report.uncommitted:
                logger.error(
                    "drained with %d requests unfinished and %d vectorstores not committed",
                    report.unfinished,
                    len(report.uncommitted),
                )
        if self._bucket is not None:
            await self._bucket.close()

    def is_ready(self) -> bool:
        """Whether the pool serves."""
        return self._pool is not None

    async def execute(self, user_id: str, command: Command, context: RequestContext = BACKGROUND) -> Answer:
        """Answer one command.

        A read that is in a thread ends when the thread does, so it has a task of its own that the caller can leave.
        """
        if self._pool is None:
            raise ShardUnavailable("The instance is not started, or has stopped. Send the request again.")
        quota = self._quota_of(user_id, context.claimed) if command.is_change else None
        work = asyncio.create_task(self._pool.execute(user_id, command, context, quota))
        try:
            async with asyncio.timeout(context.remaining_s() if isinstance(command, Read) else None) as timeout:
                answer = await asyncio.shield(work)
                context.commit = answer.commit
                return answer
        except TimeoutError:
            if not timeout.expired():
                raise
            work.cancel()
            raise context.deadline_exceeded() from None
        except asyncio.CancelledError:
            work.cancel()
            raise
        finally:
            work.add_done_callback(_log_late_failure)

    async def execute_body(
        self, user_id: str, target: Target, body: AsyncIterator[bytes], context: RequestContext = BACKGROUND
    ) -> Answer:
        """Answer the command of a body."""
        parts = [data async for data in body]
        answer = await self.execute(
            user_id, await decoded(user_id, target, parts, self._settings, self._turns), context
        )
        check_size(answer)
        return answer

    async def pool_view(self) -> PoolView:
        """Return every slot."""
        if self._pool is None or self._bucket is None:
            raise ShardUnavailable("The instance is not started, or has stopped.")
        return msgspec.structs.replace(self._pool.view(), store=self._bucket.traffic())

    def process_ids(self) -> list[int]:
        """Return no other process."""
        return []

    async def press(self, *, is_short: bool) -> None:
        """Tell the pool."""
        if self._pool is not None:
            self._pool.press(is_short=is_short)

    def shards(self) -> list[ShardView]:
        """Return the one shard, which is this process."""
        ready = self._pool is not None
        return [ShardView(0, "ready" if ready else "down", os.getpid(), 0, int(ready), 0, self._ready_since_ms)]

    async def restart_shard(self, number: int, *, force: bool) -> ShardView:
        """Refuse: the shard is the instance itself."""
        if number:
            raise ShardNotFound(f"There is no shard {number}. The only shard is 0.")
        raise InvalidRequest(
            "The only shard is the instance's own process (shards = -1). Restart the instance instead."
        )

    async def tasks(self) -> list[TaskView]:
        """Return the state of the background tasks."""
        return [] if self._pool is None else self._pool.tasks()

    async def figures(self) -> list[Sample]:
        """Return the figures of the pool."""
        return [*self._figures.samples(), Sample(SHARD_UP.name, (label_of(0, is_isolated=False),), self.is_ready())]


def _log_late_failure(work: asyncio.Task[Answer]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        # The caller has the error too, unless it left.
        logger.debug("a command failed: %s", error)
