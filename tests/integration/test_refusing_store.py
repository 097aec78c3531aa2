"""Users whose commits the store refuses do not keep the slots from others."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import NOTES, Instance, upsert
from vectorpool.commands import Flush
from vectorpool.objects.bucket import BucketDenied, BucketUnavailable
from vectorpool.objects.memory import MemoryBucket


class PartialBucket(MemoryBucket):
    """A bucket that takes no writes of some users: it refuses them, or does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()
        self.silent: set[str] = set()

    def _hit(self, key: str, users: Iterable[str]) -> bool:
        return any(key.startswith(f"users/{user}/") for user in users)

    async def create(self, key: str, data: bytes) -> str:
        if self._hit(key, self.refused):
            raise BucketDenied("403 AccessDenied")
        if self._hit(key, self.silent):
            raise BucketUnavailable("no answer")
        return await super().create(key, data)


@pytest.mark.parametrize("fault", ["refused", "silent"])
@pytest.mark.parametrize("durability", ["write-through", "write-back"])
async def test_users_that_cannot_commit_starve_nobody_else(tmp_path: Path, durability: str, fault: str) -> None:
    """With two slots and four users who cannot commit, others read and write, and what was acknowledged is kept."""
    bucket = PartialBucket()
    options: dict[str, Any] = {
        "durability": durability,
        "open_slots": 2,
        "slot_wait_s": 2,
        "write_back_interval_s": 3600,
    }
    async with Instance(tmp_path, bucket, **options) as instance:
        stuck, others = [f"stuck{n}" for n in range(4)], [f"other{n}" for n in range(4)]
        for user in [*stuck, *others]:
            await instance.do(NOTES, user)
            await instance.do(Flush(), user)
        getattr(bucket, fault).update(stuck)
        acknowledged = []
        for user in stuck:
            try:
                await instance.do(upsert("a"), user)
                acknowledged.append(user)
            except Exception as error:
                assert getattr(error, "code", None) in ("store-unavailable", "outcome-unknown"), error
        assert len(acknowledged) == (1 if durability == "write-back" else 0)
        for user in others:
            assert await instance.records(user) == {}
        if durability == "write-through":
            for user in others:
                await instance.do(upsert("b"), user)
        bucket.refused.clear()
        bucket.silent.clear()
        for user in acknowledged:
            assert set(await instance.records(user)) == {"a"}
            await instance.do(Flush(), user)
        for user in others:
            await instance.do(upsert("c"), user)
            assert "c" in await instance.records(user)


async def test_many_users_write_back_through_few_slots(tmp_path: Path) -> None:
    """With a store that works, a write that finds too many slots dirty has the oldest committed, and is accepted."""
    bucket = MemoryBucket()
    options: dict[str, Any] = {"durability": "write-back", "open_slots": 4, "write_back_interval_s": 3600}
    async with Instance(tmp_path, bucket, **options) as instance:
        users = [f"u{n}" for n in range(8)]
        for user in users:
            await instance.do(NOTES, user)
            await instance.do(upsert("a"), user)
        dirty = [user for user in users if (await instance.residency(user))["dirty"]]
        assert 1 <= len(dirty) <= 3
        for user in users:
            assert set(await instance.records(user)) == {"a"}
