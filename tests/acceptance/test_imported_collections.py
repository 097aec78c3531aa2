"""Collections that were imported: nothing says who embedded them until a caller does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest

from tests.support.service import Service, run_cli

OURS = "onnx:all-MiniLM-L6-v2-int8"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a user whose vectorstore is an imported Chroma directory."""
    folder: Path = tmp_path_factory.mktemp("service")
    client = chromadb.PersistentClient(str(folder / "chroma"))
    for name, dimension in (("fits", 384), ("wide", 8)):
        made = client.create_collection(name, embedding_function=None)
        made.add(ids=["a", "b"], embeddings=[[1.0] + [0.0] * (dimension - 1), [0.0] * (dimension - 1) + [1.0]])
    client.create_collection("empty", embedding_function=None)
    served = Service(folder, "--shards", "1")
    imported = run_cli("import", str(folder / "chroma"), "--user", "42", "--store", served.store)
    assert imported.returncode == 0, imported.stderr
    served.start()
    yield served
    served.close()


def test_a_text_query_names_the_embedder_that_it_assumes(service: Service) -> None:
    """The answer says whose the embeddings are taken to be; with embeddings, or without records, nothing is assumed."""
    base = "/users/42/collections"
    assert service.ok("GET", f"{base}/fits").json()["embedder"] is None
    for suffix in ("", "?consistency=local"):
        found = service.ok("POST", f"{base}/fits/query{suffix}", json={"texts": ["a"]}).json()
        assert found["assumed_embedder"] == OURS and len(found["results"][0]) == 2
    given = service.ok("POST", f"{base}/fits/query", json={"embeddings": [[1.0] + [0.0] * 383]}).json()
    assert "assumed_embedder" not in given
    assert service.ok("POST", f"{base}/empty/query", json={"texts": ["a"]}).json() == {"results": [[]]}


def test_a_wrong_dimension_is_refused_by_name(service: Service) -> None:
    """Text of another dimension names the service's embedder, both dimensions, and what to do."""
    problem = service.problem(
        "POST", "/users/42/collections/wide/query", "dimension-mismatch", json={"texts": ["a"]}
    ).json()
    assert OURS in problem["detail"] and problem["request_embedder"] == OURS
    assert (problem["collection_dimension"], problem["request_dimension"]) == (8, 384)
    service.ok("PATCH", "/users/42/collections/wide", json={"embedder": "openai:wide-8"})
    query = {"json": {"texts": ["a"]}}
    mismatch = service.problem("POST", "/users/42/collections/wide/query", "embedder-mismatch", **query).json()
    assert mismatch["collection_embedder"] == "openai:wide-8"


def test_the_embedder_can_be_set(service: Service) -> None:
    """PATCH records it: text by the same embedder assumes nothing any more, by another is refused, also after evict."""
    base = "/users/42/collections/fits"
    for wrong in ("", "two words", "x" * 201, 7):
        assert service.request("PATCH", base, json={"embedder": wrong}).status_code == 400
    assert service.ok("PATCH", base, json={"embedder": OURS}).json()["embedder"] == OURS
    assert "assumed_embedder" not in service.ok("POST", f"{base}/query", json={"texts": ["a"]}).json()
    service.ok("PATCH", base, json={"embedder": "openai:other"})
    service.ok("POST", "/admin/users/42/evict")
    problem = service.problem("POST", f"{base}/query", "embedder-mismatch", json={"texts": ["a"]}).json()
    assert problem["collection_embedder"] == "openai:other"
    assert service.ok("GET", base).json()["embedder"] == "openai:other"
