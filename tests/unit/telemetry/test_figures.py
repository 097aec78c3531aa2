"""The figures of a process, and their sums over several."""

from __future__ import annotations

import threading

import msgspec
import pytest

from vectorpool.telemetry import families
from vectorpool.telemetry.figures import MOST_SERIES, OTHER, Figures, Sample, SharedCounter
from vectorpool.telemetry.ledger import Ledger, merged


def test_a_value_counts_in_the_first_bucket_that_holds_it() -> None:
    """A bound is in its own bucket; what exceeds all bounds is in the last one."""
    figures = Figures()
    histogram = figures.histogram(families.COMMIT_TIME)
    for value in (0.0, 0.0001, 0.00011, 30.0, 31.0):
        histogram.observe(value)
    (sample,) = figures.samples()
    assert sample.counts[0] == 2 and sample.counts[1] == 1 and sample.counts[-2] == 1 and sample.counts[-1] == 1
    assert sample.value == pytest.approx(61.00021)


def test_owners_that_name_the_same_figure_share_it() -> None:
    """A figure is found by its family and labels, so two parts of one process count together."""
    figures = Figures()
    figures.counter(families.COMMITS, "lost").add()
    figures.counter(families.COMMITS, "lost").add(2)
    figures.counter(families.COMMITS, "committed").add()
    assert {sample.labels: sample.value for sample in figures.samples()} == {("lost",): 3, ("committed",): 1}


def test_a_defect_that_invents_labels_is_bounded() -> None:
    """Beyond the bound everything counts under one name: the figures of a process have a bounded size."""
    figures = Figures()
    for number in range(MOST_SERIES + 100):
        figures.counter(families.HYDRATE_FAILURES, f"code-{number}").add()
    samples = figures.samples()
    assert len(samples) == MOST_SERIES + 1
    assert next(sample.value for sample in samples if sample.labels == (OTHER,)) == 100


def test_a_shared_counter_loses_nothing() -> None:
    """Several threads add to one counter."""
    counter = Figures().counter(families.EMBEDDED_TOKENS, kind=SharedCounter)

    def add() -> None:
        for _ in range(10_000):
            counter.add()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value == 40_000


def test_samples_cross_between_processes() -> None:
    """A sample decodes to itself."""
    figures = Figures()
    figures.histogram(families.STORE_TIME, "get").observe(0.2)
    samples = figures.samples()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(samples), type=list[Sample]) == samples


# --- Several processes -------------------------------------------------------------------------------


def _counted(value: float) -> list[Sample]:
    return [Sample(families.COMMITS.name, ("committed",), value), Sample(families.OPEN_SLOTS.name, ("0",), 5)]


def test_a_process_that_was_started_again_does_not_make_sums_go_back() -> None:
    """What each run counted is added up, and gauges are not kept."""
    ledger = Ledger()
    sums = []
    for run_values in ([3.0, 7.0], [1.0], [0.0, 4.0]):
        run = ledger.begin("0")
        for value in run_values:
            ledger.note("0", run, _counted(value))
            (sample,) = ledger.samples()
            sums.append(sample.value)
    assert sums == [3, 7, 8, 8, 12]


def test_a_late_answer_of_an_ended_process_is_passed_over() -> None:
    """It was counted when the run ended, as far as it was known then."""
    ledger = Ledger()
    first = ledger.begin("0")
    ledger.note("0", first, _counted(3))
    ledger.begin("0")
    ledger.note("0", first, _counted(9))
    assert [sample.value for sample in ledger.samples()] == [3]


def test_a_name_that_comes_again_continues() -> None:
    """A process for one user ends with its quarantine; the next one of its number adds to what it counted."""
    ledger = Ledger()
    for _ in range(3):
        ledger.note("isolated-0", ledger.begin("isolated-0"), _counted(2))
    ledger.add(Sample(families.COMMITS.name, ("committed",), 1))
    assert [sample.value for sample in ledger.samples()] == [7]


def test_histograms_of_processes_are_added_by_bucket() -> None:
    """The merged histogram has the counts of all of them."""
    one, two = Figures(), Figures()
    one.histogram(families.COMMIT_TIME).observe(0.003)
    two.histogram(families.COMMIT_TIME).observe(0.003)
    two.histogram(families.COMMIT_TIME).observe(7.0)
    (sample,) = merged(one.samples() + two.samples())
    assert sum(sample.counts) == 3 and sample.value == pytest.approx(7.006)


# --- The table of families ---------------------------------------------------------------------------


def test_every_family_is_named_by_the_rules() -> None:
    """Counters end with _total, times with their unit, and only histograms have buckets, which rise."""
    assert len(families.FAMILIES) > 50
    for name, family in families.FAMILIES.items():
        assert name.startswith("vectorpool_") and name == family.name
        assert name.endswith("_total") == (family.kind == "counter")
        assert bool(family.buckets) == (family.kind == "histogram")
        assert list(family.buckets) == sorted(set(family.buckets))
        assert family.text and "|" not in family.text
        assert not {"user", "user_id", "path", "token"} & set(family.labels), name


def test_times_reach_from_below_a_millisecond_to_the_longest_limit() -> None:
    """The buckets of requests resolve a warm read and hold the longest request."""
    assert families.REQUEST_TIME.buckets[0] <= 0.0001 and families.REQUEST_TIME.buckets[-1] >= 30
