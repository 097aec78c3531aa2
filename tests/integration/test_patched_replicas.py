"""Replicas that are changed in place, on real directories: after every step, what is called pristine is the image."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import NOTES, USER, HookedBucket, Instance, upsert, vectors
from vectorpool.commands import (
    AddRecords,
    ChromaCreateCollection,
    ChromaUpsertRecords,
    Command,
    CountRecords,
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    Evict,
    GetRecords,
    Hnsw,
    IngestDocument,
    ModifyCollection,
    QueryRecords,
    Restore,
    UpdateRecords,
    Vectors,
)
from vectorpool.commitlog import next_commits
from vectorpool.commitlog.image import Image, scan
from vectorpool.engine.directory_state import Kind
from vectorpool.errors import VectorpoolError
from vectorpool.names import DEFAULT_DATABASE, parse_log_name
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore import patcher
from vectorpool.vectorstore.patcher import Patcher
from vectorpool.vectorstore.replica import Replica

STEPS = 40
NUMBERS = {"kind": "a", "number": 1}


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count patches and undos, and scan the directory before and after each."""
    counts: Counter[str] = Counter()
    patch, undo = Patcher.patch, Patcher.undo

    def checked_patch(self: Patcher, before: Image, planned: next_commits.Patch) -> None:
        if self._state.is_pristine:
            assert scan(self._directory) == before
        patch(self, before, planned)
        counts["patch"] += 1
        assert scan(self._directory) == planned.image
        assert self._state.is_pristine

    def checked_undo(self: Patcher, before: Image, after: Image, mark: int | None) -> None:
        undo(self, before, after, mark)
        counts["undo"] += 1
        assert scan(self._directory) == before
        assert self._state.is_pristine

    monkeypatch.setattr(Patcher, "patch", checked_patch)
    monkeypatch.setattr(Patcher, "undo", checked_undo)
    yield counts


class _RacingBucket(HookedBucket):
    """Its hook runs before a commit only: a compaction's create comes at any time, and would race the comparisons."""

    async def create(self, key: str, data: bytes) -> str:
        parsed = parse_log_name(key.rpartition("/")[2])
        if parsed is not None and parsed[0] == "commit":
            return await super().create(key, data)
        hook, self.before_create = self.before_create, None
        try:
            return await super().create(key, data)
        finally:
            self.before_create = hook


def _replica(instance: Instance) -> Replica | None:
    slot = instance.pool._residency.slots.get(USER)
    return None if slot is None or slot.store is None else slot.store._replica


def _check(instance: Instance, counts: Counter[str]) -> None:
    """What is pristine is the image of its commit, byte for byte."""
    replica = _replica(instance)
    if replica is not None:
        counts[replica.state.kind.value] += 1
        if replica.state.kind is Kind.PRISTINE:
            assert scan(replica.directory) == replica.image


def _one(dice: random.Random) -> Vectors:
    return Vectors(4, np.array([dice.gauss(0, 1) for _ in range(4)], "<f4").tobytes(), embedder="known")


def _draw(dice: random.Random, collection_id: str) -> Command:
    record, text = f"r{dice.randrange(12)}", f"text {dice.randrange(1000)}"
    values: dict[str, Any] = {"ids": [record], "documents": [text], "metadatas": [NUMBERS]}
    of: dict[str, Any] = {"database": DEFAULT_DATABASE, "collection_id": collection_id}
    query = QueryRecords(collection="notes", vectors=_one(dice), n_results=3)
    plain: list[Command] = [
        query,
        CountRecords(collection="notes"),
        GetRecords(collection="notes", where={"number": {"$gte": 1}}),
        ChromaUpsertRecords(vectors=_one(dice), **values, **of),
        upsert(record, text=text, vectors=_one(dice), metadatas=[NUMBERS]),
        upsert(record, f"{record}-b", text=text, vectors=vectors(2), metadatas=[NUMBERS] * 2),
        ChromaCreateCollection(database=DEFAULT_DATABASE, name="notes", get_or_create=True),
    ]
    other: list[Command] = [
        DeleteRecords(collection="notes", ids=[record]),
        AddRecords(collection="notes", vectors=_one(dice), **values),
        UpdateRecords(collection="notes", ids=[record], documents=[text]),
        GetRecords(collection="notes", where_document={"$regex": "t.xt"}),
        CreateCollection(name="spare", get_or_create=True),
        upsert(*(f"s{n}" for n in range(20)), collection="spare"),
        DeleteCollection(name="spare"),
        upsert(record, vectors=_one(dice), metadatas=[{f"k{dice.randrange(50)}": 1}]),
        ModifyCollection(name="notes", new_metadata={"turn": dice.randrange(1000)}),
        IngestDocument(
            avatar_id="7",
            collection="documents",
            path=f"d{dice.randrange(3)}.txt",
            etag=text,
            size=3,
            recipe="r",
            ids=[f"c{dice.randrange(5)}"],
            vectors=_one(dice),
            documents=[text],
            metadatas=[{"path": "d"}],
        ),
        Evict(),
    ]
    return dice.choice(plain if dice.random() < 0.8 else other)


