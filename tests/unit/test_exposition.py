"""Figures as text: what a scraper reads is what was counted."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from vectorpool.exposition import expose, wants_open_metrics
from vectorpool.telemetry import families
from vectorpool.telemetry.figures import Figures, Sample


def _figures() -> Figures:
    figures = Figures()
    figures.counter(families.REQUESTS, "/users/{user_id}", "GET", "200", "native").add(3)
    for value in (0.00005, 0.004, 99.0):
        figures.histogram(families.REQUEST_TIME, "/users/{user_id}", "native").observe(value)
    figures.add_source(lambda: [Sample(families.OPEN_SLOTS.name, ("0",), 7)])
    return figures


@pytest.mark.parametrize("open_metrics", [False, True])
def test_the_text_reads_back(open_metrics: bool) -> None:
    """Both formats are read by the library's own parsers, with every name, label and value."""
    shown = expose(_figures().samples(), open_metrics=open_metrics)
    parse = parse_open_metrics if open_metrics else parse_text
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in parse(shown.body.decode())
        for sample in metric.samples
    }
    route = ("route", "/users/{user_id}")
    protocol = ("protocol", "native")
    count = ("vectorpool_requests_total", tuple(sorted([("method", "GET"), protocol, route, ("status", "200")])))
    assert samples[count] == 3
    assert samples["vectorpool_pool_open_slots", (("shard", "0"),)] == 7
    buckets = {
        math.inf if labels["le"] == "+Inf" else float(labels["le"]): value
        for (name, pairs), value in samples.items()
        if name == "vectorpool_request_seconds_bucket" and (labels := dict(pairs))
    }
    assert buckets[0.0001] == 1 and buckets[0.0025] == 1 and buckets[0.005] == 2 and buckets[30.0] == 2
    assert buckets[math.inf] == 3 and samples["vectorpool_request_seconds_count", (protocol, route)] == 3
    assert samples["vectorpool_request_seconds_sum", (protocol, route)] == pytest.approx(99.00405)


def test_a_label_cannot_forge_a_line() -> None:
    """Quotes, line ends and backslashes in a label's value are escaped."""
    hostile = 'a"} 1\nvectorpool_ready 0\n# \\'
    shown = expose([Sample(families.HYDRATE_FAILURES.name, (hostile,), 1)]).body.decode()
    assert [line for line in shown.splitlines() if not line.startswith("#")] == [
        'vectorpool_hydration_failures_total{code="a\\"} 1\\nvectorpool_ready 0\\n# \\\\"} 1.0'
    ]


def test_samples_of_one_figure_are_added() -> None:
    """Front and shards count calls of the store; the scrape shows their sum, once."""
    sample = Sample(families.STORE_REQUESTS.name, ("get", "ok"), 2)
    lines = [line for line in expose([sample, sample]).body.decode().splitlines() if not line.startswith("#")]
    assert lines == ['vectorpool_store_requests_total{operation="get",outcome="ok"} 4.0']


def test_the_format_is_chosen_by_the_scraper() -> None:
    """OpenMetrics for those who ask for it; a header of any other kind, or too long, gets the plain text."""
    assert wants_open_metrics("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert not wants_open_metrics(None) and not wants_open_metrics("*/*")
    assert not wants_open_metrics("x" * 2000 + "application/openmetrics-text")
