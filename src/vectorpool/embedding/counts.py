"""What an embedder counts: texts, tokens, runs of the model, and their times."""

from __future__ import annotations

import threading

from vectorpool.telemetry import families
from vectorpool.telemetry.figures import Figures, SharedCounter


class EmbeddingCounts:
    """The figures of one embedder. ``tokens`` and ``ran`` are for any thread."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.tokens = figures.counter(families.EMBEDDED_TOKENS, kind=SharedCounter)
        self.wait = figures.histogram(families.EMBEDDING_WAIT)
        self._texts = figures.counter(families.EMBEDDED_TEXTS)
        self._runs = {outcome: figures.counter(families.EMBEDDING_BATCHES, outcome) for outcome in ("ok", "failed")}
        self._time = figures.histogram(families.EMBEDDING_TIME)
        self._lock = threading.Lock()

    def ran(self, texts: int, seconds: float, *, failed: bool) -> None:
        """Count a run of the model over some texts."""
        with self._lock:
            self._runs["failed" if failed else "ok"].add()
            self._time.observe(seconds)
            if not failed:
                self._texts.add(texts)
