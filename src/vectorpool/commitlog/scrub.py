"""Scrub: read a whole log, upwards, and check every invariant that its bytes can show.

1. Every object is whole: prelude, header, every frame unpacked and hashed, and its name agrees with its header.
2. The numbers have no gap but graves, and a commit stands above every grave. Each commit names its parent's hash and
   state. An object above a gap needs nothing below it, or nothing needs it.
3. Each commit leads from its parent's state to the state that it claims, block by block.
4. Each base holds exactly the state of its number, each merged delta exactly the blocks that changed since its start.
5. The newest number can be hydrated. If not, the newest number that can is found.
6. Each tag can be read. It names a commit that is there, has the tag's hash and state, and hydrates.

A log moves while it is read: garbage removal may delete what was listed before it is read, and then fewer objects lead
to the newest commit. So a problem is reported only if two looks in a row found it and the second look listed the same
objects as the first. For a log that moves under every look, the problems that the last two looks share are reported.

Memory: 24 bytes for every block of the state. Nothing is written. A log cannot show that its newest commit was deleted
without a trace.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from vectorpool import names
from vectorpool.commitlog import tags
from vectorpool.commitlog.body import unpack_frame
from vectorpool.commitlog.fetch import PART_BYTES, WINDOW, OpenObject, Reader, Vanished
from vectorpool.commitlog.format import Decoded, FileEntry, digest
from vectorpool.commitlog.hydrate import CUT_TO_A_GRAVE, list_log, open_chain
from vectorpool.commitlog.image import DIGEST_BYTES, block_digests
from vectorpool.commitlog.outcomes import Problem, ScrubReport, Tag
from vectorpool.commitlog.plan import Listing, LogObject, chain
from vectorpool.commitlog.replay import Replay, blocks_of
from vectorpool.errors import BackupNotFound, BrokenLog, CorruptObject, NewerFormat, StoreUnavailable
from vectorpool.objects.bucket import Bucket
from vectorpool.sources import Sources

# A garbage removal moves a log for seconds; the pauses between these looks are 1, 2 and 4 s.
_LOOKS: Final = 4
_PAUSE_S: Final = 1.0

_Digests = npt.NDArray[np.uint8]


class _File:
    """The block digests of a file, (blocks, 16), and the number at which each block last changed."""

    def __init__(self) -> None:
        self.digests: _Digests = np.zeros((0, DIGEST_BYTES), dtype=np.uint8)
        self.changed: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def resize(self, blocks: int) -> None:
        """Cut or lengthen; a block that comes in new has never been written."""
        if blocks <= len(self.digests):
            self.digests, self.changed = self.digests[:blocks].copy(), self.changed[:blocks].copy()
            return
        more = blocks - len(self.digests)
        self.digests = np.concatenate((self.digests, np.zeros((more, DIGEST_BYTES), dtype=np.uint8)))
        self.changed = np.concatenate((self.changed, np.zeros(more, dtype=np.int64)))


class _Contents(msgspec.Struct):
    """An intact object: its header, and the digests of its blocks as (path, first block, digests)."""

    decoded: Decoded
    runs: list[tuple[str, int, _Digests]]


class _State:
    """The state at a number, as digests, and since which number its changes were followed."""

    def __init__(self, since: int) -> None:
        self.seq = since
        self.since = since
        self.commit_hash = b""
        self.checksum = b""
        self.files: dict[str, _File] = {}

    def apply(self, contents: _Contents) -> str | None:
        """Go on to the object's number; return what does not fit, or None."""
        header = contents.decoded.header
        self.seq = header.seq
        table = {entry.path: entry for entry in header.files}
        self.files = {path: self.files.get(path) or _File() for path in table}
        for path, entry in table.items():
            self.files[path].resize(blocks_of(entry.size))
        for path, first, digests in contents.runs:
            file = self.files[path]
            file.digests[first : first + len(digests)] = digests
            file.changed[first : first + len(digests)] = header.seq
        self.commit_hash, self.checksum = contents.decoded.commit_hash, header.state_after
        return self.differs(header.files)

    def differs(self, table: list[FileEntry]) -> str | None:
        """Return how the state differs from a file table, or None."""
        if {entry.path for entry in table} != set(self.files):
            return "its file table names other files than the commits lead to"
        for entry in table:
            if digest(self.files[entry.path].digests.tobytes()) != entry.digest:
                return f"the commits lead to other contents of {entry.path} than its file table says"
        return None


