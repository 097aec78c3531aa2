"""The sums of several processes' figures, which never go back: what an ended process had counted stays counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from vectorpool.telemetry.families import FAMILIES
from vectorpool.telemetry.figures import Sample

_Key: TypeAlias = tuple[str, tuple[str, ...]]


class Ledger:
    """Counters and histograms by source, which is a process's name. Each start of a process is a run of its source."""

    def __init__(self) -> None:
        self._ended: dict[_Key, Sample] = {}
        self._runs: dict[str, int] = {}
        self._last: dict[str, list[Sample]] = {}

    def begin(self, source: str) -> int:
        """Return the number of a new run, which counts from zero; what the run before it had counted is kept."""
        _add(self._ended, self._last.pop(source, []))
        self._runs[source] = self._runs.get(source, 0) + 1
        return self._runs[source]

    def note(self, source: str, run: int, samples: Iterable[Sample]) -> None:
        """Record what a run has counted since its beginning; nothing is recorded of a run that is over.

        Gauges are passed over: they are true only now.
        """
        if self._runs.get(source) == run:
            self._last[source] = [sample for sample in samples if FAMILIES[sample.family].kind != "gauge"]

    def add(self, sample: Sample) -> None:
        """Count something of no run."""
        _add(self._ended, [sample])

    def samples(self) -> list[Sample]:
        """Return the sums over all sources and runs."""
        sums = dict(self._ended)
        for samples in self._last.values():
            _add(sums, samples)
        return list(sums.values())


def merged(samples: Iterable[Sample]) -> list[Sample]:
    """Return the sum of each figure over samples that may name it several times."""
    sums: dict[_Key, Sample] = {}
    _add(sums, samples)
    return list(sums.values())


def _add(sums: dict[_Key, Sample], samples: Iterable[Sample]) -> None:
    for sample in samples:
        key = sample.family, sample.labels
        before = sums.get(key)
        if before is not None:
            counts = tuple(a + b for a, b in zip(before.counts, sample.counts, strict=True))
            sample = Sample(sample.family, sample.labels, before.value + sample.value, counts)
        sums[key] = sample