async def _try(instance: Instance, command: Command) -> None:
    try:
        await instance.do(command)
    except VectorpoolError as error:
        assert error.code in ("record-exists", "record-not-found", "collection-not-found", "pool-busy"), error


def _assert_same(answer: Any, other: Any) -> None:
    """Two answers have the same records at the same distances; those at equal distance are in any order."""
    ours, theirs = ({r["id"]: r for r in each["results"][0]} for each in (answer, other))
    assert ours.keys() == theirs.keys()
    for record_id, record in ours.items():
        distance, theirs_too = record.pop("distance"), theirs[record_id].pop("distance")
        assert distance == pytest.approx(theirs_too, abs=1e-5)
        assert record == theirs[record_id]


async def _live(tmp_path: Path, seed: int, changes: Counter[str]) -> None:
    """Have two instances write and read one user at random, races included; compare directories and answers."""
    dice = random.Random(seed)
    below = MemoryBucket()
    buckets = [_RacingBucket(below), _RacingBucket(below)]
    async with Instance(tmp_path, buckets[0]) as one, Instance(tmp_path, buckets[1], name="b") as two:
        made = await one.do(CreateCollection(name="notes", hnsw=Hnsw(sync_threshold=dice.choice([15, 1000]))))
        await one.do(CreateCollection(name="documents", avatar_id="7"))
        await one.do(upsert("r0", "r1", vectors=vectors(2, embedder="known"), metadatas=[NUMBERS] * 2))
        for _ in range(STEPS):
            at = dice.randrange(2)
            instance, rival = (one, two)[at], (one, two)[1 - at]
            if dice.random() < 0.3:
                winner = _draw(dice, made["id"])

                async def race(rival: Instance = rival, winner: Command = winner) -> None:
                    await _try(rival, winner)

                buckets[at].before_create = race
            await _try(instance, _draw(dice, made["id"]))
            buckets[at].before_create = None
            _check(one, changes)
            _check(two, changes)
            if dice.random() < 0.3:
                query = QueryRecords(collection="notes", vectors=_one(dice), n_results=50)
                _assert_same(await one.do(query), await two.do(query))
        async with Instance(tmp_path, below, name="c") as fresh:
            query = QueryRecords(collection="notes", vectors=vectors(1), n_results=50)
            expected = await fresh.everything(avatars=(None, "7"))
            for each in (one, two):
                assert await each.everything(avatars=(None, "7")) == expected
                _assert_same(await each.do(query), await fresh.do(query))
        await one.history()
    print(f"seed {seed}: {dict(changes)}")
    assert changes["patch"] > 3 and changes["pristine"] > changes["unknown"] / 2


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_called_pristine_is_the_image(tmp_path: Path, seed: int, changes: Counter[str]) -> None:
    """After every step of two instances, a pristine directory is its image, and both answer as a new one does."""
    await _live(tmp_path, seed, changes)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4, 104))
async def test_what_is_called_pristine_is_the_image_in_many(tmp_path: Path, seed: int, changes: Counter[str]) -> None:
    """The same, for a hundred seeds."""
    await _live(tmp_path, seed, changes)


async def _pair(one: Instance, two: Instance) -> None:
    await one.do(NOTES)
    await one.do(upsert("a", "b"))
    await one.do(upsert("a"))
    await two.do(CountRecords(collection="notes"))


