"""A vectorstore whose committed files Chroma cannot work with: what they still hold is kept, the rest listed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.instances import USER, Instance
from tests.support.numbers import TOLERANCE, assert_close
from vectorpool.commands import (
    CountRecords,
    CreateCollection,
    DeleteRecords,
    DescribeVectorstore,
    GetRecords,
    Hnsw,
    IngestDocument,
    ListIngested,
    ListLost,
    QueryRecords,
    Restore,
    UpdateRecords,
    UpsertRecords,
    Vectors,
)
from vectorpool.commitlog.format import Summary
from vectorpool.commitlog.image import capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.objects.memory import MemoryBucket

DIMENSION = 8
ALL = ("documents", "metadatas", "embeddings", "uris")
METADATA = {"text": "Ünï 🙂", "number": 7, "real": 0.5, "flag": True, "off": False, "tags": ["a", "b"], "sizes": [1, 2]}


def _vectors(count: int, seed: int) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype("<f4")
    return Vectors(dimension=DIMENSION, data=rows.tobytes())


def _upsert(collection: str, numbers: range, seed: int, avatar_id: str | None = None) -> UpsertRecords:
    return UpsertRecords(
        avatar_id=avatar_id,
        collection=collection,
        ids=[f"r{n}" for n in numbers],
        vectors=_vectors(len(numbers), seed),
        documents=[f"text {n} of {seed}" if n % 5 else None for n in numbers],
        metadatas=[METADATA | {"n": n} if n % 3 else None for n in numbers],
        uris=[f"s3://b/{n}" if n % 2 else None for n in numbers],
    )


async def _fill(instance: Instance, count: int, space: str = "cosine", threshold: int | None = 999) -> None:
    """Fill a collection with ``count`` records, a part of them updated and deleted, and a small one of an avatar.

    The index is written at the ``threshold``; with None all vectors stay in the queue.
    """
    hnsw = Hnsw(space=space, sync_threshold=threshold)  # type: ignore[arg-type]
    await instance.do(CreateCollection(name="notes", metadata={"k": 1, "f": 0.5, "b": True}, hnsw=hnsw))
    await instance.do(_upsert("notes", range(count), 1))
    await instance.do(_upsert("notes", range(10, 20), 2))
    await instance.do(UpdateRecords(collection="notes", ids=["r1"], metadatas=[{"number": None, "new": 1}]))
    await instance.do(DeleteRecords(collection="notes", ids=["r7", "r8"]))
    await instance.do(CreateCollection(avatar_id="7", name="small"))
    await instance.do(_upsert("small", range(5), 3, avatar_id="7"))
    await instance.do(CreateCollection(avatar_id="7", name="empty"))


async def _wedge(instance: Instance, tmp_path: Path, damage: Callable[[Path, Path], None]) -> int:
    """Commit a damaged image as the newest one; return its number. ``damage`` gets the directory and its index's."""
    log = CommitLog(instance.bucket, USER, settings=instance.settings)
    directory = tmp_path / "wedged"
    directory.mkdir()
    hydrated = await log.hydrate(directory)
    assert hydrated is not None
    # The largest index: a collection whose records all wait in the queue has one too, without an id in it.
    levels = sorted(directory.glob("*/data_level0.bin"), key=lambda path: path.stat().st_size)
    damage(directory, levels[-1].parent if levels else directory)
    captured = capture(directory, hydrated.image)
    position = await log.append(log.prepare(hydrated.position, hydrated.image, captured, Summary()))
    shutil.rmtree(directory)
    return position.seq


def _by_id(page: Any) -> dict[str, Any]:
    # Chroma says of a record without metadata sometimes nothing, sometimes {}.
    return {record["id"]: record | {"metadata": record.get("metadata") or None} for record in page["records"]}


def _assert_equal(after: dict[str, Any], before: dict[str, Any]) -> None:
    assert list(after) == list(before)
    for record_id, record in after.items():
        expected = before[record_id]
        assert_close(record.pop("embedding"), expected.pop("embedding"))
        assert record == expected


