"""What reads remember of collections is never older than the last write, with real Chroma."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.instances import Instance, upsert, vectors
from tests.support.plain_chroma import PlainChroma
from vectorpool.answers import Collection
from vectorpool.commands import (
    CountRecords,
    CreateCollection,
    DeleteAvatar,
    DeleteCollection,
    GetCollection,
    Hnsw,
    ModifyCollection,
    QueryRecords,
)
from vectorpool.engine import catalogue as catalogue_module
from vectorpool.engine.catalogue import Catalogue
from vectorpool.engine.collection_info import CollectionInfo
from vectorpool.errors import CollectionNotFound
from vectorpool.names import DEFAULT_DATABASE
from vectorpool.objects.memory import MemoryBucket


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    """The catalogue of an open directory with a collection."""
    directory = tmp_path / "chroma"
    directory.mkdir()
    opened = PlainChroma(directory)
    opened.create("notes")
    yield opened.catalogue
    opened.close()


def _create(catalogue: Catalogue, name: str) -> CollectionInfo:
    return catalogue.create(DEFAULT_DATABASE, name, metadata=None, configuration=None)


def _known(catalogue: Catalogue, name: str) -> CollectionInfo:
    """Return a known collection; both ways to it say the same."""
    info = catalogue.known(DEFAULT_DATABASE, name)
    assert info is not None
    assert catalogue.known_by_id(DEFAULT_DATABASE, info.id) == info
    return info


async def test_reads_see_every_change_of_a_collection(tmp_path: Path) -> None:
    """After each write, a read finds the collection as the write left it, however often it was read before."""
    async with Instance(tmp_path, MemoryBucket()) as instance:

        async def described(name: str) -> Collection:
            for _ in range(2):
                answer = await instance.do(GetCollection(name=name, avatar_id="7"))
            return msgspec.convert(answer, Collection)

        made = CreateCollection(name="notes", avatar_id="7", hnsw=Hnsw())
        await instance.do(made)
        first = await described("notes")
        assert (first.dimension, first.metadata, first.count) == (None, None, 0)
        empty = await instance.do(QueryRecords(collection="notes", avatar_id="7", vectors=vectors(1)))
        assert empty == {"results": [[]]}

        await instance.do(upsert("a", "b", avatar_id="7"))
        assert (await described("notes")).dimension == vectors(1).dimension
        found = await instance.do(QueryRecords(collection="notes", avatar_id="7", vectors=vectors(1)))
        assert len(found["results"][0]) == 2

        await instance.do(
            ModifyCollection(name="notes", avatar_id="7", new_name="memos", new_metadata={"colour": "red"})
        )
        assert (await described("memos")).metadata == {"colour": "red"}
        with pytest.raises(CollectionNotFound):
            await instance.do(CountRecords(collection="notes", avatar_id="7"))

        await instance.do(DeleteCollection(name="memos", avatar_id="7"))
        await instance.do(CreateCollection(name="memos", avatar_id="7", hnsw=Hnsw()))
        again = await described("memos")
        assert again.id != first.id
        assert (again.count, again.metadata) == (0, None)

        await instance.do(DeleteAvatar(avatar_id="7"))
        with pytest.raises(CollectionNotFound):
            await instance.do(CountRecords(collection="memos", avatar_id="7"))
        await instance.do(made)
        count = await instance.do(CountRecords(collection="notes", avatar_id="7"))
        assert count == {"count": 0}


@pytest.mark.parametrize("way", ["find", "find_by_id"])
def test_what_a_write_overtook_is_not_remembered(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A read that asked Chroma before a write ended leaves nothing behind for reads after it, by name or by id."""
    made = catalogue.get(DEFAULT_DATABASE, "notes")
    ask = getattr(Catalogue, way)

    def overtaken(self: Catalogue, database: str, key: str) -> CollectionInfo:
        info = ask(self, database, key)
        self.update(info.id, name=None, metadata={"written": True})
        self.forget()
        return info  # type: ignore[no-any-return]

    def known() -> CollectionInfo | None:
        if way == "find":
            return catalogue.known(DEFAULT_DATABASE, "notes")
        return catalogue.known_by_id(DEFAULT_DATABASE, made.id)

    monkeypatch.setattr(Catalogue, way, overtaken)
    before = known()
    assert before is not None and before.metadata is None
    monkeypatch.undo()
    after = known()
    assert after is not None and after.metadata == {"written": True}


def test_a_missing_collection_is_asked_for_each_time(catalogue: Catalogue) -> None:
    """That a collection is not there is not remembered."""
    assert catalogue.known(DEFAULT_DATABASE, "later") is None
    made = _create(catalogue, "later")
    assert _known(catalogue, "later").id == made.id


def test_an_id_is_found_in_any_database(catalogue: Catalogue) -> None:
    """A collection is found by its id whatever database is named, and its database is the one that has it."""
    catalogue.create_database("other_database")
    made = catalogue.create("other_database", "elsewhere", metadata=None, configuration=None)
    assert catalogue.known_by_id(DEFAULT_DATABASE, made.id) is None
    found = catalogue.known_anywhere(DEFAULT_DATABASE, made.id)
    assert found is not None and found.database == "other_database"
    assert catalogue.known_anywhere(DEFAULT_DATABASE, "00000000-0000-0000-0000-000000000000") is None


def test_collections_are_remembered_up_to_a_bound(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """One collection more than the bound is answered all the same, and asked for each time."""
    monkeypatch.setattr(catalogue_module, "_MAX_KNOWN", 1)
    other = _create(catalogue, "other")
    remembered = _known(catalogue, "notes")
    assert _known(catalogue, "other").id == other.id
    assert _known(catalogue, "notes") is remembered
    assert _known(catalogue, "other") is not _known(catalogue, "other")
