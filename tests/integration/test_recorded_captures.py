"""Captures that read what SQLite's journals named, on real directories: each finds what a scan of everything finds."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import NOTES, USER, Instance, upsert, vectors
from vectorpool.commands import (
    AddRecords,
    Command,
    CreateCollection,
    DeleteCollection,
    DeleteRecords,
    Evict,
    Flush,
    GetRecords,
    Hnsw,
    IngestDocument,
    UpdateRecords,
    Vectors,
)
from vectorpool.commitlog import recorded_capture
from vectorpool.commitlog.format import BLOCK_BYTES
from vectorpool.commitlog.image import Capture, Image, scan
from vectorpool.commitlog.recorded_capture import Captures, Known
from vectorpool.engine import engine, fast_writes, journal
from vectorpool.engine.fast_writes import FastWriter
from vectorpool.errors import VectorpoolError
from vectorpool.names import CHROMA_DATABASE_FILE
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore.replica import Replica

STEPS = 60
FIELDS = {"kind": "a", "number": 1}


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count both kinds of captures; compare each with the whole directory, and its extents with the image before."""
    found: Counter[str] = Counter()
    take = Captures.take
    for module in (fast_writes, engine):
        monkeypatch.setattr(module, "RECORDED_FROM_BYTES", 0)

    def checked(self: Captures, before: Image, known: Known | None) -> Capture:
        recorded = self.recorded
        captured = take(self, before, known)
        kind = "recorded" if self.recorded > recorded else "whole"
        found[kind] += 1
        whole = recorded_capture.capture(self._directory, before)
        assert captured.image == whole.image == scan(self._directory), kind
        assert (captured.removed, captured.resized) == (whole.removed, whole.resized), kind
        assert _blocks(captured) == _blocks(whole), kind
        return captured

    monkeypatch.setattr(Captures, "take", checked)
    yield found


def _blocks(captured: Capture) -> dict[tuple[str, int], bytes]:
    """Return the changed blocks one by one."""
    return {
        (extent.path, extent.offset + at): extent.data[at : at + BLOCK_BYTES]
        for extent in captured.extents
        for at in range(0, len(extent.data), BLOCK_BYTES)
    }


def _one(dice: random.Random) -> Vectors:
    return Vectors(4, np.array([dice.gauss(0, 1) for _ in range(4)], "<f4").tobytes(), embedder="known")


def _text(dice: random.Random) -> str:
    return " ".join(f"word{dice.randrange(900)}" for _ in range(dice.choice([1, 5, 5, 40, 3000])))


def _draw(dice: random.Random, plain_part: float) -> Command:
    record = f"r{dice.randrange(40)}"
    plain: list[Command] = [
        upsert(record, documents=[_text(dice)], vectors=_one(dice), metadatas=[FIELDS]),
        upsert(record, documents=[_text(dice)], vectors=_one(dice), metadatas=[FIELDS]),
        upsert(
            *(ids := [f"b{dice.randrange(500)}-{n}" for n in range(dice.choice([2, 30, 150]))]),
            documents=[_text(dice)[:200] for _ in ids],
            metadatas=[FIELDS] * len(ids),
        ),
    ]
    other: list[Command] = [
        AddRecords(collection="notes", ids=[f"a{dice.random()}"], vectors=_one(dice), documents=["x"]),
        DeleteRecords(collection="notes", ids=[record]),
        DeleteRecords(collection="notes", ids=[f"b{n}-{m}" for n in range(dice.randrange(500)) for m in range(2)]),
        UpdateRecords(collection="notes", ids=[record], documents=[_text(dice)]),
        GetRecords(collection="notes", where_document={"$regex": "w.rd"}),
        CreateCollection(name="spare", get_or_create=True),
        upsert(*(f"s{n}" for n in range(60)), collection="spare"),
        DeleteCollection(name="spare"),
        upsert(record, vectors=_one(dice), metadatas=[{f"k{dice.randrange(50)}": 1}]),
        IngestDocument(
            avatar_id="7",
            collection="documents",
            path=f"d{dice.randrange(3)}.txt",
            etag=str(dice.random()),
            size=3,
            recipe="r",
            ids=[f"c{dice.randrange(5)}"],
            vectors=_one(dice),
            documents=[_text(dice)],
            metadatas=[{"path": "d"}],
        ),
        Evict(),
    ]
    return dice.choice(plain if dice.random() < plain_part else other)


async def _live(tmp_path: Path, seed: int, counts: Counter[str]) -> None:
    dice = random.Random(seed)
    bucket = MemoryBucket()
    policy = "write-back" if seed % 3 == 2 else "write-through"
    async with Instance(tmp_path, bucket, durability=policy, write_back_interval_s=60) as one:
        await one.do(CreateCollection(name="notes", hnsw=Hnsw(sync_threshold=dice.choice([40, 1000, 1000]))))
        await one.do(CreateCollection(name="documents", avatar_id="7"))
        await one.do(upsert("r0", "r1", vectors=vectors(2, embedder="known"), metadatas=[FIELDS] * 2))
        for _ in range(STEPS):
            try:
                await one.do(_draw(dice, 0.97 if policy == "write-back" else 0.9))
            except VectorpoolError as error:
                assert error.code in ("record-exists", "record-not-found", "collection-not-found"), error
            if dice.random() < 0.4:
                await one.do(Flush())
        expected = await one.everything(avatars=(None, "7"))
    async with Instance(tmp_path, bucket, name="b") as fresh:
        assert await fresh.everything(avatars=(None, "7")) == expected
        await fresh.history()
    print(f"seed {seed}: {policy}, {dict(counts)}")


