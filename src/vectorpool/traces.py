"""Traces by OpenTelemetry, sent by OTLP over HTTP. The only importer of the library, and only if traces are on.

A thread sends the spans in batches. They wait in a queue of bounded length; what exceeds it, and what a collector that
is away does not take in time, is dropped and counted. No request waits for a collector.

Which requests are traced is decided here: a caller may ask for no trace, and may name the trace that its request
belongs to, but cannot have more requests traced than ``traces_ratio``.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

from vectorpool.environment import can_send_traces
from vectorpool.errors import Misconfigured
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.families import TRACES_DROPPED
from vectorpool.telemetry.figures import Figures, SharedCounter
from vectorpool.telemetry.parts import Step
from vectorpool.telemetry.spans import Attributes, parse_traceparent, traceparent_of
from vectorpool.version import __version__

MAX_QUEUED: Final = 2048
# For one request to the collector, its repetitions included.
_EXPORT_S: Final = 5.0
# At the end, for what is still queued.
CLOSE_S: Final = 2.0
_BATCH: Final = 256
_DELAY_MS: Final = 1000
_TRACE_IDS: Final = 1 << 64
# Below one span: a job has stages for each of its documents, and they may be many.
MOST_BELOW: Final = 512


def open_tracer(settings: Settings, figures: Figures, sources: Sources = SYSTEM) -> OtlpTracer | None:
    """Return the tracer that the settings ask for, or None. Raises Misconfigured."""
    endpoint = settings.traces_endpoint
    if not endpoint or not settings.traces_ratio or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise Misconfigured(
            "traces_endpoint does not begin with http:// or https://. Set it to the collector's URL of OTLP, "
            "such as http://collector:4318/v1/traces."
        )
    if not can_send_traces():
        raise Misconfigured(
            "Traces need the exporter, which is not installed. Run `pip install 'vectorpool[traces]'`, or leave "
            "VECTORPOOL_TRACES_ENDPOINT out."
        )
    return OtlpTracer(endpoint, settings.traces_ratio, figures, sources)


class OtlpTracer:
    """Begins spans and sends them to ``endpoint``. See ``telemetry.spans`` for what the methods promise."""

    def __init__(self, endpoint: str, ratio: float, figures: Figures, sources: Sources) -> None:
        self._ratio = ratio
        self._sources = sources
        self._dropped = figures.counter(TRACES_DROPPED, kind=SharedCounter)
        self._lock = threading.Lock()
        self._queued = 0
        self._api = importlib.import_module("opentelemetry.trace")
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        http = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resource = importlib.import_module("opentelemetry.sdk.resources").Resource.create(
            {"service.version": __version__}
            | ({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "vectorpool"})
        )
        exporter = http.OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_S)
        self._processor = export.BatchSpanProcessor(
            _Counting(exporter, export.SpanExportResult, self),
            max_queue_size=MAX_QUEUED,
            schedule_delay_millis=_DELAY_MS,
            max_export_batch_size=_BATCH,
        )
        # Whether a span is made at all is decided in ``start``.
        sampler = importlib.import_module("opentelemetry.sdk.trace.sampling").ALWAYS_ON
        self._provider = sdk.TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("vectorpool", __version__)

    def start(self, start_s: float, traceparent: str = "", *, kind: str = "server") -> OtlpSpan | None:
        """Begin a span, if it is one of the traced ones."""
        parent = parse_traceparent(traceparent)
        if parent is None:
            if self._sources.random() >= self._ratio:
                return None
        elif not parent.is_sampled or parent.trace_id % _TRACE_IDS >= self._ratio * _TRACE_IDS:
            return None
        context = None
        if parent is not None:
            remote = self._api.SpanContext(
                parent.trace_id, parent.span_id, is_remote=True, trace_flags=_sampled(self._api)
            )
            context = self._api.set_span_in_context(self._api.NonRecordingSpan(remote))
        # What measures time here has another zero than what tells it.
        zero_ns = self._sources.now_ms() * 1_000_000 - int(self._sources.monotonic_s() * 1e9)
        span = self._tracer.start_span(
            kind, context=context, kind=self._kind(kind), start_time=zero_ns + int(start_s * 1e9)
        )
        return OtlpSpan(self, span, zero_ns, _Room(MOST_BELOW))

    def _kind(self, kind: str) -> Any:
        kinds = self._api.SpanKind
        return {"server": kinds.SERVER, "job": kinds.CONSUMER, "client": kinds.CLIENT}.get(kind, kinds.INTERNAL)

    def child(self, name: str, of: Any, start_ns: int, attributes: Attributes, kind: str = "internal") -> Any:
        """Begin a span below another one."""
        context = self._api.set_span_in_context(of)
        return self._tracer.start_span(
            name, context=context, kind=self._kind(kind), start_time=start_ns, attributes=dict(attributes)
        )

    def now_s(self) -> float:
        """Return the monotonic seconds of the tracer's clock."""
        return self._sources.monotonic_s()

    def finish(self, span: Any, end_ns: int) -> None:
        """End a span; drop it if too many wait for the collector."""
        with self._lock:
            if self._queued >= MAX_QUEUED:
                has_room = False
            else:
                has_room, self._queued = True, self._queued + 1
        if has_room:
            span.end(end_ns)
        else:
            self._dropped.add()

    def fail(self, span: Any) -> None:
        """Mark a span as one that failed."""
        span.set_status(self._api.Status(self._api.StatusCode.ERROR))

    def sent(self, spans: int, *, taken: bool) -> None:
        """Note that spans left the queue; any thread may call."""
        with self._lock:
            self._queued -= spans
        if not taken:
            self._dropped.add(spans)

    async def close(self) -> None:
        """Send what is queued, within ``CLOSE_S`` seconds; a collector that hangs does not keep the process."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        # A thread that ends with the process, unlike those of the event loop.
        threading.Thread(target=shut_down, name="end of traces", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_S):
                await done.wait()
        except TimeoutError:
            return


def _sampled(api: Any) -> Any:
    return api.TraceFlags(api.TraceFlags.SAMPLED)


class _Room:
    """How many spans there may still be below the topmost span of a process."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class OtlpSpan:
    """A span of a request, a job or a stage of one; its steps become spans when it ends."""

    def __init__(self, tracer: OtlpTracer, span: Any, zero_ns: int, room: _Room) -> None:
        self._tracer = tracer
        self._span = span
        self._zero_ns = zero_ns
        self._room = room

    @property
    def traceparent(self) -> str:
        """Its name in W3C's form."""
        context = self._span.get_span_context()
        return traceparent_of(context.trace_id, context.span_id)

    def end(
        self, name: str, end_s: float, attributes: Attributes, steps: Iterable[Step] = (), *, is_error: bool = False
    ) -> None:
        """End it. Below it come the shard, the parts of its time there, and in each the calls of the store."""
        self._span.update_name(name)
        self._span.set_attributes(dict(attributes))
        if is_error:
            self._tracer.fail(self._span)
        steps = sorted(steps, key=lambda step: (step.start_s, -step.seconds))
        if steps:
            self._add_steps(steps)
        self._tracer.finish(self._span, self._ns(end_s))

    def below(self, name: str, *, kind: str = "internal") -> OtlpSpan | None:
        """Begin a span below it, if there is room for one."""
        if not self._room.left:
            return None
        self._room.left -= 1
        span = self._tracer.child(name, self._span, self._ns(self._tracer.now_s()), {}, kind)
        return OtlpSpan(self._tracer, span, self._zero_ns, self._room)

    def close(self, *, is_error: bool = False) -> None:
        """End it now."""
        if is_error:
            self._tracer.fail(self._span)
        self._tracer.finish(self._span, self._ns(self._tracer.now_s()))

    def _add_steps(self, steps: Sequence[Step]) -> None:
        first_s, last_s = steps[0].start_s, max(step.start_s + step.seconds for step in steps)
        shard = self._tracer.child("shard", self._span, self._ns(first_s), {})
        # The spans that may hold the next step, each with its end: an outer one begins no later, and ends no earlier.
        open_spans = [(shard, last_s)]
        for step in steps:
            end_s = step.start_s + step.seconds
            while len(open_spans) > 1 and open_spans[-1][1] < end_s:
                self._tracer.finish(open_spans[-1][0], self._ns(open_spans.pop()[1]))
            attributes = {"outcome": step.outcome} if step.outcome else {}
            span = self._tracer.child(step.name, open_spans[-1][0], self._ns(step.start_s), attributes)
            if step.outcome in ("denied", "unavailable", "failed"):
                self._tracer.fail(span)
            open_spans.append((span, end_s))
        for span, end_s in reversed(open_spans):
            self._tracer.finish(span, self._ns(end_s))

    def _ns(self, time_s: float) -> int:
        return self._zero_ns + int(time_s * 1e9)


class _Counting:
    """An exporter that tells the tracer what became of the spans."""

    def __init__(self, inner: Any, results: Any, tracer: OtlpTracer) -> None:
        self._inner = inner
        self._results = results
        self._tracer = tracer

    def export(self, spans: Sequence[Any]) -> Any:
        """Send a batch; called in the thread of the exporter."""
        taken = False
        try:
            result = self._inner.export(spans)
            taken = result is self._results.SUCCESS
            return result
        finally:
            self._tracer.sent(len(spans), taken=taken)

    def shutdown(self) -> None:
        """End the connections."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits here."""
        return True
