"""Many log objects to one state. The newest object that holds a block owns it; frames are read in any order.

Once all headers are known, each block of the final files has one owner. A superseded block is never written. So frames
need no order: threads check, unpack, hash and write them as they arrive. The block digests are taken from the bytes
that are written, so the state checksum needs no second reading.

With ``directory`` None nothing is written and only the digests are made, as scrub needs them. With ``partial`` the
objects need not cover the state, as for a merged delta.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.fetch import AT_ONCE_BYTES, STREAMS, OpenObject
from vectorpool.commitlog.format import BLOCK_BYTES, MAX_FRAME_BYTES, FileEntry, Frame, corrupt, digest
from vectorpool.commitlog.image import DIGEST_BYTES, FileState, Image, block_digests
from vectorpool.errors import BrokenLog

Owners = dict[str, npt.NDArray[np.int32]]
_NO_OWNER: Final = -1
# Two threads keep two cores busy with unpacking, or one with unpacking and one with waiting for the disk.
_JOBS: Final = 2


def blocks_of(size: int) -> int:
    """Return how many blocks a file of ``size`` bytes has."""
    return -(-size // BLOCK_BYTES)


class Replay:
    """The replay of ``objects``, oldest first, into ``directory``, which must be empty and is filled.

    ``kept`` is filled with the blocks by (path, number of the block).
    """

    def __init__(
        self,
        objects: Sequence[OpenObject],
        directory: Path | None,
        *,
        partial: bool = False,
        kept: dict[tuple[str, int], bytes] | None = None,
    ) -> None:
        self._objects = objects
        self._kept = kept
        self._newest = objects[-1]
        self._directory = directory
        self._partial = partial
        self._table = self._newest.header.files
        self._check_sizes()
        self.owners: Owners = {}
        self._digests: dict[str, bytearray] = {}

    def _check_sizes(self) -> None:
        """A state cannot hold more than its objects do: look before room is made for it."""
        held = sum(frame.raw for stream in self._objects for frame in stream.header.frames)
        if not self._partial and self._newest.header.state_bytes > held:
            raise BrokenLog(
                f"The log objects up to {self._newest.obj.key} hold {held} bytes where its state has "
                f"{self._newest.header.state_bytes}. Run `vectorpool scrub` to find the newest intact commit.",
                extra={"key": self._newest.obj.key},
            )

    async def run(self) -> Image:
        """Read every frame; return the image that was built, checked against the newest object's state checksum.

        A partial replay returns an image whose digests are only meaningful where ``owners`` names one.
        """
        preparing = asyncio.ensure_future(asyncio.to_thread(self._prepare))
        try:
            await asyncio.shield(preparing)
        except asyncio.CancelledError:
            await asyncio.wait([preparing])
            raise
        gate = asyncio.Semaphore(STREAMS)
        tasks = [asyncio.create_task(self._stream(index, gate)) for index in range(len(self._objects))]
        try:
            await asyncio.gather(*tasks)
        finally:
            # No thread may still write when the directory is emptied.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return await asyncio.to_thread(self._finish)

    def _prepare(self) -> None:
        for entry in self._table:
            self.owners[entry.path] = np.full(blocks_of(entry.size), _NO_OWNER, dtype=np.int32)
            self._digests[entry.path] = bytearray(blocks_of(entry.size) * DIGEST_BYTES)
        for at, stream in enumerate(self._objects):
            files = stream.header.files
            for frame in stream.header.frames:
                for index, offset, length in frame.extents:
                    owners = self.owners.get(files[index].path)
                    if owners is not None:
                        owners[offset // BLOCK_BYTES : blocks_of(offset + length)] = at
        if not self._partial:
            for path, owners in self.owners.items():
                missing = np.flatnonzero(owners == _NO_OWNER)
                if len(missing):
                    raise BrokenLog(
                        f"No object of the log up to {self._newest.obj.key} holds block {missing[0]} of {path}. "
                        "Run `vectorpool scrub` to find the newest intact commit.",
                        extra={"key": self._newest.obj.key},
                    )
        if self._directory is not None:
            for entry in self._table:
                file = self._directory / entry.path
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as handle:
                    handle.truncate(entry.size)

    async def _stream(self, at: int, gate: asyncio.Semaphore) -> None:
        """Hand an object's frames to threads, ``_JOBS`` at once, and always wait for them."""
        jobs: deque[asyncio.Future[None]] = deque()
        async with gate:
            try:
                stream = self._objects[at]
                async for frames in stream.frames():
                    for part in _parts(stream.header.frames, frames):
                        if sum(stream.header.frames[index].raw for index, _ in part) <= AT_ONCE_BYTES:
                            self._take(at, part)
                            continue
                        jobs.append(asyncio.ensure_future(asyncio.to_thread(self._take, at, part)))
                        if len(jobs) == _JOBS:
                            await asyncio.shield(jobs[0])
                            jobs.popleft()
                for job in jobs:
                    await asyncio.shield(job)
            finally:
                if jobs:
                    await asyncio.wait(jobs)

    def _take(self, at: int, frames: list[tuple[int, memoryview]]) -> None:
        """Check, unpack, hash and write frames of object ``at``. Runs in a thread."""
        stream = self._objects[at]
        header, key = stream.header, stream.obj.key
        with ExitStack() as stack:
            handles: dict[str, int] = {}
            for index, stored in frames:
                frame = header.frames[index]
                raw = memoryview(unpack_frame(key, frame, stored))
                self._place(at, header.files, frame, raw, handles, stack)

    def _place(
        self,
        at: int,
        files: list[FileEntry],
        frame: Frame,
        raw: memoryview,
        handles: dict[str, int],
        stack: ExitStack,
    ) -> None:
        cursor = 0
        for index, offset, length in frame.extents:
            data, path = raw[cursor : cursor + length], files[index].path
            cursor += length
            owners = self.owners.get(path)
            if owners is None:
                continue
            first = offset // BLOCK_BYTES
            for start, end in _runs(owners[first : blocks_of(offset + length)] == at):
                piece = data[start * BLOCK_BYTES : end * BLOCK_BYTES]
                place = (first + start) * DIGEST_BYTES
                self._digests[path][place : place + (end - start) * DIGEST_BYTES] = block_digests(piece)
                if self._kept is not None:
                    for at_block in range(start, end):
                        block = data[at_block * BLOCK_BYTES : min((at_block + 1) * BLOCK_BYTES, len(data))]
                        self._kept[path, first + at_block] = bytes(block)
                if self._directory is not None:
                    if path not in handles:
                        handles[path] = os.open(self._directory / path, os.O_WRONLY | os.O_NOFOLLOW)
                        stack.callback(os.close, handles[path])
                    _write_all(handles[path], piece, (first + start) * BLOCK_BYTES)

    def _finish(self) -> Image:
        image = Image({e.path: FileState(e.size, bytes(self._digests[e.path])) for e in self._table})
        if not self._partial:
            key = self._newest.obj.key
            for entry in self._table:
                if digest(image.files[entry.path].blocks) != entry.digest:
                    owners = {self._objects[int(at)].obj.key for at in np.unique(self.owners[entry.path])}
                    raise corrupt(
                        key, f"{entry.path}, built from {', '.join(sorted(owners))}, does not match its checksum"
                    )
            if image.checksum() != self._newest.header.state_after:
                raise corrupt(key, "the state that was built does not match its state checksum")
        return image


def _runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the (start, end) of every run of True."""
    if mask.all():
        return [(0, len(mask))] if len(mask) else []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _parts(frames: list[Frame], stored: list[tuple[int, memoryview]]) -> Iterator[list[tuple[int, memoryview]]]:
    """Cut frames that came together into parts of about one full frame, unpacked."""
    part: list[tuple[int, memoryview]] = []
    filled = 0
    for index, data in stored:
        if part and filled + frames[index].raw > MAX_FRAME_BYTES:
            yield part
            part, filled = [], 0
        part.append((index, data))
        filled += frames[index].raw
    if part:
        yield part


def _write_all(handle: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(handle, data, offset)
        data, offset = data[count:], offset + count


def owned_runs(owners: Owners) -> list[tuple[str, int, int]]:
    """Return (path, first block, end block) of every run of blocks that some object supplied, by path."""
    return [(path, start, end) for path in sorted(owners) for start, end in _runs(owners[path] != _NO_OWNER)]
