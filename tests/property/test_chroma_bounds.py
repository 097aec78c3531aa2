"""Counting a body as text says the same as decoding it, for whatever JSON spells."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vectorpool import chroma_bounds
from vectorpool.bounds import Most
from vectorpool.errors import LimitExceeded

texts = st.text(max_size=12) | st.sampled_from(['"', "\\", '\\"', "}{", "],[", "a,b", ":", '":', "\u2028", "\x7f"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(), max_size=5)
sparse = st.fixed_dictionaries({"#type": st.just("sparse_vector"), "indices": st.lists(st.integers(), max_size=3)})
values = st.one_of(scalars, st.lists(scalars, max_size=4), sparse)
metadata = st.dictionaries(texts, values, max_size=6)
items = st.lists(st.one_of(scalars, numbers, metadata), max_size=9)
spellings = st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (" , ", " : ")}])


def _raw(value: Any, spelling: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value, **spelling).encode("utf-8", "surrogatepass"))


@given(items, st.integers(0, 6), spellings)
def test_items(found: list[Any], most: int, spelling: dict[str, Any]) -> None:
    """A list is refused if it has more items than the bound, and a list that is long enough to tell only then."""
    part = _raw(found, spelling)
    try:
        chroma_bounds.check_items(part, Most("items", most))
    except LimitExceeded:
        assert len(found) > most
    else:
        # A list that is too short in bytes to hold more is left to the decoder, which counts it.
        assert len(found) <= most or len(bytes(part)) <= (most + 1) * 2 or found == []


@given(metadata, st.integers(0, 6), spellings)
def test_members(found: dict[str, Any], most: int, spelling: dict[str, Any]) -> None:
    """An object is refused if it has more members, those of objects inside it included."""
    count = len(found) + sum(len(value) for value in found.values() if isinstance(value, dict))
    part = _raw(found, spelling)
    if count > most and len(bytes(part)) > (most + 1) * 5:
        with pytest.raises(LimitExceeded):
            chroma_bounds.check_members(part, Most("members", most), of="it")
    else:
        chroma_bounds.check_members(part, Most("members", most), of="it")


@pytest.mark.parametrize("first", [[], [{"a": 1}], [None, {"a": [1, 2]}]])
def test_an_item_has_at_most_so_many_bytes(first: list[object]) -> None:
    """An item of the largest size passes, wherever it stands in the list; one of a byte more is refused."""
    each = Most("bytes", 1000)
    for size, is_refused in ((1000, False), (1001, True), (100_000, True)):
        item = {"k": "x" * (size - 8)}
        for items in ([*first, item], [*first, item, {"b": 2}]):
            part = msgspec.Raw(msgspec.json.encode(items))
            if is_refused:
                with pytest.raises(LimitExceeded, match="1000"):
                    chroma_bounds.check_items(part, Most("items", 100), each=each)
            else:
                chroma_bounds.check_items(part, Most("items", 100), each=each)