def _garbage_header(directory: Path, index: Path) -> None:
    (index / "header.bin").write_bytes(bytes(range(255, 155, -1)))


def _no_links(directory: Path, index: Path) -> None:
    (index / "link_lists.bin").unlink()


def _no_norms(directory: Path, index: Path) -> None:
    (index / "length.bin").unlink()


def _no_labels(directory: Path, index: Path) -> None:
    (index / "index_metadata.pickle").unlink()


def _evil_labels(directory: Path, index: Path) -> None:
    (index / "index_metadata.pickle").write_bytes(b"cos\nsystem\n(S'touch /tmp/vectorpool-evil'\ntR.")


def _no_index(directory: Path, index: Path) -> None:
    shutil.rmtree(index)


def _half_the_vectors(directory: Path, index: Path) -> None:
    path = index / "data_level0.bin"
    os.truncate(path, path.stat().st_size // 2 + 3)


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """An instance over a bucket in memory."""
    async with Instance(tmp_path, MemoryBucket()) as made:
        yield made


@pytest.mark.parametrize("space", ["cosine", "l2"])
@pytest.mark.parametrize("damage", [_garbage_header, _no_links])
async def test_everything_comes_back_if_vectors_and_labels_are_intact(
    tmp_path: Path, instance: Instance, damage: Callable[[Path, Path], None], space: str
) -> None:
    """Every record returns with its embedding, document, metadata and URI, in order, as the next commit."""
    await _fill(instance, 2500, space)
    get, small = GetRecords(collection="notes", include=ALL), GetRecords(avatar_id="7", collection="small", include=ALL)
    before, before_small = _by_id(await instance.do(get)), _by_id(await instance.do(small))
    collections = await instance.everything(avatars=(None, "7"))
    intact = await instance.commit()
    wedged = await _wedge(instance, tmp_path, damage)
    _assert_equal(_by_id(await instance.do(get)), deepcopy(before))
    # The vectors are intact, so the read may have needed no Chroma. A query with an expression does.
    vector = _vectors(1, 1)
    await instance.do(QueryRecords(collection="notes", vectors=vector, where_document={"$regex": "text"}, n_results=1))
    assert await instance.commit() == wedged + 1
    _assert_equal(_by_id(await instance.do(get)), before)
    _assert_equal(_by_id(await instance.do(small)), before_small)
    again = await instance.everything(avatars=(None, "7"))
    assert [c for c, _ in again] == [c for c, _ in collections], "ids, names, metadata and index settings stay"
    assert (await instance.do(ListLost())) == {"lost": [], "total": 0}
    query = QueryRecords(collection="notes", vectors=_vectors(30, 1), n_results=1, include=())
    found = [matches[0]["id"] for matches in (await instance.do(query))["results"]]
    assert found[0] == "r0" and found[25:] == [f"r{n}" for n in range(25, 30)]
    await instance.do(_upsert("notes", range(3000, 3010), 4))
    assert (await instance.do(CountRecords(collection="notes")))["count"] == 2508
    newest = (await instance.history())[0]
    assert newest.seq == wedged + 2
    salvaged = (await instance.history())[1].summary
    assert (salvaged.salvaged, salvaged.lost) == (2503, 0)
    await instance.do(Restore(commit=intact))
    assert (await instance.do(CountRecords(collection="notes")))["count"] == 2498


@pytest.mark.parametrize("damage", [_no_labels, _evil_labels, _no_index])
@pytest.mark.parametrize("count", [1500, 2500])
async def test_what_lived_only_in_the_lost_index_is_listed_by_id(
    tmp_path: Path, instance: Instance, damage: Callable[[Path, Path], None], count: int
) -> None:
    """Records of the queue return; the others are listed, each once, with their document and metadata."""
    await _fill(instance, count)
    get = GetRecords(collection="notes", include=ALL)
    before = _by_id(await instance.do(get))
    wedged = await _wedge(instance, tmp_path, damage)
    after = _by_id(await instance.do(get))
    assert await instance.commit() == wedged + 1
    page = await instance.do(ListLost(limit=10_000))
    lost = {record["id"]: record for record in page["lost"]}
    assert page["total"] == len(page["lost"]) == len(lost) > 900
    assert set(after) | set(lost) == set(before) and not set(after) & set(lost)
    assert set(after) >= {f"r{n}" for n in range(10, 20)} | {f"r{count - 1}"}
    for record_id, record in lost.items():
        assert record["collection"] == "notes" and "vector" in record["reason"]
        assert record["document"] == before[record_id].get("document")
        assert record["metadata"] == (before[record_id].get("metadata") or None)
    _assert_equal(after, {record_id: before[record_id] for record_id in after})
    assert (await instance.do(DescribeVectorstore()))["lost_records"] == len(lost)
    summary = (await instance.history())[0].summary
    assert (summary.salvaged, summary.lost) == (len(after) + 5, len(lost))
    assert not Path("/tmp/vectorpool-evil").exists()


@pytest.mark.parametrize("damage", [_garbage_header, _no_index])
async def test_nothing_is_lost_of_a_long_queue(
    tmp_path: Path, instance: Instance, damage: Callable[[Path, Path], None]
) -> None:
    """All vectors of a collection that is searched exactly wait there, and every record returns."""
    await _fill(instance, 1500, threshold=None)
    get = GetRecords(collection="notes", include=ALL)
    before = _by_id(await instance.do(get))
    wedged = await _wedge(instance, tmp_path, damage)
    # An expression needs Chroma, which then takes in what waits.
    await instance.do(
        QueryRecords(collection="notes", vectors=_vectors(1, 1), where_document={"$regex": "text"}, n_results=1)
    )
    after = _by_id(await instance.do(get))
    assert await instance.commit() in (wedged, wedged + 1)
    assert (await instance.do(ListLost()))["total"] == 0
    _assert_equal(after, before)


async def test_a_truncated_index_costs_exactly_the_records_behind_the_cut(tmp_path: Path, instance: Instance) -> None:
    """Half of the index is cut off: the records before the cut and those of the queue return, the others are listed."""
    await _fill(instance, 1500)
    get = GetRecords(collection="notes", include=ALL)
    before = _by_id(await instance.do(get))
    await _wedge(instance, tmp_path, _half_the_vectors)
    after = _by_id(await instance.do(get))
    lost = {record["id"] for record in (await instance.do(ListLost(limit=10_000)))["lost"]}
    assert 400 < len(lost) <= 520
    assert set(after) | lost == set(before) and not set(after) & lost
    _assert_equal(after, {record_id: before[record_id] for record_id in after})


async def test_norms_that_are_gone_cost_length_but_no_direction(tmp_path: Path, instance: Instance) -> None:
    """Under cosine, a vector whose norm is lost returns normalised: queries answer as before."""
    await _fill(instance, 1500)
    get = GetRecords(collection="notes", include=("embeddings",))
    before = _by_id(await instance.do(get))
    await _wedge(instance, tmp_path, _no_norms)
    after = _by_id(await instance.do(get))
    assert list(after) == list(before)
    for record_id, record in after.items():
        one, other = np.array(record["embedding"]), np.array(before[record_id]["embedding"])
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) == pytest.approx(1, abs=TOLERANCE)


