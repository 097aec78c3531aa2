"""The outline of a JSON body: how much is in it, and where its records are, before anything is made of it.

A decoder makes an object of each value and keeps the interpreter lock meanwhile: 20 million empty lists take 60 MB of
JSON, and 16 seconds in which no other caller is answered. So a large body is looked at first, as an array of bytes, in
parts. Nearly all of that time is numpy's, without the lock. A body that holds more than it may is refused there.

What is no JSON has an outline too. The decoder refuses it afterwards. The functions are generators that stop after each
part, so that the bodies of several callers take turns (``api.bodies``).
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vectorpool.bounds import Most
from vectorpool.checks import check_count
from vectorpool.errors import MalformedJson
from vectorpool.settings import Settings

_PART_BYTES: Final = 256 * 1024
# Deeper than any body that has a meaning; the decoder's own limit is that of its stack.
_MAX_DEPTH: Final = 512

_OTHER, _OPENING, _CLOSING, _COMMA, _COLON = range(5)
_KINDS: Final = np.zeros(256, np.uint8)
_KINDS[[ord("["), ord("{")]] = _OPENING
_KINDS[[ord("]"), ord("}")]] = _CLOSING
_KINDS[ord(",")] = _COMMA
_KINDS[ord(":")] = _COLON
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")

_Positions = npt.NDArray[np.intp]
_SPACE: Final = rb"[ \t\r\n]*+"
_BEFORE: Final = re.compile(_SPACE + rb"\{" + _SPACE + rb'"records"' + _SPACE + rb":" + _SPACE + rb"\[" + _SPACE)
_AFTER: Final = re.compile(_SPACE + rb"\}" + _SPACE)
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


def parts_of(body: bytes) -> Iterator[_Part]:
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


def check_values(body: bytes, values: Most, containers: Most) -> Generator[None, None, None]:
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


def cut_records(body: bytes, settings: Settings, values: Most) -> Generator[None, None, list[memoryview]]:
    """Return the records of ``{"records": [...]}``, each as JSON.

    Raises LimitExceeded if there are more records than ``max_records``, or one of them has more values than the bound
    allows; and MalformedJson if the body has another shape.
    """
    before = _BEFORE.match(body)
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
            since = _check_each(part, is_cut, since, values)
            cuts += part.at[is_cut].tolist()
        elif count > most * _COUNTED_ON:
            break
        if is_end.any():
            end = int(part.at[np.argmax(is_end)])
            break
        yield
    check_count("records", count, limit=most, limit_name="max_records")
    if end is None or not _AFTER.fullmatch(body, end + 1):
        raise MalformedJson('The body is not {"records": [...]}. Send that alone; /schema shows the shape.')
    view = memoryview(body)
    if not cuts and not body[start:end].strip():
        return []
    edges = [start - 1, *cuts, end]
    return [view[left + 1 : right] for left, right in pairwise(edges)]


def _check_each(part: _Part, is_cut: npt.NDArray[np.bool_], since: int, values: Most) -> int:
    """Raise LimitExceeded if a record has too many values; return how many the last one has so far."""
    # How many values begin up to each cut: the differences are the records'.
    counts = np.cumsum(part.kinds != _CLOSING)
    at_cuts = counts[is_cut]
    last = int(counts[-1]) if counts.size else 0
    marks = np.concatenate([[-since], at_cuts, [last]])
    if int(np.diff(marks).max()) > values.most:
        raise values.exceeded("A record, of numbers and metadata together,")
    return last - int(at_cuts[-1]) if at_cuts.size else since + last
