"""How writes become commits: shared, alone, in slices, beside other instances, and later under write-back."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.instances import NOTES, Barrier, HookedBucket, Instance, upsert, vectors
from vectorpool.commands import (
    AddRecords,
    CountRecords,
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    Evict,
    Flush,
    ListCollections,
    UpsertRecords,
)
from vectorpool.engine.bindings import Client
from vectorpool.errors import CommitConflict, LimitExceeded, OutcomeUnknown, RecordExists
from vectorpool.objects.directory import DirectoryBucket
from vectorpool.objects.faulty import Faults, FaultyBucket
from vectorpool.objects.memory import MemoryBucket
from vectorpool.objects.metered import MeteredBucket

ALL_OF_IT = frozenset({"create", "head", "get", "get_range", "list_objects"})


# --- Group commit ------------------------------------------------------------------------------------


async def test_a_lone_write_is_one_create(tmp_path: Path) -> None:
    """A write to an open vectorstore costs one conditional create and no other write to the bucket."""
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        before = bucket.counts()
        await instance.do(upsert("a"))
        after = bucket.counts()
        spent = {name: after[name].requests - before[name].requests for name in after}
        assert {name: n for name, n in spent.items() if n} == {"create": 1}


async def test_concurrent_writes_of_one_user_share_commits(tmp_path: Path) -> None:
    """Writes that wait together become one commit, each gets its own answer, and all of them are there."""
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES)
        before = bucket.counts()["create"].requests
        writes = [instance.answer(upsert(f"r{n}", text=f"text {n}")) for n in range(30)]
        answers = await asyncio.gather(*writes)
        creates = bucket.counts()["create"].requests - before
        print(f"30 concurrent writes: {creates} creates")
        assert creates <= 3
        assert {answer.body for answer in answers} == {b'{"written":1}'}
        assert await instance.records() == {f"r{n}": (f"text {n} of r{n}", None) for n in range(30)}
        newest = (await instance.history())[0]
        assert max(answer.commit for answer in answers) == newest.seq


async def test_a_refused_write_does_not_take_its_group_along(tmp_path: Path) -> None:
    """Of writes that wait together, one that is refused fails alone, and the others are committed."""
    async with Instance(tmp_path, MemoryBucket()) as instance:
        await instance.do(NOTES)
        bad = upsert("bad", vectors=vectors(1, dimension=5))
        await instance.do(upsert("r0"))
        results = await asyncio.gather(
            *(instance.answer(c) for c in (upsert("r1"), bad, upsert("r2"))), return_exceptions=True
        )
        assert [getattr(r, "code", "written") for r in results] == ["written", "dimension-mismatch", "written"]
        assert set(await instance.records()) == {"r0", "r1", "r2"}


# --- Other instances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "directory"])
async def test_two_instances_with_random_routing_lose_nothing(tmp_path: Path, store: str) -> None:
    """Writes that two instances make at once for one user: what was acknowledged is there, once, and nothing else."""
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    below = MemoryBucket() if store == "memory" else DirectoryBucket(tmp_path / "store")
    slow = FaultyBucket(below, Faults(latency_s=0.01))
    acknowledged: list[str] = []
    refused: list[str] = []
    async with Instance(tmp_path, slow) as one, Instance(tmp_path, slow, name="b") as two:
        await one.do(NOTES)

        async def client(number: int) -> None:
            for turn in range(8):
                record_id = f"{number}-{turn}"
                add = AddRecords(collection="notes", ids=[record_id], vectors=vectors(1), documents=[record_id])
                try:
                    await dice.choice([one, two]).do(add)
                    acknowledged.append(record_id)
                except CommitConflict:
                    refused.append(record_id)

        await asyncio.gather(*(client(number) for number in range(6)))
        print(f"seed {seed}: {len(acknowledged)} acknowledged, {len(refused)} refused after conflicts")
        expected = {record_id: (record_id, None) for record_id in acknowledged}
        assert len(acknowledged) > len(refused)
        assert await one.records() == await two.records() == expected
        history = await one.history()
        assert sum(entry.summary.added for entry in history) == len(acknowledged)


async def test_a_write_that_lost_its_number_is_applied_to_the_winners_state(tmp_path: Path) -> None:
    """Another instance commits between apply and create: the write rebases, and both are there in order."""
    below = MemoryBucket()
    bucket = HookedBucket(below)
    async with Instance(tmp_path, bucket) as instance, Instance(tmp_path, below, name="b") as other:
        await instance.do(NOTES)
        bucket.before_create = lambda: other.do(upsert("a", text="theirs", metadatas=[{"theirs": 1}]))
        answer = await instance.answer(upsert("a", text="ours", metadatas=[{"ours": 1}]))
        assert answer.commit == 3
        assert await other.records() == {"a": ("ours of a", {"theirs": 1, "ours": 1})}


async def test_a_command_that_no_longer_applies_fails_to_its_own_caller(tmp_path: Path) -> None:
    """After a rebase a command that no longer applies is refused as one instance refuses it; its group is committed."""
    below = MemoryBucket()
    bucket = HookedBucket(below)
    async with Instance(tmp_path, bucket) as instance, Instance(tmp_path, below, name="b") as other:
        await instance.do(NOTES)
        await instance.do(upsert("seen"))
        bucket.before_create = lambda: other.do(upsert("a", text="theirs"))
        add = AddRecords(collection="notes", ids=["a"], vectors=vectors(1), documents=["ours"])
        results = await asyncio.gather(instance.answer(add), instance.answer(upsert("fine")), return_exceptions=True)
        refusal = results[0]
        assert isinstance(refusal, RecordExists)
        assert "'a'" in refusal.detail
        assert not isinstance(results[1], BaseException)
        records = await other.records()
        assert set(records) == {"seen", "a", "fine"}
        assert records["a"] == ("theirs of a", None)


async def test_a_collection_deleted_elsewhere_is_not_found(tmp_path: Path) -> None:
    """A write into a collection that another instance deleted just before is refused, and creates nothing."""
    below = MemoryBucket()
    bucket = HookedBucket(below)
    async with Instance(tmp_path, bucket) as instance, Instance(tmp_path, below, name="b") as other:
        await instance.do(NOTES)
        await instance.do(CreateCollection(name="stays"))

        async def delete() -> None:
            await other.do(DeleteCollection(name="notes"))

        bucket.before_create = delete
        refusal = await instance.refusal(upsert("a"))
        assert refusal.code == "collection-not-found"
        assert (await instance.refusal(CountRecords(collection="notes"))).code == "collection-not-found"


async def test_a_strong_read_sees_what_another_instance_acknowledged(tmp_path: Path) -> None:
    """A read on an instance that has the vectorstore open sees a write that was acknowledged before it, every time."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b") as two:
        await one.do(NOTES)
        instances = itertools.cycle([(one, two), (two, one)])
        for number, (writer, reader) in zip(range(10), instances, strict=False):
            written = await writer.answer(upsert(f"r{number}"))
            seen = await reader.answer(CountRecords(collection="notes"))
            assert (seen.body, seen.commit) == (b'{"count":%d}' % (number + 1), written.commit)