class _Scrubber:
    def __init__(self, bucket: Bucket, user_id: str) -> None:
        self._bucket = bucket
        self._user_id = user_id
        self._reader = Reader(bucket, user_id, None)
        self.problems: list[Problem] = []
        self.bad: set[str] = set()
        self._newest_commit: Decoded | None = None

    def found(self, obj: LogObject, what: str) -> None:
        """Note a problem of an object, which is then not used any more."""
        self.bad.add(obj.key)
        self.problems.append(Problem(obj.key, obj.seq, what))

    async def walk(self, listing: Listing) -> None:
        """Check every object, upwards."""
        order = {"commit": 0, "merged": 1, "base": 2}
        objects = sorted(listing.objects, key=lambda o: (o.seq, order[o.kind], o.after))
        self._find_gaps(listing)
        state: _State | None = None
        for obj in objects:
            try:
                contents = await self._read(obj)
            except (CorruptObject, NewerFormat) as error:
                self.found(obj, error.detail)
                state = None if obj.kind == "commit" else state
                continue
            except Vanished:
                # Deleted during the walk, after a tombstone or as garbage. What is left is checked.
                continue
            if obj.kind == "commit":
                state = await asyncio.to_thread(self._commit, obj, contents, state)
            elif obj.kind == "base":
                state = await asyncio.to_thread(self._base, obj, contents, state)
            elif state is not None and state.seq == obj.seq:
                await asyncio.to_thread(self._merged, obj, contents, state)

    def _find_gaps(self, listing: Listing) -> None:
        numbers = sorted(listing.commits.keys() | listing.graves)
        for below, above in itertools.pairwise(numbers):
            if above != below + 1:
                missing = names.log_prefix(self._user_id) + names.commit_name(above - 1)
                self.problems.append(Problem(missing, above - 1, f"the commits {below + 1} to {above - 1} are missing"))
        for seq in sorted(seq for seq in listing.graves if seq > listing.newest):
            self.problems.append(Problem(names.log_prefix(self._user_id) + names.commit_name(seq), seq, CUT_TO_A_GRAVE))

    async def _read(self, obj: LogObject) -> _Contents:
        stream = await self._reader.open(obj, PART_BYTES, WINDOW)
        try:
            runs: list[tuple[str, int, _Digests]] = []
            async for frames in stream.frames():
                runs += await asyncio.to_thread(self._hash, stream, frames)
        finally:
            await stream.close()
        assert stream.decoded is not None
        return _Contents(stream.decoded, runs)

    @staticmethod
    def _hash(stream: OpenObject, frames: list[tuple[int, memoryview]]) -> list[tuple[str, int, _Digests]]:
        runs = []
        header = stream.header
        for index, stored in frames:
            frame = header.frames[index]
            raw = memoryview(unpack_frame(stream.obj.key, frame, stored))
            cursor = 0
            for file, offset, length in frame.extents:
                made = np.frombuffer(block_digests(raw[cursor : cursor + length]), dtype=np.uint8)
                runs.append((header.files[file].path, blocks_of(offset), made.reshape(-1, DIGEST_BYTES)))
                cursor += length
        return runs

    def _commit(self, obj: LogObject, contents: _Contents, state: _State | None) -> _State | None:
        header = contents.decoded.header
        self._newest_commit = contents.decoded
        if header.self_contained:
            follows = state is not None and state.seq == obj.seq - 1 and bool(header.parent_hash)
            if state is not None and follows and header.parent_hash != state.commit_hash:
                self.found(obj, f"it names another parent than commit {state.seq} in the log")
            state = _State(obj.seq)
        elif state is None or state.seq != obj.seq - 1:
            # The gap below was reported; this commit can only be checked for itself.
            return None
        elif header.parent_hash != state.commit_hash or header.state_before != state.checksum:
            self.found(obj, f"it names another parent than commit {state.seq} in the log")
            return None
        wrong = state.apply(contents)
        if wrong:
            self.found(obj, wrong)
            return None
        return state

    def is_ended(self, listing: Listing) -> bool:
        """Whether the newest commit is a tombstone."""
        commit = self._newest_commit
        return commit is not None and commit.header.seq == listing.newest and commit.header.tombstone

    def _base(self, obj: LogObject, contents: _Contents, state: _State | None) -> _State | None:
        fresh = _State(obj.seq)
        wrong = fresh.apply(contents)
        # A tagged commit above graves has no parent, but tells what its base must be.
        commit = self._newest_commit
        beside = commit if commit is not None and commit.header.seq == obj.seq else None
        if (
            beside
            and not wrong
            and (fresh.checksum, fresh.commit_hash)
            != (
                beside.header.state_after,
                beside.commit_hash,
            )
        ):
            wrong = f"it holds another state than commit {obj.seq} leads to"
        if state is not None and state.seq == obj.seq:
            if wrong is None and (fresh.checksum, fresh.commit_hash) != (state.checksum, state.commit_hash):
                wrong = f"it holds another state than commit {obj.seq} leads to"
            if wrong:
                self.found(obj, wrong)
            return state
        if wrong:
            self.found(obj, wrong)
            return state
        return fresh

    def _merged(self, obj: LogObject, contents: _Contents, state: _State) -> None:
        header = contents.decoded.header
        if header.state_after != state.checksum or contents.decoded.commit_hash != state.commit_hash:
            self.found(obj, f"it leads to another state than commit {obj.seq}")
            return
        held = {path: np.zeros(len(file.digests), dtype=np.bool_) for path, file in state.files.items()}
        for path, first, digests in contents.runs:
            held[path][first : first + len(digests)] = True
            if not np.array_equal(state.files[path].digests[first : first + len(digests)], digests):
                self.found(obj, f"its blocks of {path} are not those of commit {obj.seq}")
                return
        for path, file in state.files.items():
            if obj.after >= state.since and bool(np.any((file.changed > obj.after) & ~held[path])):
                self.found(obj, f"it lacks blocks of {path} that commits above {obj.after} changed")
                return

    async def newest_intact(self, listing: Listing) -> int:
        """Return the newest number that hydrates from objects without a problem; 0 for none."""
        good = self._good(listing)
        for seq in sorted({obj.seq for obj in good.objects}, reverse=True):
            if await self._hydrates(good, seq):
                return seq
        return 0

    def _good(self, listing: Listing) -> Listing:
        return Listing([obj for obj in listing.objects if obj.key not in self.bad], complete=True)

    async def _hydrates(self, listing: Listing, seq: int) -> bool:
        found = chain(listing, seq)
        if found is None:
            return False
        try:
            async with open_chain(Reader(self._bucket, self._user_id, None), found.objects) as streams:
                if not streams[0].header.self_contained:
                    return False
                await Replay(streams, None).run()
                return True
        except (CorruptObject, BrokenLog, NewerFormat, Vanished):
            return False

    async def check_tags(self, before: list[str], listing: Listing) -> None:
        """Check the tags that were there ``before`` the log was listed, and still are."""
        good = self._good(listing)
        hydrates: dict[int, bool] = {}
        for name in before:
            key = names.tag_key(self._user_id, name)
            try:
                tag = await tags.get(self._bucket, self._user_id, name)
            except BackupNotFound:
                continue
            except CorruptObject as error:
                self.problems.append(Problem(key, 0, error.detail))
                continue
            if tag.seq not in hydrates:
                hydrates[tag.seq] = tag.seq in good.commits and await self._hydrates(good, tag.seq)
            wrong = None
            if tag.seq not in listing.commits:
                wrong = f"it names commit {tag.seq}, which is not there; the backup is of no use, delete it"
            elif not hydrates[tag.seq]:
                wrong = f"it names commit {tag.seq}, which cannot be hydrated"
            elif await self._differs(tag, good.commits[tag.seq]):
                wrong = f"it names another commit than the {tag.seq} of the log"
            if wrong is not None and await self._still_there(name):
                self.problems.append(Problem(key, tag.seq, wrong))

    async def _differs(self, tag: Tag, commit: LogObject) -> bool:
        try:
            decoded = await self._reader.header(commit)
        except Vanished:
            return True
        return (decoded.commit_hash, decoded.header.state_after) != (tag.commit_hash, tag.state_checksum)

    async def _still_there(self, name: str) -> bool:
        """Whether a tag is there; a deleted one keeps nothing, and its commit may have been removed meanwhile."""
        try:
            await tags.get(self._bucket, self._user_id, name)
        except BackupNotFound:
            return False
        return True


