"""One scenario for Chroma's own Python clients, synchronous and asynchronous: steps whose outcomes are compared.

A step is a call; its outcome is what it returned, or the exception's type and text, without ids that a server made up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from tests.protocol import sides

Step = tuple[str, Callable[[SimpleNamespace], Any]]


@register_embedding_function
class Letters(EmbeddingFunction[Documents]):
    """Counts letters: vowels, other letters, and whatever else; it needs no model."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale

    def __call__(self, input: Documents) -> Embeddings:
        rows = []
        for text in input:
            vowels = sum(letter in "aeiou" for letter in text.lower())
            letters = sum(letter.isalpha() for letter in text)
            rows.append(numpy.array([vowels, letters - vowels, len(text) - letters], dtype=numpy.float32) * self._scale)
        return rows

    @staticmethod
    def name() -> str:
        return "letters"

    def get_config(self) -> dict[str, Any]:
        return {"scale": self._scale}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> Letters:
        return Letters(config["scale"])


async def outcome(call: Callable[[SimpleNamespace], Any], state: SimpleNamespace, keep: str) -> Any:
    """Make one call, keep its result in ``state`` under a name if there is one, and return its outcome."""
    try:
        result = call(state)
        if inspect.isawaitable(result):
            result = await result
    except Exception as error:
        return {"raised": type(error).__name__, "text": sides.UUID.sub("<uuid>", str(error))}
    if keep.isidentifier():
        setattr(state, keep, result)
    return plain(result)