async def test_a_refusal_is_about_the_newest_state(tmp_path: Path) -> None:
    """A write that the open replica would refuse is not refused if another instance made it valid."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b") as two:
        await one.do(NOTES)
        await two.do(upsert("a"))
        await one.records()
        await two.do(DeleteRecords(collection="notes", ids=["a"]))
        added = await one.do(AddRecords(collection="notes", ids=["a"], vectors=vectors(1)))
        assert added == {"written": 1}


# --- Write-back --------------------------------------------------------------------------------------


async def test_write_back_commits_on_demand(tmp_path: Path) -> None:
    """Under write-back a write is acknowledged without a commit, and a flush makes one of all that wait."""
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket, durability="write-back", write_back_interval_s=3600) as instance:
        await instance.do(NOTES)
        for number in range(5):
            await instance.do(upsert(f"r{number}"))
        assert bucket.counts()["create"].requests == 0
        assert (await instance.residency())["dirty"]
        assert len(await instance.records()) == 5
        flushed = await instance.do(Flush())
        assert (flushed["commit"], flushed["dirty"]) == (1, False)
        assert [entry.summary.added for entry in await instance.history()] == [5]


@pytest.mark.parametrize("when", ["evict", "interval", "drain"])
async def test_write_back_commits_by_itself(tmp_path: Path, when: str) -> None:
    """Under write-back, eviction, the interval and the drain each commit what was acknowledged."""
    bucket = MemoryBucket()
    interval_s = 0.2 if when == "interval" else 3600.0
    async with Instance(tmp_path, bucket, durability="write-back", write_back_interval_s=interval_s) as instance:
        await instance.do(NOTES)
        await instance.do(upsert("a"))
        if when == "evict":
            assert (await instance.do(Evict()))["state"] == "cold"
        elif when == "drain":
            report = await instance.drain()
            assert (report.unfinished, report.uncommitted) == (0, [])
        else:
            async with asyncio.timeout(30):
                while (await instance.residency())["dirty"]:
                    await asyncio.sleep(0.05)
        async with Instance(tmp_path, bucket, name="b") as other:
            assert set(await other.records()) == {"a"}
            assert len(await other.history()) >= 1


async def test_what_was_acknowledged_passes_bounds_that_others_reached(tmp_path: Path) -> None:
    """Under write-back, two instances make the last collections that a user may have: both of them stay."""
    bucket = MemoryBucket()
    bounds = {"durability": "write-back", "write_back_interval_s": 3600, "max_collections": 2}
    async with (
        Instance(tmp_path, bucket, name="a", **bounds) as one,
        Instance(tmp_path, bucket, name="b", **bounds) as other,
    ):
        await one.do(NOTES)
        await one.do(Flush())
        await other.do(CreateCollection(name="others"))
        await one.do(CreateCollection(name="mine"))
        await one.do(Flush())
        await other.do(Flush())
        found = [each["name"] for each in (await other.do(ListCollections()))["collections"]]
        assert sorted(found) == ["mine", "notes", "others"]
        for instance in (one, other):
            with pytest.raises(LimitExceeded):
                await instance.do(CreateCollection(name="more"))


async def test_write_back_rebases_what_it_acknowledged(tmp_path: Path) -> None:
    """Under write-back, acknowledged writes are applied again to another instance's commits, and lose nothing."""
    bucket = MemoryBucket()
    async with (
        Instance(tmp_path, bucket) as other,
        Instance(tmp_path, bucket, name="b", durability="write-back", write_back_interval_s=3600) as instance,
    ):
        await other.do(NOTES)
        for number in range(4):
            await instance.do(upsert(f"ours{number}"))
            await other.do(upsert(f"theirs{number}"))
        assert set(await instance.records()) >= {f"ours{number}" for number in range(4)}
        await instance.do(Flush())
        expected = {f"{who}{number}" for who in ("ours", "theirs") for number in range(4)}
        assert set(await other.records()) == set(await instance.records()) == expected