class _Look(msgspec.Struct):
    """One walk: when it began, the listing that it began with, what it found, the newest number that hydrated."""

    began_ms: int
    listing: Listing
    problems: list[Problem]
    intact: int
    ended: bool

    @property
    def is_stranded(self) -> bool:
        """Whether nothing led to the newest commit."""
        return self.intact < self.listing.newest

    def stood_still(self, after: Listing) -> bool:
        """Whether a later listing has the same objects and graves up to this one's newest number."""
        newest = self.listing.newest
        return set(self.listing.objects) == {obj for obj in after.objects if obj.seq <= newest} and (
            self.listing.graves == {seq for seq in after.graves if seq <= newest}
        )


async def scrub(bucket: Bucket, user_id: str, sources: Sources) -> ScrubReport:
    """Walk the log of a user and report. Damage is in the report.

    Raises StoreUnavailable, also for a log that moved under every look so that no two of them agree on a problem.
    """
    look = await _look(bucket, user_id, sources)
    if not look.problems and not look.is_stranded:
        return _report(user_id, look)
    for number in range(_LOOKS - 1):
        await sources.sleep(_PAUSE_S * 2**number)
        before, look = look, await _look(bucket, user_id, sources)
        if not look.problems and not look.is_stranded:
            return _report(user_id, look)
        agreed = [problem for problem in look.problems if problem in before.problems]
        is_last = number == _LOOKS - 2
        if (agreed or (before.is_stranded and look.is_stranded)) and (before.stood_still(look.listing) or is_last):
            # A number that hydrated in one look is intact, even if objects were being deleted during the other.
            intact = max(before.intact, look.intact)
            return _report(user_id, msgspec.structs.replace(look, problems=agreed, intact=intact))
    raise StoreUnavailable(
        f"The log of user {user_id} moved on under each of {_LOOKS} looks, which found different things. "
        "Verify it again when nothing removes garbage from it or deletes it."
    )


async def _look(bucket: Bucket, user_id: str, sources: Sources) -> _Look:
    began_ms = sources.now_ms()
    # In this order a tag made meanwhile is not missed: its commit is in the listing, or it is not looked at.
    before = await tags.tag_names(bucket, user_id)
    listing, _ = await list_log(bucket, user_id, whole=True)
    scrubber = _Scrubber(bucket, user_id)
    await scrubber.walk(listing)
    await scrubber.check_tags(before, listing)
    intact = await scrubber.newest_intact(listing)
    return _Look(began_ms, listing, scrubber.problems, intact, scrubber.is_ended(listing))


def _report(user_id: str, look: _Look) -> ScrubReport:
    listing = look.listing
    problems = look.problems
    if look.is_stranded and not problems:
        key = names.log_prefix(user_id) + names.commit_name(listing.newest)
        problems = [Problem(key, listing.newest, "nothing that is in the log leads to it")]
    return ScrubReport(
        newest_seq=listing.newest,
        newest_intact_seq=look.intact,
        commits=len(listing.commits),
        objects=len(listing.objects),
        bytes=sum(obj.size for obj in listing.objects),
        problems=problems,
        verified_at_ms=look.began_ms,
        ended=look.ended,
    )
