"""The settings of the fast path: each turns its path off, and answers stay the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import Instance, upsert, vectors
from vectorpool.commands import ChromaCountRecords, CountRecords, CreateCollection, GetCollection, QueryRecords
from vectorpool.engine.engine import Engine
from vectorpool.engine.fast_reads import FastReader
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.engine.records import EngineOptions
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool import stores


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the fast path was asked to read and to write."""
    asked = {"reads": 0, "writes": 0}

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            asked[name] += 1
            return method(*arguments, **named)

        return call

    for method in ("count", "get", "query"):
        monkeypatch.setattr(FastReader, method, counted("reads", getattr(FastReader, method)))
    monkeypatch.setattr(FastWriter, "write", counted("writes", FastWriter.write))
    return asked


@pytest.mark.parametrize("fast_reads", [True, False])
@pytest.mark.parametrize("fast_writes", [True, False])
async def test_each_setting_turns_its_path_off(
    tmp_path: Path, fast: dict[str, int], fast_reads: bool, fast_writes: bool
) -> None:
    """With a setting off its path is never asked, on either protocol; the answers are those of both on."""
    options: dict[str, Any] = {"fast_reads": fast_reads, "fast_writes": fast_writes}
    async with Instance(tmp_path, MemoryBucket(), **options) as instance:
        await instance.do(CreateCollection(name="notes"))
        for ids in (("a", "b"), ("c",)):
            await instance.do(upsert(*ids))
        info = await instance.do(GetCollection(name="notes"))
        counted = ChromaCountRecords(database=DEFAULT_DATABASE, collection_id=info["id"])
        assert await instance.do(CountRecords(collection="notes")) == {"count": 3}
        assert await instance.do(counted) == 3
        found = await instance.do(QueryRecords(collection="notes", vectors=vectors(1), n_results=3))
        assert {match["id"] for match in found["results"][0]} == {"a", "b", "c"}
    assert (fast["reads"] > 0, fast["writes"] > 0) == (fast_reads, fast_writes)


@pytest.mark.parametrize("is_skipped", [True, False])
async def test_skip_fsync_decides_for_the_threads_of_chroma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_skipped: bool
) -> None:
    """The threads that open Chroma skip fsync if the setting says so, and no thread does otherwise."""
    skipping: list[str] = []
    monkeypatch.setattr(stores, "skip_fsync", lambda: skipping.append(threading.current_thread().name))
    async with Instance(tmp_path, MemoryBucket(), skip_fsync=is_skipped) as instance:
        await instance.do(CreateCollection(name="notes"))
    assert bool(skipping) == is_skipped
    assert all(name.startswith("chroma") for name in skipping)


def test_a_read_at_once_waits_for_nothing_where_the_fast_path_is_off(tmp_path: Path) -> None:
    """Without fast reads, a read with ``at_once`` has no answer, because Chroma would have to be asked."""
    engine = Engine(tmp_path, EngineOptions(fast_reads=False))
    info = engine.catalogue.create(DEFAULT_DATABASE, "notes", metadata=None, configuration=None)
    key = info.id, info.database
    assert engine.records.count(*key) == 0
    assert engine.records.count(*key, at_once=True) is None
    assert engine.records.get(*key, at_once=True) is None
    assert engine.records.query(*key, np.ones((1, 2), np.float32), 1, at_once=True) is None
    engine.close()
