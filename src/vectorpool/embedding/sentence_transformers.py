"""Any sentence-transformers model, on CPU or GPU. Needs the extra ``sentence-transformers``, which needs torch.

The vectors are the model's own, normalised only if the model normalises them.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from vectorpool.embedding.counts import EmbeddingCounts
from vectorpool.embedding.queue import EmbeddingQueue
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.figures import Figures

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

# The limit of a model that states none. Chunks are shorter anyway; see the setting chunk_tokens.
_UNSTATED_MAX_TOKENS = 512


class SentenceTransformersEmbedder:
    """A SentenceTransformer behind the queue. See Embedder for what the methods promise."""

    def __init__(self, settings: Settings, counts: EmbeddingCounts | None = None) -> None:
        self._counts = EmbeddingCounts(Figures()) if counts is None else counts
        self._settings = settings
        self._model_name = settings.embedder_model or DEFAULT_MODEL
        self.name = f"sentence-transformers:{self._model_name}"
        self.dimension = 0
        self.max_tokens = 0
        self._tokenizer: Tokens | None = None
        self._queue: EmbeddingQueue | None = None

    @property
    def tokenizer(self) -> Tokens:
        """The model's own tokenizer; the shipped word pieces for a model whose tokenizer gives no positions."""
        assert self._tokenizer is not None, "start() comes first"
        return self._tokenizer

    async def start(self) -> None:
        """Load the model, from a folder, the local cache or the hub; raise Misconfigured if it does not load."""
        model = await asyncio.to_thread(self._load)

        def encode(texts: list[str]) -> npt.NDArray[np.float32]:
            if self._tokenizer is not None:
                counted = self._tokenizer.count(texts)
                self._counts.tokens.add(sum(min(tokens, self.max_tokens) for tokens in counted))
            vectors = model.encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True)
            return np.ascontiguousarray(vectors, dtype=np.float32)

        self.dimension = (await asyncio.to_thread(encode, ["dimension"])).shape[1]
        self.max_tokens = int(model.get_max_seq_length() or _UNSTATED_MAX_TOKENS)
        backend = getattr(model.tokenizer, "backend_tokenizer", None)
        if isinstance(backend, tokenizers.Tokenizer):
            # A copy: the library truncates and pads by reconfiguring its own.
            backend = tokenizers.Tokenizer.from_str(backend.to_str())
            backend.no_truncation()
            backend.no_padding()
            self._tokenizer = Tokens(backend)
        else:
            self._tokenizer = Tokens(load_word_pieces())
        settings = self._settings
        self._queue = EmbeddingQueue(
            encode, batch=settings.embedder_batch, limit=settings.embedder_queue, counts=self._counts
        )
        self._queue.start()

    def _load(self) -> Any:
        library = importlib.import_module("sentence_transformers")
        try:
            return library.SentenceTransformer(self._model_name, device=self._settings.embedder_device)
        except Exception as error:
            # The library raises whatever torch, the hub or the operating system raise.
            reason = str(error).strip().partition("\n")[0][:200]
            raise Misconfigured(
                f"The sentence-transformers model {self._model_name!r} does not load ({reason}). Set "
                "VECTORPOOL_EMBEDDER_MODEL to a model's name or folder, and VECTORPOOL_EMBEDDER_DEVICE to a device "
                "that is there."
            ) from error

    async def embed(self, texts: Sequence[str], user_id: str = "") -> npt.NDArray[np.float32]:
        """Return float32[n, dimension], as the model makes them."""
        assert self._queue is not None, "start() comes first"
        if not texts:
            return np.empty((0, self.dimension), dtype=np.float32)
        return await self._queue.embed(texts, user_id)

    async def close(self) -> None:
        """Fail waiting calls, and wait until the run under way ends."""
        if self._queue is not None:
            await self._queue.close()


def build(
    settings: Settings, sources: Sources, counts: EmbeddingCounts | None = None, *, is_bulk: bool = False
) -> SentenceTransformersEmbedder:
    """Return the embedder, not started; raise Misconfigured if the extra is not installed.

    ``is_bulk`` makes no difference.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise Misconfigured(
            "The embedder sentence-transformers is not installed. Run `uv sync --extra sentence-transformers` (or "
            "`pip install 'vectorpool[sentence-transformers]'`), or set VECTORPOOL_EMBEDDER=onnx."
        )
    return SentenceTransformersEmbedder(settings, counts)
