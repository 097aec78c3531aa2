"""Reads that a shard answers in the step that read them: the same answers, where nothing has to be waited for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.support.instances import NOTES, USER, Instance, upsert
from vectorpool.commands import Command, CountRecords, GetRecords, QueryRecords, ReadOptions, Vectors
from vectorpool.context import RequestContext
from vectorpool.errors import DimensionMismatch
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.memory import MemoryBucket

COUNT = CountRecords(collection="notes")


def context_of(**options: object) -> RequestContext:
    return RequestContext("an-id", read=ReadOptions(**options), timeout_s=30.0)  # type: ignore[arg-type]


def query(*numbers: float, **more: object) -> QueryRecords:
    data = np.array(numbers, "<f4").tobytes()
    return QueryRecords(collection="notes", vectors=Vectors(len(numbers), data), n_results=3, **more)  # type: ignore[arg-type]


async def filled(instance: Instance) -> int:
    """Write some records; return the length of their vectors."""
    await instance.do(NOTES)
    command = upsert("a")
    for name in "abc":
        await instance.do(upsert(name))
    # Twice: a directory shows at once what the kernel has looked for before.
    for _ in range(2):
        await instance.pool.execute(USER, COUNT)
    assert command.vectors is not None
    return int(command.vectors.dimension)


@pytest.mark.parametrize("consistency", ["strong", "local"])
async def test_answers_are_those_of_a_task(tmp_path: Path, consistency: str) -> None:
    """Count, get and query give the same bytes and commit, at once and by a task, and both see a write that follows."""
    async with Instance(tmp_path, DirectoryBucket(tmp_path / "store")) as instance:
        dimension = await filled(instance)
        commands: list[Command] = [COUNT, GetRecords(collection="notes", ids=["a", "c"]), query(*[1.0] * dimension)]
        for name in "de":
            for command in commands:
                context = context_of(consistency=consistency)
                at_once = instance.pool.answer_at_once(USER, command, context)
                if at_once is None:
                    # The kernel was not asked for this number before, or is never asked here.
                    await instance.pool.execute(USER, command, context_of(consistency=consistency))
                    at_once = instance.pool.answer_at_once(USER, command, context)
                if at_once is None and consistency == "strong":
                    pytest.skip("this file system does not show at once what is missing")
                assert at_once == await instance.pool.execute(USER, command, context_of(consistency=consistency))
                assert context.commit is None and context.timing is not None and sum(context.timing.parts) > 0
            await instance.do(upsert(name))
            assert (await instance.do(COUNT))["count"] == 4 + "de".index(name)


async def test_a_commit_of_another_instance_is_not_overlooked(tmp_path: Path) -> None:
    """A strong read is not answered at once while another instance's commit is not taken in."""
    store = tmp_path / "store"
    async with (
        Instance(tmp_path, DirectoryBucket(store), name="one") as one,
        Instance(tmp_path, DirectoryBucket(store), name="two") as two,
    ):
        await filled(one)
        for turn in range(5):
            await two.do(upsert(f"of two {turn}"))
            assert one.pool.answer_at_once(USER, COUNT, context_of()) is None
            assert (await one.do(COUNT))["count"] == 4 + turn


async def test_what_must_wait_is_left_to_a_task(tmp_path: Path) -> None:
    """A cold user, a past commit, a commit to come, a long read, a held lock and a drained pool are not answered."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        ask = instance.pool.answer_at_once
        assert ask("cold", COUNT, context_of(consistency="local")) is None
        dimension = await filled(instance)
        assert ask(USER, COUNT, context_of(consistency="local")) is not None
        assert ask(USER, COUNT, context_of(consistency="strong")) is None, "memory shows nothing at once"
        assert ask(USER, COUNT, context_of(at=1)) is None
        assert ask(USER, COUNT, context_of(consistency="local", min_commit=100)) is None
        assert ask(USER, upsert("x"), context_of(consistency="local")) is None
        store = instance.pool._residency.slots[USER].store
        assert store is not None
        async with store._open.lock.exclusive():
            assert ask(USER, COUNT, context_of(consistency="local")) is None
        filtered, tried = query(*[1.0] * dimension, where={"k": 1}), 0
        for _ in range(200):
            tried += instance.pool._residency.slots[USER].may_be_quick
            assert ask(USER, filtered, context_of(consistency="local")) is None
            await instance.pool.execute(USER, filtered, context_of(consistency="local"))
        assert 5 < tried < 20, "what is always long is seldom tried"
        while ask(USER, COUNT, context_of(consistency="local")) is None:
            await instance.pool.execute(USER, COUNT, context_of(consistency="local"))
        assert ask(USER, COUNT, context_of(consistency="local")) is not None
        with pytest.raises(DimensionMismatch):
            ask(USER, query(1.0), context_of(consistency="local"))
        await instance.drain()
        assert ask(USER, COUNT, context_of(consistency="local")) is None


async def test_a_use_at_once_keeps_a_slot_from_eviction(tmp_path: Path) -> None:
    """Of two open users, the one that was read at once last stays when a third needs a place."""
    async with Instance(tmp_path, MemoryBucket(), open_slots=2) as instance:
        for user in ("a", "b"):
            await instance.do(NOTES, user)
            await instance.do(upsert("x"), user)
            await instance.pool.execute(user, COUNT)
        assert instance.pool.answer_at_once("a", COUNT, context_of(consistency="local")) is not None
        await instance.do(NOTES, "c")
        async with asyncio.timeout(30):
            while "b" in instance.pool._residency.slots:
                await asyncio.sleep(0.01)
        assert "a" in instance.pool._residency.slots
