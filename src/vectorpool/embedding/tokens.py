"""A Tokenizer over the ``tokenizers`` library, and the word pieces that ship with the service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers

WORD_PIECES = Path(__file__).parent / "minilm" / "tokenizer.json"

# Texts encoded in one call: the library keeps every token's string, so a large call costs memory.
_ENCODE_BATCH = 64


def load_word_pieces() -> tokenizers.Tokenizer:
    """Return all-MiniLM-L6-v2's word pieces, without the padding and truncation that the file specifies."""
    tokenizer = tokenizers.Tokenizer.from_file(str(WORD_PIECES))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class Tokens:
    """Counts tokens and returns their positions. Never truncates."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, special_tokens: int | None = None) -> None:
        """Count with ``tokenizer``, which must not be reconfigured afterwards."""
        self._tokenizer = tokenizer
        self.special_tokens = tokenizer.num_special_tokens_to_add(False) if special_tokens is None else special_tokens

    def spans(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Return, for each text, int64[tokens, 2]: where each token starts and ends, in characters."""
        found = []
        for start in range(0, len(texts), _ENCODE_BATCH):
            batch = list(texts[start : start + _ENCODE_BATCH])
            for encoding in self._tokenizer.encode_batch(batch, add_special_tokens=False):
                found.append(np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2))
        return found

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has, without the special ones."""
        counts = []
        for start in range(0, len(texts), _ENCODE_BATCH):
            batch = list(texts[start : start + _ENCODE_BATCH])
            counts += [len(e) for e in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
        return counts
