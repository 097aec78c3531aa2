"""Reading log objects from the bucket or from the warm tier.

*Consistency.* Log objects are write-once, so bytes that were read stay true. A listing tells which objects there are.
An object that was listed and is gone when it is read was superseded: ``Vanished`` is raised, and the caller lists
again. The store must list and read what was created before; all four kinds of store do. Clocks and ETags decide
nothing: an ETag only tells copies in the warm tier apart.

*Retries.* The bucket retries. Here only the look at a log that moved is repeated. A store that stays unavailable is
reported as StoreUnavailable, before anything was changed. A write is different, see ``append``.

*Cancellation.* Every read may be cancelled at any await. Requests in flight are cancelled with it, and the caller that
filled a directory empties it. Threads that still unpack finish their part first, so that no thread writes afterwards.

*Crash consistency.* A warm copy is checked as if it came from the network. A short copy is dropped. A crash leaves at
most an unfinished copy, which the next start or the next read removes.

*Memory.* At most ``HOLD_BYTES`` of beginnings are held, and ``WINDOW`` parts of ``PART_BYTES`` of each of ``STREAMS``
objects at a time, however large the objects are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from vectorpool.commitlog.format import (
    PRELUDE_BYTES,
    Decoded,
    Header,
    corrupt,
    decode_header,
    header_bytes,
    is_grave_content,
)
from vectorpool.commitlog.plan import LogObject
from vectorpool.commitlog.warm import WarmTier
from vectorpool.objects.bucket import Bucket, BucketDenied, BucketUnavailable, ObjectMissing
from vectorpool.objects.refusals import unavailable

# Larger parts arrive all at once at the end, when there is nothing left to overlap their unpacking with: over 35 MiB
# from a store on the same machine 4 MiB take 5 to 14 % less time than 8, and so does a first part of 4.
PART_BYTES: Final = 4 * 1024**2
FIRST_BYTES: Final = 4 * 1024**2
HOLD_BYTES: Final = 64 * 1024**2
HEAD_BYTES: Final = 64 * 1024
WINDOW: Final = 8
STREAMS: Final = 3
_REQUESTS: Final = 16
# What is read from the warm tier, and unpacked, without a thread: finding one takes as long.
AT_ONCE_BYTES: Final = 64 * 1024


# Enough for the header of most commits, where only the header is wanted of many.
SMALL_HEAD_BYTES: Final = 4096


class Vanished(Exception):
    """A listed object is not there any more: the log moved on. List again."""


@contextmanager
def store_errors(bucket: Bucket, doing: str) -> Iterator[None]:
    """Turn the bucket's errors into the project's, at the edge of this layer."""
    try:
        yield
    except (BucketUnavailable, BucketDenied) as error:
        raise unavailable(bucket.url, doing, error) from error
    except ObjectMissing as error:
        raise Vanished(str(error)) from error


class Reader:
    """Reads one user's log objects for one operation, and counts what it read."""

    def __init__(self, bucket: Bucket, user_id: str, warm: WarmTier | None) -> None:
        self._bucket = bucket
        self._user_id = user_id
        self._warm = warm
        self._gate = asyncio.Semaphore(_REQUESTS)
        self.fetched_bytes = 0
        self.fetched: set[str] = set()
        self.from_warm: set[str] = set()

    async def read(self, obj: LogObject, start: int, end: int) -> bytes:
        """Return bytes ``start .. end`` of an object; raise Vanished, StoreUnavailable or CorruptObject (cut)."""
        if self._warm is not None:
            if end - start <= AT_ONCE_BYTES:
                cached = self._warm.read(self._user_id, obj, start, end)
            else:
                cached = await asyncio.to_thread(self._warm.read, self._user_id, obj, start, end)
            if cached is not None:
                self.from_warm.add(obj.key)
                return cached
        # A body that ended early may be the network's fault, so it is asked for twice before the object is blamed.
        for _ in range(2):
            async with self._gate:
                with store_errors(self._bucket, f"reading {obj.key}"):
                    if start == 0 and end >= obj.size:
                        data = (await self._bucket.get(obj.key)).data
                    else:
                        data = await self._bucket.get_range(obj.key, start, end)
            self.fetched_bytes += len(data)
            self.fetched.add(obj.key)
            if len(data) == end - start:
                return data
            if is_grave_content(data) or (start and await self._is_buried(obj)):
                raise Vanished(obj.key)
        raise corrupt(obj.key, f"{end - start} bytes at {start} were asked for and {len(data)} came")

    async def _is_buried(self, obj: LogObject) -> bool:
        """Whether a grave took the object's place while its later parts were asked for."""
        with store_errors(self._bucket, f"reading {obj.key}"):
            return is_grave_content(await self._bucket.get_range(obj.key, 0, PRELUDE_BYTES))

    async def header(self, obj: LogObject, *, first_bytes: int = HEAD_BYTES) -> Decoded:
        """Return the checked header of an object, reading no more than it needs of it."""
        head = await self.read(obj, 0, min(obj.size, first_bytes))
        return decode_header_of(obj, await self.whole_header(obj, head))

    async def whole_header(self, obj: LogObject, head: bytes) -> bytes:
        """Return ``head``, lengthened until it holds the whole header."""
        if len(head) >= PRELUDE_BYTES:
            needed = min(header_bytes(obj.key, head), obj.size)
            if needed > len(head):
                head += await self.read(obj, len(head), needed)
        return head

    async def open(self, obj: LogObject, first_bytes: int, window: int) -> OpenObject:
        """Start reading an object: its first part now, and ``window - 1`` more ahead; return once its header is in."""
        stream = OpenObject(self, obj, first_bytes)
        try:
            stream.read_ahead(window)
            await stream.load_header()
        except BaseException:
            await stream.close()
            raise
        return stream


