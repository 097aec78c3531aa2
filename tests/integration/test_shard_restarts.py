"""An operator restarts a shard: no acknowledged write is lost, neighbours go on, and it may happen in a flood."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.integration.test_shards import COUNT, _settings, _user_of
from tests.support.instances import upsert
from vectorpool.commands import CreateCollection
from vectorpool.context import RequestContext
from vectorpool.errors import OutcomeUnknown, ShardNotFound, ShardUnavailable, StoreUnavailable
from vectorpool.shard.router import ShardRouter

OURS, THEIRS = _user_of(0), _user_of(1)


async def _count(router: ShardRouter, user_id: str) -> int:
    return int(json.loads((await router.execute(user_id, COUNT)).body)["count"])


@pytest.fixture
async def router(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[ShardRouter]:
    """Two shards over a directory, with a collection for a user of each."""
    made = ShardRouter(_settings(tmp_path, durability=request.param, write_back_interval_s=3600))
    await made.start()
    for user_id in (OURS, THEIRS):
        await made.execute(user_id, CreateCollection(name="notes"))
    yield made
    await made.stop()


@pytest.mark.parametrize("router", ["write-back"], indirect=True)
async def test_a_restart_keeps_what_was_acknowledged(router: ShardRouter) -> None:
    """The process is another one, the records are there, and it is no death: nobody comes nearer to a quarantine."""
    await router.execute(OURS, upsert(*map(str, range(10))))
    before = router.shards()
    after = await router.restart_shard(0, force=False)
    assert after.state == "ready" and after.process_id != before[0].process_id
    assert (after.starts, after.deaths) == (before[0].starts + 1, 0)
    assert router.shards()[1].process_id == before[1].process_id
    assert await _count(router, OURS) == 10
    assert not (await router.pool_view()).quarantined


@pytest.mark.parametrize("router", ["write-through", pytest.param("write-back", marks=pytest.mark.long)], indirect=True)
async def test_a_restart_in_a_flood(router: ShardRouter) -> None:
    """Writers write all the time, on both shards: every acknowledged record is there, and neighbours see no error."""
    done, acknowledged = asyncio.Event(), {OURS: set[int](), THEIRS: set[int]()}
    unsure, refused = set[int](), {OURS: 0, THEIRS: 0}

    async def write(user_id: str, first: int) -> None:
        number = first
        while not done.is_set():
            number += 4
            try:
                await router.execute(user_id, upsert(str(number)), RequestContext("flood", timeout_s=30.0))
                acknowledged[user_id].add(number)
            except ShardUnavailable:
                refused[user_id] += 1
                await asyncio.sleep(0.01)
            except OutcomeUnknown:
                unsure.add(number)

    writers = [asyncio.create_task(write(user_id, first)) for user_id in (OURS, THEIRS) for first in range(4)]
    await asyncio.sleep(0.2)
    # Two operators at once share one restart.
    first, second = await asyncio.gather(*(router.restart_shard(0, force=False) for _ in range(2)))
    assert first.process_id == second.process_id and first.starts == 2
    await asyncio.sleep(0.2)
    done.set()
    await asyncio.gather(*writers)
    assert refused[OURS] and not refused[THEIRS]
    for user_id in (OURS, THEIRS):
        held = await _count(router, user_id)
        assert len(acknowledged[user_id]) <= held <= len(acknowledged[user_id]) + len(unsure)


@pytest.mark.parametrize("router", ["write-through", "write-back"], indirect=True)
async def test_a_shard_that_hangs_is_killed(router: ShardRouter) -> None:
    """One that is frozen drains nothing. Under write-through it is killed; under write-back that needs force."""
    await router.execute(OURS, upsert(*map(str, range(5))))
    before = router.shards()[0]
    assert before.process_id is not None
    os.kill(before.process_id, signal.SIGSTOP)
    router._settings = router._restarts._settings = _with_budget(router, 0.5)
    if router._settings.durability == "write-back":
        with pytest.raises(StoreUnavailable, match="would be lost"):
            await router.restart_shard(0, force=False)
        assert router.shards()[0].process_id == before.process_id
        os.kill(before.process_id, signal.SIGCONT)
        assert await _count(router, OURS) == 5, "the shard went on as it was"
        os.kill(before.process_id, signal.SIGSTOP)
        after = await router.restart_shard(0, force=True)
    else:
        after = await router.restart_shard(0, force=False)
        assert await _count(router, OURS) == 5
    assert after.process_id != before.process_id and after.deaths == 0


def _with_budget(router: ShardRouter, drain_s: float) -> object:
    return msgspec.structs.replace(router._settings, drain_s=drain_s)


@pytest.mark.parametrize("number", [-1, 2, 10**9])
async def test_a_shard_that_is_not_there(number: int, tmp_path: Path) -> None:
    """A wrong number is named as that, and restarts nothing."""
    router = ShardRouter(_settings(tmp_path))
    with pytest.raises(ShardNotFound, match="0 to 1"):
        await router.restart_shard(number, force=True)
