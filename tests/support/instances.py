"""An instance in this process: a pool with real Chroma over any bucket, commands in, Python values out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from vectorpool.answers import Answer
from vectorpool.commands import (
    Command,
    CreateCollection,
    GetRecords,
    Inspect,
    ListCollections,
    UpsertRecords,
    Vectors,
)
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import CommitInfo
from vectorpool.context import BACKGROUND
from vectorpool.errors import VectorpoolError
from vectorpool.local_paths import open_dir
from vectorpool.names import users_prefix
from vectorpool.objects.bucket import Body, Bucket, ObjectInfo
from vectorpool.objects.metered import MeteredBucket
from vectorpool.pool.pool import Pool
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.sources import SystemSources

USER = "42"


class HastySources(SystemSources):
    """The real clock, without waits between attempts."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class HookedBucket(MeteredBucket):
    """A metered bucket that runs ``before_create`` or ``before_list`` once, before such a call has any effect."""

    def __init__(self, inner: Bucket) -> None:
        super().__init__(inner)
        self.before_create: Callable[[], Awaitable[None]] | None = None
        self.before_list: Callable[[], Awaitable[None]] | None = None
        self.before_get: Callable[[], Awaitable[None]] | None = None

    async def create(self, key: str, data: bytes) -> str:
        hook, self.before_create = self.before_create, None
        if hook is not None:
            await hook()
        return await super().create(key, data)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        # The sweep for deletions lists too, at a time of its own.
        if prefix.startswith(users_prefix()):
            hook, self.before_list = self.before_list, None
            if hook is not None:
                await hook()
        return await super().list_objects(prefix, limit=limit, after=after)

    async def get(self, key: str) -> Body:
        hook, self.before_get = self.before_get, None
        if hook is not None:
            await hook()
        return await super().get(key)


class Barrier:
    """A point at which a call waits until it is released; ``reached`` is set when the call is there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.open.wait()


class Instance:
    """One pool over a bucket that stays after it. Use it as an async context manager."""

    def __init__(self, root: Path, bucket: Bucket, *, name: str = "a", **options: Any) -> None:
        self.settings = Settings(**({"replica_dir": str(root / name), "workers": 4} | options))
        self.bucket = bucket
        self.pool = Pool(StoreFactory(bucket, self.settings, sources=HastySources()), self.settings)
        self._drained = False

    async def __aenter__(self) -> Instance:
        await self.pool.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._drained:
            await self.drain()

    async def drain(self, budget_s: float = 20.0) -> Any:
        """Drain the pool; return its report."""
        self._drained = True
        return await self.pool.drain(budget_s)

    async def answer(self, command: Command, user: str = USER) -> Answer:
        """Return the pool's answer, as a shard does: without a task where that can be."""
        at_once = self.pool.answer_at_once(user, command, BACKGROUND)
        return await self.pool.execute(user, command) if at_once is None else at_once

    async def do(self, command: Command, user: str = USER) -> Any:
        """Return the answer's body as Python values."""
        return json.loads((await self.answer(command, user)).body)

    async def refusal(self, command: Command, user: str = USER) -> VectorpoolError:
        """Return the error of a command that must be refused."""
        try:
            answer = await self.answer(command, user)
        except VectorpoolError as error:
            return error
        raise AssertionError(f"it was not refused: {answer.body[:200]!r}")

    async def commit(self, user: str = USER) -> int:
        """Return the commit at which the user's vectorstore is open here; 0 if it is cold."""
        return int((await self.do(Inspect(), user))["commit"])

    async def residency(self, user: str = USER) -> Any:
        """Return the residency of the vectorstore."""
        return await self.do(Inspect(), user)

    def working_directories(self) -> list[Path]:
        """Return the directories that are open now."""
        root = open_dir(Path(self.settings.replica_dir), 0)
        return sorted(path for path in root.iterdir() if not path.name.startswith("."))

    async def records(self, user: str = USER, collection: str = "notes", avatar_id: str | None = None) -> Any:
        """Return a collection's records by id: (document, metadata)."""
        page = await self.do(GetRecords(collection=collection, avatar_id=avatar_id), user)
        ids = [record["id"] for record in page["records"]]
        assert len(ids) == len(set(ids)), "a record is there twice"
        return {r["id"]: (r.get("document"), r.get("metadata")) for r in page["records"]}

    async def everything(self, user: str = USER, avatars: tuple[str | None, ...] = (None,)) -> Any:
        """Return all that readers can see, for comparisons."""
        seen = []
        for avatar in avatars:
            page = await self.do(ListCollections(avatar_id=avatar), user)
            for collection in page["collections"]:
                include = ("documents", "metadatas", "embeddings", "uris")
                command = GetRecords(collection=collection["name"], avatar_id=avatar, include=include)
                seen.append((collection, await self.do(command, user)))
        return seen

    def log(self, user: str = USER) -> CommitLog:
        """Return the user's log."""
        return CommitLog(self.bucket, user, settings=self.settings)

    async def history(self, user: str = USER) -> list[CommitInfo]:
        """Return the user's commits, newest first, as the log has them; a scrub finds nothing wrong."""
        log = self.log(user)
        report = await log.scrub()
        assert report.ok, report.problems
        return await log.entries(limit=1000)


def vectors(count: int, dimension: int = 4, *, embedder: str | None = None, seed: int = 0) -> Vectors:
    """Return ``count`` embeddings that differ."""
    array = np.random.default_rng(seed).standard_normal((count, dimension)).astype("<f4")
    return Vectors(dimension=dimension, data=array.tobytes(), embedder=embedder)


def upsert(*ids: str, text: str = "text", collection: str = "notes", **more: Any) -> UpsertRecords:
    """Return a command that upserts records of these ids."""
    values: dict[str, Any] = {"vectors": vectors(len(ids)), "documents": [f"{text} of {i}" for i in ids]}
    return UpsertRecords(collection=collection, ids=list(ids), **(values | more))


NOTES = CreateCollection(name="notes")
