"""Makes a directory with the version of Chroma that runs this file, and prints the content as that version reads it.

It runs in an environment of its own, where nothing of this project is installed: ``python older_chroma.py DIRECTORY``.
"""

from __future__ import annotations

import json
import sys

import chromadb
import numpy as np
from chromadb.config import Settings

DIMENSION, COUNT = 16, 230
SETTLED = {"hnsw:space": "cosine", "hnsw:sync_threshold": 50, "hnsw:batch_size": 20, "hnsw:search_ef": 400}


def fill(path: str) -> dict[str, object]:
    client = chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))
    rows = np.random.default_rng(7).standard_normal((COUNT, DIMENSION)).astype("float32")
    # Its index was written to files several times, and its last records wait in the queue.
    notes = client.create_collection("notes", metadata=dict(SETTLED), embedding_function=None)
    for start in range(0, COUNT, 46):
        numbers = range(start, min(COUNT, start + 46))
        notes.add(
            ids=[f"r{n}" for n in numbers],
            embeddings=rows[list(numbers)].tolist(),
            documents=[f"Text {n} – ünï" for n in numbers],
            metadatas=[{"n": n, "half": n / 2, "even": n % 2 == 0, "name": f"name {n % 5}"} for n in numbers],
        )
    notes.update(ids=["r3"], documents=["changed"], metadatas=[{"n": 1003}], embeddings=(-rows[3:4]).tolist())
    notes.upsert(ids=["r4"], embeddings=rows[9:10].tolist(), documents=["upserted"])
    notes.delete(ids=["r5", "r6"])
    # Its records are all in the queue.
    small = client.create_collection("small", metadata={"hnsw:space": "l2", "about": "few"}, embedding_function=None)
    small.add(ids=["a", "b"], embeddings=rows[:2].tolist(), metadatas=[{"k": "v"}, {"k": "w"}])
    client.create_collection("empty", embedding_function=None)
    return {
        "version": chromadb.__version__,
        "collections": {
            name: tell(client.get_collection(name, embedding_function=None)) for name in ("notes", "small")
        },
        "queries": {
            name: ask(client.get_collection(name, embedding_function=None), rows[20:23]) for name in ("notes", "small")
        },
        "questions": rows[20:23].tolist(),
    }


def tell(collection: chromadb.Collection) -> dict[str, object]:
    page = collection.get(include=["documents", "metadatas", "embeddings"])
    fields = zip(page["ids"], page["documents"], page["metadatas"], page["embeddings"], strict=True)
    return {i: [document, metadata, [float(x) for x in vector]] for i, document, metadata, vector in fields}


def ask(collection: chromadb.Collection, questions: np.ndarray) -> list[list[object]]:
    found = collection.query(query_embeddings=questions.tolist(), n_results=2, include=["distances"])
    return [list(map(list, zip(*one, strict=True))) for one in zip(found["ids"], found["distances"], strict=True)]


if __name__ == "__main__":
    print(json.dumps(fill(sys.argv[1])))
