"""What a served instance tells of itself: figures, log lines and traces, over shards as processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.collector import Collector, Span
from tests.support.service import Service

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Service]:
    env = {
        "VECTORPOOL_LOG_KEY": "a key of this test",
        "VECTORPOOL_SYNC_ON_WRITE": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url.removesuffix("/v1/traces"),
    }
    served = Service(
        tmp_path_factory.mktemp("service"),
        "--shards",
        "2",
        "--metrics-port",
        "0",
        "--slow-request-s",
        "0.000001",
        env=env,
    ).start()
    yield served
    served.close()


def metrics_url(service: Service) -> str:
    found = re.search(r"metrics +(http\S+)", "".join(service.output))
    assert found is not None
    return found[1]


def scrape(service: Service) -> Samples:
    """Return every sample of a scrape that is not older than this call."""
    time.sleep(1.05)  # the text is kept for a second
    answer = httpx.get(metrics_url(service), timeout=30)
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(samples: Samples, name: str, **labels: str) -> float:
    """Return the sum of a name's samples that have these labels."""
    return sum(
        value for (found, pairs), value in samples.items() if found == name and labels.items() <= dict(pairs).items()
    )


def eventually(holds: Callable[[], Any]) -> Any:
    """Return what ``holds`` returns once it is true."""
    deadline_s = time.monotonic() + 30
    while not (found := holds()):
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.05)
    return found


def lines_of(service: Service, request_id: str) -> list[dict[str, Any]]:
    """Return the log lines of a request."""
    found = [json.loads(line) for line in service.errors.splitlines() if line.startswith("{")]
    return [line for line in found if line.get("id") == request_id]


def fill(service: Service, user: str) -> None:
    service.ok("POST", f"/users/{user}/collections", json={"name": "notes"})
    records = [{"id": f"r{at}", "embedding": [at, 1.0]} for at in range(3)]
    service.ok("POST", f"/users/{user}/collections/notes/records", json={"records": records})


# --- Figures -----------------------------------------------------------------------------------------


def test_figures_of_front_and_shards_are_in_one_scrape(service: Service, user: str) -> None:
    """Requests, parts of the time, commits, calls of the store, pools, processes: each is counted where it happens."""
    before = scrape(service)
    fill(service, user)
    service.ok("POST", f"/users/{user}/collections/notes/query", json={"embeddings": [[1.0, 1.0]]})
    service.ok("GET", f"/api/v2/tenants/{user}/databases/default_database/collections")
    service.request("GET", f"/users/{user}/collections/missing")
    service.ok("POST", f"/admin/users/{user}/evict")
    service.ok("GET", f"/users/{user}/collections/notes/count")
    after = scrape(service)

    def gained(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    route = "/users/{user_id}/collections/{name}/query"
    assert gained("vectorpool_requests_total", route=route, status="200", method="POST", protocol="native") == 1
    assert gained("vectorpool_requests_total", protocol="chroma", status="200") == 1
    assert gained("vectorpool_requests_total", status="404") == 1
    assert gained("vectorpool_request_seconds_count", route=route) == 1
    assert gained("vectorpool_commits_total", outcome="committed") == 2
    assert gained("vectorpool_commit_bytes_total") > 0
    assert gained("vectorpool_hydration_seconds_count", tier="empty") == 1
    assert gained("vectorpool_hydration_seconds_count", tier="warm") == 1
    assert gained("vectorpool_evictions_total", reason="asked") == 1
    for part in ("queue", "hydrate", "freshness", "engine", "commit", "store"):
        assert gained("vectorpool_request_part_seconds_count", part=part) >= 1, part
    assert gained("vectorpool_store_requests_total", operation="create", outcome="ok") >= 2
    assert gained("vectorpool_store_requests_total", operation="head", outcome="missing") >= 1
    assert gained("vectorpool_store_sent_bytes_total", operation="create") > 0
    assert gained("vectorpool_slow_requests_total") >= 5
    assert total(after, "vectorpool_pool_slots", state="ready") >= 1
    for process in ("front", "shard-0", "shard-1"):
        assert total(after, "vectorpool_process_memory_bytes", process=process) > 10_000_000
        assert total(after, "vectorpool_process_descriptors", process=process) > 3
    assert total(after, "vectorpool_shard_up") == 2 and total(after, "vectorpool_ready") == 1
    assert total(after, "vectorpool_shard_silent") == 0


def test_no_id_is_in_a_scrape(service: Service) -> None:
    """Neither users nor what callers invent become labels, on either port."""
    user = "user-that-must-not-appear"
    fill(service, user)
    service.request("GET", f"/users/{user}/../{user}%0A")
    service.request("GET", f"/no/such/{user}")
    service.request("PROPFIND", f"/{user}")
    time.sleep(1.05)
    for text in (httpx.get(metrics_url(service), timeout=30).text, service.ok("GET", "/metrics").text):
        assert user not in text and "PROPFIND" not in text and "no/such" not in text
        assert 'route="(no route)"' in text


def test_the_port_of_the_figures_has_nothing_else(service: Service) -> None:
    """Other paths and methods are refused there, and OpenMetrics is given to those who accept it."""
    root = metrics_url(service).removesuffix("/metrics")
    for path in ("/users", "/admin/pool", "/", "/health/live", "/schema", "/metrics/"):
        assert httpx.get(root + path).status_code == 404, path
    assert httpx.post(root + "/metrics").status_code == 405
    answer = httpx.get(root + "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_stuck_scraper_disturbs_nobody(service: Service, user: str) -> None:
    """Scrapers that never read hold a bounded number of connections; callers are answered, and further ones refused."""
    fill(service, user)
    host, port = httpx.URL(metrics_url(service)).host, httpx.URL(metrics_url(service)).port
    stuck = []
    try:
        for _ in range(40):
            try:
                scraper = socket.create_connection((host, port), timeout=5)
                scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                scraper.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 8)
                stuck.append(scraper)
            except OSError:
                continue
        for _ in range(20):
            service.ok("GET", f"/users/{user}/collections/notes/count")
        assert service.ok("GET", "/metrics").status_code == 200
    finally:
        for scraper in stuck:
            scraper.close()
    answer = eventually(lambda: _answered(metrics_url(service)))
    assert answer.status_code == 200


def _answered(url: str) -> httpx.Response | None:
    try:
        answer = httpx.get(url, timeout=5)
    except httpx.HTTPError:
        return None
    return answer if answer.status_code == 200 else None


def test_counters_do_not_go_back_when_a_shard_is_killed(service: Service, user: str) -> None:
    """What the dead process had counted stays counted, its death is counted, and the next one adds to it."""
    fill(service, user)
    before = scrape(service)
    name = "vectorpool_commits_total"
    assert total(before, name) > 0
    for child in _shards(service.pid):
        os.kill(child, signal.SIGKILL)
    eventually(lambda: service.request("GET", "/health/ready").status_code == 200 and len(_shards(service.pid)) == 2)
    after = eventually(lambda: _if_up(scrape(service)))
    for (found, labels), value in before.items():
        if found.endswith(("_total", "_count", "_bucket")):
            assert after.get((found, labels), 0.0) >= value, (found, labels)
    assert total(after, "vectorpool_shard_deaths_total") == total(before, "vectorpool_shard_deaths_total") + 2
    service.ok("POST", f"/users/{user}/collections", json={"name": "more"})
    assert total(scrape(service), name) == total(before, name) + 1


def _if_up(samples: Samples) -> Samples | None:
    return samples if total(samples, "vectorpool_shard_up") == 2 else None


def _shards(pid: int) -> list[int]:
    """Return the process ids of the shards; the front has other processes too."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"vectorpool.shard.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


# --- Log lines ---------------------------------------------------------------------------------------


def test_a_request_has_one_line_that_its_answer_leads_to(service: Service, user: str) -> None:
    """The id in the answer finds the line; it has the user's mark, commit, shard and parts of the time."""
    fill(service, user)
    answer = service.ok("POST", f"/users/{user}/collections/notes/query", json={"embeddings": [[1.0, 1.0]]})
    (line,) = eventually(lambda: lines_of(service, answer.headers["x-request-id"]))
    assert line["event"] == "slow request" and line["level"] == "warning"
    assert (line["method"], line["route"]) == ("POST", "/users/{user_id}/collections/{name}/query")
    assert (line["status"], line["commit"]) == (200, int(answer.headers["x-vectorpool-commit"]))
    assert line["shard"] in ("0", "1") and re.fullmatch("[0-9a-f]{12}", line["user"])
    assert line["parts"]["engine"] > 0 and line["parts"]["freshness"] > 0
    assert sum(line["parts"][part] for part in ("engine", "freshness")) <= line["ms"]


@pytest.mark.parametrize(
    "path", ["/users/{user}/collections/nope", "/api/v2/tenants/{user}/databases/avatar-1/collections/x"]
)
def test_an_error_carries_the_id_of_its_line(path: str, service: Service, user: str) -> None:
    """On both protocols a refused caller can report an id, its own if it sent one, and the line has the same."""
    for headers in ({}, {"X-Request-Id": f"report-of-{user}"}):
        answer = service.request("GET", path.format(user=user), headers=headers)
        assert answer.status_code == 404
        shown = answer.headers["x-request-id"]
        assert shown == headers.get("X-Request-Id", shown)
        (line,) = eventually(lambda shown=shown: lines_of(service, shown))
        assert line["status"] == 404


def test_hostile_texts_neither_forge_lines_nor_ids(service: Service, user: str) -> None:
    """Control characters in paths and ids of requests: every line of the log is an object, and ours."""
    hostile = "%0A%7B%22event%22:%22forged%22%7D%1B[2J%E2%80%A8"
    for path in (f"/users/{user}{hostile}/lost", f"/{hostile}", f"/users/{user}/collections/{hostile}"):
        service.request("GET", path)
    for sent in ('x" }', "a b", "é", "x" * 129, ""):
        answer = service.request("GET", "/users", headers={"X-Request-Id": sent.encode("latin-1")})
        assert answer.headers["x-request-id"] != sent
    answer = service.ok("GET", "/health/live")
    lines = [line for line in service.errors.splitlines() if line]
    assert all(json.loads(line)["event"] != "forged" for line in lines)
    assert user not in service.errors


# --- Traces ------------------------------------------------------------------------------------------

PARENT = "00-{trace}-00f067aa0ba902b7-01"


def traced(service: Service, collector: Collector, trace: str, method: str, path: str, **arguments: Any) -> list[Span]:
    """Send a request as a part of a trace, and return the trace's spans once its root has arrived."""
    service.ok(method, path, headers={"traceparent": PARENT.format(trace=trace)}, **arguments)
    eventually(
        lambda: [span for span in collector.spans if span.trace_id == trace and span.parent_id == "00f067aa0ba902b7"]
    )
    return collector.trace(trace)


def test_a_trace_goes_from_the_request_through_the_shard_to_the_store(
    service: Service, collector: Collector, user: str
) -> None:
    """A write and a read are spans below the caller's; the shard, the parts and the calls of the store below them."""
    fill(service, user)
    records = {"records": [{"id": "r9", "embedding": [9.0, 1.0]}]}
    path = f"/users/{user}/collections/notes/records"
    spans = traced(service, collector, "4bf92f3577b34da6a3ce929d0e0e4736", "POST", path, json=records)
    by_id = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if span.parent_id == "00f067aa0ba902b7"]
    assert root.name == "POST /users/{user_id}/collections/{name}/records"
    assert root.attributes["http.response.status_code"] == 201 and root.attributes["vectorpool.commit"] >= 3
    assert root.resource["service.name"] == "vectorpool" and not root.failed
    (stored,) = [span for span in spans if span.name == "store create"]
    above = [stored]
    while above[-1].parent_id in by_id:
        above.append(by_id[above[-1].parent_id])
    assert [span.name for span in above] == ["store create", "commit", "shard", root.name]
    for inner, outer in itertools.pairwise(above):
        assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns + 1_000_000
    assert {"queue", "engine"} <= {span.name for span in spans}
    assert not any(user in str(span.attributes) or user in span.name for span in spans)
    path = f"/users/{user}/collections/notes/query"
    spans = traced(
        service, collector, "5bf92f3577b34da6a3ce929d0e0e4736", "POST", path, json={"embeddings": [[1.0, 1.0]]}
    )
    assert {"shard", "freshness", "engine", "store head"} <= {span.name for span in spans}


