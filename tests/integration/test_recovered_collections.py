"""Collections of one directory added to another under names of their own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from vectorpool.errors import BrokenReplica
from vectorpool.names import SIDECAR_FILE
from vectorpool.operating import RecoveredCollection
from vectorpool.targets.directory import DirectorySource, DirectoryWriter
from vectorpool.targets.records import Collection, Records
from vectorpool.vectorstore.recovered_collections import add_collections
from vectorpool.vectorstore.sidecar import Sidecar

COUNT = 1100


def _directory(path: Path, *collections: Collection) -> Path:
    """Make a directory whose collections have records of their own dimension, and an embedder."""
    path.mkdir()
    writer = DirectoryWriter(path)
    made = []
    for collection in collections:
        made.append(writer.create(collection))
        if collection.dimension:
            vectors = np.random.default_rng(1).normal(size=(COUNT, collection.dimension)).astype(np.float32)
            rows = Records(
                [f"r{number}" for number in range(COUNT)],
                vectors,
                [f"text {number}" if number % 3 else None for number in range(COUNT)],
                [{"n": number} if number % 2 else None for number in range(COUNT)],
                ["s3://b/k" if number % 5 == 0 else None for number in range(COUNT)],
            )
            for start in range(0, COUNT, 500):
                writer.put(made[-1], rows.part(slice(start, start + 500)))
    writer.close()
    with closing(Sidecar(path / SIDECAR_FILE)) as sidecar:
        for each in made:
            sidecar.set_embedder(each.id, f"embedder of {each.name}")
    return path


def test_every_record_and_the_embedder_come_along(tmp_path: Path) -> None:
    """Into databases that are there and that are not; what was there before stays as it was."""
    notes = Collection("", "default_database", "notes", {"a": 1}, 4, {"hnsw": {"space": "l2", "ef_search": 77}})
    empty = Collection("", "avatar-9", "notes", None, None, {"hnsw": {"space": "cosine"}})
    there = _directory(tmp_path / "there", notes)
    source = _directory(tmp_path / "source", notes, empty)
    before = {each.name: each for each in DirectorySource(there).collections()}
    named = add_collections(there, source, 7)
    assert named == [
        RecoveredCollection("avatar-9", "notes", "notes-recovered-7"),
        RecoveredCollection("default_database", "notes", "notes-recovered-7"),
    ]
    came, was = DirectorySource(there), DirectorySource(source)
    with closing(came), closing(was), closing(Sidecar(there / SIDECAR_FILE)) as sidecar:
        found = {(each.database, each.name): each for each in came.collections()}
        assert found["default_database", "notes"] == before["notes"]
        assert len({each.id for each in found.values()}) == 3
        for each in was.collections():
            new = found[each.database, f"{each.name}-recovered-7"]
            assert (new.metadata, new.dimension, new.configuration) == (
                each.metadata,
                each.dimension,
                each.configuration,
            )
            assert sidecar.embedder(new.id) == f"embedder of {each.name}"
            for one, other in zip(came.batches(new), was.batches(each), strict=True):
                assert (one.ids, one.documents, one.metadatas, one.uris) == (
                    other.ids,
                    other.documents,
                    other.metadatas,
                    other.uris,
                )
                assert one.vectors.tobytes() == other.vectors.tobytes()


def test_a_collection_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Nothing is left out in silence."""
    # Chosen, so that the index is written with the records.
    indexed = {"hnsw": {"sync_threshold": 100}}
    source = _directory(tmp_path / "source", Collection("", "default_database", "notes", None, 4, indexed))
    there = _directory(tmp_path / "there")
    for path in source.glob("*/data_level0.bin"):
        path.write_bytes(b"")
    for path in source.glob("*/header.bin"):
        path.unlink()
    with pytest.raises(BrokenReplica, match="'notes'"):
        add_collections(there, source, 7)
