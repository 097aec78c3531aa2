"""Products that take the host of a Chroma server, against this service: what docs/guides says of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import chromadb
import jwt
import numpy as np
import pytest
from chromadb.config import Settings
from chromadb.utils.batch_utils import create_batches

from tests.support.openai_standin import openai_standin
from tests.support.service import Service, environment
from tests.support.tokens import SECRET
from tests.support.walks import ROOT, blocks

MEM0 = "mem0ai>=2.2,<3"
OPEN_WEBUI = "open-webui==0.12.4"
GUIDES = ROOT / "docs" / "guides"
# What a product does with mem0's store of the page's programs; runs where nothing of this project is installed.
MEMORIES = """
store = memory.vector_store
store.delete_col()
store.collection = store.create_col("mem0")
payloads = [{"data": "ridge", "user_id": "42"}, {"data": "soup", "user_id": "42"}]
store.insert([[1.0, 0.0], [0.0, 1.0]], payloads, ["m1", "m2"])
store.update("m2", payload={"data": "bread", "user_id": "42"})
print([found.payload["data"] for found in store.search("", [[0.9, 0.1]], top_k=1, filters={"user_id": "42"})])
store.delete("m1")
print([found.payload["data"] for found in store.list()[0]])
"""


def port_of(service: Service) -> int:
    return int(service.url.rpartition(":")[2].strip("/"))


@pytest.mark.versions
@pytest.mark.timeout(600)
def test_mem0_keeps_a_users_memories_in_the_users_vectorstore(service: Service, user: str, tmp_path: Path) -> None:
    """The page's programs keep memories over an avatar; what mem0's store writes is there, and only there."""
    uv = shutil.which("uv")
    assert uv is not None, "uv makes the environment of mem0"
    made, used, shown = (content for _, content in blocks((GUIDES / "mem0.md").read_text()))
    program = (
        (made + used).replace('host="localhost"', 'host="127.0.0.1"').replace("port=8000", f"port={port_of(service)}")
    )
    program = program.replace('tenant="42"', f'tenant="{user}"')
    own = ["--isolated", "--no-project", "--python", f"{sys.version_info.major}.{sys.version_info.minor}"]
    packages = ["--with", MEM0, "--with", "chromadb==1.5.9"]
    with openai_standin() as url:
        ended = subprocess.run(
            [uv, "run", "-q", *own, *packages, "python", "-c", program + MEMORIES],
            cwd=tmp_path,
            env=environment(
                OPENAI_API_KEY="none",
                OPENAI_BASE_URL=url,
                MEM0_TELEMETRY="False",
                MEM0_DIR=str(tmp_path),
                NO_PROXY="*",
                no_proxy="*",
            ),
            capture_output=True,
            text=True,
            timeout=500,
        )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert ended.stdout == f"{shown}['ridge']\n['bread']\n"
    assert service.ok("GET", f"/users/{user}/avatars/7/collections/mem0/count").json()["count"] == 1
    assert not (tmp_path / "db").exists()


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An instance that asks for tokens, and allows Chroma's reset, as the page about Open WebUI says."""
    env = {"VECTORPOOL_TOKEN_SECRET": SECRET, "VECTORPOOL_ALLOW_RESET": "true"}
    served = Service(tmp_path_factory.mktemp("products"), "--shards", "1", env=env).start()
    yield served
    served.close()


def token_of(user: str) -> str:
    """Return a signed token that may write for one user."""
    claims = {"users": [user], "access": "write", "exp": int(time.time()) + 600}
    return jwt.encode(claims, SECRET, algorithm="HS256")


def page_settings() -> dict[str, str]:
    """Return the variables that the page about Open WebUI shows."""
    (variables,) = (
        content for language, content in blocks((GUIDES / "open-webui.md").read_text()) if language == "ini"
    )
    return dict(re.findall(r"^(\w+)=(.*)$", variables, re.MULTILINE))


@pytest.mark.versions
@pytest.mark.timeout(900)
def test_open_webuis_own_store(with_tokens: Service, tmp_path: Path) -> None:
    """The store of Open WebUI's package, set by the page's variables alone, does what the product needs."""
    uv = shutil.which("uv")
    assert uv is not None, "uv fetches the package of Open WebUI"
    place = ["--no-deps", "--target", str(tmp_path / "package"), "--python-version", "3.11"]
    fetched = subprocess.run([uv, "pip", "install", "-q", *place, OPEN_WEBUI], capture_output=True, text=True)
    assert fetched.returncode == 0, fetched.stderr[-2000:]
    shown = {**page_settings(), "CHROMA_HTTP_HOST": "127.0.0.1", "CHROMA_HTTP_PORT": str(port_of(with_tokens))}
    shown["CHROMA_HTTP_HEADERS"] = shown["CHROMA_HTTP_HEADERS"].replace("TOKEN", token_of(shown["CHROMA_TENANT"]))
    command = [sys.executable, "-P", str(ROOT / "tests" / "support" / "open_webui.py"), str(tmp_path / "package")]
    env = environment(**shown, NO_PROXY="*", no_proxy="*")
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert json.loads(ended.stdout) == {
        "before": False,
        "after": True,
        "search": ["changed", 1.0],
        "filtered": ["chunk-1", "chunk-3", "chunk-5", "chunk-7"],
        "query": [["chunk-3"]],
        "nothing": None,
        "left": ["chunk-3", "chunk-5", "chunk-7"],
        "reset": [True, False],
    }


def test_what_open_webui_asks_of_a_chroma_server(with_tokens: Service) -> None:
    """The calls of Open WebUI's store, made as its settings on the page say, do what it expects, its reset too."""
    service, shown = with_tokens, page_settings()
    token = token_of(shown["CHROMA_TENANT"])
    # As Open WebUI reads the variable: pairs by commas, each of them cut at every equals sign.
    headers = dict(pair.split("=") for pair in shown["CHROMA_HTTP_HEADERS"].replace("TOKEN", token).split(","))
    client = chromadb.HttpClient(
        host="127.0.0.1",
        port=port_of(service),
        ssl=shown["CHROMA_HTTP_SSL"] == "true",
        headers=headers,
        tenant=shown["CHROMA_TENANT"],
        database=shown["CHROMA_DATABASE"],
        settings=Settings(allow_reset=True, anonymized_telemetry=False),
    )
    assert headers["Authorization"] == f"Bearer {token}" and client.list_collections() == []
    files = client.get_or_create_collection("file-1", metadata={"hnsw:space": "cosine"})
    vectors = np.eye(8, dtype=np.float32).tolist()
    ids = [f"chunk-{number}" for number in range(8)]
    sources = [{"file_id": "1", "page": number} for number in range(8)]
    for batch in create_batches(api=client, ids=ids, documents=ids, embeddings=vectors, metadatas=sources):
        files.add(*batch)
    files.upsert(ids=ids[:1], documents=["changed"], embeddings=vectors[:1], metadatas=sources[:1])
    found = files.query(query_embeddings=[vectors[0]], n_results=2)
    assert found["documents"] is not None and found["documents"][0][0] == "changed"
    assert found["distances"] is not None and found["distances"][0][0] == pytest.approx(0, abs=1e-6)
    assert files.get(where={"page": 3}, limit=1)["ids"] == ["chunk-3"]
    files.delete(ids=["chunk-1"])
    files.delete(where={"page": 2})
    assert len(files.get()["ids"]) == 6 and [each.name for each in client.list_collections()] == ["file-1"]
    client.delete_collection("file-1")
    client.get_or_create_collection("file-2")
    assert client.reset() is True
    assert client.list_collections() == []