class OpenObject:
    """A log object whose header is known and whose frames come in order, with parts read ahead."""

    def __init__(self, reader: Reader, obj: LogObject, first_bytes: int) -> None:
        self.obj = obj
        self._reader = reader
        self._cuts = self._cut(obj.size, first_bytes)
        self._parts: deque[asyncio.Task[bytes]] = deque()
        self._head = memoryview(b"")
        self.decoded: Decoded | None = None
        self._copy = reader._warm.writer(reader._user_id, obj) if reader._warm is not None else None

    @staticmethod
    def _cut(size: int, first_bytes: int) -> Iterator[tuple[int, int]]:
        at = min(size, max(first_bytes, PRELUDE_BYTES))
        yield 0, at
        while at < size:
            end = min(size, at + PART_BYTES)
            yield at, end
            at = end

    @property
    def header(self) -> Header:
        """The object's header."""
        assert self.decoded is not None
        return self.decoded.header

    @property
    def commit_hash(self) -> bytes:
        """The hash of the commit that it is, or for which it stands."""
        assert self.decoded is not None
        return self.decoded.commit_hash

    def read_ahead(self, window: int) -> None:
        """Have ``window`` parts on their way."""
        while len(self._parts) < window and (cut := next(self._cuts, None)):
            self._parts.append(asyncio.create_task(self._part(*cut)))

    async def _part(self, start: int, end: int) -> bytes:
        return await self._reader.read(self.obj, start, end)

    async def _next_part(self, window: int) -> bytes:
        self.read_ahead(max(1, window))
        if not self._parts:
            raise corrupt(self.obj.key, "it ends before its last frame")
        data = await self._parts[0]
        self._parts.popleft()
        if self._copy is not None:
            await asyncio.to_thread(self._copy.write, data)
        self.read_ahead(window)
        return data

    async def load_header(self) -> None:
        """Read parts until the header is complete, and check it against the object's name."""
        head = await self._next_part(len(self._parts))
        if len(head) >= PRELUDE_BYTES:
            needed = min(header_bytes(self.obj.key, head), self.obj.size)
            while len(head) < needed:
                head += await self._next_part(1)
        self.decoded = decode_header_of(self.obj, head)
        self._head = memoryview(head)[self.decoded.body_offset :]

    async def frames(self) -> AsyncIterator[list[tuple[int, memoryview]]]:
        """Yield (index of frame, stored bytes), as many together as one part completes; once only."""
        buffer, self._head = self._head, memoryview(b"")
        ready: list[tuple[int, memoryview]] = []
        for index, frame in enumerate(self.header.frames):
            stored, buffer = buffer[: frame.stored], buffer[frame.stored :]
            if len(stored) < frame.stored:
                if ready:
                    yield ready
                    ready = []
                # Only the frame that two parts share is copied together.
                pieces, missing = [stored], frame.stored - len(stored)
                while missing:
                    part = memoryview(await self._next_part(WINDOW))
                    pieces.append(part[:missing])
                    buffer, missing = part[missing:], missing - len(pieces[-1])
                stored = memoryview(b"".join(pieces))
            ready.append((index, stored))
        if ready:
            yield ready
        if self._copy is not None:
            await asyncio.to_thread(self._copy.commit)

    async def close(self) -> None:
        """Give up what is still on its way; harmless after the last frame."""
        for task in self._parts:
            task.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        self._parts.clear()
        if self._copy is not None:
            self._copy.discard()


def decode_header_of(obj: LogObject, head: bytes) -> Decoded:
    """Check a header and that it belongs to the object's name; raise CorruptObject or NewerFormat."""
    decoded = decode_header(obj.key, head, obj.size)
    header = decoded.header
    named = (obj.seq, obj.after) if obj.kind == "merged" else (obj.seq,)
    says = (header.seq, header.after) if obj.kind == "merged" else (header.seq,)
    fits = {
        "commit": header.kind in ("commit", "base") and not header.commit_hash and header.after == header.seq - 1,
        "base": header.kind == "base",
        "merged": header.kind in ("merged", "base"),
    }[obj.kind]
    if named != says or not fits or (obj.kind != "commit" and len(header.commit_hash) != 16):
        raise corrupt(obj.key, f"it holds {header.kind} {header.seq}, which is not what its name says")
    return decoded


def open_sizes(objects: Sequence[LogObject]) -> list[int]:
    """Return how much of each object to read at once: small ones whole, as long as HOLD_BYTES hold them all."""
    whole = [obj.size if obj.size <= PART_BYTES else FIRST_BYTES for obj in objects]
    limit = PART_BYTES if sum(whole) <= HOLD_BYTES else max(HEAD_BYTES, HOLD_BYTES // len(objects))
    return [min(size, limit) for size in whole]
