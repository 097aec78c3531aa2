"""Chroma's queue in tests: what waits in it, and a threshold that a test reaches with a few records."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vectorpool.engine import collection_views, index_needs, waiting_queues
from vectorpool.names import CHROMA_DATABASE_FILE

THRESHOLD = 12


def take_as_usual(monkeypatch: pytest.MonkeyPatch, threshold: int = THRESHOLD) -> None:
    """Take a small threshold for the one that nobody chose: vectors of its collections wait in the queue."""
    for module in (index_needs, waiting_queues, collection_views):
        monkeypatch.setattr(module, "USUAL_THRESHOLD", threshold)


def queue(directory: Path) -> list[tuple[int, int, str, bool]]:
    """Return the queue in order: number, operation, id, whether there is a vector."""
    with closing(sqlite3.connect(directory / CHROMA_DATABASE_FILE)) as db:
        sql = "SELECT seq_id, operation, id, vector IS NOT NULL FROM embeddings_queue ORDER BY seq_id"
        return db.execute(sql).fetchall()
