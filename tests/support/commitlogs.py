"""Parts of the commit log's tests: a user whose directory is written and committed, and a bucket with faults."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path

from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import EMPTY, Image, capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import ORIGIN, Compaction, Hydrated, PendingCommit, Position
from vectorpool.commitlog.warm import WarmTier
from vectorpool.objects.bucket import Body, Bucket, BucketDenied, BucketUnavailable, ObjectInfo
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings

USER = "42"


class StillSources:
    """Time moves only in ``sleep``; ids count up; every random number is one half."""

    def __init__(self, prefix: str = "writer") -> None:
        self._ids = itertools.count(1)
        self._prefix = prefix
        self.slept_s = 0.0

    def now_ms(self) -> int:
        return 1_700_000_000_000 + int(self.slept_s * 1000)

    def monotonic_s(self) -> float:
        return self.slept_s

    def random(self) -> float:
        return 0.5

    def uuid(self) -> str:
        return f"{self._prefix}-{next(self._ids)}"

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


class FaultyBucket:
    """A bucket whose next calls of a method fail as scripted.

    ``script["create"]`` is a queue of "lost" (the request never arrived), "done" (it took effect and the answer was
    lost), "denied", "ok", or a callable that is run before the call. Calls are counted in ``calls``.
    """

    def __init__(self, inner: Bucket) -> None:
        self.inner = inner
        self.script: dict[str, deque[str | Callable[[], None]]] = {}
        self.calls: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return self.inner.url

    def plan(self, method: str, *faults: str | Callable[[], None]) -> None:
        self.script.setdefault(method, deque()).extend(faults)

    def _enter(self, method: str, key: str) -> str:
        self.calls.append((method, key))
        queue = self.script.get(method)
        fault = queue.popleft() if queue else "ok"
        if not isinstance(fault, str):
            fault()
            return "ok"
        if fault == "lost":
            raise BucketUnavailable("the request was lost")
        if fault == "denied":
            raise BucketDenied("no permission")
        return fault

    def _leave(self, fault: str) -> None:
        if fault == "done":
            raise BucketUnavailable("the answer was lost")

    async def get(self, key: str) -> Body:
        self._enter("get", key)
        return await self.inner.get(key)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        self._enter("get_range", key)
        return await self.inner.get_range(key, start, end)

    def is_surely_absent(self, key: str) -> bool:
        return False

    async def head(self, key: str) -> ObjectInfo:
        self._enter("head", key)
        return await self.inner.head(key)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        self._enter("list_objects", prefix)
        return await self.inner.list_objects(prefix, limit=limit, after=after)

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        return await self.inner.list_prefixes(prefix, limit=limit, after=after)

    async def create(self, key: str, data: bytes) -> str:
        fault = self._enter("create", key)
        try:
            return await self.inner.create(key, data)
        finally:
            self._leave(fault)

    async def put(self, key: str, data: bytes) -> str:
        self._enter("put", key)
        return await self.inner.put(key, data)

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        self._enter("put", key)
        return await self.inner.replace(key, data, etag)

    async def remove(self, key: str, etag: str) -> None:
        self._enter("delete", key)
        await self.inner.remove(key, etag)

    async def copy(self, source: str, target: str) -> None:
        self._enter("copy", target)
        await self.inner.copy(source, target)

    async def upload_url(self, key: str, expires_s: int) -> str:
        return await self.inner.upload_url(key, expires_s)

    async def delete(self, key: str) -> None:
        self._enter("delete", key)
        await self.inner.delete(key)

    async def delete_listed(self, key: str) -> None:
        self._enter("delete", key)
        await self.inner.delete_listed(key)

    async def close(self) -> None:
        await self.inner.close()


class Author:
    """A user's directory, its log, and its position in the log."""

    def __init__(
        self,
        root: Path,
        bucket: Bucket | None = None,
        *,
        user_id: str = USER,
        warm: WarmTier | None = None,
        fanout: int = 8,
        writer: str = "writer",
    ) -> None:
        self.root = root
        self.bucket: Bucket = MemoryBucket() if bucket is None else bucket
        self.settings = Settings(replica_dir=str(root / "replicas"), compact_fanout=fanout)
        self.sources = StillSources(writer)
        self.log = CommitLog(self.bucket, user_id, warm=warm, settings=self.settings, sources=self.sources)
        self.directory = root / "work"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.position: Position = ORIGIN
        self.image: Image = EMPTY
        self._fresh = itertools.count()

    def write(self, path: str, data: bytes, offset: int | None = None) -> None:
        """Write a whole file, or ``data`` at ``offset`` of it."""
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if offset is None:
            file.write_bytes(data)
        else:
            with file.open("r+b") as handle:
                handle.seek(offset)
                handle.write(data)

    def prepare(self, summary: Summary | None = None) -> PendingCommit:
        return self.log.prepare(
            self.position, self.image, capture(self.directory, self.image), summary or Summary(added=1)
        )

    async def commit(self, summary: Summary | None = None) -> Position:
        pending = self.prepare(summary)
        self.position = await self.log.append(pending)
        self.image = pending.image
        return self.position

    async def compact(self) -> Compaction:
        return await self.log.compact(self.position)

    async def hydrate(self, *, at: int | None = None) -> tuple[Path, Hydrated]:
        """Hydrate into a new directory, with a new log object, which has no cache."""
        target = self.root / f"hydrated-{next(self._fresh)}"
        log = CommitLog(self.bucket, USER, settings=self.settings)
        hydrated = await log.hydrate(target, at=at)
        assert hydrated is not None
        return target, hydrated

    async def objects(self) -> dict[str, ObjectInfo]:
        """The log's objects by the last part of their keys."""
        found = await self.bucket.list_objects(f"users/{USER}/vectorstore/log/", limit=100_000)
        return {info.key.rpartition("/")[2]: info for info in found}


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory."""
    return {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}


async def overwrite(bucket: Bucket, key: str, data: bytes) -> None:
    """Replace an object's bytes, which no writer of the product does."""
    with contextlib.suppress(KeyError):
        await bucket.delete(key)
    await bucket.put(key, data)