@pytest.mark.parametrize("seed", range(3))
async def test_a_capture_finds_what_a_scan_finds(tmp_path: Path, seed: int, counts: Counter[str]) -> None:
    """Fast writes, Chroma's, deletions, documents of many pages and evictions at random: each capture is complete."""
    await _live(tmp_path, seed, counts)
    assert counts["recorded"] > 3


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3, 153))
async def test_a_capture_finds_what_a_scan_finds_in_many(tmp_path: Path, seed: int, counts: Counter[str]) -> None:
    """The same, for a hundred and fifty histories."""
    await _live(tmp_path, seed, counts)


def _replica(instance: Instance) -> Replica:
    store = instance.pool._residency.slots[USER].store
    assert store is not None and store._replica is not None
    return store._replica


async def _known(instance: Instance) -> Replica:
    """Have the instance write until its captures read what is known; return the replica."""
    await instance.do(NOTES)
    await instance.do(upsert(*(f"r{n}" for n in range(50)), metadatas=[FIELDS] * 50))
    for _ in range(6):
        await instance.do(upsert("r1", metadatas=[FIELDS]))
    replica = _replica(instance)
    assert replica.state.is_pristine and replica._captures.recorded
    return replica


async def test_a_write_that_fails_makes_the_next_capture_whole(
    tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that is taken back may leave other bytes in free pages. Chroma makes the write then."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        counts.clear()
        write = FastWriter._write

        def fail(self: FastWriter, *arguments: Any) -> bool:
            write(self, *arguments)
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(FastWriter, "_write", fail)
            await one.do(upsert("r2", documents=["x" * 30_000], metadatas=[FIELDS]))
            assert replica.state.changed is None
        assert counts == {"whole": 1}
        while not counts["recorded"]:
            await one.do(upsert("r2", metadatas=[FIELDS]))
            assert counts["whole"] < 10
        assert not (replica.directory / f"{CHROMA_DATABASE_FILE}-journal").exists()


async def test_another_writer_makes_the_next_capture_whole(tmp_path: Path, counts: Counter[str]) -> None:
    """A program that wrote into the file between two writes is noticed, and what it wrote is captured."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        counts.clear()
        with closing(sqlite3.connect(replica.directory / CHROMA_DATABASE_FILE)) as db, db:
            db.execute("UPDATE embedding_metadata SET int_value = 2 WHERE key = 'number'")
        await one.do(upsert("r2", metadatas=[FIELDS]))
        assert counts == {"whole": 1}
        assert replica.state.is_pristine
        await one.do(upsert("r2", metadatas=[FIELDS]))
        assert counts == {"whole": 1, "recorded": 1}


async def test_a_transaction_that_was_cut_off_is_taken_back(tmp_path: Path, counts: Counter[str]) -> None:
    """With half of a transaction in the file and its journal beside it, the next write goes through Chroma."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        path, before = replica.directory / CHROMA_DATABASE_FILE, await one.records()
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for pragma in ("synchronous = OFF", "cache_size = 2"):
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN")
            db.execute("UPDATE embedding_metadata SET string_value = 'gone' || hex(randomblob(3000))")
            left = {each: each.read_bytes() for each in (path, path.with_name(f"{path.name}-journal"))}
            db.execute("ROLLBACK")
        for each, content in left.items():
            each.write_bytes(content)
        counts.clear()
        await one.do(upsert("r2", text="new", metadatas=[FIELDS]))
        assert counts == {"whole": 1}
        assert await one.records() == before | {"r2": ("new of r2", FIELDS)}
        async with Instance(tmp_path, one.bucket, name="b") as fresh:
            assert await fresh.records() == await one.records()


async def test_a_journal_that_cannot_be_read_makes_the_next_capture_whole(
    tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor the write is made, and everything is compared."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        await _known(one)
        counts.clear()
        open_file = os.open

        def refuse(path: Any, *arguments: Any, **more: Any) -> int:
            if str(path).endswith("-journal"):
                raise OSError(24, "Too many open files")
            return open_file(path, *arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            await one.do(upsert("r2", metadatas=[FIELDS]))
        assert counts == {"whole": 1}
        assert (await one.records())["r2"] == ("text of r2", FIELDS)


async def test_a_page_that_the_journal_leaves_out_is_found_and_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Were SQLite to change pages without naming them, a later commit holds them, and the error is logged."""
    for module in (fast_writes, engine):
        monkeypatch.setattr(module, "RECORDED_FROM_BYTES", 0)
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        changed_pages = journal.changed_pages

        def forget_one(*arguments: Any) -> journal.ChangedPages | None:
            found = changed_pages(*arguments)
            return found and journal.ChangedPages(found.numbers - {max(found.numbers)}, found.mark, found.zeroed)

        monkeypatch.setattr(fast_writes, "changed_pages", forget_one)
        with caplog.at_level(logging.ERROR):
            for number in range(200):
                await one.do(upsert("r2", text=str(number), metadatas=[FIELDS]))
                if caplog.records:
                    break
        assert "journal did not name" in caplog.text
        assert scan(replica.directory) == replica.image
        expected = await one.everything()
        async with Instance(tmp_path, one.bucket, name="b") as fresh:
            assert await fresh.everything() == expected


async def test_only_changed_pages_are_read_however_large_the_vectorstore(tmp_path: Path, counts: Counter[str]) -> None:
    """A one-record upsert names some dozens of blocks among thousands."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        for number in range(4):
            texts = [f"{number} {n} " + "word " * 400 for n in range(500)]
            ids = [f"m{number}-{n}" for n in range(500)]
            await one.do(upsert(*ids, documents=texts, metadatas=[FIELDS] * 500))
        await one.do(upsert("r3", metadatas=[FIELDS]))
        seen: list[int] = []
        recorded = replica.state.recorded

        def note(number: int, pages: journal.ChangedPages | None) -> None:
            recorded(number, pages)
            assert replica.state.changed is not None
            seen.append(len(replica.state.changed.numbers))

        replica.state.recorded = note  # type: ignore[method-assign]
        await one.do(upsert("r4", metadatas=[FIELDS]))
        blocks = replica.image.files[CHROMA_DATABASE_FILE].size // BLOCK_BYTES
        print(f"{seen} of {blocks} blocks")
        assert blocks > 1000 and seen and seen[0] < blocks / 20


async def test_a_small_vectorstore_is_compared_as_a_whole(
    tmp_path: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the size from which a journal pays there is none; beyond it the next write has one."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        size = replica.image.files[CHROMA_DATABASE_FILE].size
        monkeypatch.setattr(fast_writes, "RECORDED_FROM_BYTES", size + 100_000)
        counts.clear()
        await one.do(upsert("r2", metadatas=[FIELDS]))
        assert counts == {"whole": 1}
        while not counts["recorded"]:
            await one.do(upsert("r2", documents=["long text " * 3000], metadatas=[FIELDS]))
            assert counts["whole"] < 50
        assert counts["whole"] >= 2


async def test_free_pages_of_a_commit_hold_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once Chroma is closed, no free page of the committed file has what was in it; the file is sound."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        await one.do(CreateCollection(name="notes", hnsw=Hnsw(sync_threshold=40)))
        await one.do(upsert(*(f"r{n}" for n in range(200)), documents=["secret text " * 400] * 200))
        await one.do(DeleteRecords(collection="notes", ids=[f"r{n}" for n in range(150)]))
        replica = _replica(one)
        for _ in range(6):
            await one.do(upsert("r199"))
        assert replica.state.is_pristine
        data = (replica.directory / CHROMA_DATABASE_FILE).read_bytes()
        leaves = journal.free_leaves(
            lambda number: data[(number - 1) * BLOCK_BYTES : number * BLOCK_BYTES],
            journal.number_at(data, journal.FREE_LIST_AT),
            len(data) // BLOCK_BYTES,
        )
        assert leaves is not None and len(leaves) > 100
        assert not any(any(data[(leaf - 1) * BLOCK_BYTES : leaf * BLOCK_BYTES]) for leaf in leaves)
        with closing(sqlite3.connect(replica.directory / CHROMA_DATABASE_FILE)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert len(await one.records()) == 50


async def test_free_pages_that_came_with_the_files_are_overwritten_once(tmp_path: Path, counts: Counter[str]) -> None:
    """A vectorstore whose free pages hold something is captured as a whole, and then by what is known."""
    async with Instance(tmp_path, MemoryBucket()) as one:
        replica = await _known(one)
        path = replica.directory / CHROMA_DATABASE_FILE
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA secure_delete = OFF")
            db.execute("CREATE TABLE large (text TEXT)")
            db.execute("INSERT INTO large VALUES (randomblob(2000000))")
            db.execute("DROP TABLE large")
        await one.do(upsert("r2", metadatas=[FIELDS]))
        # As if the files had come so: the whole capture of another writer's pages overwrites them too.
        data = bytearray(path.read_bytes())
        free = sorted(
            journal.free_leaves(
                lambda number: data[(number - 1) * BLOCK_BYTES : number * BLOCK_BYTES],
                journal.number_at(data, journal.FREE_LIST_AT),
                len(data) // BLOCK_BYTES,
            )
            or ()
        )
        assert len(free) > 400
        for leaf in free:
            data[(leaf - 1) * BLOCK_BYTES : leaf * BLOCK_BYTES] = os.urandom(BLOCK_BYTES)
        path.write_bytes(data)
        replica.image = scan(replica.directory)
        replica.engine.release_files()
        counts.clear()
        for _ in range(6):
            await one.do(upsert("r2", documents=[os.urandom(9000).hex()], metadatas=[FIELDS]))
        assert counts == {"recorded": 4, "whole": 2}
        assert scan(replica.directory) == replica.image
