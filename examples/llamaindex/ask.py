"""LlamaIndex's Chroma store over an avatar: index documents, ask a question. The service embeds both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import chromadb
import httpx
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.node_parser import MarkdownNodeParser
from llama_index.vector_stores.chroma import ChromaVectorStore

SERVICE = os.environ.get("VECTORPOOL_URL", "http://localhost:8000")
LIBRARY = Path(__file__).parents[1] / "library"


class ServiceEmbedding(BaseEmbedding):
    """The model of the service, so that this program needs none."""

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        answer = httpx.post(f"{SERVICE}/embed", json={"texts": texts}, timeout=120)
        vectors: list[list[float]] = answer.raise_for_status().json()["embeddings"]
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def main(question: str) -> None:
    """Index the library, and print the two passages that answer the question best."""
    place = urlsplit(SERVICE)
    client = chromadb.HttpClient(
        host=place.hostname or "localhost",
        port=place.port or 8000,
        ssl=place.scheme == "https",
        tenant="42",
        database="avatar-8",
    )
    collection = client.get_or_create_collection("hut", embedding_function=None)
    embedding = ServiceEmbedding(embed_batch_size=256)
    if collection.count():
        # It is indexed already: the vectors are in the vectorstore, and nothing is on this machine.
        index = VectorStoreIndex.from_vector_store(
            ChromaVectorStore(chroma_collection=collection), embed_model=embedding
        )
    else:
        documents = [
            Document(text=path.read_text(encoding="utf-8"), id_=path.name, metadata={"source": path.name})
            for path in sorted(LIBRARY.rglob("*.md"))
        ]
        index = VectorStoreIndex.from_documents(
            documents,
            storage_context=StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection)),
            transformations=[MarkdownNodeParser()],
            embed_model=embedding,
        )
    for found in index.as_retriever(similarity_top_k=2).retrieve(question):
        print(f"{found.metadata['source']}: {found.text}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "How much does a night cost for a child?")
