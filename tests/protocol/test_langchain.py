"""langchain-chroma, unmodified, against both servers: everything that its store offers over HTTP, answer for answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from tests.protocol.comparing import unlike
from tests.protocol.conftest import start_ours
from tests.protocol.sides import Server
from tests.support.chroma_server import ChromaServer
from tests.support.numbers import PLAINEST_KERNEL, is_close

TEXTS = [
    "the apple fell from the tree",
    "a pear on the old tree",
    "süße Kirschen im Garten 🍒",
    "the car stands in the garage",
    "a bicycle beside the garage",
    "zebras cross the road",
]
KINDS = ["fruit", "fruit", "fruit", "vehicle", "vehicle", "animal"]
METADATAS = [{"kind": kind, "page": page, "half": page / 2} for page, kind in enumerate(KINDS)]
IDS = [f"text-{page}" for page in range(len(TEXTS))]

Told = list[tuple[str, Any]]


class Letters(Embeddings):
    """How often some letters occur in a text: the same vector for the same text, everywhere."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[text.count(letter) * (1 + index / 7) for index, letter in enumerate("aegprtz")] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def connection(server: Server, tenant: str, database: str) -> dict[str, Any]:
    """Return how langchain's store is told where its server is; it makes its own HttpClient."""
    url = server.client.base_url
    settings = Settings(anonymized_telemetry=False)
    return {"host": url.host, "port": url.port, "tenant": tenant, "database": database, "client_settings": settings}


def shown(found: Any) -> Any:
    """Return what langchain returned as plain values."""
    if isinstance(found, Document):
        return {"id": found.id, "text": found.page_content, "metadata": found.metadata}
    if isinstance(found, tuple):
        document, score = found
        return {"document": shown(document), "score": score}
    if isinstance(found, list):
        return [shown(inside) for inside in found]
    return found


def played(server: Server, tenant: str, database: str) -> Told:
    """Drive the store through its whole interface, and return what it answered at each step."""
    place = connection(server, tenant, database)
    store = Chroma("langchain-texts", Letters(), collection_metadata={"made": "here"}, **place)
    told: Told = [("add_texts", store.add_texts(TEXTS, METADATAS, IDS))]
    searched(store, told)
    changed(store, told)
    other_ways(place, told)
    store.delete_collection()
    with pytest.raises(chromadb.errors.NotFoundError) as refusal:
        Chroma("langchain-texts", Letters(), create_collection_if_not_exists=False, **place)
    told.append(("deleted", str(refusal.value)))
    return told


def searched(store: Chroma, told: Told) -> None:
    """Search in every way, with and without filters."""
    query = "a tree with apples"
    fruit = {"kind": "fruit"}
    several: dict[str, Any] = {"$and": [{"page": {"$gte": 1}}, {"kind": {"$in": ["fruit", "animal"]}}]}
    by_distance = store.similarity_search_with_score
    told += [
        ("search", shown(store.similarity_search(query, k=3))),
        ("scores", shown(by_distance(query, k=10))),
        ("filter", shown(by_distance(query, k=10, filter=fruit))),
        ("filters", shown(by_distance(query, k=10, filter=several))),
        ("where_document", shown(by_distance(query, k=10, where_document={"$contains": "garage"}))),
        ("nothing found", shown(by_distance(query, filter={"kind": "stone"}))),
        ("relevance", shown(store.similarity_search_with_relevance_scores(query, k=2))),
        ("by vector", shown(store.similarity_search_by_vector(Letters().embed_query(query), k=2))),
        (
            "with vectors",
            [(shown(one), vector.tolist()) for one, vector in store.similarity_search_with_vectors(query)],
        ),
        ("mmr", shown(store.max_marginal_relevance_search(query, k=3, fetch_k=6, lambda_mult=0.2))),
        ("mmr filter", shown(store.max_marginal_relevance_search(query, k=2, fetch_k=6, filter=fruit))),
        ("retriever", shown(store.as_retriever(search_kwargs={"k": 2, "filter": fruit}).invoke(query))),
        ("mmr retriever", shown(store.as_retriever(search_type="mmr", search_kwargs={"k": 2}).invoke(query))),
        ("get_by_ids", shown(store.get_by_ids(["text-2", "text-0", "nobody"]))),
        ("get", store.get(where={"page": {"$lt": 4}}, limit=2, offset=1)),
        ("get documents", store.get(where_document={"$regex": "^a "}, include=["documents"])),
    ]


