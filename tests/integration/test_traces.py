"""The exporter of traces against a collector that takes, refuses, hangs or is away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.collector import Collector
from vectorpool.embedding.queue import EmbeddingQueue
from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM
from vectorpool.telemetry.families import TRACES_DROPPED
from vectorpool.telemetry.figures import Figures
from vectorpool.telemetry.parts import Step
from vectorpool.telemetry.spans import CURRENT, stage, working_below
from vectorpool.traces import CLOSE_S, MAX_QUEUED, MOST_BELOW, OtlpTracer, open_tracer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def tracer_for(url: str, figures: Figures | None = None, *, ratio: float = 1.0) -> OtlpTracer:
    """Return a tracer that sends to a URL."""
    settings = Settings(traces_endpoint=url, traces_ratio=ratio)
    found = open_tracer(settings, Figures() if figures is None else figures)
    assert found is not None
    return found


async def eventually(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_job_is_part_of_the_trace_of_its_request() -> None:
    """A job that kept the request's traceparent begins its span below it, and its steps are spans of the same trace."""
    with Collector() as collector:
        tracer = tracer_for(collector.url)
        now_s = SYSTEM.monotonic_s()
        request = tracer.start(now_s, PARENT)
        assert request is not None and request.traceparent.startswith(f"00-{TRACE}-")
        job = tracer.start(now_s, request.traceparent, kind="job")
        assert job is not None
        failed = Step("store get", now_s, 0.001, "unavailable")
        job.end("job ingest", now_s + 0.01, {}, [Step("commit", now_s, 0.005), failed], is_error=True)
        request.end("POST /users/{user_id}/ingest", now_s + 0.02, {"http.response.status_code": 202})
        await tracer.close()
        spans = {span.name: span for span in collector.trace(TRACE, at_least=5)}
        assert spans["job ingest"].parent_id == spans["POST /users/{user_id}/ingest"].span_id
        assert spans["shard"].parent_id == spans["job ingest"].span_id
        assert spans["store get"].parent_id == spans["commit"].span_id
        assert spans["store get"].failed and spans["job ingest"].failed and not spans["commit"].failed
        assert abs(spans["job ingest"].start_ns - SYSTEM.now_ms() * 1_000_000) < 60e9


async def test_a_job_of_many_documents_makes_a_bounded_number_of_spans() -> None:
    """Beyond the bound its stages are no spans, and what is called inside them is told that nobody traces it."""
    with Collector() as collector:
        tracer = tracer_for(collector.url)
        job = tracer.start(SYSTEM.monotonic_s(), PARENT, kind="job")
        assert job is not None
        told = []
        with working_below(job):
            for _ in range(MOST_BELOW):
                with stage("prepare"), stage("embed"):
                    told.append(CURRENT.get())
        assert CURRENT.get() == ""
        job.end("job sync", SYSTEM.monotonic_s(), {})
        await tracer.close()
        spans = collector.trace(TRACE, at_least=MOST_BELOW + 1)
    assert len(spans) == MOST_BELOW + 1
    flags = [each[-2:] for each in told]
    assert flags == ["01"] * (MOST_BELOW // 2) + ["00"] * (MOST_BELOW // 2)
    assert {each[:35] for each in told} == {f"00-{TRACE}"}


async def test_a_stage_that_fails_says_so_and_without_a_trace_is_nothing() -> None:
    """An error passes through, its stage and those around it are marked; without a span there is no stage."""
    with Collector() as collector:
        tracer = tracer_for(collector.url)
        job = tracer.start(SYSTEM.monotonic_s(), PARENT, kind="job")
        assert job is not None
        with working_below(job), pytest.raises(RuntimeError), stage("commit"), stage("IngestDocument", kind="client"):
            raise RuntimeError
        job.end("job sync", SYSTEM.monotonic_s(), {})
        await tracer.close()
        spans = {span.name: span for span in collector.trace(TRACE, at_least=3)}
    assert spans["IngestDocument"].failed and spans["commit"].failed and not spans["job sync"].failed
    assert spans["IngestDocument"].parent_id == spans["commit"].span_id
    with stage("commit"):
        assert CURRENT.get() == ""


async def test_a_collector_that_hangs_costs_spans_and_no_time() -> None:
    """The queue is bounded, what exceeds it is dropped and counted, and the end does not wait for the collector."""
    figures = Figures()
    with Collector() as collector:
        collector.hang.set()
        tracer = tracer_for(collector.url, figures)
        for _ in range(MAX_QUEUED + 500):
            span = tracer.start(0.0)
            assert span is not None
            span.end("GET /", 0.001, {})
        assert figures.counter(TRACES_DROPPED).value == 500
        began_s = time.monotonic()
        await tracer.close()
        assert time.monotonic() - began_s < CLOSE_S + 10


@pytest.mark.parametrize("url", ["refusing", "http://127.0.0.1:9/v1/traces"])
async def test_spans_that_are_not_taken_are_counted(url: str) -> None:
    """A collector that refuses, and one that is away, cost the spans, each of which is counted."""
    figures = Figures()
    with Collector() as collector:
        collector.status = 400
        tracer = tracer_for(collector.url if url == "refusing" else url, figures)
        for _ in range(10):
            span = tracer.start(0.0)
            assert span is not None
            span.end("GET /", 0.001, {})
        await eventually(lambda: figures.counter(TRACES_DROPPED).value == 10)
        await tracer.close()


async def test_the_ratio_holds_whatever_callers_ask_for() -> None:
    """If all callers trace, the part is that of the setting; a caller that does not trace is respected."""
    with Collector() as collector:
        tracer = tracer_for(collector.url, ratio=0.25)
        asked = [f"00-{number * 0x9E3779B97F4A7C15 % 2**128:032x}-00f067aa0ba902b7-01" for number in range(1, 2001)]
        taken = sum(tracer.start(0.0, parent) is not None for parent in asked)
        assert 300 < taken < 700
        assert tracer.start(0.0, PARENT[:-2] + "00") is None
        anew = sum(tracer.start(0.0) is not None for _ in range(2000))
        assert 300 < anew < 700
        await tracer.close()


async def test_traces_are_off_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint, at a ratio of 0 and if OpenTelemetry is disabled there is no tracer; a wrong one is told."""
    assert open_tracer(Settings(), Figures()) is None
    assert open_tracer(Settings(traces_endpoint="http://x/v1/traces", traces_ratio=0.0), Figures()) is None
    with pytest.raises(Misconfigured, match="http"):
        open_tracer(Settings(traces_endpoint="collector:4317"), Figures())
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert open_tracer(Settings(traces_endpoint="http://x/v1/traces"), Figures()) is None


def test_a_worker_without_traces_loads_nothing_of_them() -> None:
    """The worker's process imports OpenTelemetry only if traces are on."""
    code = (
        "import sys, vectorpool.jobs.process as process; from vectorpool.settings import Settings; "
        "assert process.open_tracer(Settings(), process.Figures()) is None; "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_embedding_endpoint_is_told_the_span() -> None:
    """A model that asks in its thread gets the span of the request whose texts it embeds."""
    seen = []

    def model(texts: list[str]) -> Any:
        seen.append(queue.traceparent())
        return np.ones((len(texts), 2), dtype=np.float32)

    queue = EmbeddingQueue(model, batch=4, limit=100)
    queue.start()
    await queue.embed(["a"])
    token = CURRENT.set(PARENT)
    await queue.embed(["b"])
    CURRENT.reset(token)
    await queue.close()
    assert seen == ["", PARENT]
