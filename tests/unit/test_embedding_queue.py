"""The queue in front of a model, driven by real functions: one that is gated by the test, and ones that fail."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from vectorpool.embedding.queue import EmbeddingQueue
from vectorpool.errors import Draining, InternalError, InvalidRequest, LimitExceeded, QueueFull


def measure(texts: Sequence[str]) -> np.ndarray:
    """A model: a text's length and its first character."""
    return np.array([[len(text), ord(text[0]) if text else 0] for text in texts], dtype=np.float32)


class GatedModel:
    """Records every batch; a run waits until the test lets it go."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.batches.append(texts)
        self.entered.release()
        assert self.gate.acquire(timeout=60), "the test never let this run go"
        return measure(texts)

    async def running(self) -> None:
        """Wait until one more run has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=60)

    def let(self, runs: int) -> None:
        self.gate.release(runs)


@asynccontextmanager
async def queue_of(
    model: Callable[[list[str]], np.ndarray], *, batch: int = 4, limit: int = 1000, workers: int = 1
) -> AsyncIterator[EmbeddingQueue]:
    queue = EmbeddingQueue(model, batch=batch, limit=limit, workers=workers)
    queue.start()
    try:
        yield queue
    finally:
        if isinstance(model, GatedModel):
            model.let(1000)
        await queue.close()


async def started(queue: EmbeddingQueue, texts: list[str]) -> asyncio.Task[np.ndarray]:
    """Return a call that has entered the queue."""
    task = asyncio.create_task(queue.embed(texts))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("workers", [1, 4])
async def test_results_are_in_the_order_of_the_texts_whatever_the_batches_were(workers: int) -> None:
    """Every call gets its own vectors, in its own order, though batches are sorted by length and shared."""
    calls = [[f"{chr(97 + c)}" * ((7 * i + c) % 23 + 1) for i in range(37)] for c in range(12)]
    async with queue_of(measure, batch=5, workers=workers) as queue:
        results = await asyncio.gather(*(queue.embed(texts) for texts in calls))
    for texts, vectors in zip(calls, results, strict=True):
        assert vectors.dtype == np.float32 and vectors.flags.c_contiguous
        assert np.array_equal(vectors, measure(texts))


async def test_a_question_waits_for_one_batch_of_an_ingest_and_not_for_the_ingest() -> None:
    """A one-text call that comes while 5,000 texts wait is in the very next run, alone."""
    model = GatedModel()
    async with queue_of(model, limit=10_000) as queue:
        ingest = await started(queue, ["chunk"] * 5000)
        await model.running()
        question = await started(queue, ["question"])
        model.let(2)
        assert np.array_equal(await question, measure(["question"]))
        assert model.batches[1] == ["question"]
        assert not ingest.done()
        ingest.cancel()


async def test_a_stream_of_questions_does_not_starve_an_ingest() -> None:
    """After eight runs of questions in a row, an ingest gets a run."""
    model = GatedModel()
    async with queue_of(model, batch=1) as queue:
        first = await started(queue, ["first"])
        await model.running()
        ingest = await started(queue, ["chunk"] * 3)
        questions = [await started(queue, ["question"]) for _ in range(30)]
        model.let(34)
        await asyncio.gather(first, ingest, *questions)
    runs = [batch[0] for batch in model.batches]
    assert runs[1:9].count("question") >= 7
    assert "chunk" in runs[1:10] and runs.index("chunk") < 10
    assert runs.count("chunk") == 3 and runs.count("question") == 30


async def test_long_calls_take_turns_and_share_what_a_batch_leaves_free() -> None:
    """Two ingests alternate, so the short one ends long before the long one."""
    model = GatedModel()
    async with queue_of(model, batch=4) as queue:
        blocker = await started(queue, ["x"])
        await model.running()
        long = await started(queue, ["a"] * 40)
        short = await started(queue, ["b"] * 6)
        model.let(100)
        await asyncio.gather(blocker, long, short)
    assert model.batches[1:4] == [["a"] * 4, ["b"] * 4, ["a"] * 4]
    assert model.batches[4] == ["b", "b", "a", "a"]


async def test_texts_are_taken_by_length() -> None:
    """A batch holds texts of like length, so that little of it is padding."""
    model = GatedModel()
    model.let(100)
    async with queue_of(model, batch=2) as queue:
        await queue.embed(["cccc", "a", "bbb", "dd"])
    assert model.batches == [["a", "dd"], ["bbb", "cccc"]]


async def test_more_waiting_texts_than_the_limit_are_refused_and_those_before_are_served() -> None:
    """A full queue refuses with QueueFull, at once, and takes texts again when some have left."""
    model = GatedModel()
    async with queue_of(model, batch=4, limit=10) as queue:
        first = await started(queue, ["a"] * 4)
        await model.running()
        second = await started(queue, ["b"] * 8)
        with pytest.raises(QueueFull, match="8 texts wait"):
            await queue.embed(["c"] * 3)
        third = await started(queue, ["c"] * 2)
        model.let(100)
        assert [len(await task) for task in (first, second, third)] == [4, 8, 2]
        assert queue.waiting == 0