async def test_an_older_index_than_sqlite_believes_loses_what_it_never_had(tmp_path: Path, instance: Instance) -> None:
    """With the index files of an earlier commit, records that came between return only if the queue has them."""
    await _fill(instance, 1500)
    log = CommitLog(instance.bucket, USER, settings=instance.settings)
    old = tmp_path / "old"
    old.mkdir()
    await log.hydrate(old)
    await instance.do(_upsert("notes", range(1500, 2600), 5))
    before = _by_id(await instance.do(GetRecords(collection="notes", include=ALL)))

    def older(directory: Path, index: Path) -> None:
        for path in (old / index.name).iterdir():
            shutil.copy(path, index / path.name)

    await _wedge(instance, tmp_path, older)
    after = _by_id(await instance.do(GetRecords(collection="notes", include=ALL)))
    lost = {record["id"] for record in (await instance.do(ListLost(limit=10_000)))["lost"]}
    assert lost and set(after) | lost == set(before) and not set(after) & lost
    assert all(int(record_id[1:]) >= 900 for record_id in lost), "what the older index had is there"


async def test_operations_that_only_the_queue_has_are_applied(tmp_path: Path) -> None:
    """Fifty records in the queue, and SQLite's own tables behind it by all of them: every one returns.

    Only what Chroma writes can be in the queue alone: a fast write changes both in one transaction.
    """
    async with Instance(tmp_path, MemoryBucket(), fast_writes=False) as instance:
        await _fill(instance, 50)
        await _have_the_queue_applied(tmp_path, instance)


