"""The bounded queue in front of a model: batches, fairness between users, and threads beside the event loop.

Calls to ``embed`` become jobs of a user. Worker threads take batches of at most ``batch`` texts from them, so:

- Two lanes, each with its own bound. A job of one or two texts is a question, for which a person waits: its texts go
  next, and never share a run with long ones. After ``_SMALL_RUNS`` such runs in a row, one batch of the other lane
  runs, so that a stream of questions cannot starve an ingest.
- In each lane users take turns, whatever each of them has waiting, and so do the jobs of one user. What a turn leaves
  free of a batch is filled by the next turn.
- A user that has texts waiting may add more only while it would not hold more than stays free (``Lane.admit``). One
  user's flood so leaves half of a lane to the others, and the floods of k users leave a part of k + 1.
- Each job's texts are taken in order of length, which keeps padding small; results return in the caller's order.
- At most ``limit`` texts of long jobs wait, and a quarter as many of questions. A cancelled call's texts leave at
  once; the run under way ends, and is dropped.
- A run that fails and served several jobs is repeated for each of them alone, so that only the job with the bad
  text fails.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from vectorpool.embedding.counts import EmbeddingCounts
from vectorpool.embedding.lanes import Job, Lane, Part
from vectorpool.errors import Draining, InternalError, InvalidRequest, LimitExceeded
from vectorpool.telemetry.families import EMBEDDING_QUEUE, EMBEDDING_QUEUE_LIMIT
from vectorpool.telemetry.figures import Figures, Sample

Model = Callable[[list[str]], npt.NDArray[np.float32]]

SMALL_TEXTS = 2
_SMALL_RUNS = 8
# The room of questions, as a part of that of long jobs.
_QUESTIONS_PART = 4


def _refuse_surrogates(texts: Sequence[str]) -> None:
    """Raise InvalidRequest for half a surrogate pair, which no tokenizer accepts."""
    for number, text in enumerate(texts):
        try:
            text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"Text {number} is not valid Unicode: character {error.start} is half of a surrogate pair. Remove it."
            ) from None


class EmbeddingQueue:
    """Runs ``model`` in ``workers`` threads over the texts of all concurrent calls."""

    def __init__(
        self,
        model: Model,
        *,
        batch: int,
        limit: int,
        workers: int = 1,
        spreads: bool = False,
        counts: EmbeddingCounts | None = None,
    ) -> None:
        """Prepare; ``start`` starts the threads. ``limit`` counts texts that no run has taken yet.

        ``spreads``: fewer texts than fill a batch of each thread are shared out among the threads.
        """
        assert batch >= 1 and limit >= 1 and workers >= 1
        self._counts = EmbeddingCounts(Figures()) if counts is None else counts
        self._counts.figures.add_source(self._samples)
        self._model = model
        self._batch = batch
        self._shares = workers if spreads else 1
        self._limit = limit
        self._change = threading.Condition()
        self._small = Lane(max(SMALL_TEXTS, limit // _QUESTIONS_PART))
        self._large = Lane(limit)
        self._small_runs = 0
        self._closed = False
        # The parts that the calling worker thread runs.
        self._running = threading.local()
        self._threads = [
            threading.Thread(target=self._work, name=f"embedding-{i}", daemon=True) for i in range(workers)
        ]

    @property
    def waiting(self) -> int:
        """The number of texts that wait."""
        return self._small.waiting + self._large.waiting

    def _samples(self) -> list[Sample]:
        lanes = {"questions": self._small, "long": self._large}
        return [
            sample
            for name, lane in lanes.items()
            for sample in (
                Sample(EMBEDDING_QUEUE.name, (name,), lane.waiting),
                Sample(EMBEDDING_QUEUE_LIMIT.name, (name,), lane.limit),
            )
        ]

    def start(self) -> None:
        """Start the worker threads."""
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Fail waiting calls with Draining, and wait for the runs under way."""
        with self._change:
            self._closed = True
            jobs = self._small.clear() + self._large.clear()
            self._change.notify_all()
        for job in jobs:
            job.settle(Draining("The embedder is shutting down. Send the request again, to another instance."))
        for thread in self._threads:
            if thread.ident is not None:
                await asyncio.to_thread(thread.join)

    async def embed(self, texts: Sequence[str], user_id: str = "") -> npt.NDArray[np.float32]:
        """Return float32[n, d] for n >= 1 texts, in their order. They take the turns of ``user_id``."""
        assert texts, "an embedder answers no texts itself"
        _refuse_surrogates(texts)
        if len(texts) > self._limit:
            raise LimitExceeded(
                f"{len(texts)} texts are more than the embedding queue ever takes ({self._limit}). Send fewer in one "
                "call, or raise VECTORPOOL_EMBEDDER_QUEUE.",
                extra={"limit": self._limit},
            )
        job = Job(list(texts), user_id, asyncio.get_running_loop())
        with self._change:
            if self._closed:
                raise Draining("The embedder is shutting down. Send the request again, to another instance.")
            (self._small if len(texts) <= SMALL_TEXTS else self._large).admit(job)
            self._change.notify()
        began_s = time.monotonic()
        try:
            vectors = await job.future
            self._counts.wait.observe(time.monotonic() - began_s)
            return vectors
        finally:
            if not job.over:
                self._withdraw(job)

    def _withdraw(self, job: Job) -> None:
        with self._change:
            job.over = True
            self._small.withdraw(job)
            self._large.withdraw(job)

    def _take(self) -> list[Part]:
        """Return the next batch, as parts of jobs. Called with the lock held and something waiting."""
        questions = bool(self._small) and (self._small_runs < _SMALL_RUNS or not self._large)
        self._small_runs = self._small_runs + 1 if questions else 0
        lane = self._small if questions else self._large
        return lane.take(min(self._batch, -(-lane.waiting // self._shares)))

    def _work(self) -> None:
        while True:
            with self._change:
                while not (self._small or self._large or self._closed):
                    self._change.wait()
                if self._closed:
                    return
                parts = self._take()
                if self._small or self._large:
                    # Another thread takes what is left. A call wakes one thread, however many batches it brings.
                    self._change.notify()
            self._run(parts)

    def is_wanted(self) -> bool:
        """Return, in a worker thread, whether a caller still waits for the run of this thread.

        A model that tries again asks before each attempt.
        """
        return any(not job.over for job, _ in self._running.parts)

    def traceparent(self) -> str:
        """Return, in a worker thread, the span of the first traced call of this thread's run; empty without one."""
        return next((job.traceparent for job, _ in self._running.parts if job.traceparent), "")

    def _run(self, parts: list[Part]) -> None:
        self._running.parts = parts
        try:
            vectors = self._call([job.texts[i] for job, indices in parts for i in indices])
        except Exception as error:
            if len(parts) > 1:
                for part in parts:
                    if not part[0].over:
                        self._run([part])
                return
            job = parts[0][0]
            self._withdraw(job)
            job.settle(error)
            return
        row = 0
        for job, indices in parts:
            self._accept(job, indices, vectors[row : row + len(indices)])
            row += len(indices)

    def _call(self, texts: list[str]) -> npt.NDArray[np.float32]:
        began_s, failed = time.monotonic(), True
        try:
            vectors = self._model(texts)
            failed = False
        finally:
            self._counts.ran(len(texts), time.monotonic() - began_s, failed=failed)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise InternalError(
                f"The model answered {len(texts)} texts with an array of shape {vectors.shape}, or NaN."
            )
        return vectors

    def _accept(self, job: Job, indices: list[int], vectors: npt.NDArray[np.float32]) -> None:
        # With several workers, two runs may serve one job at once: the count is kept under the lock.
        with self._change:
            if job.over:
                return
            if job.vectors is None:
                job.vectors = np.empty((len(job.texts), vectors.shape[1]), dtype=np.float32)
            job.vectors[indices] = vectors
            job.unfinished -= len(indices)
            finished = job.unfinished == 0
        if finished:
            job.settle(None)
