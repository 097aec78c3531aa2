"""An export beside the user's deletion: whichever comes first, the target has nothing of the user afterwards."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.instances import NOTES, upsert
from tests.support.postgres import Postgres
from vectorpool.api.service import Service
from vectorpool.app import open_service
from vectorpool.commands import DeleteVectorstore
from vectorpool.commitlog.deletions import load_receipt
from vectorpool.context import BACKGROUND
from vectorpool.errors import UserNotFound
from vectorpool.settings import Settings
from vectorpool.targets import postgresql, runs
from vectorpool.targets.kept import Kept, KeptSinks, KeptStates
from vectorpool.targets.named import named_targets
from vectorpool.targets.urls import Target

LONGEST_S = 0.02
STEPS = ("state", "begin", "put_collection", "put", "note", "finish", "forget", "close")


@pytest.fixture
async def service(tmp_path: Path, postgres: Postgres) -> AsyncIterator[Service]:
    settings = Settings(
        store=str(tmp_path / "store"),
        replica_dir=str(tmp_path / "replicas"),
        shards=-1,
        health_interval_s=0,
        targets=f"main={postgres.url}",
    )
    async with open_service(settings) as made:
        yield made


class Delays:
    """Random rests between the steps of exports and deletions, at the target and at the bucket."""

    def __init__(self, seed: int, patch: pytest.MonkeyPatch) -> None:
        self._rng = random.Random(seed)
        for name in STEPS:
            patch.setattr(postgresql.PostgresSink, name, self._blocking(getattr(postgresql.PostgresSink, name)))
        patch.setattr(runs, "newest_header", self._awaited(runs.newest_header))

    def delay_s(self) -> float:
        # Mostly nothing, so that long rests of one meet many steps of the other.
        return self._rng.random() ** 4 * LONGEST_S * 4

    def _blocking(self, step: Any) -> Any:
        def rested(*arguments: Any, **named: Any) -> Any:
            time.sleep(self.delay_s())
            return step(*arguments, **named)

        return rested

    def _awaited(self, step: Any) -> Any:
        async def rested(*arguments: Any) -> Any:
            found = await step(*arguments)
            await asyncio.sleep(self.delay_s())
            return found

        return rested


async def _export(service: Service, user: str, target: Target, kept: Kept | None) -> None:
    for _ in range(2):
        try:
            await runs.export_user(service.library.bucket, service.settings, user, target, kept=kept)
        except UserNotFound:
            return


async def _delete(service: Service, user: str, target: Target, delays: Delays, *, is_made_anew: bool) -> int:
    """Delete a user as a request does, and then at the target as the job of the deletion does."""
    await asyncio.sleep(delays.delay_s() * 3)
    await service.router.execute(user, DeleteVectorstore(), BACKGROUND)
    receipt = await load_receipt(service.library.bucket, user)
    assert receipt is not None
    if is_made_anew:
        await service.router.execute(user, NOTES, BACKGROUND)
        await service.router.execute(user, upsert("new"), BACKGROUND)
    await asyncio.sleep(delays.delay_s())
    await runs.forget_user(user, target, receipt.commit)
    return receipt.commit


def _left(url: str, user: str) -> tuple[set[str], int]:
    with psycopg.connect(url) as db:
        rows = db.execute("SELECT id FROM vectorpool.records WHERE user_id = %s", (user,)).fetchall()
        collections = db.execute("SELECT count(*) FROM vectorpool.collections WHERE user_id = %s", (user,)).fetchone()
        assert collections is not None
        return {row[0] for row in rows}, collections[0]


async def _interleave(service: Service, seed: int, patch: pytest.MonkeyPatch) -> None:
    target, user, rng = named_targets(service.settings)["main"], f"user-{seed}", random.Random(seed)
    await service.router.execute(user, NOTES, BACKGROUND)
    await service.router.execute(user, upsert("a", "b"), BACKGROUND)
    kept = Kept(KeptStates(service.settings.replica_dir, 2**24), KeptSinks()) if rng.random() < 0.5 else None
    if rng.random() < 0.5:
        await runs.export_user(service.library.bucket, service.settings, user, target, kept=kept)
        await service.router.execute(user, upsert("c"), BACKGROUND)
    is_made_anew = rng.random() < 0.4
    with patch.context() as within:
        delays = Delays(seed, within)
        exporters = [_export(service, user, target, kept) for _ in range(rng.choice((1, 1, 2)))]
        deleting = _delete(service, user, target, delays, is_made_anew=is_made_anew)
        await asyncio.gather(deleting, *exporters)
    found, collections = _left(target.url, user)
    assert found <= ({"new"} if is_made_anew else set()), (seed, found)
    assert collections <= (1 if is_made_anew else 0), seed
    if is_made_anew:
        await runs.export_user(service.library.bucket, service.settings, user, target, kept=kept)
        assert _left(target.url, user) == ({"new"}, 1), seed
    if kept is not None:
        kept.sinks.close_idle(0.0)


@pytest.mark.parametrize("count", [12, pytest.param(300, marks=pytest.mark.long)])
async def test_nothing_is_left_of_a_deleted_user(service: Service, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many interleavings of one or two exporters with a deletion; some users are made anew meanwhile."""
    first = random.SystemRandom().randrange(2**31)
    for seed in range(first, first + count):
        print(f"seed {seed}")
        await _interleave(service, seed, monkeypatch)
