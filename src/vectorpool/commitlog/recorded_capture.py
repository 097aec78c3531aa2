"""Captures that read only what may have changed, where that is known, and that never trust it without looking.

A whole capture reads every block of every file that was written lately, so its cost grows with the vectorstore. Where
the caller knows which blocks of one file may differ (``Known``), only those are read, and those behind its former end.
Of the others each capture reads some in turn and compares them with the image: a block that changed without being known
is found within some hundred captures of a large file. Then the capture is whole, and so is each later one of the
directory.

What is not exactly as expected (another file, another size, a file that was written since) makes a capture whole.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from vectorpool.commitlog.format import BLOCK_BYTES
from vectorpool.commitlog.image import (
    DIGEST_BYTES,
    Capture,
    Extent,
    FileState,
    FileTimes,
    Image,
    block_digests,
    capture,
    identity_of,
    keep_changed,
    list_files,
    read_file,
)

logger = logging.getLogger(__name__)

# Blocks that each capture compares in turn, beside those that may differ.
CHECKED_BLOCKS: Final = 16
# More known blocks than this part of a file are not worth reading one by one.
_WORTH: Final = 2
# Blocks that may hold zeros or not, which are read before it pays to have them overwritten.
_MAX_UNSURE: Final = 64
_EXTENT_BLOCKS: Final = 256
_ZEROS: Final = block_digests(bytes(BLOCK_BYTES))
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Known(msgspec.Struct, frozen=True):
    """What may differ from the image: blocks of the file ``path`` by number, and other files at the top.

    Blocks in ``zeroed``, and not in ``numbers``, are as in the image, or hold zeros.
    ``stat`` is the ``identity_of`` that file when they were noted.
    """

    path: str
    numbers: frozenset[int]
    stat: tuple[int, int, int, int, int]
    zeroed: frozenset[int] = frozenset()


class _Unknown(Exception):
    """The directory is not as expected."""


class _Missed(Exception):
    """A block changed that was not known."""


class Captures:
    """The captures of one directory, by one thread at a time, while nothing writes it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._times = FileTimes()
        self._next = 0
        self._trusts = True
        # How many captures read what was known, and how many read everything.
        self.recorded, self.whole = 0, 0
        # Whether many blocks had to be read that are not used, because the image has something else in them than zeros.
        self.is_worth_zeroing = False

    def take(self, before: Image, known: Known | None) -> Capture:
        """Return what the directory holds now and how it differs from ``before``. Raises UncleanDirectory."""
        if known is not None and self._trusts:
            try:
                captured = self._recorded(before, known)
                self.recorded += 1
                return captured
            except _Unknown:
                pass
            except _Missed:
                self._trusts = False
                logger.error(
                    "a block of %s changed that SQLite's journal did not name; from now on all captures of this "
                    "replica read everything. Report this, with the version of SQLite.",
                    known.path,
                )
        self.whole += 1
        self.is_worth_zeroing = False
        return capture(self._directory, before, self._times)

    def _recorded(self, before: Image, known: Known) -> Capture:
        stats = list_files(self._directory)
        stat, old = stats.get(known.path), before.files.get(known.path)
        if stat is None or old is None or identity_of(stat) != known.stat or stat.st_size < old.size:
            raise _Unknown
        if (
            stat.st_size % BLOCK_BYTES
            or old.size % BLOCK_BYTES
            or len(known.numbers) * _WORTH > stat.st_size // BLOCK_BYTES
        ):
            raise _Unknown
        extents: list[Extent] = []
        files: dict[str, FileState] = {}
        read: list[str] = []
        resized = stat.st_size != old.size
        for path, found in stats.items():
            there = before.files.get(path)
            if path == known.path:
                files[path] = self._read_known(old, stat.st_size, known, extents)
            elif "/" in path:
                if there is None or there.size != found.st_size:
                    raise _Unknown
                files[path] = there
            else:
                read.append(path)
                if there is not None and self._times.state(path, found) == there:
                    files[path] = there
                    continue
                kept: list[Extent] = []
                files[path] = read_file(self._directory / path, there.blocks if there else b"", (path, kept))
                resized |= there is None or there.size != files[path].size
                extents += kept
        removed = sorted(before.files.keys() - files.keys())
        if any("/" in path for path in removed):
            raise _Unknown
        self._times.take({path: found for path, found in stats.items() if "/" not in path}, files, read=read)
        return Capture(Image(files), extents, removed, resized)

    def _read_known(self, old: FileState, size: int, known: Known, extents: list[Extent]) -> FileState:
        """Return what the file holds, and add its changed blocks to ``extents``. Raises _Missed and _Unknown."""
        count, count_before = size // BLOCK_BYTES, old.size // BLOCK_BYTES
        wanted = {number for number in known.numbers if number < count}
        wanted.update(range(count_before, count))
        before, step = old.blocks, DIGEST_BYTES
        unsure = [n for n in known.zeroed if before[n * step : (n + 1) * step] != _ZEROS]
        wanted.update(unsure)
        self.is_worth_zeroing = len(unsure) > _MAX_UNSURE
        start = self._next if self._next < count_before else 0
        checked = range(start, min(start + CHECKED_BLOCKS, count_before))
        digests = bytearray(old.blocks)
        digests.extend(bytes((count - count_before) * DIGEST_BYTES))
        handle = os.open(self._directory / known.path, _READ)
        try:
            for first, blocks in _runs(sorted(wanted.union(checked))):
                offset, at = first * BLOCK_BYTES, first * step
                data = os.pread(handle, blocks * BLOCK_BYTES, offset)
                if len(data) != blocks * BLOCK_BYTES:
                    raise _Unknown
                found = block_digests(data)
                if found == before[at : at + len(found)]:
                    continue
                kept: list[Extent] = []
                keep_changed(known.path, offset, memoryview(data), found, before, kept)
                if any(number not in wanted for extent in kept for number in _numbers(extent)):
                    raise _Missed
                extents += kept
                digests[at : at + len(found)] = found
            if identity_of(os.fstat(handle)) != known.stat:
                raise _Unknown
        finally:
            os.close(handle)
        self._next = checked.stop
        return FileState(size, bytes(digests))


def _numbers(extent: Extent) -> range:
    first = extent.offset // BLOCK_BYTES
    return range(first, first + len(extent.data) // BLOCK_BYTES)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Return adjacent numbers as (first, count), of at most 1 MiB."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and sum(runs[-1]) == number and runs[-1][1] < _EXTENT_BLOCKS:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs
