"""The outline of a body: its records and its counts are the decoder's, whatever stands in its texts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from vectorpool.api import outline
from vectorpool.api.bodies import at_once, decode_bounded, values_of_a_record
from vectorpool.api.outline import check_values, cut_records
from vectorpool.api.requests import CreateCollectionBody, GetRecordsBody, QueryBody
from vectorpool.bounds import Most
from vectorpool.errors import LimitExceeded, MalformedJson
from vectorpool.settings import Settings

MANY = Most("things", 10**9)
TEXTS = ["", "\\", '"', 'a\\"b', "[{", "]},:", '\\\\"', "\u00e9", "\\\\\\", "plain", '","', "\u2028"]


def _value(dice: random.Random, depth: int = 0) -> Any:
    roll = dice.random()
    if depth > 3 or roll < 0.4:
        return dice.choice([*TEXTS, 1, -2.5e10, None, True])
    if roll < 0.7:
        return [_value(dice, depth + 1) for _ in range(dice.randrange(4))]
    return {dice.choice(TEXTS) + str(at): _value(dice, depth + 1) for at in range(dice.randrange(4))}


def _count(value: Any) -> tuple[int, int]:
    """Return the values and names of a value, and its lists and objects."""
    if isinstance(value, list):
        inner = [_count(item) for item in value]
    elif isinstance(value, dict):
        inner = [(values + 1, containers) for values, containers in map(_count, value.values())]
    else:
        return 1, 0
    return 1 + sum(values for values, _ in inner), 1 + sum(containers for _, containers in inner)


@pytest.mark.parametrize("part_bytes", [1, 2, 7, 64, 256 * 1024])
def test_records_are_cut_as_the_decoder_reads_them(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random records come out one by one, whatever their texts hold and wherever a part of the body ends."""
    monkeypatch.setattr(outline, "_PART_BYTES", part_bytes)
    dice = random.Random(part_bytes)
    for _ in range(300 if part_bytes < 64 else 2000):
        records = [_value(dice) for _ in range(dice.randrange(5))]
        spaces = dice.choice([None, None, 1])
        body = json.dumps({"records": records}, ensure_ascii=dice.random() < 0.5, indent=spaces).encode()
        assert [json.loads(bytes(piece)) for piece in at_once(cut_records(body, Settings(), MANY))] == records, body


@pytest.mark.parametrize("part_bytes", [1, 7, 256 * 1024])
def test_counts_bound_what_is_there(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body passes with as many values and containers as it has, give or take empty containers, and not with fewer."""
    monkeypatch.setattr(outline, "_PART_BYTES", part_bytes)
    dice = random.Random(17)
    for _ in range(300):
        value = _value(dice)
        body = json.dumps(value).encode()
        values, containers = _count(value)
        at_once(check_values(body, Most("values", values + containers), Most("containers", containers)))
        if values > 1:
            with pytest.raises(LimitExceeded):
                at_once(check_values(body, Most("values", values - 1), MANY))
        if containers:
            with pytest.raises(LimitExceeded):
                at_once(check_values(body, MANY, Most("containers", containers - 1)))


@pytest.mark.parametrize(
    "body",
    [
        b'{"records": [{"id": "a"}]',
        b'{"records": [{"id": "a"}',
        b'{"records": [{"id": "a"}]} x',
        b'{"records": [{"id": "a"}], "more": 1}',
        b'{"records": [{"id": "a"}], "records": []}',
        b'{"more": 1, "records": []}',
        b'{"records": {}}',
        b'{"records": "[]"}',
        b'["records"]',
        b"",
        b"[" * 100_000,
        b'{"records": [' + b'{"a":' * 100_000,
    ],
)
def test_other_shapes_are_refused(body: bytes) -> None:
    """A body of records is one list of that name, and nothing else."""
    with pytest.raises(MalformedJson):
        at_once(cut_records(body, Settings(), MANY))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"records":[' + b"[]," * 100_000 + b"[]]}", "max_records"),
        (b'{"records":[' + b"{}," * 100_000 + b"{}]}", "max_records"),
        (b'{"records":[' + b"0," * 100_000 + b"0]}", "max_records"),
        (b'{"records":[{"id":"a","embedding":[' + b"0," * 100_000 + b"0]}]}", "values"),
        (b'{"records":[{"id":"a","metadata":{"k":[' + b"[]," * 100_000 + b"0]}}]}", "values"),
        (b'{"records":[{' + b'"k":0,' * 100_000 + b'"k":0}]}', "values"),
        (b'{"records":[{"id":"a"},{"id":"b","x":' + b"[" * 200 + b"[]," * 100_000, "values"),
    ],
)
def test_more_than_a_call_may_hold_is_refused_early(body: bytes, name: str) -> None:
    """Records, and values of a record, are bounded by the outline; the error names the bound."""
    settings = Settings()
    with pytest.raises(LimitExceeded) as caught:
        at_once(cut_records(body, settings, values_of_a_record(settings)))
    assert caught.value.extra["limit_name"].startswith(name)
    assert caught.value.extra["count"] > caught.value.extra["limit"]


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (GetRecordsBody, b'{"where":{"$and":[' + b"[]," * 100_000 + b"[]]}}"),
        (GetRecordsBody, b'{"ids":[' + b"0," * 5_000_000 + b"0]}"),
        (QueryBody, b'{"embeddings":[' + b"[]," * 100_000 + b"[]]}"),
        (CreateCollectionBody, b'{"name":"abc","metadata":{"k":[' + b"{}," * 100_000 + b"1]}}"),
    ],
)
async def test_other_bodies_are_bounded_too(shape: Any, body: bytes) -> None:
    """Questions and small bodies may hold so many values and containers, and no more."""
    with pytest.raises(LimitExceeded):
        await decode_bounded(body, shape, Settings())


async def test_large_bodies_within_the_bounds_are_read() -> None:
    """The largest query that the settings allow, and a filter with long lists."""
    vectors = [[0.5] * 8192 for _ in range(100)]
    query = await decode_bounded(json.dumps({"embeddings": vectors}).encode(), QueryBody, Settings())
    assert query.embeddings == vectors
    where = {"$and": [{"k": {"$in": list(range(10_000))}} for _ in range(15)]}
    got = await decode_bounded(json.dumps({"where": where}).encode(), GetRecordsBody, Settings())
    assert got.where == where


def test_too_many_records_are_counted() -> None:
    """The refusal says how many records there are, up to a hundred times the limit."""
    for sent, told in ((30, 30), (2000, None)):
        body = b'{"records":[' + b",".join([b"{}"] * sent) + b"]}"
        with pytest.raises(LimitExceeded) as caught:
            at_once(cut_records(body, Settings(max_records=10), MANY))
        extra = caught.value.extra
        assert (extra["limit"], extra["limit_name"]) == (10, "max_records")
        assert extra["count"] == told if told else 1000 < extra["count"] <= sent
