"""The bytes of a log object: prelude, header, body. Pure functions; nothing here knows a bucket or a file.

    prelude  28 bytes: magic "vpLG", major and minor version, 2 zero bytes, header length (u32), and the xxh3_128
             checksum of the 12 bytes before it together with the header. Fixed for all versions to come.
    header   MessagePack, see ``Header``; unknown fields are ignored, so that a minor version may add some
    body     frames, one after the other: zstd, or stored where zstd does not help; at most 4 MiB each unpacked

Every frame carries the checksum of its stored bytes in the header, and the header is covered by the prelude, so no
byte of an object can change unnoticed. The hash of a commit is the xxh3_128 of its header; the parent's hash is in
the header; so a hash covers all history. These are checksums against accidents, not signatures against forgers.

A frame holds whole blocks only: frames can be checked, unpacked and hashed in any order and on any thread.
"""

from __future__ import annotations

import struct
from typing import Final, Literal

import msgspec
import xxhash

from vectorpool.commitlog.stamp import EngineStamp
from vectorpool.errors import UNDECODABLE, CorruptObject, NewerFormat

BLOCK_BYTES: Final = 4096
MAX_FRAME_BYTES: Final = 4 * 1024**2
MAX_HEADER_BYTES: Final = 64 * 1024**2
MAX_FILES: Final = 100_000
MAX_PATH_BYTES: Final = 1024
MAX_STATE_BYTES: Final = 64 * 1024**3

MAJOR: Final = 1
MINOR: Final = 0
_MAGIC: Final = b"vpLG"
_PRELUDE: Final = struct.Struct("<4sBBHI16s")
PRELUDE_BYTES: Final = _PRELUDE.size

# The content under the number of a deleted commit: the number is never free again. It is shorter than a prelude, so
# that its size alone tells it from a commit.
GRAVE: Final = b"vpLG: deleted.\n\n"
_GRAVE_START: Final = b"vpLG:"

STORED: Final = 0
ZSTD: Final = 1

Kind = Literal["commit", "base", "merged"]


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """Return the xxh3_128 of ``data``, 16 bytes."""
    return bytes(xxhash.xxh3_128_digest(data))


def grave_of(writer: str) -> bytes:
    """Return the grave of a commit that ``writer`` made: 16 bytes, by which its writer can still tell it as its own."""
    return _GRAVE_START + digest(writer.encode())[: len(GRAVE) - len(_GRAVE_START)]


def is_grave_content(data: bytes) -> bool:
    """Whether these are the bytes of a grave."""
    return len(data) == len(GRAVE) and data.startswith(_GRAVE_START)


