"""Metadata as JSON text keeps the kind of each value, and refuses what JSON has no word for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorpool.errors import TargetRefused
from vectorpool.export.metadata import from_json, has_nul, to_json

_scalars = st.one_of(
    st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
_lists = st.one_of(*(st.lists(kind) for kind in (st.text(), st.booleans(), st.integers(-9, 9))))


@given(st.one_of(st.none(), st.dictionaries(st.text(), st.one_of(_scalars, _lists))))
def test_values_keep_their_kind(metadata: dict[str, Any] | None) -> None:
    """What comes back is the same, of the same types, and what is between is JSON."""
    text = to_json(metadata, "record 'a'")
    assert repr(from_json(text)) == repr(metadata)
    assert metadata is None or json.loads(text or "") == metadata


def test_decimals_give_floats_back() -> None:
    """A database that keeps numbers as decimals writes them without an exponent."""
    assert from_json('{"a": 100000000000000000000, "b": 1.0, "c": 5}') == {"a": 1e20, "b": 1.0, "c": 5}
    assert "e" not in str(to_json({"a": 1e16, "b": -1e18}, "x"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")]])
def test_what_json_has_no_word_for_is_refused(value: Any) -> None:
    """The record and the key are named."""
    with pytest.raises(TargetRefused, match="'size' in record 'a'"):
        to_json({"size": value}, "record 'a'")


def test_a_nul_is_found_wherever_it_is() -> None:
    """In texts, keys, values and lists; a backslash with digits is none."""
    assert all(has_nul(each) for each in ("a\0", {"a\0": 1}, {"a": "\0"}, {"a": ["b", "\0"]}))
    assert not has_nul(None, "a", {"a": "\\u0000", "b": [1, True]})