async def test_a_call_that_could_never_fit_is_refused_for_good() -> None:
    """More texts than the queue ever takes is no matter of waiting, and the error names the limit."""
    async with queue_of(measure, limit=10) as queue:
        with pytest.raises(LimitExceeded, match=r"11 texts.*\(10\)"):
            await queue.embed(["a"] * 11)


async def test_a_cancelled_call_frees_its_place() -> None:
    """The texts of a cancelled call never reach the model, and others may wait in their stead."""
    model = GatedModel()
    async with queue_of(model, batch=4, limit=10) as queue:
        running = await started(queue, ["a"] * 4)
        await model.running()
        waiting = await started(queue, ["b"] * 10)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert queue.waiting == 0
        after = await started(queue, ["c"] * 10)
        model.let(100)
        await asyncio.gather(running, after)
    assert not any("b" in batch for batch in model.batches)


async def test_cancelling_a_call_under_way_does_not_disturb_the_run() -> None:
    """A call cancelled while the model runs is dropped, and the next call is served."""
    model = GatedModel()
    async with queue_of(model, batch=4) as queue:
        running = await started(queue, ["a"] * 9)
        await model.running()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        model.let(100)
        assert np.array_equal(await queue.embed(["next"]), measure(["next"]))
        assert queue.waiting == 0


async def test_a_failing_text_fails_its_own_call_only() -> None:
    """Of calls that shared a failed run, those without the bad text are served."""
    gate = threading.Event()

    def model(texts: list[str]) -> np.ndarray:
        gate.wait(60)
        if "bad" in texts:
            raise ValueError("bad text")
        return measure(texts)

    async with queue_of(model, batch=16) as queue:
        blocker = await started(queue, ["x"])
        calls = [await started(queue, texts) for texts in (["a"] * 3, ["b", "bad", "b"], ["c"] * 3)]
        gate.set()
        results = await asyncio.gather(blocker, *calls, return_exceptions=True)
    assert isinstance(results[2], ValueError)
    assert all(isinstance(results[i], np.ndarray) for i in (0, 1, 3))


@pytest.mark.parametrize(
    "answer",
    [
        np.zeros((1, 4), np.float32),
        np.zeros(3, np.float32),
        np.full((3, 4), np.nan, np.float32),
        np.full((3, 4), np.inf, np.float32),
    ],
)
async def test_a_model_that_answers_nonsense_is_not_believed(answer: np.ndarray) -> None:
    """A wrong count, a wrong shape or a vector that is not finite never leaves the queue."""
    async with queue_of(lambda texts: answer) as queue:
        with pytest.raises(InternalError, match="shape"):
            await queue.embed(["a", "b", "c"])


async def test_half_a_surrogate_pair_is_refused_by_name() -> None:
    """Text that no encoding knows is the caller's fault, and says which text it is."""
    async with queue_of(measure) as queue:
        with pytest.raises(InvalidRequest, match="Text 1 is not valid Unicode"):
            await queue.embed(["fine", "not\ud800fine"])


async def test_closing_fails_what_waits_and_finishes_what_runs() -> None:
    """close() tells waiting calls to go elsewhere, lets the run under way end, and takes nothing more."""
    model = GatedModel()
    async with queue_of(model, batch=4) as queue:
        running = await started(queue, ["a"] * 4)
        await model.running()
        waiting = await started(queue, ["b"] * 4)
        closing = asyncio.create_task(queue.close())
        with pytest.raises(Draining):
            await waiting
        model.let(1)
        await closing
        assert len(await running) == 4
        with pytest.raises(Draining):
            await queue.embed(["late"])
        assert len(model.batches) == 1


# --- Users -------------------------------------------------------------------------------------------


async def of(queue: EmbeddingQueue, user_id: str, texts: list[str]) -> asyncio.Task[np.ndarray]:
    """Return a user's call that has entered the queue, or was refused."""
    task = asyncio.create_task(queue.embed(texts, user_id))
    await asyncio.sleep(0)
    return task


async def flood(queue: EmbeddingQueue, user_id: str, calls: int, texts: int) -> list[asyncio.Task[np.ndarray]]:
    """Let a user send many calls at once; return those that wait."""
    sent = [await of(queue, user_id, [user_id * (i % 5 + 1)] * texts) for i in range(calls)]
    refused = [task for task in sent if task.done()]
    assert all(isinstance(task.exception(), QueueFull) for task in refused)
    return [task for task in sent if not task.done()]


