"""Figures as text for Prometheus, and in OpenMetrics for those who ask for it. The only importer of prometheus_client.

The library is imported at the first call, because a start should not pay for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import msgspec

from vectorpool.telemetry.families import FAMILIES, Family
from vectorpool.telemetry.figures import Sample
from vectorpool.telemetry.ledger import merged

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

OPEN_METRICS: Final = "application/openmetrics-text"
_MOST_ACCEPT_BYTES: Final = 1024


class Exposition(msgspec.Struct, frozen=True):
    """A scrape's answer: the text, and the media type that says its format."""

    body: bytes
    media_type: str


def wants_open_metrics(accept: str | None) -> bool:
    """Return whether the header ``Accept`` of a scraper names OpenMetrics. One that is too long is not read."""
    return accept is not None and len(accept) <= _MOST_ACCEPT_BYTES and OPEN_METRICS in accept.lower()


def expose(samples: Iterable[Sample], *, open_metrics: bool = False) -> Exposition:
    """Return samples as text. Samples of the same figure are added up. Blocking: some milliseconds."""
    core = importlib.import_module("prometheus_client.metrics_core")
    by_family: dict[str, list[Sample]] = {}
    for sample in merged(samples):
        by_family.setdefault(sample.family, []).append(sample)
    metrics = [_metric(core, FAMILIES[name], found) for name, found in sorted(by_family.items())]
    name = "prometheus_client.openmetrics.exposition" if open_metrics else "prometheus_client.exposition"
    library = importlib.import_module(name)
    collector: Collector = _Made(metrics)
    media_type = library.CONTENT_TYPE_LATEST if open_metrics else "text/plain; version=0.0.4"
    return Exposition(library.generate_latest(collector), media_type)


class _Made:
    """What the library asks for metrics: those that are there already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """Return the metrics."""
        return self._metrics


def _metric(core: object, family: Family, samples: list[Sample]) -> Metric:
    kinds = {"counter": "CounterMetricFamily", "gauge": "GaugeMetricFamily", "histogram": "HistogramMetricFamily"}
    metric: Metric = getattr(core, kinds[family.kind])(family.name, family.text, labels=family.labels)
    bounds = [f"{bound:g}" for bound in family.buckets] + ["+Inf"]
    for sample in sorted(samples, key=lambda sample: sample.labels):
        if family.kind == "histogram":
            buckets = list(zip(bounds, accumulate(sample.counts), strict=True))
            metric.add_metric(sample.labels, buckets=buckets, sum_value=sample.value)  # type: ignore[attr-defined]
        else:
            metric.add_metric(sample.labels, sample.value)  # type: ignore[attr-defined]
    return metric
