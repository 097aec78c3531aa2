"""Numbers of an index that came with a directory: what is outside the table of bounds never reaches native code."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.service import Service
from tests.support.shards import shard_ids
from vectorpool.engine.bindings import Client
from vectorpool.engine.engine import Engine
from vectorpool.engine.index_files import is_unsound
from vectorpool.engine.records import EngineOptions
from vectorpool.engine.rows import Batch
from vectorpool.engine.tables import Operation
from vectorpool.errors import BrokenReplica, InvalidRequest

DATABASE = "default_database"
SOUND, BAD = "sound", "suspicious"
# The numbers stand in the schema in this form.
LINKS = '"max_neighbors":16'


def _fill(directory: Path, *, count: int = 5) -> dict[str, str]:
    """Make a directory with two collections, one record after another; return their ids by name."""
    directory.mkdir(parents=True, exist_ok=True)
    client = Client(directory)
    ids = {}
    for name in (SOUND, BAD):
        made = client.create_collection(database=DATABASE, name=name, metadata={"note": "kept"})
        ids[name] = str(made.id)
        batch = Batch([f"r{i}" for i in range(count)], np.eye(count, 8, dtype=np.float32), None, ["text"] * count, None)
        client.add(collection_id=ids[name], database=DATABASE, batch=batch)
    client.close()
    return ids


def _in_schema(old: str, new: str) -> str:
    return f"UPDATE collections SET schema_str = replace(schema_str, '{old}', '{new}') WHERE name = '{BAD}'"


def _in_metadata(key: str, value: float) -> str:
    return (
        f"INSERT INTO collection_metadata (collection_id, key, int_value) SELECT id, '{key}', {value} "
        f"FROM collections WHERE name = '{BAD}'"
    )


def _in_segment(key: str, value: float) -> str:
    return (
        f"INSERT INTO segment_metadata (segment_id, key, int_value) SELECT s.id, '{key}', {value} FROM segments s "
        f"JOIN collections c ON c.id = s.collection WHERE c.name = '{BAD}' AND s.scope = 'VECTOR'"
    )


CHANGES = {
    "no links in the schema": _in_schema(LINKS, '"max_neighbors":0'),
    "too many links in the schema": _in_schema(LINKS, '"max_neighbors":10000000'),
    "a configuration of before": f"UPDATE collections SET schema_str = NULL, config_json_str = "
    f"""'{{"hnsw":{{"max_neighbors":0}}}}' WHERE name = '{BAD}'""",
    "metadata": _in_metadata("hnsw:M", 0),
    "metadata of a segment": _in_segment("hnsw:construction_ef", 10_000_000),
    "a dimension": f"UPDATE collections SET dimension = 2000000000 WHERE name = '{BAD}'",
}


def _change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as db, db:
        assert db.execute(statement).rowcount == 1


def _calls(engine: Engine, key: str) -> list[Any]:
    batch = Batch(["new"], np.ones((1, 8), np.float32), None, None, None)
    where = {"collection_id": key, "database": DATABASE}
    client = engine._client
    return [
        lambda: client.count(**where),
        lambda: client.get(**where),
        lambda: client.query(**where, embeddings=np.ones((1, 8), np.float32), n_results=1),
        lambda: client.add(**where, batch=batch),
        lambda: client.upsert(**where, batch=batch),
        lambda: client.update(**where, batch=batch),
        lambda: client.delete(**where, ids=["r1"]),
        lambda: engine.records.put(Operation.UPSERT, key, DATABASE, batch, lambda: None),
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_an_opened_index_outside_the_bounds(tmp_path: Path, change: str) -> None:
    """Every call that would load it is refused by name and range; the other collection works; it can be deleted."""
    ids = _fill(tmp_path)
    _change(tmp_path, CHANGES[change])
    engine = Engine(tmp_path, EngineOptions())
    try:
        for call in _calls(engine, ids[BAD]):
            with pytest.raises(InvalidRequest, match=f"{BAD}.*outside the bounds"):
                call()
        engine.examine()
        assert engine.records.count(ids[SOUND], DATABASE) == 5
        info = engine.catalogue.find(DATABASE, BAD)
        assert info is not None
        engine.drop_collection(info, lambda: None)
        assert engine.catalogue.find(DATABASE, BAD) is None
    finally:
        engine.close()


@pytest.fixture(scope="module")
def persisted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose index is in its files."""
    directory = tmp_path_factory.mktemp("persisted")
    client = Client(directory)
    made = client.create_collection(
        database=DATABASE, name=SOUND, configuration='{"hnsw":{"sync_threshold":5,"batch_size":5}}'
    )
    for start in range(0, 20, 10):
        batch = Batch([f"r{start + i}" for i in range(10)], np.eye(10, 16, dtype=np.float32), None, None, None)
        client.add(collection_id=str(made.id), database=DATABASE, batch=batch)
    client.close()
    return directory