def test_a_trace_goes_through_the_queue_to_the_worker_and_back(
    service: Service, collector: Collector, user: str
) -> None:
    """A job is a span below the request that asked for it; below it are its stages, and in them service and store."""
    trace = "7bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": PARENT.format(trace=trace)}
    files = {"file": ("secret-name.md", b"# Oranges\n\nThey keep a week.\n")}
    job = service.ok("POST", f"/users/{user}/avatars/7/embed", headers=headers, files=files).json()
    done = service.ok("GET", f"/users/{user}/jobs/{job['job_id']}?wait_s=60").json()
    assert done["state"] == "done", done

    def ways() -> set[str]:
        """Return the names of each span and of those above it."""
        by_id = {span.span_id: span for span in collector.trace(trace)}
        found = set()
        for span in by_id.values():
            names = [span.name]
            while span.parent_id in by_id:
                span = by_id[span.parent_id]
                names.append(span.name)
            found.add("/".join(reversed(names)))
        return found

    job_way = "POST /users/{user_id}/avatars/{avatar_id}/embed/job ingest"
    command = "POST /users/{user_id}/avatars/{avatar_id}/commands"
    stages = ("queue", "prepare/store get", "prepare/extract", "prepare/cut", "prepare/embed", "commit/store head")
    wanted = {job_way, f"{job_way}/commit/IngestDocument/{command}/shard/commit/store create"}
    wanted |= {f"{job_way}/{stage}" for stage in stages}
    # Front and worker send their spans when they like.
    eventually(lambda: wanted <= ways())
    spans = collector.trace(trace)
    (run,) = [span for span in spans if span.name == "job ingest"]
    assert run.attributes == {"vectorpool.job_id": job["job_id"], "vectorpool.job_state": "done", "vectorpool.run": 1}
    assert not run.failed and not any(user in f"{each.name}{each.attributes}" for each in spans)
    assert not any("secret-name" in f"{each.name}{each.attributes}" for each in spans)


