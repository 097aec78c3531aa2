"""The figures of a service as ``vectorpool top`` shows them: two looks at its metrics, and what lies between them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final, TypeAlias

from prometheus_client.parser import text_string_to_metric_families

Labels: TypeAlias = tuple[tuple[str, str], ...]
# The most text of one answer that is taken.
MAX_TEXT: Final = 16 * 1024**2


class Figures:
    """The samples of one look, by name and labels. ``at_s`` is when it was taken."""

    def __init__(self, text: str, at_s: float) -> None:
        self.at_s = at_s
        self._samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text[:MAX_TEXT]):
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                self._samples.setdefault(sample.name, {})[labels] = float(sample.value)

    def samples(self, name: str, **labels: str) -> dict[Labels, float]:
        """Return the samples of a name whose labels have these values."""
        wanted = labels.items()
        return {found: value for found, value in self._samples.get(name, {}).items() if wanted <= dict(found).items()}

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of them; 0 if there are none."""
        return sum(self.samples(name, **labels).values())


class Interval:
    """Two looks. With one alone, rates are those since the service started."""

    def __init__(self, now: Figures, before: Figures | None) -> None:
        self.now = now
        started_s = now.total("vectorpool_start_time_seconds")
        self._before = before
        self.seconds = max(now.at_s - (before.at_s if before is not None else started_s), 0.001)

    def grown(self, name: str, **labels: str) -> float:
        """Return by how much a counter grew, at least 0: a service that was started again counts anew."""
        grown = self.now.total(name, **labels) - (0 if self._before is None else self._before.total(name, **labels))
        return max(grown, 0.0)

    def rate(self, name: str, **labels: str) -> float:
        """Return by how much a counter grew a second."""
        return self.grown(name, **labels) / self.seconds

    def quantile(self, name: str, share: float, /, **labels: str) -> float | None:
        """Return a quantile of a histogram in seconds, within its bucket by a straight line; None without a sample."""
        buckets: dict[float, float] = {}
        for found, value in self.now.samples(f"{name}_bucket", **labels).items():
            upper = float(dict(found)["le"])
            before = 0.0 if self._before is None else self._before.samples(f"{name}_bucket").get(found, 0.0)
            buckets[upper] = buckets.get(upper, 0.0) + max(value - before, 0.0)
        return _quantile(sorted(buckets.items()), share)

    def values(self, name: str, label: str) -> list[str]:
        """Return the values that a label has, sorted."""
        return sorted({dict(found).get(label, "") for found in self.now.samples(name)})


def _quantile(buckets: Iterable[tuple[float, float]], share: float) -> float | None:
    buckets = list(buckets)
    total = buckets[-1][1] if buckets else 0.0
    if not total:
        return None
    lower, below = 0.0, 0.0
    for upper, count in buckets:
        if count >= share * total:
            if math.isinf(upper):
                # Beyond the last bucket: all that is known is that it is more.
                return lower
            return lower + (upper - lower) * (share * total - below) / max(count - below, 1e-9)
        lower, below = upper, count
    return lower
