"""The format: what it tolerates and what it refuses before it allocates or writes."""

from __future__ import annotations

import random
import struct

import msgspec
import pytest

from vectorpool.commitlog.body import BodyBuilder, unpack_frame
from vectorpool.commitlog.format import (
    BLOCK_BYTES,
    MAX_FRAME_BYTES,
    STORED,
    ZSTD,
    Decoded,
    FileEntry,
    Header,
    body_checksum,
    decode_header,
    digest,
    encode_header,
    state_checksum,
)
from vectorpool.commitlog.image import Extent, FileState, Image, block_digests
from vectorpool.errors import CorruptObject, NewerFormat

KEY = "users/42/vectorstore/log/999999999998"


def make(files: dict[str, bytes], /, **changes: object) -> bytes:
    image = Image({path: FileState(len(data), block_digests(data)) for path, data in files.items()})
    body = BodyBuilder()
    body.add([Extent(path, 0, data) for path, data in files.items() if data])
    frames, stored = body.finish(image.table())
    header = Header(
        kind="base",
        seq=1,
        after=0,
        parent_hash=b"",
        writer="w",
        time_ms=1,
        files=image.table(),
        frames=frames,
        body_checksum=body_checksum(frames),
        state_before=b"",
        state_after=image.checksum(),
    )
    head, _ = encode_header(msgspec.structs.replace(header, **changes))
    return b"".join([head, *stored])


def decode(data: bytes) -> Decoded:
    return decode_header(KEY, data, len(data))


def reseal(header: bytes, major: int = 1, minor: int = 0) -> bytes:
    """Return an object of any header bytes with a right checksum, as a later version might write."""
    start = struct.pack("<4sBBHI", b"vpLG", major, minor, 0, len(header))
    return start + digest(start + header) + header


def test_a_header_comes_back_as_it_was() -> None:
    """What is encoded decodes to the same values, with the body right behind."""
    data = make({"a": b"x" * 5000, "b/c": b""})
    decoded = decode(data)
    assert [(f.path, f.size) for f in decoded.header.files] == [("a", 5000), ("b/c", 0)]
    (frame,) = decoded.header.frames
    assert unpack_frame(KEY, frame, data[decoded.body_offset :]) == b"x" * 5000


def test_fields_of_a_later_minor_version_are_ignored() -> None:
    """A header with a field that this version does not know is read all the same, and keeps its own hash."""
    data = make({})
    decoded = decode(data)
    fields = msgspec.msgpack.decode(data[28:])
    fields["invented_later"] = {"any": [1, 2]}
    newer = msgspec.msgpack.encode(fields)
    again = decode(reseal(newer, minor=7))
    assert again.header == decoded.header
    assert again.commit_hash == digest(newer) != decoded.commit_hash


def test_a_later_major_version_is_refused_by_name() -> None:
    """An intact object of a newer format says that it is newer, not that it is damaged."""
    with pytest.raises(NewerFormat, match=r"format version 2.*Upgrade"):
        decode(reseal(b"whatever it may be", major=2))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ends after 0 bytes"),
        (b"PK\x03\x04" + bytes(100), "does not begin as a log object"),
        (struct.pack("<4sBBHI16s", b"vpLG", 1, 0, 0, 3 * 1024**3, b""), "claims a header of 3221225472 bytes"),
        (struct.pack("<4sBBHI16s", b"vpLG", 1, 0, 0, 1000, b""), "before its header is complete"),
        (reseal(b"\xc1"), "not what the format says"),
        (reseal(msgspec.msgpack.encode({"kind": "commit"})), "not what the format says"),
        (reseal(msgspec.msgpack.encode({"kind": "surprise"})), "not what the format says"),
    ],
)
def test_foreign_bytes_are_refused_before_anything_is_allocated(data: bytes, says: str) -> None:
    """What is no log object is refused with what is wrong with it."""
    with pytest.raises(CorruptObject, match=says):
        decode_header(KEY, data, 4 * 1024**3)


