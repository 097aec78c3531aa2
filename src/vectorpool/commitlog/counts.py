"""What a log counts of its commits: their outcomes, times and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vectorpool.commitlog.outcomes import LostRace
from vectorpool.errors import CorruptObject, StoreUnavailable
from vectorpool.sources import Sources
from vectorpool.telemetry.families import COMMIT_BYTES, COMMIT_TIME, COMMITS
from vectorpool.telemetry.figures import Figures


@contextmanager
def commits(figures: Figures, sources: Sources) -> Iterator[None]:
    """Count the offer of a commit that the block makes, and time it."""
    began_s, outcome = sources.monotonic_s(), "unknown"
    try:
        yield
        outcome = "committed"
    except LostRace:
        outcome = "lost"
        raise
    except (StoreUnavailable, CorruptObject):
        outcome = "refused"
        raise
    finally:
        figures.histogram(COMMIT_TIME).observe(sources.monotonic_s() - began_s)
        figures.counter(COMMITS, outcome).add()


def commit(figures: Figures) -> None:
    """Count a commit that was made elsewhere: that of a restore."""
    figures.counter(COMMITS, "committed").add()


def commit_bytes(figures: Figures, size: int) -> None:
    """Count the bytes of a commit that was made."""
    figures.counter(COMMIT_BYTES).add(size)