class FileEntry(msgspec.Struct, frozen=True, array_like=True):
    """A file of the state: its path below the directory, its size in bytes, the digest of its block digests."""

    path: str
    size: int
    digest: bytes


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A part of the body: how it is stored, its size there and unpacked, the checksum of its stored bytes.

    ``extents`` says whose bytes it holds, in order: (index in the file table, offset, length), in bytes. Offsets are
    multiples of a block, lengths too, except where an extent ends its file.
    """

    codec: int
    stored: int
    raw: int
    checksum: bytes
    extents: list[tuple[int, int, int]]


class Summary(msgspec.Struct, frozen=True):
    """What a commit did, for people: records added and deleted, names of the collections touched.

    ``restored_from`` is the commit whose state this one brought back; 0 for any other commit.
    ``salvaged`` and ``lost`` count the records of a vectorstore that Chroma could not open or answer from.
    ``migrated`` says that the commit holds what opening an older state changed, and no write. ``erased`` says that it
    removes what was deleted before from the files, ``indexed`` that it adds an index that was built in the background.
    ``adopted`` says that another program made the files.
    """

    added: int = 0
    deleted: int = 0
    collections: tuple[str, ...] = ()
    restored_from: int = 0
    salvaged: int = 0
    lost: int = 0
    migrated: bool = False
    erased: bool = False
    indexed: bool = False
    adopted: bool = False


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a log object is.

    A ``commit`` is a delta over its parent, a ``base`` needs nothing below it (commit 1, a tombstone, and what
    compaction writes), a ``merged`` delta stands for the commits ``after + 1 .. seq``. ``commit_hash`` is empty in a
    commit, whose hash is made from these bytes; a derived object carries the hash of commit ``seq`` for which it
    stands. ``state_before`` and ``state_after`` are checksums of whole images; ``files`` is the table after.
    ``stamp`` names the engine that wrote the state after; the module ``stamp`` says more.
    """

    kind: Kind
    seq: int
    after: int
    parent_hash: bytes
    writer: str
    time_ms: int
    files: list[FileEntry]
    removed: list[str] = []
    frames: list[Frame] = []
    body_checksum: bytes
    state_before: bytes
    state_after: bytes
    summary: Summary = Summary()
    tombstone: bool = False
    commit_hash: bytes = b""
    stamp: EngineStamp | None = None

    @property
    def self_contained(self) -> bool:
        """Whether the state can be built from this object alone."""
        return self.kind == "base"

    @property
    def state_bytes(self) -> int:
        """Size of the whole state after this object."""
        return sum(entry.size for entry in self.files)

    @property
    def body_bytes(self) -> int:
        """Size of the body as stored."""
        return sum(frame.stored for frame in self.frames)


class Decoded(msgspec.Struct, frozen=True):
    """A header that was checked, the commit hash it carries or makes, and the offset of the body."""

    header: Header
    commit_hash: bytes
    body_offset: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def body_checksum(frames: list[Frame]) -> bytes:
    """Return the checksum of a body: the digest of its frames' checksums."""
    return digest(b"".join(frame.checksum for frame in frames))


def state_checksum(files: list[FileEntry]) -> bytes:
    """Return the checksum of a state from its file table."""
    rows = [(f.path.encode(), f.size, f.digest) for f in sorted(files, key=lambda f: f.path)]
    return digest(_encoder.encode(rows))


def encode_header(header: Header) -> tuple[bytes, bytes]:
    """Return (prelude and header, commit hash). Raises ValueError for a header beyond MAX_HEADER_BYTES."""
    data = _encoder.encode(header)
    if len(data) > MAX_HEADER_BYTES:
        raise ValueError(f"a header of {len(data)} bytes is over the limit of {MAX_HEADER_BYTES}")
    start = _PRELUDE.pack(_MAGIC, MAJOR, MINOR, 0, len(data), b"")[:12]
    return start + digest(start + data) + data, header.commit_hash or digest(data)


def header_bytes(key: str, head: bytes) -> int:
    """Return where the body begins, from an object's first PRELUDE_BYTES; raise CorruptObject."""
    if len(head) < PRELUDE_BYTES:
        raise corrupt(key, f"it ends after {len(head)} bytes, before its prelude is complete")
    magic, _, _, _, length, _ = _PRELUDE.unpack_from(head)
    if magic != _MAGIC:
        raise corrupt(key, "it does not begin as a log object does; another program may have put it there")
    if length > MAX_HEADER_BYTES:
        raise corrupt(key, f"it claims a header of {length} bytes; the limit is {MAX_HEADER_BYTES}")
    return PRELUDE_BYTES + int(length)


def decode_header(key: str, head: bytes, size: int) -> Decoded:
    """Check and return the header of object ``key`` of ``size`` bytes; ``head`` holds at least the header.

    Raises CorruptObject naming the key and what is wrong, NewerFormat for an object of a later major version.
    """
    body_offset = header_bytes(key, head)
    if len(head) < body_offset:
        raise corrupt(key, f"it ends after {len(head)} bytes, before its header is complete")
    data = head[PRELUDE_BYTES:body_offset]
    _, major, _, _, _, checksum = _PRELUDE.unpack_from(head)
    if digest(head[:12] + data) != checksum:
        raise corrupt(key, "its header does not match its checksum")
    if major > MAJOR:
        raise NewerFormat(
            f"{key} is of format version {major}; this version reads up to {MAJOR}. Upgrade vectorpool.",
            extra={"key": key, "version": major},
        )
    try:
        header = _decoder.decode(data)
    except UNDECODABLE as error:
        raise corrupt(key, f"its header is not what the format says: {error}") from None
    _check_header(key, header, size - body_offset)
    return Decoded(header, header.commit_hash or digest(data), body_offset)


