"""What reads remember of collections is never older than the last write, with real Chroma."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support.instances import Instance, upsert, vectors
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
from vectorpool.errors import CollectionNotFound
from vectorpool.objects.memory import MemoryBucket
from vectorpool.vectorstore import chroma as chroma_module
from vectorpool.vectorstore.chroma import Chroma


@pytest.fixture
def chroma(tmp_path: Path) -> Iterator[Chroma]:
    """An open Chroma directory with a collection."""
    directory = tmp_path / "chroma"
    directory.mkdir()
    opened = Chroma(directory)
    opened.create_collection(None, "notes", None, {})
    yield opened
    opened.close()


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


def test_what_a_write_overtook_is_not_remembered(chroma: Chroma, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that asked Chroma before a write ended leaves nothing behind for reads after it."""
    ask = Chroma.collection

    def overtaken(self: Chroma, avatar_id: str | None, name: str) -> chroma_module.CollectionInfo:
        info = ask(self, avatar_id, name)
        self.modify_collection(info.id, None, {"written": True})
        self.forget()
        return info

    monkeypatch.setattr(Chroma, "collection", overtaken)
    assert chroma.known_collection(None, "notes").metadata is None
    monkeypatch.undo()
    assert chroma.known_collection(None, "notes").metadata == {"written": True}


def test_a_missing_collection_is_asked_for_each_time(chroma: Chroma) -> None:
    """That a collection is not there is not remembered."""
    with pytest.raises(CollectionNotFound):
        chroma.known_collection(None, "later")
    made = chroma.create_collection(None, "later", None, {})
    assert chroma.known_collection(None, "later").id == made.id


def test_collections_are_remembered_up_to_a_bound(chroma: Chroma, monkeypatch: pytest.MonkeyPatch) -> None:
    """One collection more than the bound is answered all the same, and asked for each time."""
    monkeypatch.setattr(chroma_module, "_MAX_KNOWN", 1)
    other = chroma.create_collection(None, "other", None, {})
    remembered = chroma.known_collection(None, "notes")
    assert chroma.known_collection(None, "other").id == other.id
    assert chroma.known_collection(None, "notes") is remembered
    assert chroma.known_collection(None, "other") is not chroma.known_collection(None, "other")
