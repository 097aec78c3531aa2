"""Compaction: merged deltas and new bases, by the rules and bounds that ``plan`` states.

Objects are derived from log objects only, never from an open directory. The commits that they stand for stay: nothing
is deleted here. Two compactors write the same name; the store lets one win, and the other's work is dropped. A crash
leaves only a scratch directory.

States are built on disk, in a scratch directory. Memory holds one packed object, which a conditional create takes
whole, and the parts in flight, however large the state is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from vectorpool import names
from vectorpool.commitlog.append import MAX_OBJECT_BYTES, join_object
from vectorpool.commitlog.body import BodyBuilder
from vectorpool.commitlog.ending import newest_header
from vectorpool.commitlog.fetch import OpenObject, Reader, Vanished, store_errors
from vectorpool.commitlog.format import (
    BLOCK_BYTES,
    MAX_FRAME_BYTES,
    FileEntry,
    Header,
    Summary,
    body_checksum,
    encode_header,
)
from vectorpool.commitlog.hydrate import clear, gap, list_log, open_chain
from vectorpool.commitlog.image import EMPTY, Extent, capture_into
from vectorpool.commitlog.outcomes import Compaction, Hydrated, PendingCommit, Position, Written
from vectorpool.commitlog.plan import SLACK_BYTES, Listing, LogObject, base_is_due, chain, due_windows
from vectorpool.commitlog.replay import Owners, Replay, owned_runs
from vectorpool.commitlog.warm import WarmTier
from vectorpool.errors import UserNotFound
from vectorpool.objects.bucket import Bucket, ObjectExists
from vectorpool.settings import Settings

_PER_RUN: Final = 64
_MAX_NAMES: Final = 64
# A merge of so many unpacked bytes at most is made without files.
_IN_MEMORY_BYTES: Final = 8 * 1024**2


class Pace:
    """When to look at the log: after F commits, after many bytes, or after a hydrate that read too much."""

    def __init__(self, settings: Settings) -> None:
        self._fanout = settings.compact_fanout
        self._amplification = settings.compact_amplification
        self._looked_at = 0
        self._bytes = 0
        self._forced = False

    def saw(self, hydrated: Hydrated) -> None:
        """Note what a hydrate read. A long chain means that no instance has compacted it."""
        self._looked_at = hydrated.position.seq
        self._bytes = 0
        many = hydrated.fetched_objects + hydrated.warm_objects > 2 * self._fanout
        # Live bytes are at most the unpacked bytes of the files, so this bound is certain.
        self._forced = many or hydrated.read_bytes > self._amplification * hydrated.image.size + SLACK_BYTES

    def followed(self, position: Position) -> None:
        """Note that another instance's commits were taken in: it looks at the log when its own commits are due."""
        self._looked_at = max(self._looked_at, position.seq)

    def appended(self, pending: PendingCommit) -> None:
        """Count a commit's bytes against the size of the state."""
        self._bytes += len(pending.data)
        if self._bytes > max(SLACK_BYTES, pending.image.size // 8):
            self._forced = True

    def due(self, position: Position) -> bool:
        """Whether to look now."""
        return self._forced or position.seq // self._fanout > self._looked_at // self._fanout

    def compacted(self, position: Position) -> None:
        """Begin to count anew."""
        self._looked_at, self._bytes, self._forced = position.seq, 0, False


async def compact_newest(
    bucket: Bucket,
    user_id: str,
    warm: WarmTier | None,
    settings: Settings,
    scratch: Callable[[], AbstractAsyncContextManager[Path]],
) -> tuple[Position, Compaction]:
    """Write what is due as of the newest commit; return that commit and what was written. Raises UserNotFound."""
    newest = await newest_header(bucket, user_id)
    if newest is None:
        raise UserNotFound(f"Nothing is stored for user {user_id}, so there is nothing to compact.")
    position = Position(newest.header.seq, newest.commit_hash)
    async with scratch() as directory:
        return position, await compact(bucket, user_id, warm, settings, position, directory)


async def compact(
    bucket: Bucket, user_id: str, warm: WarmTier | None, settings: Settings, position: Position, scratch: Path
) -> Compaction:
    """Write what is due as of ``position``; ``scratch`` is an empty directory for it."""
    if not position.seq:
        return Compaction()
    try:
        listing, found = await list_log(bucket, user_id, at=position.seq)
        if found is None:
            return Compaction()
        reader = Reader(bucket, user_id, warm)
        decoded = await asyncio.gather(*(reader.header(obj) for obj in found.objects))
        heads = [(obj, each.header) for obj, each in zip(found.objects, decoded, strict=True)]
        end = next((at for at, (_, header) in enumerate(heads) if header.self_contained), None)
        if end is None:
            # A gap. Hydrate and scrub report it; compaction leaves it.
            return Compaction()
        heads = heads[: end + 1]
        floor, newest = heads[-1][1].seq, heads[0][1]
        stored = sum(header.body_bytes for _, header in heads)
        raw = sum(frame.raw for _, header in heads for frame in header.frames)
        live = newest.state_bytes * stored // max(raw, 1)
        read = sum(obj.size for obj, _ in heads)
        work = Compactor(bucket, user_id, warm, scratch)
        if live < MAX_OBJECT_BYTES and base_is_due(read, live, position.seq - floor, settings.compact_amplification):
            await work.write_base([obj for obj, _ in heads])
        else:
            for after, upto in due_windows(listing, floor, position.seq, settings.compact_fanout)[:_PER_RUN]:
                path = chain(listing, upto, above=after)
                if path is not None:
                    await work.write_merged(path.objects, after)
    except Vanished:
        return Compaction()
    if warm is not None and work.objects:
        after_it = Listing([*listing.objects, *work.objects], complete=listing.complete)
        best = chain(after_it, position.seq)
        if best is not None:
            await asyncio.to_thread(warm.keep_only, user_id, best.objects, above=position.seq)
    return Compaction([Written(obj.key, obj.size) for obj in work.objects])


class Compactor:
    """Builds and writes derived objects, one at a time."""

    def __init__(self, bucket: Bucket, user_id: str, warm: WarmTier | None, scratch: Path) -> None:
        self._bucket = bucket
        self._user_id = user_id
        self._warm = warm
        self._scratch = scratch
        self.objects: list[LogObject] = []

    async def write_base(self, objects: list[LogObject]) -> None:
        """Write a base of the state that ``objects``, newest first, lead to; raise BrokenLog if they do not."""
        async with open_chain(Reader(self._bucket, self._user_id, self._warm), objects) as streams:
            if not streams[0].header.self_contained:
                raise gap(self._user_id, objects[-1].after)
            image = await Replay(streams, self._scratch).run()
            newest = streams[-1]
            header = newest.header
            body = BodyBuilder()
            again, _, _ = await asyncio.to_thread(capture_into, self._scratch, EMPTY, body.add)
            assert again.checksum() == image.checksum() == header.state_after
            data = await asyncio.to_thread(self._encode, streams, body, header.files, base=True)
        await self._write("base", names.base_name(header.seq), header.seq, 0, data)

    async def write_merged(self, objects: list[LogObject], after: int) -> None:
        """Write the merged delta of ``objects``, newest first, which stand for the commits above ``after``."""
        async with open_chain(Reader(self._bucket, self._user_id, self._warm), objects) as streams:
            if streams[0].header.after != after or any(stream.header.self_contained for stream in streams):
                return
            # Most merges have a few hundred kilobytes. Files for them would cost more than the merge.
            is_small = sum(frame.raw for stream in streams for frame in stream.header.frames) <= _IN_MEMORY_BYTES
            kept: dict[tuple[str, int], bytes] = {}
            if is_small:
                replay = Replay(streams, None, partial=True, kept=kept)
            else:
                replay = Replay(streams, self._scratch, partial=True)
            await replay.run()
            files = streams[-1].header.files

            def pack() -> bytes:
                body = BodyBuilder()
                if is_small:
                    _add_kept(replay.owners, kept, body)
                else:
                    self._add_owned(replay.owners, files, body)
                return self._encode(streams, body, files, base=False)

            data = await asyncio.to_thread(pack)
            seq = streams[-1].header.seq
        await self._write("merged", names.merged_name(seq, after), seq, after, data)

    def _add_owned(self, owners: Owners, files: list[FileEntry], body: BodyBuilder) -> None:
        """Read the blocks that some object supplied back from the scratch directory."""
        step = MAX_FRAME_BYTES // BLOCK_BYTES
        sizes = {entry.path: entry.size for entry in files}
        for path, first, end in owned_runs(owners):
            with (self._scratch / path).open("rb") as file:
                for start in range(first, end, step):
                    file.seek(start * BLOCK_BYTES)
                    want = min(min(end, start + step) * BLOCK_BYTES, sizes[path]) - start * BLOCK_BYTES
                    body.add([Extent(path, start * BLOCK_BYTES, file.read(want))])

    @staticmethod
    def _encode(streams: list[OpenObject], body: BodyBuilder, files: list[FileEntry], *, base: bool) -> bytes:
        oldest, newest = streams[0].header, streams[-1].header
        frames, stored = body.finish(files)
        summaries = [stream.header.summary for stream in streams]
        touched = sorted({name for summary in summaries for name in summary.collections})[:_MAX_NAMES]
        head, _ = encode_header(
            Header(
                kind="base" if base else "merged",
                seq=newest.seq,
                after=0 if base else oldest.after,
                parent_hash=b"" if base else oldest.parent_hash,
                writer="",
                time_ms=newest.time_ms,
                files=files,
                removed=[] if base else sorted({path for s in streams for path in s.header.removed}),
                frames=frames,
                body_checksum=body_checksum(frames),
                state_before=EMPTY.checksum() if base else oldest.state_before,
                state_after=newest.state_after,
                summary=newest.summary
                if base
                else Summary(sum(s.added for s in summaries), sum(s.deleted for s in summaries), tuple(touched)),
                commit_hash=streams[-1].commit_hash,
                stamp=newest.stamp,
            )
        )
        return join_object(head, stored)

    async def _write(self, kind: str, name: str, seq: int, after: int, data: bytes) -> None:
        await asyncio.to_thread(clear, self._scratch)
        key = names.log_prefix(self._user_id) + name
        with store_errors(self._bucket, f"writing {key}"):
            try:
                etag = await self._bucket.create(key, data)
            except ObjectExists:
                return
        obj = LogObject(key, "base" if kind == "base" else "merged", seq, after, len(data), etag)
        self.objects.append(obj)
        if self._warm is not None:
            await asyncio.to_thread(self._warm.put, self._user_id, obj, data)


def _add_kept(owners: Owners, kept: dict[tuple[str, int], bytes], body: BodyBuilder) -> None:
    """Add the blocks that some object supplied, each run of them in extents of at most a frame."""
    step = MAX_FRAME_BYTES // BLOCK_BYTES
    for path, first, end in owned_runs(owners):
        for start in range(first, end, step):
            blocks = [kept[path, block] for block in range(start, min(end, start + step))]
            body.add([Extent(path, start * BLOCK_BYTES, b"".join(blocks))])
