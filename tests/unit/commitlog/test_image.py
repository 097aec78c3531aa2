"""Images: what a directory is, and what it must not be when it is captured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vectorpool.commitlog.image import EMPTY, UncleanDirectory, block_digests, capture, scan

BLOCK = 4096


def test_equal_directories_have_equal_images(tmp_path: Path) -> None:
    """The checksum follows names, sizes and bytes, and nothing else."""
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_bytes(b"x" * 10_000)
        (tmp_path / name / "empty").write_bytes(b"")
    one, two = scan(tmp_path / "one"), scan(tmp_path / "two")
    assert one == two
    assert one.checksum() == two.checksum()
    assert one.size == 10_000
    os.truncate(tmp_path / "two" / "sub" / "file", 9_999)
    assert scan(tmp_path / "two").checksum() != one.checksum()
    (tmp_path / "one" / "empty").rename(tmp_path / "one" / "other")
    assert scan(tmp_path / "one").checksum() != one.checksum()


def test_a_capture_keeps_changed_blocks_only_and_joins_neighbours(tmp_path: Path) -> None:
    """Three changed blocks of a thousand, two of them neighbours, are two extents."""
    file = tmp_path / "data"
    file.write_bytes(bytes(1000 * BLOCK + 7))
    before = scan(tmp_path)
    with file.open("r+b") as handle:
        for block in (10, 11, 500):
            handle.seek(block * BLOCK + 5)
            handle.write(b"changed")
    found = capture(tmp_path, before)
    assert [(e.path, e.offset, len(e.data)) for e in found.extents] == [
        ("data", 10 * BLOCK, 2 * BLOCK),
        ("data", 500 * BLOCK, BLOCK),
    ]
    assert found.removed == []
    assert found.changed


def test_a_capture_of_nothing_new_is_empty(tmp_path: Path) -> None:
    """Touching a file without changing it makes no extent."""
    (tmp_path / "data").write_bytes(b"x" * 100_000)
    before = scan(tmp_path)
    os.utime(tmp_path / "data")
    found = capture(tmp_path, before)
    assert (found.extents, found.removed, found.changed) == ([], [], False)


def test_a_file_cut_at_a_block_is_a_change_without_extents(tmp_path: Path) -> None:
    """A cut at the edge of a block leaves no changed block, but another size."""
    (tmp_path / "data").write_bytes(b"x" * 3 * BLOCK)
    before = scan(tmp_path)
    os.truncate(tmp_path / "data", 2 * BLOCK)
    found = capture(tmp_path, before)
    assert found.extents == []
    assert found.changed


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_data_in_a_side_file_is_never_dropped(tmp_path: Path, suffix: str) -> None:
    """A journal or write-ahead log that holds anything refuses the capture; an empty one is left out."""
    (tmp_path / "chroma.sqlite3").write_bytes(b"db")
    side = tmp_path / f"chroma.sqlite3{suffix}"
    side.write_bytes(b"")
    (tmp_path / "chroma.sqlite3-shm").write_bytes(b"shared memory")
    assert list(capture(tmp_path, EMPTY).image.files) == ["chroma.sqlite3"]
    side.write_bytes(b"pages")
    with pytest.raises(UncleanDirectory, match="not yet in its database"):
        capture(tmp_path, EMPTY)


def test_a_link_is_refused(tmp_path: Path) -> None:
    """A symbolic link could lead anywhere, so it is refused by name."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(UncleanDirectory, match="link is neither a file nor a directory"):
        scan(tmp_path)


def test_digests_are_of_4_kib_blocks() -> None:
    """16 bytes a block, the last block short."""
    assert block_digests(b"") == b""
    data = b"a" * BLOCK + b"b" * 10
    assert block_digests(data) == block_digests(data[:BLOCK]) + block_digests(data[BLOCK:])
    assert len(block_digests(data)) == 32
