"""What a worker keeps between two exports of a user, so that the next one costs what was committed since alone.

A kept state is a directory at rest with its image: the commits that follow are written into it, each checked as for a
replica (``commitlog/next_commits.py``). Whatever is no plain commit, and whatever does not fit, is built anew. A state
that Chroma was opened on, or whose export failed, is not kept. The least recently used go first, and the state of a
deleted user as soon as a mark of the deletion is seen.

A connection to a target is kept for ``IDLE_S``, where the target's sink serves one user after another.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from vectorpool.commitlog.deletions import segment_digest
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.next_commits import NextCommit, Unpatchable, plan_patch, write_patch
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.scratch import make_scratch
from vectorpool.errors import CorruptObject, LocalDiskFailed
from vectorpool.local_paths import local_segment, scratch_dir
from vectorpool.platform.local_disk import on_local_disk
from vectorpool.platform.threads import run_to_end
from vectorpool.sources import SYSTEM, Sources
from vectorpool.targets.records import Sink
from vectorpool.targets.urls import Target

logger = logging.getLogger(__name__)

_STATE: Final = "state"
_MOST_STATES: Final = 1000
# How long a connection is kept without an export. Other exports may be waiting for one.
IDLE_S: Final = 60.0


class State(msgspec.Struct):
    """The state of a commit in ``directory``. Set ``is_touched`` if its files were changed."""

    root: Path
    position: Position
    image: Image
    is_touched: bool = False

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self.root / _STATE

    @property
    def size(self) -> int:
        """The bytes of the files."""
        return sum(file.size for file in self.image.files.values())


class KeptStates:
    """The states that one process keeps, at most ``max_bytes`` of them. Belongs to one event loop."""

    def __init__(self, replica_dir: str, max_bytes: int) -> None:
        self._parent = scratch_dir(Path(replica_dir))
        self._max_bytes = max_bytes
        # Least recently used first. A state that is in use is not here.
        self._states: dict[str, State] = {}

    def __contains__(self, user_id: str) -> bool:
        """Whether a state of the user is kept."""
        return user_id in self._states

    @asynccontextmanager
    async def state(
        self, user_id: str, log: CommitLog, newest: Position, at: int | None = None
    ) -> AsyncIterator[State]:
        """Yield the state of the newest commit, or of ``at``; keep it afterwards, if it is the newest and untouched.

        ``newest`` is a commit that was the newest a moment ago. Raises UserNotFound, CommitNotFound, Damaged,
        StoreUnavailable, LocalDiskFailed.
        """
        state = None if at is not None else await self._follow(self._states.pop(user_id, None), log, newest)
        if state is None:
            try:
                state = await self._build(log, at)
            except LocalDiskFailed:
                if not self._states:
                    raise
                # What is kept for later may be what fills the disk.
                await self._shrink(0, 0)
                state = await self._build(log, at)
        is_kept = False
        try:
            yield state
            is_kept = at is None and not state.is_touched and state.size <= self._max_bytes
        finally:
            if not is_kept:
                await _remove(state)
        if is_kept:
            await self._put(user_id, state)

    async def drop(self, digest: str) -> None:
        """Remove the state of a user, who is named as marks of deletions name one."""
        for user_id in [each for each in self._states if segment_digest(local_segment(each)) == digest]:
            await _remove(self._states.pop(user_id))

    async def _put(self, user_id: str, state: State) -> None:
        # Two exports of a user to two targets may have built one each.
        replaced = self._states.pop(user_id, None)
        self._states[user_id] = state
        if replaced is not None:
            await _remove(replaced)
        await self._shrink(self._max_bytes, _MOST_STATES)

    async def _shrink(self, max_bytes: int, most: int) -> None:
        total, removed = sum(each.size for each in self._states.values()), list[State]()
        while self._states and (total > max_bytes or len(self._states) > most):
            removed.append(self._states.pop(next(iter(self._states))))
            total -= removed[-1].size
        for each in removed:
            await _remove(each)

    async def _build(self, log: CommitLog, at: int | None) -> State:
        with on_local_disk(self._parent):
            root = await asyncio.to_thread(make_scratch, self._parent)
        state = State(root, Position(0, b""), Image({}), is_touched=True)
        try:
            await asyncio.to_thread(state.directory.mkdir)
            hydrated = await log.export(state.directory, at=at)
        except BaseException:
            await _remove(state)
            raise
        return State(root, hydrated.position, hydrated.image)

    async def _follow(self, state: State | None, log: CommitLog, newest: Position) -> State | None:
        """Bring a state to the newest commit; None if there is none, or it has to be built anew."""
        if state is None:
            return None
        is_current = False
        try:
            # In a bucket that was put back, the commits that follow are those of another history.
            is_of_log = state.position.seq < newest.seq or state.position == newest
            commits = await log.following(state.position) if is_of_log else None
            if commits:
                # To its end also if the caller is cancelled: the files are removed afterwards.
                await run_to_end(None, _patch, state, commits)
            is_current = commits is not None
        except (Unpatchable, CorruptObject, OSError) as error:
            logger.info("the state of an earlier export is built anew: %s", error)
        finally:
            if not is_current:
                await _remove(state)
        return state if is_current else None


class KeptSinks:
    """At most one open sink of each target, for the next export. Its methods may be called by any thread."""

    def __init__(self, sources: Sources = SYSTEM) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        # By the target's URL, with the time when it was given back.
        self._sinks: dict[str, tuple[Sink, float]] = {}

    def take(self, target: Target) -> Sink | None:
        """Return the sink that is kept, for the caller alone; None if there is none. Its connection may be dead."""
        with self._lock:
            kept = self._sinks.pop(target.url, None)
        return None if kept is None else kept[0]

    def give(self, target: Target, sink: Sink) -> None:
        """Keep a sink whose export ended well, or close it if there is one already."""
        with self._lock:
            is_kept = sink.may_be_kept and target.url not in self._sinks
            if is_kept:
                self._sinks[target.url] = sink, self._sources.monotonic_s()
        if not is_kept:
            sink.close()

    def close_idle(self, idle_s: float = IDLE_S) -> None:
        """Close the sinks that were not used for a time."""
        before_s = self._sources.monotonic_s() - idle_s
        with self._lock:
            idle = [url for url, (_, given_s) in self._sinks.items() if given_s <= before_s]
            sinks = [self._sinks.pop(url)[0] for url in idle]
        for sink in sinks:
            sink.close()


class Kept(NamedTuple):
    """What one worker keeps."""

    states: KeptStates
    sinks: KeptSinks


def _patch(state: State, commits: list[NextCommit]) -> None:
    patch = plan_patch(state.image, commits)
    write_patch(state.directory, patch)
    state.position, state.image = patch.position, patch.image


async def _remove(state: State) -> None:
    await asyncio.shield(asyncio.to_thread(shutil.rmtree, state.root, ignore_errors=True))
