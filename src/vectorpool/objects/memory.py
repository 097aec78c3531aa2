"""A bucket in this process's memory: for tests, simulations and trials. It ends with the process.

No call waits, so each call is atomic on the event loop, and ``create`` has exactly one winner.
"""

from __future__ import annotations

import xxhash

from vectorpool.objects.bucket import (
    Body,
    ObjectChanged,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    WithoutUploadUrls,
    check_key,
    check_prefix,
    check_range,
    page_of,
)
from vectorpool.sources import SYSTEM, Sources


class MemoryBucket(WithoutUploadUrls):
    """Keys and bytes in a dictionary."""

    def __init__(self, *, name: str = "", sources: Sources = SYSTEM) -> None:
        self._name = name
        self._sources = sources
        self._objects: dict[str, tuple[bytes, ObjectInfo]] = {}

    @property
    def url(self) -> str:
        return f"memory://{self._name}"

    def _find(self, key: str) -> tuple[bytes, ObjectInfo]:
        found = self._objects.get(check_key(key))
        if found is None:
            raise ObjectMissing(f"{self.url} has no object {key!r}")
        return found

    def _store(self, key: str, data: bytes) -> str:
        kept = bytes(data)
        etag = f'"{xxhash.xxh3_128_hexdigest(kept)}"'
        self._objects[key] = kept, ObjectInfo(key, len(kept), etag, self._sources.now_ms())
        return etag

    async def get(self, key: str) -> Body:
        data, info = self._find(key)
        return Body(data, info.etag)

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        check_range(start, end)
        return self._find(key)[0][start:end]

    def is_surely_absent(self, key: str) -> bool:
        return False

    async def head(self, key: str) -> ObjectInfo:
        return self._find(key)[1]

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        check_prefix(prefix)
        keys = sorted(k for k in self._objects if k.startswith(prefix) and (after is None or k > after))
        return [self._objects[key][1] for key in keys[: max(limit, 0)]]

    async def list_prefixes(self, prefix: str, *, limit: int | None = None, after: str | None = None) -> list[str]:
        check_prefix(prefix)
        tails = (key[len(prefix) :] for key in self._objects if key.startswith(prefix))
        found = {tail.partition("/")[0] for tail in tails if "/" in tail}
        return sorted(found) if limit is None else page_of(found, limit, after)

    async def create(self, key: str, data: bytes) -> str:
        if check_key(key) in self._objects:
            raise ObjectExists(f"{self.url} already has an object {key!r}")
        return self._store(key, data)

    async def put(self, key: str, data: bytes) -> str:
        return self._store(check_key(key), data)

    async def replace(self, key: str, data: bytes, etag: str) -> str:
        self._require(key, etag)
        return self._store(key, data)

    async def remove(self, key: str, etag: str) -> None:
        self._require(key, etag)
        del self._objects[key]

    def _require(self, key: str, etag: str) -> None:
        found = self._objects.get(check_key(key))
        if found is None or found[1].etag != etag:
            raise ObjectChanged(f"{self.url} has another object {key!r}, or none")

    async def copy(self, source: str, target: str) -> None:
        self._store(check_key(target), self._find(source)[0])

    async def delete(self, key: str) -> None:
        self._objects.pop(check_key(key), None)

    async def delete_listed(self, key: str) -> None:
        self._objects.pop(key, None)

    async def close(self) -> None:
        """Do nothing. The objects stay readable, so that a test can open the same bucket again."""
