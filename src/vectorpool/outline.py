"""The outline of a JSON body: how much is in it, and where its records are, before anything is made of it.

A decoder makes an object of each value and keeps the interpreter lock meanwhile: 20 million empty lists take 60 MB of
JSON, and 16 seconds in which no other caller is answered. So a large body is looked at first, as an array of bytes, in
parts. Nearly all of that time is numpy's, without the lock. A body that holds more than it may is refused there. What
it holds is then decoded in pieces: even to skip 60 MB of JSON takes a decoder 45 ms.

What is no JSON has an outline too. The decoder refuses it afterwards. The functions are generators that stop after each
part, so that the bodies of several callers take turns (``turns``).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Generator, Iterator
from itertools import pairwise
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from vectorpool.bounds import Most
from vectorpool.checks import check_count
from vectorpool.errors import LimitExceeded, MalformedJson
from vectorpool.settings import Settings

Body: TypeAlias = bytes | bytearray | memoryview

_PART_BYTES: Final = 256 * 1024
# Deeper than any body that has a meaning; the decoder's own limit is that of its stack.
_MAX_DEPTH: Final = 512

_OTHER, _OPENING, _CLOSING, _COMMA, _COLON = range(5)
_KINDS: Final = np.zeros(256, np.uint8)
_KINDS[[ord("["), ord("{")]] = _OPENING
_KINDS[[ord("]"), ord("}")]] = _CLOSING
_KINDS[ord(",")] = _COMMA
_KINDS[ord(":")] = _COLON
_BLANK: Final = np.zeros(256, np.bool_)
_BLANK[list(b" \t\r\n")] = True
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")

# Space between the parts of a body. At its ends there may be any amount.
_MAX_SPACE: Final = 64 * 1024
# Members of a body. No body has more than eight that mean something.
_MAX_MEMBERS: Final = 64
# Bytes of items that are decoded in one step: about a millisecond.
_CHUNK_BYTES: Final = 256 * 1024

_Positions = npt.NDArray[np.intp]
_SPACE: Final = rb"[ \t\r\n]*+"
_BEFORE: Final = re.compile(_SPACE + rb"\{" + _SPACE + rb'"records"' + _SPACE + rb":" + _SPACE + rb"\[" + _SPACE)
_AFTER: Final = re.compile(_SPACE + rb"\}" + _SPACE)
_IS_SPACE: Final = re.compile(_SPACE)
_NAME: Final = re.compile(_SPACE + rb'("[^"\\]{0,100}")' + _SPACE)
_OBJECT: Final = re.compile(_SPACE + rb"\{")
# Where the items of a body's one list of records are: in a list in an object.
_RECORDS_DEPTH: Final = 2
# Too many records are counted, so that the caller learns how many there are, up to so many times the limit.
_COUNTED_ON: Final = 100


class _Part:
    """The structural bytes of a part of a body: their positions, kinds, and the depth after each."""

    def __init__(self, at: _Positions, kinds: npt.NDArray[np.uint8], depths: npt.NDArray[np.int64]) -> None:
        self.at = at
        self.kinds = kinds
        self.depths = depths

    def count(self, *kinds: int) -> int:
        """Return how many structural bytes of these kinds there are."""
        return sum(int(np.count_nonzero(self.kinds == kind)) for kind in kinds)


def parts_of(body: Body) -> Iterator[_Part]:
    """Yield the structural bytes of a body, part by part. Raises MalformedJson if it nests too deeply."""
    whole = np.frombuffer(body, np.uint8)
    in_text, escapes_next, depth = False, False, 0
    for start in range(0, len(whole), _PART_BYTES):
        part = whole[start : start + _PART_BYTES]
        quotes = np.flatnonzero(part == _QUOTE)
        escaped, escapes_next = _escaped(part, escapes_next)
        if escaped.size:
            quotes = np.setdiff1d(quotes, escaped, assume_unique=True)
        kinds = _KINDS[part]
        at = np.flatnonzero(kinds)
        # A structural byte is in a text if an odd number of quotes stand before it.
        is_outside = ((np.searchsorted(quotes, at) & 1) == 0) ^ in_text
        at = at[is_outside]
        kinds = kinds[at]
        steps = (kinds == _OPENING).astype(np.int64) - (kinds == _CLOSING)
        depths = depth + np.cumsum(steps)
        if depths.size:
            depth = int(depths[-1])
            if int(depths.max()) > _MAX_DEPTH:
                raise MalformedJson(f"The body nests more than {_MAX_DEPTH} deep. Send a flatter one.")
        in_text ^= bool(quotes.size & 1)
        yield _Part(at + start, kinds, depths)


def _escaped(part: npt.NDArray[np.uint8], is_first: bool) -> tuple[_Positions, bool]:
    """Return the positions of escaped bytes, and whether the first byte of the next part is one."""
    slashes = np.flatnonzero(part == _BACKSLASH)
    if is_first and slashes.size and slashes[0] == 0:
        slashes = slashes[1:]
    none: Any = np.zeros(0, np.intp)
    first: Any = np.zeros(1, np.intp) if is_first else none
    if not slashes.size:
        return first, False
    # Of a run of backslashes, each second one is escaped; an odd run escapes what follows it.
    is_start = np.diff(slashes, prepend=-2) != 1
    starts = slashes[is_start]
    ends = np.append(slashes[np.flatnonzero(is_start)[1:] - 1], slashes[-1])
    after = ends[(ends - starts) % 2 == 0] + 1
    runs_over = bool(after.size) and int(after[-1]) == len(part)
    return np.concatenate([first, after[:-1] if runs_over else after]), runs_over


def check_values(body: Body, values: Most, containers: Most) -> Generator[None, None, None]:
    """Raise LimitExceeded if a body has more values, or more lists and objects, than the bounds allow.

    A name is a value too. Raises MalformedJson if the body nests too deeply.
    """
    found, opened = 1, 0
    for part in parts_of(body):
        # One begins after each comma and each colon, and after each opening, unless the container is empty.
        found += part.count(_OPENING, _COMMA, _COLON)
        opened += part.count(_OPENING)
        if opened > containers.most:
            raise containers.exceeded("The body")
        if found > values.most:
            raise values.exceeded("The body")
        yield


def cut_records(body: Body, settings: Settings, values: Most) -> Generator[None, None, list[memoryview]]:
    """Return the records of ``{"records": [...]}``, each as JSON.

    Raises LimitExceeded if there are more records than ``max_records``, or one of them has more values than the bound
    allows; and MalformedJson if the body has another shape.
    """
    body = yield from _trimmed(body)
    before = _BEFORE.match(body, 0, _MAX_SPACE)
    if before is None:
        raise MalformedJson('The body is not {"records": [...]}. Send that alone; /schema shows the shape.')
    start, end, most, count = before.end(), None, settings.max_records, 1
    cuts: list[int] = []
    since = 0
    for part in parts_of(body):
        is_cut = (part.kinds == _COMMA) & (part.depths == _RECORDS_DEPTH)
        is_end = (part.kinds == _CLOSING) & (part.depths == _RECORDS_DEPTH - 1)
        if is_end.any():
            # What stands behind the list is no record.
            is_cut &= part.at < part.at[np.argmax(is_end)]
        count += int(np.count_nonzero(is_cut))
        if count <= most:
            since = _check_each(part, is_cut, since, values, "A record, of numbers and metadata together,")
            cuts += part.at[is_cut].tolist()
        elif count > most * _COUNTED_ON:
            break
        if is_end.any():
            end = int(part.at[np.argmax(is_end)])
            break
        yield
    check_count("records", count, limit=most, limit_name="max_records")
    if end is None or len(body) - end > _MAX_SPACE or not _AFTER.fullmatch(body, end + 1):
        raise MalformedJson('The body is not {"records": [...]}. Send that alone; /schema shows the shape.')
    if not cuts and _IS_SPACE.fullmatch(body, start, min(end, start + _MAX_SPACE)) and end - start <= _MAX_SPACE:
        return []
    edges = [start - 1, *cuts, end]
    return [body[left + 1 : right] for left, right in pairwise(edges)]


def check_beginning(body: Body, most: int) -> None:
    """Raise LimitExceeded if the beginning of ``{"records": [...]}`` has more records already than the body may have.

    ``body`` is as much as has arrived. What begins otherwise is left to ``cut_records``, once it is whole.
    """
    if not _BEFORE.match(body, 0, min(len(body), _MAX_SPACE)):
        return
    count = 1
    for part in parts_of(body):
        count += int(np.count_nonzero((part.kinds == _COMMA) & (part.depths == _RECORDS_DEPTH)))
    if count > most:
        raise LimitExceeded(
            f"The call carries more than {most} records, which is the most (max_records). Split the call.",
            extra={"limit": most, "limit_name": "max_records"},
        )


def _check_each(part: _Part, is_cut: npt.NDArray[np.bool_], since: int, values: Most, of: str) -> int:
    """Raise LimitExceeded if a piece between two cuts has too many values; return how many the last one has so far."""
    # How many values begin up to each cut: the differences are the records'.
    counts = np.cumsum(part.kinds != _CLOSING)
    at_cuts = counts[is_cut]
    last = int(counts[-1]) if counts.size else 0
    marks = np.concatenate([[-since], at_cuts, [last]])
    if int(np.diff(marks).max()) > values.most:
        raise values.exceeded(of)
    return last - int(at_cuts[-1]) if at_cuts.size else since + last


# --- Members --------------------------------------------------------------------------------------------


class Member:
    """The value of a member of a body, as JSON. If it is a list, it can be had in chunks of items."""

    def __init__(self, body: memoryview, start: int, end: int, cuts: _Positions) -> None:
        self._body = body
        self._start = start
        self._end = end
        # The commas between the items.
        self._cuts = cuts
        self.view = body[start:end]
        self.raw = msgspec.Raw(self.view)

    @property
    def span(self) -> tuple[int, int]:
        """Where the value is in the body: its first byte, and the one after its last."""
        return self._start, self._end

    def chunks(self) -> Iterator[tuple[int, msgspec.Raw]]:
        """Yield the items in lists of some, each with the number of its first item; what is no list, as it is."""
        first, last = self._edges()
        if first is None or last is None:
            yield 0, self.raw
            return
        edges = [first, *self._cuts.tolist(), last]
        at = 0
        while at < len(edges) - 1:
            # As many items as fit, and one at least.
            upto = bisect_right(edges, edges[at] + _CHUNK_BYTES) - 1
            upto = min(max(upto, at + 1), len(edges) - 1)
            yield at, msgspec.Raw(b"".join((b"[", self._body[edges[at] + 1 : edges[upto]], b"]")))
            at = upto

    @property
    def items(self) -> int | None:
        """How many items the list has; None if the value is no list."""
        first, last = self._edges()
        if first is None or last is None:
            return None
        is_empty = not len(self._cuts) and _is_space(self._body, first + 1, last)
        return 0 if is_empty else len(self._cuts) + 1

    @property
    def longest(self) -> int:
        """The bytes of the longest item; 0 if the value is no list."""
        first, last = self._edges()
        if first is None or last is None:
            return 0
        return int(np.diff(np.concatenate([[first], self._cuts, [last]])).max()) - 1

    def _edges(self) -> tuple[int | None, int | None]:
        """Return the positions of a list's brackets."""
        first, last = self._start, self._end - 1
        while first < last and self._body[first] in _SPACES and first - self._start < _MAX_SPACE:
            first += 1
        while last > first and self._body[last] in _SPACES and self._end - last < _MAX_SPACE:
            last -= 1
        is_list = last > first and self._body[first] == ord("[") and self._body[last] == ord("]")
        return (first, last) if is_list else (None, None)


