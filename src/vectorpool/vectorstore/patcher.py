"""Changes of an open replica's directory in place: patches, and the undo of a commit that lost its number.

An undo needs the bytes that the lost writes replaced. So the files at the top of the directory (Chroma's database and
the sidecar) are copied before the first write, for users whom other instances write too, and the copy follows each
commit by the blocks that changed. The copy is never trusted: each block is compared with the image before it is used.
Index files have no copy; a commit that changed one is not undone, and the replica is built anew.

The caller holds the replica alone: no read and no write may run meanwhile, and no file of the directory may be open
that remembers what it read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vectorpool.commitlog.format import BLOCK_BYTES
from vectorpool.commitlog.image import DIGEST_BYTES, FileState, Image, block_digests, list_files
from vectorpool.commitlog.next_commits import Patch, Piece, write_all, write_patch
from vectorpool.engine.directory_state import DirectoryState, NotPristine

# Blocks of one commit that are undone; more is built anew.
_MAX_BLOCKS: Final = 4096
# Digests that are compared in one go: few of a large file differ.
_AT_ONCE: Final = 64
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOTHING: Final = FileState(0, b"")


class Patcher:
    """Patches and undoes in one directory, whose ``state`` says whether that may be."""

    def __init__(self, directory: Path, state: DirectoryState) -> None:
        self._directory = directory
        self._state = state
        # Beside the directory: nothing in it may be committed.
        self._copy = directory.with_name(f".{directory.name}.before")
        self._is_kept = False

    def close(self) -> None:
        """Remove the copy."""
        self._is_kept = False
        shutil.rmtree(self._copy, ignore_errors=True)

    # --- The copy ------------------------------------------------------------------------------------

    def keep(self, image: Image) -> None:
        """Copy the files that tracked writers change, unless that was done; ``image`` is that of the directory.

        Does nothing unless the directory is pristine. A copy that fails is left out: then nothing is undone.
        """
        if self._is_kept or not self._state.is_pristine:
            return
        try:
            self._copy.mkdir(exist_ok=True)
            for path in _top(image):
                shutil.copyfile(self._directory / path, self._copy / path)
            self._is_kept = True
        except OSError:
            self.close()

    def follow(self, before: Image, after: Image) -> None:
        """Bring the copy from one image to the next, by the blocks of the directory that differ."""
        if not self._is_kept:
            return
        try:
            for path in _top(before):
                if path not in after.files:
                    (self._copy / path).unlink()
            for path in _top(after):
                old, new = before.files.get(path, _NOTHING), after.files[path]
                if old != new:
                    numbers = _differing(new, old)
                    if len(numbers) > _MAX_BLOCKS:
                        raise _Other
                    found = _blocks(self._directory / path, new, numbers)
                    _write(self._copy / path, found, new.size)
        except (OSError, _Other):
            self.close()

    # --- Changes in place ----------------------------------------------------------------------------

    def patch(self, before: Image, patch: Patch) -> None:
        """Bring the pristine directory from ``before`` to the patch's image.

        Raises NotPristine before anything was written. After any other error the directory may not be used.
        """
        self._check_files(before)
        mark = self._state.begin_patch()
        write_patch(self._directory, patch)
        self.follow(before, patch.image)
        self._state.ended(mark)

    def undo(self, before: Image, after: Image, mark: int | None) -> None:
        """Bring the directory back from ``after``, what the capture of ``mark`` found, to ``before``.

        Raises NotPristine before anything was written. After any other error the directory may not be used.
        """
        changes = self._changes(before, after)
        self._check_files(after)
        began = self._state.begin_undo(mark)
        for path in after.files.keys() - before.files.keys():
            (self._directory / path).unlink()
        for path, pieces in changes:
            _write(self._directory / path, pieces, before.files[path].size)
        self._state.ended(began)

    def _changes(self, before: Image, after: Image) -> list[tuple[str, list[Piece]]]:
        """Return what an undo writes into each file, compared with the image. Raises NotPristine."""
        if not self._is_kept or any("/" in path for path in before.files.keys() ^ after.files.keys()):
            raise NotPristine
        changes: list[tuple[str, list[Piece]]] = []
        count = 0
        try:
            for path, old in before.files.items():
                new = after.files.get(path, _NOTHING)
                if old == new:
                    continue
                if "/" in path:
                    raise NotPristine
                numbers = _differing(old, new)
                count += len(numbers)
                if count > _MAX_BLOCKS:
                    raise NotPristine
                changes.append((path, list(_blocks(self._copy / path, old, numbers))))
        except (OSError, _Other) as error:
            self.close()
            raise NotPristine from error
        return changes

    def _check_files(self, image: Image) -> None:
        """Raise NotPristine unless the directory has the files of an image, of their sizes, and no open transaction."""
        try:
            found = {path: stat.st_size for path, stat in list_files(self._directory).items()}
        except Exception as error:
            raise NotPristine from error
        if found != {path: file.size for path, file in image.files.items()}:
            raise NotPristine


class _Other(Exception):
    """A block is not what the image says."""


def _top(image: Image) -> list[str]:
    return [path for path in image.files if "/" not in path]


def _differing(wanted: FileState, other: FileState) -> list[int]:
    """Return the numbers of the blocks of ``wanted`` that ``other`` does not have."""
    step, ours, theirs = DIGEST_BYTES, wanted.blocks, other.blocks
    return [
        at // step
        for some in range(0, len(ours), _AT_ONCE * step)
        if ours[some : some + _AT_ONCE * step] != theirs[some : some + _AT_ONCE * step]
        for at in range(some, min(some + _AT_ONCE * step, len(ours)), step)
        if ours[at : at + step] != theirs[at : at + step]
    ]


def _blocks(path: Path, file: FileState, numbers: list[int]) -> Iterator[Piece]:
    """Yield blocks of a file that holds them as ``file`` says. Raises OSError, and _Other for any other content."""
    handle = os.open(path, _READ)
    try:
        for number in numbers:
            data = os.pread(handle, BLOCK_BYTES, number * BLOCK_BYTES)[: file.size - number * BLOCK_BYTES]
            if block_digests(data) != file.blocks[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]:
                raise _Other
            yield Piece(path.name, number * BLOCK_BYTES, data)
    finally:
        os.close(handle)


def _write(path: Path, pieces: Iterator[Piece] | list[Piece], size: int) -> None:
    handle = os.open(path, _WRITE | os.O_CREAT, 0o666)
    try:
        for piece in pieces:
            write_all(handle, piece.data, piece.offset)
        os.ftruncate(handle, size)
    finally:
        os.close(handle)