def corrupt(key: str, what: str) -> CorruptObject:
    """Return the error for object ``key``; ``what`` completes "it ...".."""
    return CorruptObject(
        f"The log object {key} is corrupt: {what}. Run `vectorpool scrub` to find the newest intact commit.",
        extra={"key": key},
    )


_NO_SEGMENTS: Final = frozenset({"", ".", ".."})


def check_path(path: str) -> str | None:
    """Return what is wrong with a path of a file table, or None: relative, clean, within the directory."""
    if not path or len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        return f"a path is empty or longer than {MAX_PATH_BYTES} bytes"
    if path.startswith("/") or "\\" in path or "\0" in path:
        return f"the path {path!a} is absolute, or holds a backslash or a zero byte"
    parts = path.split("/")
    # No character takes more than four bytes, and most paths are short.
    is_long = len(path) * 4 > 255 and any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts)
    if is_long or not _NO_SEGMENTS.isdisjoint(parts):
        return f"the path {path!a} has a segment that is empty, '.', '..' or too long"
    return None


def _check_header(key: str, header: Header, body_size: int) -> None:
    if len(header.files) > MAX_FILES:
        raise corrupt(key, f"it lists {len(header.files)} files; the limit is {MAX_FILES}")
    seen: set[str] = set()
    for entry in header.files:
        if wrong := check_path(entry.path):
            raise corrupt(key, wrong)
        if entry.path in seen:
            raise corrupt(key, f"it lists the path {entry.path!a} twice")
        if entry.size < 0 or len(entry.digest) != 16:
            raise corrupt(key, f"its entry of {entry.path!a} has an impossible size or digest")
        seen.add(entry.path)
    for path in seen:
        parent = path
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in seen:
                raise corrupt(key, f"the path {parent!a} is both a file and a directory")
    if header.state_bytes > MAX_STATE_BYTES:
        raise corrupt(key, f"it claims a state of {header.state_bytes} bytes; the limit is {MAX_STATE_BYTES}")
    if state_checksum(header.files) != header.state_after:
        raise corrupt(key, "its file table does not match its state checksum")
    _check_frames(key, header, body_size)


def _check_frames(key: str, header: Header, body_size: int) -> None:
    for frame in header.frames:
        if not 0 < frame.raw <= MAX_FRAME_BYTES or not 0 < frame.stored <= MAX_FRAME_BYTES:
            raise corrupt(key, "a frame has an impossible size")
        if frame.codec not in (STORED, ZSTD) or (frame.codec == STORED and frame.stored != frame.raw):
            raise corrupt(key, f"a frame has the unknown or impossible codec {frame.codec}")
        total = 0
        for index, offset, length in frame.extents:
            if not 0 <= index < len(header.files) or offset < 0 or length <= 0 or offset % BLOCK_BYTES:
                raise corrupt(key, "an extent is impossible")
            end, size = offset + length, header.files[index].size
            if end > size or (length % BLOCK_BYTES and end != size):
                raise corrupt(key, f"an extent leaves the file {header.files[index].path!a}")
            total += length
        if total != frame.raw:
            raise corrupt(key, "a frame does not hold what its extents say")
    if body_checksum(header.frames) != header.body_checksum:
        raise corrupt(key, "its frames do not match its body checksum")
    if header.body_bytes != body_size:
        raise corrupt(key, f"its body has {body_size} bytes where its header says {header.body_bytes}")