# The byte at which a number of the header stands, its form, and what no header of Chroma says.
HEADER = {"room": (12, "<Q", 2**40), "element": (28, "<Q", 2**32), "links": (80, "<Q", 2**20)}


@pytest.mark.parametrize("name", HEADER)
def test_a_header_outside_the_bounds(persisted: Path, name: str) -> None:
    """A header that asks for more memory than its elements need is not loaded, and salvage may rebuild the index."""
    header = next(persisted.glob("*/header.bin"))
    before = header.read_bytes()
    assert not is_unsound(persisted)
    at, form, value = HEADER[name]
    changed = bytearray(before)
    struct.pack_into(form, changed, at, value)
    header.write_bytes(changed)
    try:
        with pytest.raises(BrokenReplica, match="numbers are wrong"):
            Engine(persisted, EngineOptions())
    finally:
        header.write_bytes(before)


@pytest.fixture
def adopting(tmp_path: Path) -> Iterator[Service]:
    """An instance whose store holds a plain Chroma directory with a hostile collection."""
    plain = tmp_path / "store" / "users" / "adopted" / "vectorstore"
    _fill(plain)
    _change(plain, CHANGES["no links in the schema"])
    service = Service(tmp_path, "--shards", "1").start()
    yield service
    service.close()


def test_adoption_of_a_hostile_directory(adopting: Service) -> None:
    """Both protocols refuse the collection by name, serve the other one, also after evict, and the shard lives."""
    shards = shard_ids(adopting.pid)
    native = "/users/adopted/collections"
    chromas = f"/api/v2/tenants/adopted/databases/{DATABASE}/collections"
    # Chroma answers regular expressions; what the fast path answers needs no index.
    question = {"query_embeddings": [[1, 0, 0, 0, 0, 0, 0, 0]], "where_document": {"$regex": "text"}}
    client = adopting.client
    for _ in range(2):
        assert client.get(f"{native}/{SOUND}/count").json()["count"] == 5
        key = client.get(f"{chromas}/{BAD}").json()["id"]
        told = client.post(f"{chromas}/{key}/query", json=question)
        assert (told.status_code, told.json()["error"]) == (400, "InvalidArgumentError")
        assert "max_neighbors is 0" in told.json()["message"] and "1024" in told.json()["message"]
        body = {"ids": ["new"], "embeddings": question["query_embeddings"]}
        assert client.post(f"{chromas}/{key}/add", json=body).status_code == 400
        body = {"records": [{"id": "new", "embedding": question["query_embeddings"][0]}]}
        assert client.post(f"{native}/{BAD}/records", json=body).status_code == 400
        sound = client.get(f"{chromas}/{SOUND}").json()["id"]
        assert client.post(f"{chromas}/{sound}/query", json=question).status_code == 200
        assert client.post("/admin/users/adopted/evict").status_code == 200
    assert client.post("/users/adopted/fork", json={"user_id": "copy"}).status_code in (200, 201)
    copied = f"/api/v2/tenants/copy/databases/{DATABASE}/collections"
    assert client.post(f"{copied}/{client.get(f'{copied}/{BAD}').json()['id']}/query", json=question).status_code == 400
    assert client.delete(f"{native}/{BAD}").status_code == 200
    assert shard_ids(adopting.pid) == shards
