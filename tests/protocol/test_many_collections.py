"""More collections than one client of Chroma may hold: none forgets what waits in its queue.

``engine.calls`` says how Chroma forgets it, and what is done against that.
"""

from __future__ import annotations

from tests.protocol.sides import API, Sides
from vectorpool.engine import calls

COLLECTIONS = calls.MAX_COLLECTIONS + 8
THRESHOLD, RECORDS = 4, 6


def test_every_collection_answers_with_all_its_records(sides: Sides) -> None:
    """Queries and gets of many collections in turn find the records in their files and those in their queues."""
    places = {"T": f"{API}/tenants/many", "B": f"{API}/tenants/many/databases/shelf"}
    sides.same("POST", f"{API}/tenants", {"name": "many"})
    sides.same("POST", "<T>/databases", {"name": "shelf"}, places=places)
    hnsw = {"sync_threshold": THRESHOLD, "batch_size": THRESHOLD}
    for number in range(COLLECTIONS):
        # Every other one has no files: all its records wait.
        configuration = {"hnsw": hnsw} if number % 2 else {}
        sides.same("POST", "<B>/collections", {"name": f"n-{number}", "configuration": configuration}, places=places)
        for ids in (range(THRESHOLD), range(THRESHOLD, RECORDS)):
            body = {"ids": [str(i) for i in ids], "embeddings": [[number, i, 1] for i in ids]}
            sides.same("POST", f"<n-{number}>/add", body, places=places)
    query = {"query_embeddings": [[1, 2, 3]], "include": ["distances", "embeddings"]}
    for number in (*range(COLLECTIONS), *range(COLLECTIONS)):
        answer = sides.same("POST", f"<n-{number}>/query", query, places=places)
        assert len(answer.body["ids"][0]) == RECORDS
        sides.same("POST", f"<n-{number}>/get", {"include": ["embeddings"]}, places=places)
