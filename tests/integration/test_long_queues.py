"""What is left to Chroma while many vectors wait in a queue: checks of health, regular expressions, odd writes."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.integration.test_fast_writes import DIMENSION, Twins
from tests.support.instances import USER, Instance, upsert, vectors
from tests.support.queues import THRESHOLD, queue, take_as_usual
from vectorpool.commands import CheckHealth, CreateCollection, GetRecords, Hnsw
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.outcomes import ORIGIN
from vectorpool.engine import checkup
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.settings import Settings
from vectorpool.vectorstore.replica import Replica

COUNT = 1100


async def load(instance: Instance) -> None:
    """Fill a collection with more records than Chroma lets wait."""
    await instance.do(CreateCollection(name="notes", hnsw=Hnsw(space="l2")))
    for start in range(0, COUNT, 550):
        ids = [f"r{n}" for n in range(start, start + 550)]
        await instance.do(upsert(*ids, vectors=vectors(550, seed=start)))


async def test_a_check_of_health_takes_in_a_few_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chroma opens the newest commit and counts all records, of which it has indexed those that are drawn."""
    waiting = 0
    check_up = checkup.check_up

    def look(client: object, *arguments: object, **options: object) -> object:
        nonlocal waiting
        waiting = len(queue(client._directory))  # type: ignore[attr-defined]
        return check_up(client, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("vectorpool.engine.engine.check_up", look)
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await load(instance)
        found = await instance.do(CheckHealth(known=[], since=0))
        assert {check["check"]: check["state"] for check in found["checks"]} == dict.fromkeys(
            ("log", "opens", "counts", "samples"), "ok"
        )
        assert found["records"] == COUNT and 0 < waiting <= 6
        # The vectorstore itself was not touched.
        [directory] = instance.working_directories()
        assert len(queue(directory)) == COUNT


def test_a_damaged_queue_fails_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record whose vector nothing has: searches do not find it, the queue stays whole, and the check fails."""
    take_as_usual(monkeypatch)
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    rows = np.random.default_rng(3).normal(size=(20, DIMENSION)).astype("<f4")
    for n in range(20):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], rows[n : n + 1], None, None, None)
    twins.close()
    with closing(sqlite3.connect(twins.ours / CHROMA_DATABASE_FILE)) as db, db:
        db.execute("DELETE FROM embeddings_queue WHERE id IN ('r3', 'r4')")
    replica = Replica(USER, twins.ours, ORIGIN, Image({}), Settings())
    with pytest.raises(BrokenReplica):
        replica.engine.check_up(20, random.Random(1).random)
    replica.close()


async def test_a_regular_expression_takes_in_what_waits(tmp_path: Path) -> None:
    """Chroma answers it, and an index is due from then on; later answers are the same."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await load(instance)
        slot = instance.pool._residency.slots[USER]
        assert slot.store is not None and not slot.store.edits.is_index_due()
        command = GetRecords(collection="notes", where_document={"$regex": "of r10[0-4]$"})
        found = await instance.do(command)
        assert [record["id"] for record in found["records"]] == [f"r{n}" for n in range(100, 105)]
        await instance.do(upsert("r100", vectors=vectors(1), text="other"))
        found = await instance.do(command)
        assert [record["id"] for record in found["records"]] == [f"r{n}" for n in range(100, 105)]


async def test_a_write_that_is_left_to_chroma_is_whole(tmp_path: Path) -> None:
    """With fast writes off, and a long queue of before: what waits is taken in first, and nothing is lost."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as instance:
        await load(instance)
        records = await instance.records()
    async with Instance(tmp_path, bucket, name="b", fast_writes=False) as slow:
        await slow.do(upsert("new", vectors=vectors(1)))
        assert await slow.records() == records | {"new": ("text of new", None)}
        [directory] = slow.working_directories()
        assert len(queue(directory)) < 10
    async with Instance(tmp_path, bucket, name="c", exact_bytes=0) as chroma:
        assert await chroma.records() == records | {"new": ("text of new", None)}


def test_a_closed_queue_is_cut_only_to_what_searches_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection whose records are not found keeps its queue whole; another is cut."""
    take_as_usual(monkeypatch)
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    rows = np.random.default_rng(3).normal(size=(20, DIMENSION)).astype("<f4")
    for n in range(20):
        for info in (twins.info, twins.other):
            twins.put(Operation.UPSERT, info, [f"r{n}"], rows[n : n + 1], None, None, None)
    twins.close()
    drawn = checkup.cut_queues(
        twins.ours, lambda collection, *_: collection == twins.info.id, samples=3, random=random.Random(1).random
    )
    assert list(drawn) == [twins.info.id] and 0 < len(drawn[twins.info.id]) <= 3
    left = queue(twins.ours)
    assert len(left) <= 20 + 3


def test_records_that_searches_do_not_find_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record finds itself by its own vector; one that is gone does not, nor one whose vector many others have."""
    take_as_usual(monkeypatch)
    twins = Twins(tmp_path, "l2", THRESHOLD, keeps=True)
    rows = np.random.default_rng(3).normal(size=(40, DIMENSION)).astype("<f4")
    rows[20:] = rows[20]
    for n in range(40):
        twins.put(Operation.UPSERT, twins.info, [f"r{n}"], rows[n : n + 1], None, None, None)
    twins.close()
    replica = Replica(USER, twins.ours, ORIGIN, Image({}), Settings())
    finds = replica.engine.records.finds
    where = (twins.info.id, "default_database")
    assert finds(*where, ["r1", "r2"]) and finds(*where, ["r19"])
    assert not finds(*where, ["r1", "unknown"]) and not finds(*where, [f"r{n}" for n in range(20, 40)])
    assert not finds(*where, [])
    replica.close()