def test_a_sync_that_a_put_schedules_is_in_its_trace(service: Service, collector: Collector, user: str) -> None:
    """The request is answered before its sync is asked for, and the sync belongs to its trace all the same."""
    trace = "8bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": PARENT.format(trace=trace)}
    service.ok("PUT", f"/users/{user}/avatars/7/documents/a.md", headers=headers, content=b"# Pears\n")
    put = "PUT /users/{user_id}/avatars/{avatar_id}/documents/{path}"
    eventually(lambda: {put, "job sync"} <= {span.name for span in collector.trace(trace)})
    spans = {span.name: span for span in collector.trace(trace)}
    assert spans["job sync"].parent_id == spans[put].span_id
    assert spans[put].end_ns <= spans["job sync"].end_ns


def test_a_hostile_traceparent_is_passed_over(service: Service, collector: Collector, user: str) -> None:
    """A header that names no span is as if none was sent; one that says that its sender does not trace is respected."""
    fill(service, user)
    path = f"/users/{user}/collections/notes/count"
    refused = [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        "x" * 55,
        "0" * 8000,
        "",
    ]
    for number, sent in enumerate(refused):
        service.ok("GET", path, headers={"traceparent": sent, "X-Request-Id": f"hostile-{user}-{number}"})
    silent = f"silent-{user}"
    service.ok("GET", path, headers={"traceparent": PARENT.format(trace="6" * 32)[:-2] + "00", "X-Request-Id": silent})
    service.ok("GET", path, headers={"X-Request-Id": f"last-{user}"})
    eventually(lambda: _of_request(collector, f"last-{user}"))
    assert _of_request(collector, silent) is None
    for number, sent in enumerate(refused):
        root = eventually(lambda number=number: _of_request(collector, f"hostile-{user}-{number}"))
        assert root.parent_id == "", sent


def _of_request(collector: Collector, request_id: str) -> Span | None:
    return next((s for s in collector.spans if s.attributes.get("vectorpool.request_id") == request_id), None)


def test_a_collector_that_hangs_delays_nobody(tmp_path: Path) -> None:
    """Requests are answered while it hangs, and the instance drains and ends without it."""
    with Collector() as hanging:
        hanging.hang.set()
        service = Service(tmp_path, "--shards", "1", env={"VECTORPOOL_TRACES_ENDPOINT": hanging.url}).start()
        try:
            fill(service, "42")
            assert hanging.asked.wait(30)
            for _ in range(20):
                service.ok("GET", "/users/42/collections/notes/count")
            # Longer than the drain, the end of the collector's time and a busy machine.
            assert service.stop() == 0
            assert "Traceback" not in service.errors
        finally:
            service.close()