_SPACES: Final = frozenset(b" \t\r\n")


def _is_space(body: memoryview, start: int, end: int) -> bool:
    return end - start <= _MAX_SPACE and _IS_SPACE.fullmatch(body, start, end) is not None


def _trimmed(body: Body) -> Generator[None, None, memoryview]:
    """Return a body without the space at its ends, which is looked at in parts."""
    view = memoryview(body)
    start, end = 0, len(view)
    while start < end:
        told = np.flatnonzero(~_is_blank(view[start : min(end, start + _PART_BYTES)]))
        if told.size:
            start += int(told[0])
            break
        start = min(end, start + _PART_BYTES)
        yield
    while end > start:
        first = max(start, end - _PART_BYTES)
        told = np.flatnonzero(~_is_blank(view[first:end]))
        if told.size:
            end = first + int(told[-1]) + 1
            break
        end = first
        yield
    return view[start:end]


def _is_blank(part: memoryview) -> npt.NDArray[np.bool_]:
    return _BLANK[np.frombuffer(part, np.uint8)]


def cut_members(body: Body, items: Most, values: Most) -> Generator[None, None, dict[str, Member]]:
    """Return the members of an object by name; of several with one name, the last.

    Raises LimitExceeded if a list among them has more than ``items``, or an item of one, or another member, more than
    ``values``; MalformedJson if the body is no object, or nests too deeply. What the members hold is not looked at.
    """
    body = yield from _trimmed(body)
    if not _OBJECT.match(body, 0, 1):
        raise MalformedJson("The body is no JSON object. Send one; /schema shows the shape.")
    marks, cuts = list[tuple[int, int]](), list[_Positions]()
    end, since, since_cuts = None, 0, 0
    for part in parts_of(body):
        is_mark = (part.depths == 1) & ((part.kinds == _COMMA) | (part.kinds == _COLON))
        is_end = (part.kinds == _CLOSING) & (part.depths == 0)
        if is_end.any():
            end = int(part.at[np.argmax(is_end)])
            is_mark &= part.at < end
        is_cut = (part.depths == _RECORDS_DEPTH) & (part.kinds == _COMMA)
        marks += zip(part.at[is_mark].tolist(), part.kinds[is_mark].tolist(), strict=True)
        if len(marks) > 2 * _MAX_MEMBERS:
            raise Most("members", _MAX_MEMBERS).exceeded("The body")
        since = _check_each(part, is_cut | is_mark, since, values, "An item, or a filter,")
        since_cuts = _check_cuts(is_mark, is_cut, since_cuts, items)
        cuts.append(part.at[is_cut])
        if end is not None:
            break
        yield
    if end is None or not _is_space(body, end + 1, len(body)):
        raise MalformedJson("The body is not one JSON object. Send that alone, in UTF-8.")
    return _named(body, marks, np.concatenate(cuts), end)


