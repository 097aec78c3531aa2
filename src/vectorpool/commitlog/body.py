"""Bodies: extents packed into frames, frames unpacked into blocks. Synchronous, for threads; zstd gives up the GIL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import zstandard

from vectorpool.commitlog.format import (
    BLOCK_BYTES,
    MAX_FRAME_BYTES,
    STORED,
    ZSTD,
    FileEntry,
    Frame,
    corrupt,
    digest,
)
from vectorpool.commitlog.image import Extent

# Level 1 takes most of what zstd can take from SQLite pages. Float vectors lose about 8 % and cost more time to
# unpack than that saves on a network of 100 MB/s, so a frame that does not lose a tenth is stored.
_LEVEL: Final = 1
_WORTH: Final = 0.9


class BodyBuilder:
    """Packs extents into frames as they come; memory holds the packed bytes and less than one frame unpacked."""

    def __init__(self) -> None:
        self._pieces: list[memoryview] = []
        self._extents: list[tuple[str, int, int]] = []
        self._filled = 0
        self._frames: list[tuple[int, int, int, bytes, list[tuple[str, int, int]]]] = []
        self._stored: list[bytes] = []
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False)

    def add(self, extents: Iterable[Extent]) -> None:
        """Take extents in; a block is never cut."""
        for extent in extents:
            view = memoryview(extent.data)
            offset = extent.offset
            while view:
                room = MAX_FRAME_BYTES - self._filled
                count = len(view) if len(view) <= room else room // BLOCK_BYTES * BLOCK_BYTES
                if not count:
                    self._flush()
                    continue
                self._take(extent.path, offset, view[:count])
                view, offset = view[count:], offset + count

    def _take(self, path: str, offset: int, data: memoryview) -> None:
        if self._extents and self._extents[-1][0] == path and sum(self._extents[-1][1:]) == offset:
            self._extents[-1] = (path, self._extents[-1][1], self._extents[-1][2] + len(data))
        else:
            self._extents.append((path, offset, len(data)))
        self._pieces.append(data)
        self._filled += len(data)

    def _flush(self) -> None:
        if not self._filled:
            return
        raw = b"".join(self._pieces)
        packed = self._compressor.compress(raw)
        codec, data = (ZSTD, packed) if len(packed) < len(raw) * _WORTH else (STORED, raw)
        self._frames.append((codec, len(data), len(raw), digest(data), self._extents))
        self._stored.append(data)
        self._pieces, self._extents, self._filled = [], [], 0

    def finish(self, table: list[FileEntry]) -> tuple[list[Frame], list[bytes]]:
        """Return the frames, their extents naming files by their index in ``table``, and the stored bytes."""
        self._flush()
        index = {entry.path: at for at, entry in enumerate(table)}
        frames = [
            Frame(codec, stored, raw, checksum, [(index[path], offset, length) for path, offset, length in extents])
            for codec, stored, raw, checksum, extents in self._frames
        ]
        return frames, self._stored


def unpack_frame(key: str, frame: Frame, stored: bytes | memoryview) -> bytes | memoryview:
    """Return the unpacked bytes of a frame; raise CorruptObject if the stored ones are not what they should be."""
    if len(stored) != frame.stored:
        raise corrupt(key, f"a frame has {len(stored)} bytes where its header says {frame.stored}")
    if digest(stored) != frame.checksum:
        raise corrupt(key, "a frame does not match its checksum")
    if frame.codec == STORED:
        return stored
    try:
        # The size in zstd's own frame is looked at before it is believed: unpacking allocates that much.
        if zstandard.frame_content_size(stored) != frame.raw:
            raise corrupt(key, "a frame unpacks to another size than its header says")
        raw = zstandard.ZstdDecompressor().decompress(stored, max_output_size=frame.raw)
    except zstandard.ZstdError as error:
        raise corrupt(key, f"a frame cannot be unpacked ({error})") from None
    if len(raw) != frame.raw:
        raise corrupt(key, f"a frame unpacks to {len(raw)} bytes where its header says {frame.raw}")
    return raw
