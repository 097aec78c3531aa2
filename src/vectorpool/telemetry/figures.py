"""The figures of one process: counters and histograms that owners hold and change, and gauges that are asked for.

A counter is one integer addition, a histogram a binary search and two additions; no lock. So a figure belongs to the
thread of its event loop; ``SharedCounter`` is for those that several threads change.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

import msgspec

from vectorpool.telemetry.families import Family

# Series of one family in one process. The label values of this code are fewer; a defect that invents more of them is
# counted under ``OTHER``.
MOST_SERIES: Final = 2000
OTHER: Final = "other"


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One figure as it crosses between processes: its family's name, its labels' values, and its value.

    ``value`` is the sum of a histogram, whose ``counts`` are those of each bucket; the last is of what exceeds all.
    """

    family: str
    labels: tuple[str, ...]
    value: float
    counts: tuple[int, ...] = ()


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Count ``amount``, which is not negative."""
        self.value += amount


class SharedCounter(Counter):
    """A counter that several threads change."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()

    def add(self, amount: float = 1) -> None:
        """Count ``amount``."""
        with self._lock:
            self.value += amount


class Histogram:
    """How many values there were in each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the unit of the family."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Source: TypeAlias = Callable[[], Iterable[Sample]]
SlowSource: TypeAlias = Callable[[], Awaitable[Iterable[Sample]]]
_Key: TypeAlias = tuple[str, tuple[str, ...]]


class Figures:
    """The figures of one process. The same family and labels return the same figure, so that owners need not share."""

    def __init__(self) -> None:
        self._counters: dict[_Key, Counter] = {}
        self._histograms: dict[_Key, Histogram] = {}
        self._series: dict[str, int] = {}
        self._sources: list[Source] = []
        # By name, which is a label's value.
        self.slow_sources: dict[str, SlowSource] = {}

    def counter(self, family: Family, *labels: str, kind: type[Counter] = Counter) -> Counter:
        """Return the counter of a family with these values of its labels."""
        assert family.kind == "counter" and len(labels) == len(family.labels), family.name
        found = self._counters.get((family.name, labels))
        if found is None:
            found = self._counters.setdefault(self._bounded(family, labels), kind())
        return found

    def histogram(self, family: Family, *labels: str) -> Histogram:
        """Return the histogram of a family with these values of its labels."""
        assert family.kind == "histogram" and len(labels) == len(family.labels), family.name
        found = self._histograms.get((family.name, labels))
        if found is None:
            found = self._histograms.setdefault(self._bounded(family, labels), Histogram(family.buckets))
        return found

    def add_source(self, source: Source) -> None:
        """Ask ``source`` for further samples at every look; it may not block."""
        self._sources.append(source)

    def add_slow_source(self, name: str, source: SlowSource) -> None:
        """Await ``source`` at every scrape, for a bounded time; one that is late or fails is left out and counted.

        This is how a part shows what it must ask for, such as jobs by state. ``name`` is the part's; a second source of
        the same name takes the place of the first.
        """
        self.slow_sources[name] = source

    def samples(self) -> list[Sample]:
        """Return every figure as it is now."""
        found = [Sample(name, labels, counter.value) for (name, labels), counter in self._counters.items()]
        found += [
            Sample(name, labels, histogram.sum, tuple(histogram.counts))
            for (name, labels), histogram in self._histograms.items()
        ]
        for source in self._sources:
            found += source()
        return found

    def _bounded(self, family: Family, labels: tuple[str, ...]) -> _Key:
        count = self._series.get(family.name, 0)
        if count >= MOST_SERIES:
            return family.name, (OTHER,) * len(labels)
        self._series[family.name] = count + 1
        return family.name, labels
