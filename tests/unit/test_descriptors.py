"""Slots and loaded indexes follow the limit of file descriptors."""

from __future__ import annotations

import resource

import pytest

from vectorpool.errors import Misconfigured
from vectorpool.platform import descriptors
from vectorpool.settings import Settings


@pytest.mark.parametrize(("limit", "slots"), [(None, 100), (1_048_576, 100), (1024, 32), (256, 5), (125, 1)])
def test_slots_follow_the_limit(limit: int | None, slots: int) -> None:
    """As many slots are open as the limit allows, and no more than were asked for."""
    assert descriptors.fit(Settings(), limit).open_slots == slots


def test_a_limit_that_is_too_low_for_one_slot_is_refused() -> None:
    """The refusal names both numbers, and what to raise."""
    with pytest.raises(Misconfigured, match=r"may open 124 files.*needs 125.*ulimit -n"):
        descriptors.fit(Settings(), 124)


@pytest.mark.parametrize("limit", [125, 256, 1024, 4096, 65_536])
def test_all_slots_with_all_their_indexes_fit(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every slot loads as many indexes as it may, some descriptors are left."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    slots = descriptors.fit(Settings(), limit).open_slots
    indexes = descriptors.indexes_of_a_slot(slots)
    assert indexes >= 1
    assert slots * (17 + 4 * (indexes - 1)) <= limit - 96


@pytest.mark.parametrize(("limit", "connections"), [(None, 4096), (1_048_576, 4096), (1024, 928), (125, 29)])
def test_connections_follow_the_limit(limit: int | None, connections: int) -> None:
    """As many connections are accepted as descriptors are left; the admission counts them as these settings say."""
    assert descriptors.fit(Settings(), limit).max_connections == connections