def _check_cuts(is_mark: npt.NDArray[np.bool_], is_cut: npt.NDArray[np.bool_], since: int, items: Most) -> int:
    """Raise LimitExceeded if a member has too many items; return how many the last one has so far."""
    counts = np.cumsum(is_cut)
    last = int(counts[-1]) if counts.size else 0
    at_marks = counts[is_mark]
    if int(np.diff(np.concatenate([[-since], at_marks, [last]])).max()) >= items.most:
        raise items.exceeded("A list")
    return last - int(at_marks[-1]) if at_marks.size else since + last


def _named(body: memoryview, marks: list[tuple[int, int]], cuts: _Positions, end: int) -> dict[str, Member]:
    """Return the members between the marks: each is a name, a colon and a value, and ends with a comma or the body."""
    found: dict[str, Member] = {}
    opening = _OBJECT.match(body, 0, _MAX_SPACE)
    assert opening is not None
    start = opening.end()
    if not marks and _is_space(body, start, end):
        return {}
    for (colon, kind), (after, next_kind) in zip(marks[::2], [*marks[1::2], (end, _COMMA)], strict=False):
        name = _NAME.fullmatch(body, start, min(colon, start + _MAX_SPACE))
        if kind != _COLON or next_kind != _COMMA or name is None or colon - start > _MAX_SPACE:
            break
        left, right = np.searchsorted(cuts, [colon, after])
        found[name[1][1:-1].decode("utf-8", "replace")] = Member(body, colon + 1, after, cuts[left:right])
        start = after + 1
    else:
        if len(marks) % 2:
            return found
    raise MalformedJson("The body is not a JSON object of named members. Send one; /schema shows the shape.")
