"""Captures by known blocks find what a whole capture finds, and read everything where something is not as known."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import pytest

from vectorpool.commitlog.image import EMPTY, Capture, UncleanDirectory, capture, identity_of, scan
from vectorpool.commitlog.recorded_capture import CHECKED_BLOCKS, Captures, Known

BLOCK = 4096
BLOCKS = 400
FILE = "chroma.sqlite3"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a database, an index and a sidecar."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "data.bin").write_bytes(os.urandom(10 * BLOCK + 5))
    (tmp_path / FILE).write_bytes(os.urandom(BLOCKS * BLOCK))
    (tmp_path / "sidecar").write_bytes(os.urandom(3 * BLOCK))
    return tmp_path


def write(directory: Path, *blocks: int, name: str = FILE) -> None:
    """Change blocks of a file."""
    with (directory / name).open("r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK + 7)
            file.write(os.urandom(9))


def known(directory: Path, *numbers: int) -> Known:
    """Return the blocks as known now."""
    return Known(FILE, frozenset(numbers), identity_of((directory / FILE).stat()))


def parts(found: Capture) -> dict[tuple[str, int], bytes]:
    """Return the changed blocks one by one."""
    return {
        (extent.path, extent.offset + at): extent.data[at : at + BLOCK]
        for extent in found.extents
        for at in range(0, len(extent.data), BLOCK)
    }


def test_a_capture_by_known_blocks_is_the_whole_capture(directory: Path) -> None:
    """Blocks in the middle, neighbours, known ones that did not change, new ones at the end, and the sidecar's."""
    dice, captures, before = random.Random(1), Captures(directory), scan(directory)
    for turn in range(30):
        blocks = [dice.randrange(BLOCKS) for _ in range(5)] + [7, 8]
        write(directory, *blocks)
        grows = turn % 3 == 0
        with (directory / FILE).open("ab") as file:
            file.write(os.urandom(2 * BLOCK * grows))
        if turn % 4 == 0:
            write(directory, 1, name="sidecar")
        whole = capture(directory, before)
        found = captures.take(before, known(directory, *blocks, 3, 4))
        assert found.image == whole.image == scan(directory)
        assert parts(found) == parts(whole)
        assert (found.removed, found.resized) == ([], grows) == (whole.removed, whole.resized)
        before = found.image
    assert (captures.recorded, captures.whole) == (30, 0)


def test_only_known_blocks_and_some_in_turn_are_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes read do not grow with the file, and the index is not read at all."""
    before, captures = scan(directory), Captures(directory)
    captures.take(before, known(directory, 1))
    write(directory, 300)
    read: list[int] = []
    pread = os.pread

    def counted(handle: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(handle, count, offset)

    monkeypatch.setattr(os, "pread", counted)
    found = captures.take(before, known(directory, 300))
    assert list(parts(found)) == [(FILE, 300 * BLOCK)]
    assert sum(read) == (1 + CHECKED_BLOCKS) * BLOCK


def test_a_block_that_was_not_known_is_found_and_committed(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Captures in turn reach every block; then everything is read, the error is logged once, and nothing is trusted."""
    captures, before = Captures(directory), scan(directory)
    write(directory, 300)
    with caplog.at_level(logging.ERROR):
        for _ in range(BLOCKS // CHECKED_BLOCKS + 1):
            found = captures.take(before, known(directory))
    assert list(parts(found)) == [(FILE, 300 * BLOCK)]
    assert found.image == scan(directory)
    assert captures.whole > 0 and captures.recorded < BLOCKS // CHECKED_BLOCKS
    assert len(caplog.records) == 1 and "journal" in caplog.text
    recorded = captures.recorded
    captures.take(found.image, known(directory, 1))
    assert captures.recorded == recorded


@pytest.mark.parametrize("what", ["time", "size", "odd size", "new file", "no file", "new folder", "index", "nothing"])
def test_what_is_not_as_known_is_captured_as_a_whole(directory: Path, what: str) -> None:
    """Another time, size or file than was noted, and a directory without an image, make the capture read everything."""
    captures, before = Captures(directory), scan(directory)
    write(directory, 5)
    noted = known(directory, 5)
    if what == "time":
        os.utime(directory / FILE, ns=(1, 1))
    elif what == "size":
        os.truncate(directory / FILE, (BLOCKS - 1) * BLOCK)
        noted = known(directory, 5)
    elif what == "odd size":
        os.truncate(directory / FILE, BLOCKS * BLOCK + 1)
        noted = known(directory, 5)
    elif what == "new file":
        (directory / "index" / "data.bin").rename(directory / "index" / "other.bin")
    elif what == "no file":
        (directory / FILE).unlink()
    elif what == "new folder":
        (directory / "more").mkdir()
        (directory / "more" / "file").write_bytes(b"x")
    elif what == "index":
        os.truncate(directory / "index" / "data.bin", BLOCK)
    else:
        before = EMPTY
    whole = capture(directory, before)
    found = captures.take(before, noted)
    assert captures.whole == 1
    assert (found.image, parts(found), found.removed) == (whole.image, parts(whole), whole.removed)


def test_many_known_blocks_are_captured_as_a_whole(directory: Path) -> None:
    """Where most of a file is known to differ, it is read in one go."""
    captures, before = Captures(directory), scan(directory)
    captures.take(before, known(directory, *range(BLOCKS // 2 + 1)))
    assert captures.whole == 1


def test_a_sidecar_that_comes_and_goes_is_captured(directory: Path) -> None:
    """Files at the top are compared by their bytes in either kind of capture."""
    captures, before = Captures(directory), scan(directory)
    (directory / "sidecar").rename(directory / "other")
    write(directory, 2)
    found = captures.take(before, known(directory, 2))
    assert captures.recorded == 1
    assert found.removed == ["sidecar"] and found.resized
    assert found.image == scan(directory)


def test_an_open_journal_refuses_a_capture_by_known_blocks(directory: Path) -> None:
    """As it does any capture."""
    (directory / f"{FILE}-journal").write_bytes(b"x")
    with pytest.raises(UncleanDirectory, match="Checkpoint or close"):
        Captures(directory).take(EMPTY, known(directory, 2))
