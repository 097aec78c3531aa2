"""LangChain's Chroma store over an avatar: put texts, ask a question. The service embeds both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

SERVICE = os.environ.get("VECTORPOOL_URL", "http://localhost:8000")
LIBRARY = Path(__file__).parents[1] / "library"


class ServiceEmbeddings(Embeddings):
    """The model of the service, so that this program needs none."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text; the service takes a thousand at once."""
        vectors: list[list[float]] = []
        for first in range(0, len(texts), 1000):
            answer = httpx.post(f"{SERVICE}/embed", json={"texts": texts[first : first + 1000]}, timeout=120)
            vectors += answer.raise_for_status().json()["embeddings"]
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        return self.embed_documents([text])[0]


def open_store(user: str, avatar: str) -> Chroma:
    """Return LangChain's store over a collection of an avatar. The tenant is the user, the database the avatar."""
    place = urlsplit(SERVICE)
    return Chroma(
        "hut",
        ServiceEmbeddings(),
        host=place.hostname,
        port=place.port,
        ssl=place.scheme == "https",
        tenant=user,
        database=f"avatar-{avatar}",
    )


def main(question: str) -> None:
    """Put the paragraphs of the library, and print the two that answer the question best."""
    store = open_store("42", "7")
    documents = [
        Document(paragraph, id=f"{path.name}-{number}", metadata={"source": path.name})
        for path in sorted(LIBRARY.rglob("*.md"))
        for number, paragraph in enumerate(path.read_text(encoding="utf-8").split("\n\n"))
        if not paragraph.startswith("#")
    ]
    store.add_documents(documents)
    for found in store.as_retriever(search_kwargs={"k": 2}).invoke(question):
        print(f"{found.metadata['source']}: {found.page_content}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "How much does a night cost for a child?")