@pytest.mark.parametrize(
    "path",
    ["../up", "/etc/passwd", "a/../../up", "", ".", "a//b", "a/./b", "a\\b", "a\0b", "x" * 2000, "n" * 256],
)
def test_a_hostile_path_is_refused_however_right_its_checksums(path: str) -> None:
    """A header whose paths would leave the directory is refused, although every checksum fits."""
    table = [FileEntry(path, 0, digest(b""))]
    with pytest.raises(CorruptObject):
        decode(make({}, files=table, state_after=state_checksum(table)))


def test_a_path_is_not_both_a_file_and_a_directory() -> None:
    """A file table in which one path lies below another cannot be built, so it is refused."""
    table = [FileEntry(path, 0, digest(b"")) for path in ("a", "a/b")]
    with pytest.raises(CorruptObject, match="both a file and a directory"):
        decode(make({}, files=table, state_after=state_checksum(table)))


def test_a_state_beyond_the_limit_is_refused() -> None:
    """A file table that claims a petabyte is refused before room is made for it."""
    table = [FileEntry("a", 2**50, digest(b""))]
    with pytest.raises(CorruptObject, match="limit"):
        decode(make({}, files=table, state_after=state_checksum(table)))


@pytest.mark.parametrize(
    "extent", [(1, 0, 5000), (-1, 0, 5000), (0, 1, 4999), (0, 4096, 5000), (0, 0, 4097), (0, -4096, 5000), (0, 0, 0)]
)
def test_an_extent_stays_in_its_file_and_on_its_blocks(extent: tuple[int, int, int]) -> None:
    """Extents that leave the file, the table or the grid of blocks are refused."""
    intact = decode(make({"a": b"x" * 5000})).header
    frame = msgspec.structs.replace(intact.frames[0], extents=[extent], raw=max(extent[2], 1))
    with pytest.raises(CorruptObject, match="extent"):
        decode(make({"a": b"x" * 5000}, frames=[frame]))


def test_frames_hold_whole_blocks_and_are_bounded() -> None:
    """Long, short and odd extents are packed into frames of at most 4 MiB, no block cut, nothing lost."""
    parts = {"a": 5000, "b": 9 * 1024**2 + 1, "c": 4096, "d": 1, "e": MAX_FRAME_BYTES}
    body = BodyBuilder()
    body.add(Extent(path, 0, bytes(size)) for path, size in parts.items())
    table = [FileEntry(path, size, b"") for path, size in parts.items()]
    frames, stored = body.finish(table)
    covered = dict.fromkeys(parts, 0)
    for frame, data in zip(frames, stored, strict=True):
        assert 0 < frame.raw <= MAX_FRAME_BYTES
        assert len(unpack_frame(KEY, frame, data)) == frame.raw == sum(length for _, _, length in frame.extents)
        for index, offset, length in frame.extents:
            assert offset == covered[table[index].path]
            assert offset % BLOCK_BYTES == 0
            covered[table[index].path] += length
    assert covered == parts


def test_what_zstd_does_not_make_smaller_is_stored() -> None:
    """Random bytes are stored as they are, repeated ones are packed."""
    dice = random.Random(1)
    for data, codec in ((dice.randbytes(10_000), STORED), (bytes(10_000), ZSTD)):
        body = BodyBuilder()
        body.add([Extent("a", 0, data)])
        (frame,), _ = body.finish([FileEntry("a", len(data), b"")])
        assert frame.codec == codec


def test_a_frame_that_would_unpack_to_more_than_it_says_is_refused() -> None:
    """A frame whose own zstd header claims another size is refused before it is unpacked."""
    body = BodyBuilder()
    body.add([Extent("a", 0, bytes(100_000))])
    (frame,), (stored,) = body.finish([FileEntry("a", 100_000, b"")])
    with pytest.raises(CorruptObject, match="another size"):
        unpack_frame(KEY, msgspec.structs.replace(frame, raw=4096), stored)