async def test_write_back_keeps_what_it_acknowledged_while_the_store_is_away(tmp_path: Path) -> None:
    """A failed commit of acknowledged writes is tried again, and commits each of them once."""
    bucket = FaultyBucket(MemoryBucket(), Faults())
    async with Instance(tmp_path, bucket, durability="write-back", write_back_interval_s=3600) as instance:
        await instance.do(NOTES)
        await instance.do(Flush())
        await instance.do(upsert("a"))
        bucket.faults = Faults(after=1, operations=ALL_OF_IT)
        assert isinstance(await instance.refusal(Flush()), OutcomeUnknown)
        # Reads under strong consistency need the store; writes are taken, as write-back promises.
        await instance.do(upsert("b"))
        bucket.faults = Faults()
        await instance.do(Flush())
        assert [entry.summary.added for entry in await instance.history()] == [1, 1, 0]
        assert set(await instance.records()) == {"a", "b"}


# --- Bulk writes -------------------------------------------------------------------------------------


class _Spy:
    """Times each call of Chroma's upsert, and how often a thread beside it had run when it began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.took_s: list[float] = []
        self.turns_before: list[int] = []
        self.turns = 0
        self._ended = threading.Event()
        real = Client.upsert

        def timed(client: Client, **arguments: Any) -> None:
            self.turns_before.append(self.turns)
            began = time.perf_counter()
            real(client, **arguments)
            self.took_s.append(time.perf_counter() - began)

        monkeypatch.setattr(Client, "upsert", timed)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.0001):
            self.turns += 1

    def __enter__(self) -> _Spy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.parametrize("slice_ms", [5, 1000])
async def test_a_bulk_write_gives_others_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slice_ms: int) -> None:
    """A write of many records is several calls of Chroma, between which other threads run; it is one commit."""
    count = 1500
    bulk = UpsertRecords(
        collection="notes", ids=[f"r{n}" for n in range(count)], vectors=vectors(count, 64), documents=["text"] * count
    )
    bucket = MeteredBucket(MemoryBucket())
    async with Instance(tmp_path, bucket, write_slice_ms=slice_ms) as instance:
        await instance.do(NOTES)
        creates = bucket.counts()["create"].requests
        with _Spy(monkeypatch) as spy:
            await instance.do(bulk)
        longest_ms = 1000 * max(spy.took_s)
        print(f"slices of {slice_ms} ms: {len(spy.took_s)} calls, the longest {longest_ms:.1f} ms")
        assert len(spy.took_s) > 1
        assert len(set(spy.turns_before)) > 1
        assert bucket.counts()["create"].requests == creates + 1
        assert await instance.do(CountRecords(collection="notes")) == {"count": count}


async def test_one_users_slow_commit_delays_nobody_else(tmp_path: Path) -> None:
    """While a commit of one user waits for the store, another user's writes are committed."""
    bucket = HookedBucket(MemoryBucket())
    async with Instance(tmp_path, bucket) as instance:
        await instance.do(NOTES, "slow")
        await instance.do(NOTES, "quick")
        bucket.before_create = barrier = Barrier()
        slow = asyncio.create_task(instance.do(upsert("a"), "slow"))
        await barrier.reached.wait()
        await instance.do(upsert("a"), "quick")
        assert not slow.done()
        barrier.open.set()
        assert await slow == {"written": 1}