@pytest.mark.parametrize("texts", [1, 2, 3, 50])
async def test_a_flood_leaves_room_to_others(texts: int) -> None:
    """While one user sends a thousand calls, questions or long ones, no call of ten other users is refused."""
    model = GatedModel()
    async with queue_of(model, limit=2000) as queue:
        await of(queue, "z", ["first"])
        await model.running()
        waiting = await flood(queue, "a", 1000, texts)
        assert 0 < len(waiting) < 1000
        for user_id in "bcdefghijk":
            assert len(await flood(queue, user_id, 1, texts)) == 1
            assert not (await of(queue, user_id, ["a question"])).done()


async def test_the_floods_of_several_users_leave_room_to_one_more() -> None:
    """Whatever ten users send, an eleventh is not refused."""
    model = GatedModel()
    async with queue_of(model, limit=2000) as queue:
        await of(queue, "z", ["first"])
        await model.running()
        for user_id in "abcdefghij":
            assert await flood(queue, user_id, 200, 4)
        assert len(await flood(queue, "k", 1, 4)) == 1


async def test_a_full_lane_of_long_calls_leaves_room_to_questions() -> None:
    """Questions have a bound of their own: not even a call as long as the limit refuses them."""
    model = GatedModel()
    async with queue_of(model, limit=100) as queue:
        await of(queue, "z", ["first"])
        await model.running()
        await of(queue, "a", ["chunk"] * 100)
        assert isinstance((await of(queue, "b", ["chunk"] * 3)).exception(), QueueFull)
        questions = [await of(queue, user_id, ["question"]) for user_id in "abc"]
        model.let(100)
        assert [len(await question) for question in questions] == [1, 1, 1]


@pytest.mark.parametrize("texts", [1, 40])
async def test_users_take_turns(texts: int) -> None:
    """Behind a hundred calls of one user, another's texts are in every second run, with questions as with chunks."""
    model = GatedModel()
    async with queue_of(model, batch=4, limit=10_000) as queue:
        await of(queue, "z", ["first"])
        await model.running()
        flooding = await flood(queue, "a", 100, texts)
        other = await of(queue, "b", ["b"] * texts)
        model.let(1000)
        assert np.array_equal(await other, measure(["b"] * texts))
        # At most every second run of those until then had none of them.
        assert max(at for at, batch in enumerate(model.batches) if "b" in batch) <= 2 * max(texts // 4, 1)
        for task in flooding:
            task.cancel()


async def test_what_a_caller_that_left_had_waiting_costs_no_run() -> None:
    """A slow model serves the next user one run after a flood has left, and embeds none of the flood's texts."""
    runs: list[list[str]] = []
    begun = threading.Event()

    def slow(texts: list[str]) -> np.ndarray:
        runs.append(texts)
        begun.set()
        time.sleep(0.05)
        return measure(texts)

    async with queue_of(slow, batch=4, limit=10_000) as queue:
        flooding = await flood(queue, "a", 200, 20)
        await asyncio.to_thread(begun.wait, 60)
        for task in flooding:
            task.cancel()
        await asyncio.gather(*flooding, return_exceptions=True)
        before = len(runs)
        assert queue.waiting == 0
        assert len(await queue.embed(["b"] * 4, "b")) == 4
        assert len(runs) <= before + 2 and runs[-1] == ["b"] * 4


async def test_a_lane_forgets_users_that_have_nothing_waiting() -> None:
    """Users come and go: what is kept of them goes with their last text, served or withdrawn."""
    async with queue_of(measure) as queue:
        await asyncio.gather(*(queue.embed(["x"] * (n % 4 + 1), f"user-{n}") for n in range(200)))
        left = [await of(queue, f"user-{n}", ["x"] * 3) for n in range(20)]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for lane in (queue._small, queue._large):
            assert (lane._users, lane._texts, lane.waiting) == ({}, {}, 0)


async def test_one_call_keeps_all_workers_busy() -> None:
    """A call of several batches is run by as many threads as there are, though it woke only one."""
    model = GatedModel()
    async with queue_of(model, batch=4, workers=3) as queue:
        call = await started(queue, ["a"] * 12)
        for _ in range(3):
            await model.running()
        model.let(3)
        assert len(await call) == 12 and [len(batch) for batch in model.batches] == [4, 4, 4]


async def test_few_texts_are_shared_out_among_workers() -> None:
    """Where runs have one thread each: three threads take two of six texts each, and not one of them four."""
    model = GatedModel()
    queue = EmbeddingQueue(model, batch=4, limit=100, workers=3, spreads=True)
    queue.start()
    call = await started(queue, ["a"] * 6)
    for _ in range(3):
        await model.running()
    model.let(1000)
    assert len(await call) == 6 and sum(len(batch) for batch in model.batches) == 6
    assert max(len(batch) for batch in model.batches) == 2
    await queue.close()
