"""The commits that follow on a position, as one patch of the directory that stands there.

``read_following`` asks for the next number, and the next, until one is free. That answer, asked for after the question
arose, proves that the patch leads to the newest commit. ``plan_patch`` checks every frame, applies the blocks to the
image, and compares the result with the checksums of the newest commit's header, all before a byte is written. Whatever
is not a plain delta of bounded size (a grave, a tombstone, a base, a restore, an erasure, a salvage) and whatever does
not fit is left to a hydrate: None, or Unpatchable.

``write_patch`` may only be called for a directory that is, byte for byte, the image that the patch was planned for. If
it fails, the directory must not be used any more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from vectorpool import names
from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.fetch import Vanished, decode_header_of, store_errors
from vectorpool.commitlog.format import BLOCK_BYTES, Header, digest, is_grave_content
from vectorpool.commitlog.image import DIGEST_BYTES, FileState, Image, block_digests
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.plan import LogObject
from vectorpool.errors import CorruptObject, NewerFormat
from vectorpool.objects.bucket import Bucket

MAX_COMMITS: Final = 32
# Of all commits together, as stored; more is read by a hydrate, part by part.
MAX_BYTES: Final = 4 * 1024**2
MAX_RAW_BYTES: Final = 4 * MAX_BYTES
_WRITE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unpatchable(Exception):
    """The commits do not lead from this image to the state that they name, or need more than a patch."""


class NextCommit(msgspec.Struct, frozen=True):
    """A plain commit: where it stands, its checked header, and its body as it is stored."""

    key: str
    position: Position
    header: Header
    body: bytes


class Piece(msgspec.Struct, frozen=True):
    """Bytes to write: ``data`` at ``offset`` of ``path``."""

    path: str
    offset: int
    data: bytes | memoryview


class Patch(msgspec.Struct, frozen=True):
    """The changes from one image to another, in the order in which they are written.

    ``changed`` are the files that differ, ``made`` those of them that are new, and ``removed`` those that go.
    """

    position: Position
    image: Image
    pieces: list[Piece]
    made: list[str]
    removed: list[str]
    changed: list[str]


async def read_following(bucket: Bucket, user_id: str, position: Position) -> list[NextCommit] | None:
    """Return every commit after ``position``, oldest first; None if only a hydrate can take them in.

    An empty list means that ``position`` is the newest commit. Raises StoreUnavailable.
    """
    found: list[NextCommit] = []
    left = MAX_BYTES
    while True:
        key = names.log_prefix(user_id) + names.commit_name(position.seq + 1)
        try:
            with store_errors(bucket, f"looking for {key}"):
                data = await bucket.get_range(key, 0, left + 1)
        except Vanished:
            return found
        if len(data) > left or len(found) == MAX_COMMITS or is_grave_content(data):
            return None
        try:
            commit = _decode(key, position, data)
        except (CorruptObject, NewerFormat):
            # A hydrate looks twice before it reports damage, and says what is wrong.
            return None
        if commit is None:
            return None
        left -= len(data)
        found.append(commit)
        position = commit.position


def _decode(key: str, parent: Position, data: bytes) -> NextCommit | None:
    """Return a plain commit on ``parent``, or None for any other. Raises CorruptObject, NewerFormat."""
    decoded = decode_header_of(LogObject(key, "commit", parent.seq + 1, parent.seq, len(data), ""), data)
    header = decoded.header
    what = header.summary
    is_plain = not (what.restored_from or what.salvaged or what.lost or what.migrated or what.erased or what.adopted)
    if header.kind != "commit" or header.tombstone or not is_plain or header.parent_hash != parent.commit_hash:
        return None
    if sum(frame.raw for frame in header.frames) > MAX_RAW_BYTES:
        return None
    return NextCommit(key, Position(header.seq, decoded.commit_hash), header, data[decoded.body_offset :])


def plan_patch(image: Image, commits: Sequence[NextCommit]) -> Patch:
    """Return the patch from ``image`` to the state of the last commit, checked as a whole.

    Raises Unpatchable, and CorruptObject for a frame that is damaged.
    """
    before = image.checksum()
    pieces: list[Piece] = []
    for commit in commits:
        if commit.header.state_before != before:
            raise Unpatchable(f"{commit.key} does not follow on the state")
        before = commit.header.state_after
        pieces += _pieces(commit)
    table = commits[-1].header.files
    digests = {e.path: bytearray(-(-e.size // BLOCK_BYTES) * DIGEST_BYTES) for e in table}
    for path, made in digests.items():
        if (old := image.files.get(path)) is not None:
            kept = old.blocks[: len(made)]
            made[: len(kept)] = kept
    pieces = [piece for piece in pieces if piece.path in digests]
    for piece in pieces:
        at = piece.offset // BLOCK_BYTES * DIGEST_BYTES
        made = digests[piece.path]
        blocks = block_digests(piece.data)[: max(len(made) - at, 0)]
        made[at : at + len(blocks)] = blocks
    after = Image({e.path: FileState(e.size, bytes(digests[e.path])) for e in table})
    for entry in table:
        if digest(after.files[entry.path].blocks) != entry.digest:
            raise Unpatchable(f"{entry.path} would not match its checksum")
    if after.checksum() != commits[-1].header.state_after:
        raise Unpatchable("the state would not match its checksum")
    return Patch(
        position=commits[-1].position,
        image=after,
        pieces=pieces,
        made=sorted(after.files.keys() - image.files.keys()),
        removed=sorted(image.files.keys() - after.files.keys()),
        changed=[path for path, file in after.files.items() if path not in image.files or file != image.files[path]],
    )


def _pieces(commit: NextCommit) -> list[Piece]:
    """Return the extents of a commit's frames, unpacked. Raises CorruptObject."""
    found: list[Piece] = []
    files, at = commit.header.files, 0
    for frame in commit.header.frames:
        raw, cursor = memoryview(unpack_frame(commit.key, frame, commit.body[at : at + frame.stored])), 0
        at += frame.stored
        for index, offset, length in frame.extents:
            found.append(Piece(files[index].path, offset, raw[cursor : cursor + length]))
            cursor += length
    return found


def write_patch(directory: Path, patch: Patch) -> None:
    """Write a patch into the directory that it was planned for. Raises OSError; the directory may not be used then."""
    for path in patch.removed:
        (directory / path).unlink()
        with contextlib.suppress(OSError):
            # The folder of an index goes with its last file.
            (directory / path).parent.rmdir()
    for path in patch.made:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
    made = set(patch.made)
    by_path: dict[str, list[Piece]] = {path: [] for path in patch.changed}
    for piece in patch.pieces:
        by_path.setdefault(piece.path, []).append(piece)
    for path, pieces in by_path.items():
        handle = os.open(directory / path, _WRITE | (os.O_CREAT | os.O_EXCL if path in made else 0), 0o666)
        try:
            for piece in pieces:
                write_all(handle, piece.data, piece.offset)
            os.ftruncate(handle, patch.image.files[path].size)
        finally:
            os.close(handle)


def write_all(handle: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset. Raises OSError."""
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count
