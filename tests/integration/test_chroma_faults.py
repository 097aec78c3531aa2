"""Faults of the pinned Chroma, each as it is and as it is here. A test of Chroma that fails says that one is mended."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.api.shared_system_client import SharedSystemClient

from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.engine.engine import Engine
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.names import DEFAULT_DATABASE

Step = tuple[str, list[str], list[list[float]]]

# A sync threshold, steps, and the embedding that the record "a" was given last.
HISTORIES: dict[str, tuple[int, list[Step], list[float]]] = {
    "updates of the only record": (
        2,
        [
            ("upsert", ["a"], [[1, 0, 0]]),
            ("upsert", ["a"], [[0, 0, 1]]),
            ("update", ["a"], [[0, 2, 0]]),
            ("upsert", ["a"], [[3, 0, 3]]),
        ],
        [3, 0, 3],
    ),
    "updates after a deletion": (
        2,
        [
            ("upsert", ["a", "b"], [[0, 7, 3], [7, 7, 7]]),
            ("upsert", ["b"], [[6, 1, 7]]),
            ("delete", ["b"], []),
            ("update", ["a"], [[3, 1, 4]]),
            ("update", ["a"], [[8, 6, 8]]),
        ],
        [8, 6, 8],
    ),
}


@pytest.mark.parametrize("history", HISTORIES)
def test_chroma_forgets_an_embedding_when_it_is_opened_again(tmp_path: Path, history: str) -> None:
    """Chroma answers with the newest embedding until it is closed, and with an earlier one afterwards."""
    threshold, steps, newest = HISTORIES[history]

    def opened() -> Any:
        SharedSystemClient.clear_system_cache()
        client = chromadb.PersistentClient(str(tmp_path))
        hnsw: Any = {"space": "l2", "sync_threshold": threshold, "batch_size": threshold}
        return client.get_or_create_collection("notes", configuration={"hnsw": hnsw}, embedding_function=None)

    collection = opened()
    for method, ids, embeddings in steps:
        getattr(collection, method)(ids, **({"embeddings": embeddings} if embeddings else {}))
    assert collection.get(["a"], include=["embeddings"])["embeddings"].tolist() == [newest]
    del collection
    assert opened().get(["a"], include=["embeddings"])["embeddings"].tolist() != [newest]


def _plain(directory: Path) -> Engine:
    return Engine(directory, EngineOptions(fast_reads=False, fast_writes=False))


def _fast(directory: Path) -> Engine:
    return Engine(directory, EngineOptions())


def _created(engine: Engine, threshold: int, space: str) -> CollectionInfo:
    hnsw = f'{{"hnsw": {{"space": "{space}", "sync_threshold": {threshold}, "batch_size": {threshold}}}}}'
    return engine.catalogue.create(DEFAULT_DATABASE, "notes", metadata=None, configuration=hnsw)


def _do(engine: Engine, info: CollectionInfo, step: Step) -> None:
    method, ids, embeddings = step
    if method == "delete":
        engine.records.delete(info.id, info.database, ids, lambda: None)
    else:
        batch = Batch(ids, np.array(embeddings, np.float32))
        if method == "update":
            engine.records.update(info.id, info.database, batch, lambda: None)
        else:
            engine.records.put(Operation[method.upper()], info.id, info.database, batch, lambda: None)


def _embeddings(engine: Engine, info: CollectionInfo) -> dict[str, list[float]]:
    rows = engine.records.get(info.id, info.database, include=["embeddings"])
    assert rows is not None and rows.embeddings is not None
    return {i: np.asarray(e).tolist() for i, e in zip(rows.ids, rows.embeddings, strict=True)}


def _reopened(directory: Path, info: CollectionInfo) -> list[dict[str, list[float]]]:
    """Return the embeddings as Chroma and as the fast path read them from a directory."""
    found = []
    for open_engine in (_plain, _fast):
        engine = open_engine(directory)
        found.append(_embeddings(engine, info))
        engine.close()
    return found


@pytest.mark.parametrize("space", ["l2", "cosine"])
@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("open_engine", [_plain, _fast])
def test_an_embedding_stays_when_the_directory_is_opened_again(
    tmp_path: Path, history: str, space: str, open_engine: Callable[[Path], Engine]
) -> None:
    """The engine writes into the index files what Chroma leaves out of them."""
    threshold, steps, newest = HISTORIES[history]
    engine = open_engine(tmp_path)
    info = _created(engine, threshold, space)
    for step in steps:
        _do(engine, info, step)
    engine.close()
    for found in _reopened(tmp_path, info):
        np.testing.assert_allclose(found["a"], newest, rtol=1e-5)


def _random_step(dice: random.Random, known: set[str]) -> Step:
    method = dice.choice(["upsert", "upsert", "update", "add", "delete"])
    ids = dice.sample(["a", "b", "c", "d"], dice.choice([1, 1, 1, 2, 3]))
    if method == "delete":
        return method, [i for i in ids if i in known] or ["a"], []
    return method, ids, [[float(dice.randint(-9, 9)) for _ in range(2)] + [1.0] for _ in ids]


def _model(records: dict[str, list[float]], step: Step) -> None:
    method, ids, embeddings = step
    for at, record_id in enumerate(ids):
        if method == "delete":
            records.pop(record_id, None)
        elif method == "upsert" or (method == "update") == (record_id in records):
            records[record_id] = embeddings[at]


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("seed", range(15))
def test_no_history_loses_an_embedding(tmp_path: Path, seed: int, space: str) -> None:
    """Random changes by both paths, with the index written every few of them; the directory is then opened again."""
    dice = random.Random(seed)
    records: dict[str, list[float]] = {}
    engine = _fast(tmp_path)
    info = _created(engine, dice.randint(2, 5), space)
    for _ in range(40):
        if dice.random() < 0.1:
            engine.close()
            engine = dice.choice([_plain, _fast])(tmp_path)
        step = _random_step(dice, set(records))
        _do(engine, info, step)
        _model(records, step)
    warm = _embeddings(engine, info)
    engine.close()
    for found in [warm, *_reopened(tmp_path, info)]:
        assert found.keys() == records.keys(), f"seed {seed}"
        for record_id, embedding in records.items():
            np.testing.assert_allclose(found[record_id], embedding, rtol=1e-5, atol=1e-5, err_msg=f"seed {seed}")