def changed(store: Chroma, told: Told) -> None:
    """Update, replace and delete documents, and see it in searches."""
    store.update_document("text-3", Document("the apple tree stands in the garage", metadata={"kind": "riddle"}))
    told.append(("updated", shown(store.get_by_ids(["text-3"]))))
    told.append(("found again", shown(store.similarity_search_with_score("an apple tree in the garage", k=2))))
    store.update_documents(
        ["text-4", "text-5"], [Document("a new text", metadata={"new": True}), Document("zzz", metadata={"page": 55})]
    )
    told.append(("updated both", shown(store.get_by_ids(["text-4", "text-5"]))))
    told.append(("replaced", store.add_documents([Document("another apple", metadata={"page": 7}, id="text-0")])))
    told.append(("merged", shown(store.get_by_ids(["text-0"]))))
    store.delete(["text-1", "nobody"])
    store.delete(where={"page": 55})
    told.append(("deleted some", store.get()))
    store.reset_collection()
    told.append(("reset", store.get()))


def other_ways(place: dict[str, Any], told: Told) -> None:
    """Make stores from texts and documents, and over a client that somebody else made."""
    made = Chroma.from_texts(TEXTS[:2], Letters(), METADATAS[:2], IDS[:2], collection_name="from-texts", **place)
    told.append(("from_texts", made.get()))
    documents = [Document(text, id=text[:5], metadata={"n": n}) for n, text in enumerate(TEXTS[3:])]
    configuration: Any = {"hnsw": {"space": "cosine"}}
    cosine = Chroma.from_documents(
        documents, Letters(), collection_name="from-documents", collection_configuration=configuration, **place
    )
    told.append(("from_documents", shown(cosine.similarity_search_with_score("the road", k=3))))
    client = chromadb.HttpClient(
        host=place["host"],
        port=place["port"],
        tenant=place["tenant"],
        database=place["database"],
        settings=Settings(anonymized_telemetry=False),
    )
    told.append(("client", Chroma("from-texts", Letters(), client=client).get()))
    told.append(("names", sorted(collection.name for collection in client.list_collections())))
    made.delete_collection()
    cosine.delete_collection()


# Squared distances above 1 are outside what langchain takes for relevance; it returns them all the same.
@pytest.mark.filterwarnings("ignore:Relevance scores must be between 0 and 1")
@pytest.mark.parametrize("env", [{}, PLAINEST_KERNEL], ids=["as it is", "another processor"])
def test_langchain_sees_no_difference_between_an_avatar_and_chroma(
    reference: ChromaServer, tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]
) -> None:
    """What langchain's store returns for an avatar that nobody created equals what Chroma's server returns."""
    ours = start_ours(tmp_path_factory.mktemp("ours"), env)
    try:
        place = ("default_tenant", "default_database") if isinstance(ours, ChromaServer) else ("42", "avatar-7")
        theirs = played(reference, "default_tenant", "default_database")
        own = played(ours, *place)
    finally:
        ours.close()
    assert dict(theirs).keys() == dict(own).keys()
    for (step, expected), (_, found) in zip(theirs, own, strict=True):
        assert not unlike(expected, found), step
    for step in ("scores", "filters", "found again", "from_documents"):
        scores = [each["score"] for each in dict(theirs)[step]]
        # The order is compared as well, so no two may be so close that a rounding decides.
        assert len(scores) > 1 and all(one < other and not is_close(one, other) for one, other in pairwise(scores))
    assert len(dict(theirs)["scores"]) == len(TEXTS)
