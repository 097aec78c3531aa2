"""llama-index's Chroma store, unmodified, against both servers: nodes in, nodes out, answer for answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.vector_stores.chroma import ChromaVectorStore

from tests.protocol.comparing import unlike
from tests.protocol.conftest import start_ours
from tests.protocol.sides import Server
from tests.support.chroma_server import ChromaServer
from tests.support.numbers import is_close

Told = list[tuple[str, Any]]

NODES = 8


def nodes() -> list[BaseNode]:
    """Return nodes of two documents, in as many directions as there are nodes."""
    made: list[BaseNode] = []
    for number in range(NODES):
        node = TextNode(
            id_=f"node-{number}",
            text=f"Knoten {number} – süß 🍒",
            metadata={"number": number, "half": number / 2, "even": number % 2 == 0, "author": "ab"[number % 2]},
            embedding=[1.0, number / 4, (number * 5 % NODES) / 3],
        )
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=f"document-{number // 5}")
        made.append(node)
    return made


def where(*filters: MetadataFilter | MetadataFilters, condition: str = "and") -> MetadataFilters:
    """Return filters in llama-index's words."""
    return MetadataFilters(filters=list(filters), condition=FilterCondition(condition))


def field(key: str, operator: str, value: Any) -> MetadataFilter:
    """Return one condition."""
    return MetadataFilter(key=key, operator=FilterOperator(operator), value=value)


FILTERS = {
    "equal": where(field("author", "==", "a")),
    "not equal": where(field("author", "!=", "a")),
    "greater": where(field("number", ">", 4)),
    "at most": where(field("half", "<=", 1.5)),
    "one of": where(field("number", "in", [1, 2, 6])),
    "none of": where(field("number", "nin", [1, 2, 6])),
    "both": where(field("number", ">=", 2), field("author", "==", "b")),
    "either": where(field("number", "<", 1), field("number", ">", 6), condition="or"),
    "nested": where(
        where(field("number", "<", 2), field("number", ">", 5), condition="or"), field("author", "==", "b")
    ),
    "nothing": where(field("author", "==", "nobody")),
}


def shown(found: VectorStoreQueryResult | list[BaseNode]) -> Any:
    """Return a result as plain values."""
    if isinstance(found, list):
        return [node.to_dict() for node in found]
    return {"ids": found.ids, "similarities": found.similarities, "nodes": shown(list(found.nodes or []))}


def played(server: Server, tenant: str, database: str) -> Told:
    """Drive the store through its whole interface, and return what it answered at each step."""
    client = chromadb.HttpClient(
        host=server.client.base_url.host,
        port=server.client.base_url.port or 0,
        tenant=tenant,
        database=database,
        settings=Settings(anonymized_telemetry=False),
    )
    store = ChromaVectorStore(chroma_collection=client.get_or_create_collection("llama-nodes", embedding_function=None))
    told: Told = [("empty", shown(store.get_nodes(None))), ("add", store.add(nodes()))]
    searched(store, told)
    deleted(store, told)
    client.delete_collection("llama-nodes")
    with pytest.raises(chromadb.errors.NotFoundError) as refusal:
        store.add(nodes())
    # The message names the collection by its UUID, which each server makes up.
    told.append(("a deleted collection", "does not exist" in str(refusal.value)))
    return told


def searched(store: ChromaVectorStore, told: Told) -> None:
    """Query in every mode, with each filter."""
    vector = [1.0, 0.6, 0.8]
    told.append(("query", shown(store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=4)))))
    for name, filters in FILTERS.items():
        query = VectorStoreQuery(query_embedding=vector, similarity_top_k=NODES, filters=filters)
        told.append((f"query {name}", shown(store.query(query))))
        told.append((f"get {name}", shown(store.get_nodes(None, filters=filters))))
    without_vector = VectorStoreQuery(similarity_top_k=3, filters=FILTERS["equal"])
    told.append(("no vector", shown(store.query(without_vector))))
    mmr = VectorStoreQuery(query_embedding=vector, similarity_top_k=3, mode=VectorStoreQueryMode.MMR)
    told.append(("mmr", shown(store.query(mmr, mmr_threshold=0.3))))
    query = VectorStoreQuery(query_embedding=vector, similarity_top_k=2)
    told.append(("document", shown(store.query(query, where_document={"$contains": "Knoten 3"}))))
    told.append(("where", shown(store.query(query, where={"number": {"$gte": 5}}))))
    told.append(("by id", shown(store.get_nodes(["node-5", "node-1", "nobody"]))))


def deleted(store: ChromaVectorStore, told: Told) -> None:
    """Delete by document, by id and by filter, and everything."""
    store.delete("document-1")
    told.append(("without a document", shown(store.get_nodes(None))))
    store.delete_nodes(["node-0"])
    store.delete_nodes(["node-1", "node-2", "node-3"], filters=where(field("half", "==", 0.5)))
    told.append(("without some nodes", shown(store.get_nodes(None))))
    told.append(("add again", store.add(nodes())))
    told.append(("what was there stays", shown(store.get_nodes(None))))
    store.clear()
    told.append(("cleared", shown(store.get_nodes(None))))


def test_llama_index_sees_no_difference_between_an_avatar_and_chroma(
    reference: ChromaServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What llama-index's store returns for an avatar that nobody created equals what Chroma's server returns."""
    ours = start_ours(tmp_path_factory.mktemp("ours"), {})
    try:
        place = ("default_tenant", "default_database") if isinstance(ours, ChromaServer) else ("42", "avatar-7")
        theirs = played(reference, "default_tenant", "default_database")
        own = played(ours, *place)
    finally:
        ours.close()
    assert dict(theirs).keys() == dict(own).keys()
    for (step, expected), (_, found) in zip(theirs, own, strict=True):
        assert not unlike(expected, found), step
    similarities = dict(theirs)["query"]["similarities"]
    # The order is compared as well, so no two may be so close that a rounding decides.
    assert len(similarities) == 4 and not any(is_close(one, other) for one, other in pairwise(similarities))
    assert dict(theirs)["query nothing"]["ids"] == []