def plain(value: Any) -> Any:
    """Return a client's result as dictionaries, lists and numbers."""
    if hasattr(value, "configuration_json") and hasattr(value, "name"):
        names = ("name", "metadata", "configuration_json", "tenant", "database")
        return {**{name: plain(getattr(value, name)) for name in names}, "schema": _schema(value)}
    if isinstance(value, numpy.ndarray):
        return value.tolist()
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, UUID):
        return "<uuid>"
    if isinstance(value, dict):
        return {key: plain(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inside) for inside in value]
    if isinstance(value, str):
        return sides.UUID.sub("<uuid>", value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return {name: plain(inside) for name, inside in vars(value).items()} if hasattr(value, "__dict__") else repr(value)


def _schema(collection: Any) -> Any:
    schema = collection.schema
    return schema.serialize_to_json() if schema is not None else None


async def run(steps: list[Step], state: SimpleNamespace) -> list[Any]:
    """Run steps in order and return their outcomes."""
    return [await outcome(call, state, keep) for keep, call in steps]


MISSING = UUID("00000000-0000-4000-8000-000000000000")

# A step's first word is the name under which its result is kept for later steps, or a remark in brackets.
COLLECTIONS: list[Step] = [
    ("(version)", lambda s: s.client.get_version()),
    ("(batch)", lambda s: s.client.get_max_batch_size()),
    ("(identity)", lambda s: s.client.get_user_identity()),
    ("(none yet)", lambda s: s.client.list_collections()),
    ("(none yet)", lambda s: s.client.count_collections()),
    ("(missing)", lambda s: s.client.get_collection("books", embedding_function=s.letters)),
    ("(missing)", lambda s: s.client.delete_collection("books")),
    ("books", lambda s: s.client.create_collection("books", embedding_function=s.letters, metadata={"kind": "paper"})),
    ("(there)", lambda s: s.client.create_collection("books", embedding_function=s.letters)),
    ("(there)", lambda s: s.client.get_or_create_collection("books", embedding_function=s.letters)),
    ("(its function is kept)", lambda s: s.client.get_collection("books")),
    ("(another function)", lambda s: s.client.get_or_create_collection("books")),
    ("(new)", lambda s: s.client.get_or_create_collection("shelves", embedding_function=None)),
    ("(by id)", lambda s: s.client.get_collection_by_id(s.books.id, embedding_function=s.letters)),
    ("(by no id)", lambda s: s.client.get_collection_by_id(MISSING, embedding_function=s.letters)),
    ("(bad name)", lambda s: s.client.create_collection("x", embedding_function=None)),
    ("(bad name)", lambda s: s.client.create_collection("a..b", embedding_function=None)),
    ("(bad metadata)", lambda s: s.client.create_collection("empty", metadata={}, embedding_function=None)),
    (
        "tuned",
        lambda s: s.client.create_collection(
            "tuned",
            configuration={
                "hnsw": {"space": "cosine", "ef_construction": 50, "max_neighbors": 8, "sync_threshold": 10}
            },
            embedding_function=s.letters,
        ),
    ),
    ("(three)", lambda s: s.client.count_collections()),
    ("(ef_search)", lambda s: s.tuned.modify(configuration={"hnsw": {"ef_search": 33}})),
    ("(as modified)", lambda s: s.client.get_collection("tuned", embedding_function=s.letters)),
    ("(space is fixed)", lambda s: s.books.modify(metadata={"hnsw:space": "ip"})),
    ("(new name)", lambda s: s.books.modify(name="tomes", metadata={"kind": "vellum", "n": 3, "f": 0.5, "b": True})),
    ("(old name)", lambda s: s.client.get_collection("books", embedding_function=s.letters)),
    ("(as modified)", lambda s: s.client.get_collection("tomes", embedding_function=s.letters)),
    ("(nothing new)", lambda s: s.books.modify()),
    ("(bad name)", lambda s: s.books.modify(name="x")),
    ("(fork)", lambda s: s.books.fork("forked")),
    ("(forks)", lambda s: s.books.fork_count()),
    ("(index)", lambda s: s.books.get_indexing_status()),
    ("(function)", lambda s: s.books.get_attached_function("f")),
    ("(function)", lambda s: s.books.detach_function("f")),
    ("(gone)", lambda s: s.client.delete_collection("tomes")),
    ("(of a deleted one)", lambda s: s.books.count()),
    ("(of a deleted one)", lambda s: s.books.get()),
    ("(of a deleted one)", lambda s: s.books.add(ids=["a"], embeddings=[[1, 2, 3]])),
    ("(of a deleted one)", lambda s: s.books.query(query_embeddings=[[1, 2, 3]])),
    ("(of a deleted one)", lambda s: s.books.modify(name="abc")),
    ("(two)", lambda s: s.client.count_collections()),
]

TEXTS = ["an old atlas", "bees and honey", "cartography", "dune", "eaves"]
ALL = ["documents", "embeddings", "metadatas", "uris"]

RECORDS: list[Step] = [
    ("books", lambda s: s.client.create_collection("books", embedding_function=s.letters)),
    ("(empty)", lambda s: s.books.count()),
    ("(empty)", lambda s: s.books.peek()),
    ("(empty)", lambda s: s.books.get()),
    ("(empty)", lambda s: s.books.query(query_texts=["atlas"])),
    (
        "(texts)",
        lambda s: s.books.add(
            ids=["a", "b", "c", "d", "e"],
            documents=TEXTS,
            metadatas=[{"n": 1, "s": "x"}, {"n": 2.5}, {"b": True, "l": ["p", "q"]}, None, {"n": 1, "i": [1, 2]}],
        ),
    ),
    ("(five)", lambda s: s.books.count()),
    ("(peek)", lambda s: s.books.peek(2)),
    ("(all)", lambda s: s.books.get(include=ALL)),
    ("(one)", lambda s: s.books.get(ids="b", include=ALL)),
    ("(page)", lambda s: s.books.get(limit=2, offset=1)),
    ("(where)", lambda s: s.books.get(where={"n": {"$gte": 1}})),
    ("(where)", lambda s: s.books.get(where={"$and": [{"n": 1}, {"s": "x"}]})),
    ("(where)", lambda s: s.books.get(where={"l": {"$contains": "p"}})),
    ("(document)", lambda s: s.books.get(where_document={"$contains": "ee"})),
    ("(document)", lambda s: s.books.get(where_document={"$regex": "^[a-c]"})),
    ("(bad where)", lambda s: s.books.get(where={"n": {"$nope": 1}})),
    ("(bad where)", lambda s: s.books.get(where={"n": 1, "s": "x"})),
    ("(bad document)", lambda s: s.books.get(where_document={"$nope": "x"})),
    ("(bad include)", lambda s: s.books.get(include=["nope"])),
    ("(text)", lambda s: s.books.query(query_texts=["an atlas"], n_results=3, include=[*ALL, "distances"])),
    ("(texts)", lambda s: s.books.query(query_texts=["honey", "dune"], n_results=1)),
    ("(vector)", lambda s: s.books.query(query_embeddings=[3, 7, 2], n_results=2, where={"n": 1})),
    ("(ids)", lambda s: s.books.query(query_texts=["dune"], ids=["a", "d"])),
    ("(dimension)", lambda s: s.books.query(query_embeddings=[[1, 2]])),
    ("(no results)", lambda s: s.books.query(query_texts=["x"], n_results=0)),
    ("(nothing to ask)", lambda s: s.books.query()),
    ("(array)", lambda s: s.books.add(ids=["f"], embeddings=numpy.array([[0.1, 0.2, 0.3]]), uris=["file:///f"])),
    ("(as added)", lambda s: s.books.get(ids=["f"], include=ALL)),
    ("(ignored)", lambda s: s.books.add(ids=["a"], documents=["another"])),
    ("(as it was)", lambda s: s.books.get(ids=["a"], include=ALL)),
    ("(duplicates)", lambda s: s.books.add(ids=["x", "x"], documents=["one", "two"])),
    ("(dimension)", lambda s: s.books.add(ids=["x"], embeddings=[[1, 2]])),
    ("(no ids)", lambda s: s.books.add(ids=[], documents=[])),
    ("(lengths)", lambda s: s.books.add(ids=["x"], documents=["one", "two"])),
    ("(empty metadata)", lambda s: s.books.add(ids=["x"], documents=["one"], metadatas=[{}])),
    ("(merge)", lambda s: s.books.upsert(ids=["a", "g"], documents=["new", "gnu"], metadatas=[{"m": 1}, {"m": 2}])),
    ("(merged)", lambda s: s.books.get(ids=["a", "g"], include=ALL)),
    ("(metadata)", lambda s: s.books.update(ids=["a", "none"], metadatas=[{"s": None, "t": "u"}, {"m": 1}])),
    ("(document)", lambda s: s.books.update(ids=["b"], documents=["bumblebee"])),
    ("(vector)", lambda s: s.books.update(ids=["c"], embeddings=[[9, 9, 9]])),
    ("(updated)", lambda s: s.books.get(include=ALL)),
    ("(search)", lambda s: s.books.search(s.search)),
    ("(index)", lambda s: s.books.get_indexing_status()),
    ("(delete)", lambda s: s.books.delete(ids=["a", "zz"])),
    ("(delete)", lambda s: s.books.delete(where={"n": {"$gt": 2}})),
    ("(delete)", lambda s: s.books.delete(where_document={"$contains": "gnu"})),
    ("(delete)", lambda s: s.books.delete(where={"n": 1}, limit=1)),
    ("(delete nothing)", lambda s: s.books.delete()),
    ("(delete nothing)", lambda s: s.books.delete(ids=[])),
    ("(left)", lambda s: s.books.get(include=ALL)),
    ("(left)", lambda s: s.books.count()),
    ("(schema)", lambda s: s.client.get_collection("books", embedding_function=s.letters)),
]

ADMIN: list[Step] = [
    ("(tenant)", lambda s: s.admin.create_tenant(s.tenant + "-2")),
    ("(there)", lambda s: s.admin.create_tenant(s.tenant + "-2")),
    ("(too short)", lambda s: s.admin.create_tenant("ab")),
    ("(get)", lambda s: s.admin.get_tenant(s.tenant + "-2")),
    ("(missing)", lambda s: s.admin.get_tenant("nobody-here")),
    ("(database)", lambda s: s.admin.create_database("avatar-7", s.tenant + "-2")),
    ("(database)", lambda s: s.admin.create_database("library", s.tenant + "-2")),
    ("(there)", lambda s: s.admin.create_database("library", s.tenant + "-2")),
    ("(bad name)", lambda s: s.admin.create_database("a b", s.tenant + "-2")),
    ("(get)", lambda s: s.admin.get_database("library", s.tenant + "-2")),
    ("(missing)", lambda s: s.admin.get_database("nothing", s.tenant + "-2")),
    ("(list)", lambda s: s.admin.list_databases(tenant=s.tenant + "-2")),
    ("(page)", lambda s: s.admin.list_databases(1, 1, tenant=s.tenant + "-2")),
    ("(delete)", lambda s: s.admin.delete_database("library", s.tenant + "-2")),
    ("(missing)", lambda s: s.admin.delete_database("library", s.tenant + "-2")),
    ("(list)", lambda s: s.admin.list_databases(tenant=s.tenant + "-2")),
    ("(move)", lambda s: s.client.set_database("shelf")),
    ("(move)", lambda s: s.client.set_tenant(s.tenant + "-2", "avatar-7")),
    ("(there)", lambda s: s.client.count_collections()),
    ("(missing)", lambda s: s.client.set_tenant("nobody-here", "shelf")),
    ("(missing)", lambda s: s.client.set_database("nothing")),
]