async def _have_the_queue_applied(tmp_path: Path, instance: Instance) -> None:
    get = GetRecords(collection="notes", include=ALL)
    before = _by_id(await instance.do(get))

    def behind(directory: Path, _: Path) -> None:
        db = sqlite3.connect(directory / "chroma.sqlite3")
        for table in ("embedding_metadata_array", "embedding_metadata", "embeddings", "max_seq_id"):
            db.execute(f"DELETE FROM {table}")
        db.execute("UPDATE embeddings_queue SET vector = x'00' WHERE id = 'r0'")
        db.commit()
        db.close()

    await _wedge(instance, tmp_path, behind)
    after = _by_id(await instance.do(get))
    lost = [record["id"] for record in (await instance.do(ListLost()))["lost"]]
    assert sorted(lost) == ["r0", "r0"], "one of each collection"
    del before["r0"]
    _assert_equal(after, before)


async def test_a_document_that_lost_chunks_counts_as_changed(tmp_path: Path) -> None:
    """The next ingest finds no ETag for it, and so embeds it again."""
    ids = [f"c{n}" for n in range(1100)]
    async with Instance(tmp_path, MemoryBucket(), hnsw_sync_threshold=999) as instance:
        for path, chunks in (("a.md", ids), ("b.md", ["z"])):
            await instance.do(
                IngestDocument(
                    avatar_id="7",
                    collection="documents",
                    path=path,
                    etag="e1",
                    size=10,
                    recipe="r1",
                    ids=chunks,
                    vectors=_vectors(len(chunks), 1),
                    documents=[f"chunk {i}" for i in chunks],
                    metadatas=[{"path": path} for _ in chunks],
                )
            )
        await _wedge(instance, tmp_path, _no_index)
        await instance.do(GetRecords(avatar_id="7", collection="documents", include=ALL))
        documents = (await instance.do(ListIngested(avatar_id="7")))["documents"]
        assert {document["path"]: document["etag"] for document in documents} == {"a.md": "", "b.md": "e1"}


async def test_a_file_that_sqlite_cannot_read_is_refused_and_an_earlier_commit_restores(
    tmp_path: Path, instance: Instance
) -> None:
    """Nothing is committed over it; the error says what to do, and doing it works."""
    await _fill(instance, 50)
    intact = await instance.commit()

    def shred(directory: Path, _: Path) -> None:
        (directory / "chroma.sqlite3").write_bytes(b"no database" * 1000)

    wedged = await _wedge(instance, tmp_path, shred)
    refusal = await instance.refusal(CountRecords(collection="notes"))
    assert refusal.code == "broken-replica" and "Restore an earlier" in refusal.detail
    log = CommitLog(instance.bucket, USER, settings=instance.settings)
    assert (await log.entries(limit=1))[0].seq == wedged
    await log.restore(intact)
    async with Instance(tmp_path, instance.bucket, name="b") as other:
        assert (await other.do(CountRecords(collection="notes")))["count"] == 48
