"""The outline of a body: its records and its counts are the decoder's, whatever stands in its texts."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from vectorpool import outline
from vectorpool.api.bodies import values_of_a_record
from vectorpool.bounds import Most
from vectorpool.errors import LimitExceeded, MalformedJson
from vectorpool.outline import check_beginning, check_values, cut_members, cut_records
from vectorpool.settings import Settings
from vectorpool.turns import at_once

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


@pytest.mark.parametrize("part_bytes", [1, 7, 256 * 1024])
def test_members_are_cut_as_the_decoder_reads_them(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random objects come out member by member, and their lists item by item, in order."""
    monkeypatch.setattr(outline, "_PART_BYTES", part_bytes)
    monkeypatch.setattr(outline, "_CHUNK_BYTES", 16)
    dice = random.Random(part_bytes)
    for _ in range(100 if part_bytes < 64 else 500):
        whole = {f"m{at}": _value(dice) for at in range(dice.randrange(4))}
        body = json.dumps(whole, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, None, 1])).encode()
        members = at_once(cut_members(body, MANY, MANY))
        assert {name: json.loads(bytes(member.raw)) for name, member in members.items()} == whole
        for name, value in whole.items():
            if not isinstance(value, list):
                assert members[name].items is None
                continue
            assert members[name].items == len(value), body
            chunks = [(at, json.loads(bytes(chunk))) for at, chunk in members[name].chunks()]
            assert [item for _, chunk in chunks for item in chunk] == value
            assert all(value[at : at + len(chunk)] == chunk for at, chunk in chunks)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1} x',
        b'{"a"}',
        b'{"a":1,}',
        b'{,"a":1}',
        b'{"a":1:2}',
        b"{a:1}",
        b'{"a" "b":1}',
        b'{"a":' + b"[" * 1000,
    ],
)
def test_what_is_no_object_has_no_members(body: bytes) -> None:
    """A body that is not one object of named members is refused."""
    with pytest.raises(MalformedJson):
        at_once(cut_members(body, MANY, MANY))


@pytest.mark.parametrize("part_bytes", [1, 7, 256 * 1024])
def test_space_at_the_ends_of_a_body_means_nothing(part_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is, on whichever side."""
    monkeypatch.setattr(outline, "_PART_BYTES", part_bytes)
    size = 2_000 if part_bytes < 64 else 1_000_000
    for left, right in ((0, size), (size, 0), (size, size)):
        before, after = b" \t\r\n" * (left // 4), b"\n " * (right // 2)
        assert at_once(cut_members(before + b'{"a":[1]}' + after, MANY, MANY)).keys() == {"a"}
        pieces = at_once(cut_records(before + b'{"records":[1,2]}' + after, Settings(), MANY))
        assert [bytes(piece) for piece in pieces] == [b"1", b"2"]
    with pytest.raises(MalformedJson):
        at_once(cut_members(b" " * size, MANY, MANY))


def test_members_are_bounded() -> None:
    """Members, items of a list, and values of an item."""
    few = Most("few", 10)
    at_once(cut_members(b'{"a":[1,2,3,4,5,6,7,8,9,10],"b":[[1,2,3]]}', few, few))
    for body in (
        b'{"a":[' + b"1," * 10 + b"1]}",
        b'{"a":[[' + b"1," * 10 + b"1]]}",
        b'{"a":{"b":[' + b"1," * 10 + b"1]}}",
    ):
        with pytest.raises(LimitExceeded):
            at_once(cut_members(body, few, few))
    with pytest.raises(LimitExceeded):
        at_once(cut_members(b"{" + b",".join(b'"m%d":1' % at for at in range(100)) + b"}", MANY, MANY))


def test_too_many_records_are_counted() -> None:
    """The refusal says how many records there are, up to a hundred times the limit."""
    for sent, told in ((30, 30), (2000, None)):
        body = b'{"records":[' + b",".join([b"{}"] * sent) + b"]}"
        with pytest.raises(LimitExceeded) as caught:
            at_once(cut_records(body, Settings(max_records=10), MANY))
        extra = caught.value.extra
        assert (extra["limit"], extra["limit_name"]) == (10, "max_records")
        assert extra["count"] == told if told else 1000 < extra["count"] <= sent


def test_too_many_records_are_seen_at_the_beginning() -> None:
    """The beginning of a body is enough to refuse it; what it cannot decide is left to the whole."""
    for begun in (
        b'{"records": [',
        b' { "records":[[],[[],{"a":[1,2]}],',
        b'{"records":[{"id":"a,b,c,d"},',
        b"[[],[],[],[],[],",
        b"",
    ):
        check_beginning(begun, most=3)
    for begun in (b'{"records":[[],[],[],[],', b'{"records":[{"a":1},{},{},{},[', b'{"records":[1,2,3,"4'):
        with pytest.raises(LimitExceeded, match="more than 3 records"):
            check_beginning(begun, most=3)
