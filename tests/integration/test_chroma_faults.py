"""Faults of the pinned Chroma that show through, each as it is: a test that fails says that one is mended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.plain_chroma import PlainChroma

# (method, ids, embeddings) with a sync threshold, and the embedding that the record "a" was given last.
HISTORIES: dict[str, tuple[int, list[tuple[str, list[str], list[list[int]]]], list[int]]] = {
    "updates of the only record": (
        2,
        [
            ("upsert", ["a"], [[0, 0, 0]]),
            ("upsert", ["a"], [[0, 0, 1]]),
            ("update", ["a"], [[0, 0, 2]]),
            ("upsert", ["a"], [[0, 0, 3]]),
        ],
        [0, 0, 3],
    ),
    "updates after a deletion": (
        2,
        [
            ("upsert", ["a", "b"], [[0, 7, 3], [7, 7, 7]]),
            ("upsert", ["b"], [[6, 1, 7]]),
            ("delete", ["b"], []),
            ("update", ["a"], [[3, 1, 4]]),
            ("update", ["a"], [[8, 6, 8]]),
        ],
        [8, 6, 8],
    ),
}


def _embedding(chroma: PlainChroma) -> Any:
    rows = chroma.get(chroma.collection("notes"), ids=["a"], include=["embeddings"])
    assert rows.embeddings is not None
    return [round(number) for number in rows.embeddings[0]]


@pytest.mark.parametrize("history", HISTORIES)
def test_chroma_forgets_an_embedding_when_it_is_opened_again(tmp_path: Path, history: str) -> None:
    """Chroma answers with the newest embedding until it is closed, and with an earlier one afterwards."""
    threshold, steps, newest = HISTORIES[history]
    chroma = PlainChroma(tmp_path)
    info = chroma.create("notes", {"space": "l2", "sync_threshold": threshold, "batch_size": threshold})
    for method, ids, embeddings in steps:
        if method == "delete":
            chroma.delete(info, ids)
        else:
            getattr(chroma, method)(info, ids, np.array(embeddings, np.float32))
    assert _embedding(chroma) == newest
    chroma.close()
    again = PlainChroma(tmp_path)
    assert _embedding(again) != newest
    again.close()
