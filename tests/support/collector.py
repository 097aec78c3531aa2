"""A collector of traces: a real server for OTLP over HTTP, which decodes what it gets, or hangs, or refuses."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Span:
    """One span as it arrived."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.trace_id: str = span.trace_id.hex()
        self.span_id: str = span.span_id.hex()
        self.parent_id: str = span.parent_span_id.hex()
        self.start_ns: int = span.start_time_unix_nano
        self.end_ns: int = span.end_time_unix_nano
        self.attributes = _values(span.attributes)
        self.resource = resource
        self.failed = span.status.code == 2


class Collector:
    """A server on a free port. ``hang`` keeps it from answering while it is set; ``status`` is its answer."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.changed = threading.Condition()
        self.hang = threading.Event()
        self.go_on = threading.Event()
        self.asked = threading.Event()
        self.status = 200
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.asked.set()
                if collector.hang.is_set():
                    collector.go_on.wait(60)
                    return
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                if collector.status == 200:
                    collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(collector.status)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def __enter__(self) -> Collector:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def take(self, request: Any) -> None:
        """Keep the spans of a request."""
        with self.changed:
            for of_resource in request.resource_spans:
                resource = _values(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self.spans += [Span(span, resource) for span in of_scope.spans]
            self.changed.notify_all()

    def trace(self, trace_id: str, *, at_least: int = 1, timeout_s: float = 30.0) -> list[Span]:
        """Return the spans of a trace, once there are as many."""
        with self.changed:
            found = self.changed.wait_for(
                lambda: (
                    len(spans) >= at_least and spans
                    if (spans := [span for span in self.spans if span.trace_id == trace_id])
                    else None
                ),
                timeout_s,
            )
        assert found, f"of trace {trace_id} came {[span.name for span in self.spans if span.trace_id == trace_id]}"
        return list(found)


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