async def test_a_strong_read_takes_in_another_instances_commit_in_place(tmp_path: Path, changes: Counter[str]) -> None:
    """The read answers from the patched directory: it was not built anew, and the vectors in memory took part."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b") as two:
        await _pair(one, two)
        query = QueryRecords(collection="notes", vectors=vectors(1), n_results=5)
        await two.do(query)
        directories = two.working_directories()
        for number in range(3):
            await one.do(upsert(f"c{number}", vectors=vectors(1, seed=number)))
            _assert_same(await two.do(query), await one.do(query))
            assert (await two.residency())["chroma"] is None
        assert two.working_directories() == directories
        assert changes["patch"] == 3


async def test_a_lost_race_is_undone(tmp_path: Path, changes: Counter[str]) -> None:
    """The loser's directory gets its bytes back, takes the winner's commit in, and both writes are there in order."""
    below = MemoryBucket()
    bucket = HookedBucket(below)
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, below, name="b") as two:
        await _pair(two, one)
        query = QueryRecords(collection="notes", vectors=vectors(1), n_results=9)
        # The first race is lost by a replica that prepared no undo.
        for number in range(3):

            async def win(number: int = number) -> None:
                # What the loser wrote is in its memory when its number is lost.
                await one.pool._residency.slots[USER].store.read(query)  # type: ignore[union-attr]
                await two.do(upsert(f"w{number}", vectors=vectors(1, seed=number)))

            bucket.before_create = win
            await one.do(upsert(f"l{number}", vectors=vectors(1, seed=100 + number)))
            _assert_same(await one.do(query), await two.do(query))
            _check(one, changes)
        assert changes["undo"] == 2
        assert set(await one.records()) == {"a", "b", "w0", "l0", "w1", "l1", "w2", "l2"}


@pytest.mark.parametrize("what", ["chroma", "file", "page"])
async def test_a_directory_that_may_differ_is_built_anew(tmp_path: Path, changes: Counter[str], what: str) -> None:
    """An open Chroma, a strange file or a changed length keep a replica from being patched."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b") as two:
        await _pair(one, two)
        replica = _replica(two)
        assert replica is not None and replica.state.is_pristine
        if what == "chroma":
            await two.do(GetRecords(collection="notes", where_document={"$regex": "t.xt"}))
            assert replica.state.kind is Kind.UNKNOWN
        elif what == "file":
            (replica.directory / "strange").write_bytes(b"x")
        else:
            with (replica.directory / "chroma.sqlite3").open("ab") as file:
                file.write(bytes(4096))
        await one.do(upsert("c"))
        assert set(await two.records()) == {"a", "b", "c"}
        assert changes["patch"] == 0
        assert _replica(two) is not replica


async def test_the_setting_turns_patches_off(tmp_path: Path, changes: Counter[str]) -> None:
    """Without ``patch_replicas`` every newer commit builds the replica anew."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b", patch_replicas=False) as two:
        await _pair(one, two)
        before = _replica(two)
        await one.do(upsert("c"))
        assert set(await two.records()) == {"a", "b", "c"}
        assert changes["patch"] == 0 and _replica(two) is not before


async def test_a_restore_and_a_long_gap_are_hydrated(tmp_path: Path, changes: Counter[str]) -> None:
    """A restored state, and more commits than a patch takes, are left to a hydrate."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b") as two:
        await _pair(one, two)
        await one.do(Restore(commit=2))
        assert set(await two.records()) == {"a", "b"}
        for number in range(next_commits.MAX_COMMITS + 1):
            await one.do(upsert(f"c{number % 3}"))
        assert set(await two.records()) == {"a", "b", "c0", "c1", "c2"}
        assert changes["patch"] == 0


async def test_a_patch_that_fails_half_way_leaves_nothing_to_read(
    tmp_path: Path, changes: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error between the first byte and the last, the directory is dropped, and the read is answered anew."""
    bucket = MemoryBucket()
    async with Instance(tmp_path, bucket) as one, Instance(tmp_path, bucket, name="b") as two:
        await _pair(one, two)
        replica = _replica(two)
        assert replica is not None

        def fail(directory: Path, patch: next_commits.Patch) -> None:
            next_commits.write_patch(directory, patch)
            raise OSError("the disk is full")

        monkeypatch.setattr(patcher, "write_patch", fail)
        await one.do(upsert("c"))
        assert set(await two.records()) == {"a", "b", "c"}
        assert not replica.directory.exists() and replica.state.kind is Kind.UNKNOWN


async def test_chroma_is_closed_again_and_the_replica_pristine(tmp_path: Path, changes: Counter[str]) -> None:
    """Once writes need Chroma no more, it is closed, and their commit makes the directory pristine."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        await one.do(CreateCollection(name="notes", hnsw=Hnsw(sync_threshold=10)))
        await one.do(upsert("a"))
        assert (await one.residency())["chroma"] == "operation"
        for number in range(12):
            await one.do(upsert(f"b{number}"))
            _check(one, changes)
        assert (await one.residency())["chroma"] is None
        replica = _replica(one)
        assert replica is not None and replica.state.is_pristine
        assert scan(replica.directory) == replica.image
        found = await one.do(QueryRecords(collection="notes", vectors=vectors(1), n_results=50))
        assert len(found["results"][0]) == 13
