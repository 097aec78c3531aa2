from __future__ import annotations

from typing import Any

import pytest

from vectorpool import bounds
from vectorpool.checks import (
    check_collection_metadata,
    check_metadata,
    check_record_ids,
    check_where,
    check_where_document,
)
from vectorpool.errors import InvalidFilter, InvalidId, InvalidRequest, LimitExceeded, VectorpoolError


def test_ordinary_ids_pass() -> None:
    """Ids of any script up to 512 bytes are taken as they are."""
    ids = ["a", "42", "ümlaut", "文書#0001", "x" * bounds.RECORD_ID_BYTES, "é" * (bounds.RECORD_ID_BYTES // 2)]
    assert check_record_ids(ids, limit=10) == ids


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([""], InvalidId),
        (["x" * (bounds.RECORD_ID_BYTES + 1)], InvalidId),
        (["é" * (bounds.RECORD_ID_BYTES // 2 + 1)], InvalidId),
        (["x" * 3_000_000], InvalidId),
        (["a\x00b"], InvalidId),
        (["\ud800"], InvalidId),
        (["b", "a", "c", "a"], InvalidRequest),
        (["1", "2", "3", "4", "5"], LimitExceeded),
    ],
)
def test_bad_ids_are_refused_in_one_short_sentence(ids: list[str], error: type[VectorpoolError]) -> None:
    """A bad id is refused by its own error, whose message does not repeat megabytes of it."""
    with pytest.raises(error) as caught:
        check_record_ids(ids, limit=4)
    assert type(caught.value) is error
    assert len(caught.value.detail) < 300


def test_a_repeated_id_is_named() -> None:
    """The first repeated id stands in the message and in the machine-readable part."""
    with pytest.raises(InvalidRequest) as caught:
        check_record_ids(["b", "a", "c", "a", "b"], limit=10)
    assert "'a'" in caught.value.detail
    assert caught.value.extra == {"record_id": "a"}


def test_too_many_ids_name_limit_and_count() -> None:
    """The refusal says how many were sent and how many are allowed."""
    with pytest.raises(LimitExceeded) as caught:
        check_record_ids([str(n) for n in range(11)], limit=10)
    assert caught.value.extra == {"limit": 10, "limit_name": "max_records", "count": 11}
    assert "11" in caught.value.detail and "10" in caught.value.detail


def test_every_storable_value_passes() -> None:
    """Text, 64-bit integers, finite numbers, booleans and lists of one of these are kept unchanged."""
    metadata: dict[str, Any] = {
        "text": "é",
        "int": 2**63 - 1,
        "low": -(2**63),
        "float": 0.5,
        "bool": True,
        "list": ["a", "b"],
        "ints": [1, 2],
    }
    assert check_metadata(metadata, of="record 'a'") == metadata


def test_no_metadata_and_empty_metadata_are_the_same() -> None:
    """An empty object, which Chroma refuses, means no metadata."""
    assert check_metadata({}, of="record 'a'") is None
    assert check_metadata(None, of="record 'a'") is None


@pytest.mark.parametrize(
    "metadata",
    [
        {"": 1},
        {"chroma:document": "x"},
        {"chroma:anything": "x"},
        {"$and": 1},
        {"#document": "x"},
        {"k" * 257: 1},
        {"a\x00": 1},
        {"\ud800": 1},
        {"a": 2**63},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "\udc00"},
        {"a": {"b": 1}},
        {"a": None},
        {"a": []},
        {"a": [1, "x"]},
        {"a": [1, True]},
        {"a": [[1]]},
        {"a": [None]},
        {"a": list(range(5000))},
        {f"k{n}": n for n in range(bounds.METADATA_KEYS.most + 1)},
    ],
)
def test_metadata_that_chroma_would_choke_on_is_refused(metadata: dict[str, Any]) -> None:
    """What Chroma cannot hold never reaches it; the owner is named."""
    with pytest.raises(InvalidRequest) as caught:
        check_metadata(metadata, of="record 'a'")
    assert "record 'a'" in caught.value.detail


def test_null_deletes_a_key_only_in_an_update() -> None:
    """Null values pass where the caller says that they mean something."""
    assert check_metadata({"a": None}, of="record 'a'", nulls=True) == {"a": None}


def test_collections_take_no_lists() -> None:
    """A list in a collection's metadata, which ends Chroma's compactor, is refused."""
    assert check_collection_metadata({"a": 1}) == {"a": 1}
    with pytest.raises(InvalidRequest, match="list"):
        check_collection_metadata({"a": [1, 2]})


@pytest.mark.parametrize(
    "where",
    [
        {"a": 1},
        {"a": "x"},
        {"a": True},
        {"a": {"$gt": 1.5}},
        {"a": {"$in": ["x", "y"]}},
        {"a": {"$nin": [1, 2]}},
        {"a": {"$contains": "x"}},
        {"$and": [{"a": 1}, {"$or": [{"b": {"$ne": 2}}, {"c": 3}]}]},
        {"#document": {"$contains": "x"}},
    ],
)
def test_filters_that_chroma_knows_pass(where: dict[str, Any]) -> None:
    """Every operator of Chroma is let through unchanged."""
    assert check_where(where) == where


def _nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"a": 1}
    for _ in range(depth):
        node = {"$and": [node]}
    return node


@pytest.mark.parametrize(
    "where",
    [
        [],
        "a",
        {},
        {"a": 1, "b": 2},
        {"a": {"$gt": 1, "$lt": 2}},
        {"a": {}},
        {"a": None},
        {"a": [1]},
        {"a": {"$like": "x"}},
        {"$not": {"a": 1}},
        {"$contains": "x"},
        {"": 1},
        {"a": {"$gt": "x"}},
        {"a": {"$gt": True}},
        {"a": {"$in": []}},
        {"a": {"$in": "x"}},
        {"a": {"$in": [1, "x"]}},
        {"a": {"$eq": float("nan")}},
        {"a": {"$eq": 2**63}},
        {"a": "\ud800"},
        {"$and": []},
        {"$and": {"a": 1}},
        {"$or": [1]},
        _nested(bounds.FILTER_DEPTH),
        _nested(900),
        {"$or": [{"a": n} for n in range(3000)]},
        {"a": {"$in": list(range(10_001))}},
    ],
)
def test_filters_that_chroma_does_not_know_are_refused(where: Any) -> None:
    """A filter of the wrong shape, an unknown operator, or one too deep or too long is an InvalidFilter."""
    with pytest.raises(InvalidFilter):
        check_where(where)


def test_an_unknown_operator_is_named() -> None:
    """The message says which operator it does not know, and which there are."""
    with pytest.raises(InvalidFilter, match=r"\$like.*\$nin") as caught:
        check_where({"$and": [{"a": {"$like": "x"}}]})
    assert caught.value.extra == {"operator": "$like"}


def test_document_filters() -> None:
    """Filters on text know four operators and two joins, and their operand is text."""
    good: dict[str, Any] = {"$and": [{"$contains": "x"}, {"$or": [{"$regex": "a.b"}, {"$not_contains": "y"}]}]}
    assert check_where_document(good) == good
    assert check_where_document(None) is None
    for bad in ({"$contains": ""}, {"$contains": 1}, {"$eq": "x"}, {"a": "x"}, {}, [], {"$and": []}):
        with pytest.raises(InvalidFilter, match="where_document"):
            check_where_document(bad)
