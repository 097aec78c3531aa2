"""Text to vectors: one interface, three providers, batching off the event loop.

Promises: an embedder has a stable name, which is stored with what it embedded; ``embed`` keeps the order of its
texts; waiting is bounded, and a query does not wait behind a long ingest. Nothing here depends on vectorstores. The
only package that imports onnxruntime, tokenizers and sentence-transformers; importing it loads none of them, because
``open_embedder`` imports a provider's module when that provider is chosen. onnxruntime reports nothing to its makers.
"""

from __future__ import annotations

import os
from importlib import import_module

from vectorpool.embedding.counts import EmbeddingCounts
from vectorpool.embedding.embedder import Embedder, Tokenizer
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.figures import Figures

__all__ = ["Embedder", "Tokenizer", "open_embedder"]

# Its official builds else write an identifier of the machine into the home directory, and send events to their makers.
# It reads this when it is imported, which no module does before this one.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PROVIDERS = {
    "onnx": "vectorpool.embedding.onnx",
    "sentence-transformers": "vectorpool.embedding.sentence_transformers",
    "openai": "vectorpool.embedding.openai",
}


def open_embedder(
    settings: Settings, sources: Sources = SYSTEM, figures: Figures | None = None, *, is_bulk: bool = False
) -> Embedder:
    """Return the embedder that ``settings.embedder`` names, not started yet.

    ``is_bulk``: it is for throughput, where no person waits for a single text. A run of the model then has one thread,
    and as many run at once as others have threads.

    Raises Misconfigured if a setting that it needs is missing, or a package that it needs is not installed.
    """
    counts = EmbeddingCounts(Figures() if figures is None else figures)
    embedder: Embedder = import_module(_PROVIDERS[settings.embedder]).build(settings, sources, counts, is_bulk=is_bulk)
    return embedder
