"""Limits: what is taken for a limit and what is not, and how three sources become the limits in force."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorpool.configuration import load_settings
from vectorpool.errors import InvalidRequest, Misconfigured
from vectorpool.limits import NO_LIMITS, RANGES, Limits, Quota, default_limits, in_force, read_limits
from vectorpool.settings import Settings


def test_every_limit_has_a_range_and_a_setting() -> None:
    """The struct, the table and the settings name the same limits, and the setting refuses what the table does."""
    assert set(Limits.__struct_fields__) == set(RANGES)
    for name, bound in RANGES.items():
        setting = f"limit_{name}"
        assert setting in Settings.__struct_fields__
        least = bound.least if name == "requests_per_s" else int(bound.least)
        assert getattr(load_settings({setting: str(least)}, environ={}), setting) == least
        assert getattr(default_limits(load_settings({setting: str(int(bound.most))}, environ={})), name) == bound.most
        for wrong in (bound.least - 1, bound.most * 2, math.nan, math.inf, "many", ""):
            with pytest.raises(Misconfigured, match=setting):
                load_settings({setting: str(wrong)}, environ={})


def test_an_unknown_setting_names_the_nearest() -> None:
    """A misspelled variable is refused, with what was probably meant."""
    with pytest.raises(Misconfigured, match="VECTORPOOL_LIMIT_RECORDS"):
        load_settings({}, environ={"VECTORPOOL_LIMIT_RECORD": "7"})


@pytest.mark.parametrize(
    ("given_limits", "said"),
    [
        (7, "object of numbers"),
        ([["records", 1]], "object of numbers"),
        ({"recods": 1}, "Did you mean records"),
        ({"bytes": 1}, "bytes_stored"),
        ({"x" * 500: 1}, "is no limit"),
        ({"records": -1}, "0 to"),
        ({"records": 2**53}, "0 to"),
        ({"records": 10**400}, "0 to"),
        ({"records": 1.5}, "whole number"),
        ({"records": True}, "must be a number"),
        ({"records": "5"}, "must be a number"),
        ({"records": [5]}, "must be a number"),
        ({"requests_per_s": math.nan}, "0.001 to"),
        ({"requests_per_s": math.inf}, "0.001 to"),
        ({"requests_per_s": 0}, "0.001 to"),
        ({"burst": 0}, "1 to"),
        ({"records": None}, "must be a number"),
    ],
)
def test_nonsense_is_refused_by_name(given_limits: Any, said: str) -> None:
    """Each is refused with a sentence that says what is wrong, and what is allowed or near."""
    with pytest.raises(InvalidRequest, match=said) as refused:
        read_limits(given_limits, nulls=False)
    assert len(refused.value.detail) < 600


@given(
    st.dictionaries(
        st.sampled_from([*RANGES, "other"]) | st.text(max_size=8),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers()),
        max_size=6,
    )
)
def test_what_is_read_is_within_its_range(found: dict[str, Any]) -> None:
    """Whatever comes is refused, or becomes limits that the struct, JSON and a shard's frame carry unchanged."""
    try:
        read = read_limits(found, nulls=True)
    except InvalidRequest:
        return
    assert read.keys() == found.keys()
    assert all(value is None or RANGES[name].allows(value) for name, value in read.items())
    limits = in_force(NO_LIMITS, read).limits
    assert msgspec.convert(json.loads(msgspec.json.encode(limits)), Limits) == limits
    if limits.quota is not None:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(limits.quota), type=Quota) == limits.quota


def test_what_is_stored_replaces_and_a_claim_narrows() -> None:
    """An operator sets limits up, down and away; a token sets them down only. Each says where it comes from."""
    defaults = Limits(records=100, collections=10, burst=5)
    stored = {"records": 1000, "collections": None}
    found = in_force(defaults, stored, {"records": 500, "burst": 50, "documents": 3})
    assert found.limits == Limits(records=500, burst=5, documents=3)
    assert found.sources == {"records": "token", "burst": "setting", "documents": "token"}
    assert in_force(defaults, stored).sources == {"records": "stored", "burst": "setting"}
    assert in_force(defaults, stored, {"records": 5000}).limits.records == 1000
    assert in_force(NO_LIMITS).limits.quota is None


def test_a_rested_user_sends_those_of_a_second_at_once() -> None:
    """Without a burst it is the rate, rounded up, and at least one."""
    assert [Limits(requests_per_s=rate).most_at_once for rate in (0.5, 1, 2.5, 100)] == [1, 1, 3, 100]
    assert Limits(requests_per_s=100, burst=7).most_at_once == 7
