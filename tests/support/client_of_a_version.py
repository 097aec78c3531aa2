"""Drives a server with whatever version of Chroma's client runs this file, and prints what the client was told.

It runs in an environment of its own, where nothing of this project is installed: ``python client_of_a_version.py PORT
TENANT``. The same script runs with every version, so it uses only what all of them have.
"""

from __future__ import annotations

import json
import sys

import chromadb
from chromadb.config import Settings

DIMENSION = 4
ROWS = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.6, 0.8, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


def numbers(rows: object) -> list[list[float]]:
    return [[round(float(number), 4) for number in row] for row in rows]


def drive(port: int, tenant: str) -> dict[str, object]:
    told: dict[str, object] = {"version": chromadb.__version__}
    client = chromadb.HttpClient(
        host="127.0.0.1",
        port=port,
        tenant=tenant,
        database="default_database",
        settings=Settings(anonymized_telemetry=False),
    )
    assert client.heartbeat() > 0
    told["server"] = client.get_version()
    told["batch"] = client.get_max_batch_size()
    made = client.create_collection(
        "notes", metadata={"hnsw:space": "cosine", "hnsw:search_ef": 50, "about": "few"}, embedding_function=None
    )
    again = client.get_or_create_collection("notes", embedding_function=None)
    assert (made.id, made.name) == (again.id, again.name)
    notes = client.get_collection("notes", embedding_function=None)
    told["metadata"] = notes.metadata
    notes.add(
        ids=["a", "b", "c"],
        embeddings=ROWS[:3],
        documents=["first", "second", "third ünï"],
        metadatas=[{"n": 1, "half": 0.5, "even": False}, {"n": 2, "name": "two"}, {"n": 3}],
    )
    notes.upsert(ids=["c", "d"], embeddings=ROWS[2:], documents=["third", "fourth"], metadatas=[{"n": 30}, {"n": 4}])
    notes.update(ids=["a"], metadatas=[{"n": 10}])
    notes.delete(ids=["b"])
    told["count"] = notes.count()
    page = notes.get(include=["documents", "metadatas", "embeddings"])
    told["get"] = [page["ids"], page["documents"], page["metadatas"], numbers(page["embeddings"])]
    some = notes.get(where={"n": {"$gte": 10}}, where_document={"$contains": "third"})
    told["where"] = some["ids"]
    found = notes.query(query_embeddings=[ROWS[0]], n_results=2, include=["distances", "documents"])
    told["query"] = [found["ids"], found["documents"], numbers(found["distances"])]
    peeked = notes.peek(1)
    told["peek"] = peeked["ids"]
    notes.modify(name="renamed", metadata={"about": "more"})
    # Names in 0.6, collections before and after.
    listed = client.list_collections()
    told["listed"] = [each if isinstance(each, str) else each.name for each in listed]
    told["collections"] = client.count_collections()
    try:
        client.get_collection("none", embedding_function=None)
    except Exception as error:
        told["missing"] = str(error)
    client.delete_collection("renamed")
    told["left"] = client.count_collections()
    return told


if __name__ == "__main__":
    print(json.dumps(drive(int(sys.argv[1]), sys.argv[2])))
