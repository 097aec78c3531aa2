"""Files of Chroma's size that stand for Chroma's, and an instance's vectorstores over them.

A vectorstore is one file of incompressible pages of 4 KiB; a write changes one page, anywhere. All bytes are a
quarter (``BYTE_SCALE``) of what they stand for: measured with Chroma, 500 records of 384 dimensions pack to 1.05 MiB
and a lone upsert to 20 KiB, and here they are 64 pages and a page with its header. The bounds of compaction that are
numbers of bytes are a quarter too, so that merges and bases come as often as in a real log.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec

from tests.bench.fleet.loop import WORKERS
from tests.simulation.network import VirtualSources
from vectorpool.answers import SchemaState, Written
from vectorpool.commands import Read, UpsertRecords, Vectors, Write
from vectorpool.commitlog import compaction, plan
from vectorpool.commitlog.image import Capture, Image, capture
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.next_commits import NextCommit, Patch, plan_patch
from vectorpool.commitlog.outcomes import Compaction, Hydrated, LostRace, PendingCommit, Position
from vectorpool.commitlog.warm import WarmTier
from vectorpool.engine.deletions import Remains
from vectorpool.engine.directory_state import DirectoryState, NotPristine
from vectorpool.limits import Quota
from vectorpool.local_paths import warm_dir
from vectorpool.objects.bucket import Bucket
from vectorpool.settings import Settings
from vectorpool.telemetry.figures import Figures
from vectorpool.vectorstore.builder import Builder
from vectorpool.vectorstore.effect import Effect
from vectorpool.vectorstore.patcher import Patcher
from vectorpool.vectorstore.replica import Replica
from vectorpool.vectorstore.template import Template
from vectorpool.vectorstore.vectorstore import Vectorstore

BYTE_SCALE = 4
PAGE_BYTES = 4096
PAGES = "pages"
_COUNT_BYTES = 8
_encode = msgspec.json.Encoder().encode
# Any write: the page that it changes is random.
WRITE = UpsertRecords(collection="notes", ids=["a"], vectors=Vectors(1, bytes(4)))


class Seen(msgspec.Struct, frozen=True):
    """The answer of a read: the number of writes that it saw."""

    writes: int


decode_seen = msgspec.json.Decoder(Seen).decode


@contextmanager
def scaled_bounds() -> Iterator[None]:
    """Scale the bounds of compaction that are bytes as the files are scaled."""
    before = plan.SLACK_BYTES, plan.ENTRY_BYTES, plan.OBJECT_COST
    plan.SLACK_BYTES = compaction.SLACK_BYTES = before[0] // BYTE_SCALE  # type: ignore[misc]
    plan.ENTRY_BYTES, plan.OBJECT_COST = before[1] // BYTE_SCALE, before[2] // BYTE_SCALE  # type: ignore[misc]
    try:
        yield
    finally:
        plan.SLACK_BYTES, plan.ENTRY_BYTES, plan.OBJECT_COST = before  # type: ignore[misc]
        compaction.SLACK_BYTES = before[0]  # type: ignore[misc]


def fill(directory: Path, pages: int) -> None:
    """Write a vectorstore of ``pages`` pages without writes."""
    dice = random.Random(pages)
    content = b"".join(bytes(_COUNT_BYTES) + dice.randbytes(PAGE_BYTES - _COUNT_BYTES) for _ in range(pages))
    (directory / PAGES).write_bytes(content)


class PagedReplica:
    """One open directory, with the interface of ``vectorstore.replica.Replica``. A page has its write's number."""

    # The engine never changes in this simulation.
    is_migrated = False
    schema_state: SchemaState = "tested"
    chroma_use: None = None
    stamp = None
    # Nothing is deleted in it, so there is nothing to erase.
    remains = Remains()

    def __init__(self, directory: Path, position: Position, image: Image, sources: VirtualSources) -> None:
        self.directory = directory
        self.position = position
        self.image = image
        self._sources = sources
        self.state = DirectoryState()
        self.may_lose = False
        self._patcher = Patcher(directory, self.state)
        self._captured: tuple[int | None, Image] | None = None
        self._file = directory / PAGES
        self._load()

    def _load(self) -> None:
        content = self._file.read_bytes()
        self._pages = len(content) // PAGE_BYTES
        starts = range(0, len(content), PAGE_BYTES)
        self.writes = max(int.from_bytes(content[at : at + _COUNT_BYTES], "little") for at in starts)

    def size_bytes(self) -> int:
        return self.image.size

    def read(self, command: Read) -> bytes:
        return _encode(Seen(self.writes))

    def read_at_once(self, command: Read) -> bytes | None:
        """Return None: every read runs in a thread."""
        return None

    def write(
        self, command: Write, collection_id: str | None = None, quota: Quota | None = None, is_again: bool = False
    ) -> tuple[bytes, Effect]:
        if self.may_lose:
            self._patcher.keep(self.image)
        self.writes += 1
        self.state.tracked_write()
        page = int(self._sources.random() * self._pages)
        noise = random.Random(self.writes).randbytes(PAGE_BYTES - _COUNT_BYTES)
        with self._file.open("r+b") as file:
            file.seek(page * PAGE_BYTES)
            file.write(self.writes.to_bytes(_COUNT_BYTES, "little") + noise)
        return _encode(Written(written=1)), Effect(touched=True, written=1, collections={"notes"})

    def capture(self) -> Capture:
        mark = self.state.capturing()
        captured = capture(self.directory, self.image)
        self._captured = mark, captured.image
        return captured

    def advance(self, position: Position, image: Image) -> None:
        mark, captured = self._captured or (None, None)
        self._captured = None
        if captured is image:
            self._patcher.follow(self.image, image)
            self.state.committed(mark)
        self.position, self.image = position, image

    def plan(self, commits: Sequence[NextCommit]) -> Patch:
        return plan_patch(self.image, commits)

    def patch(self, patch: Patch) -> None:
        self._patcher.patch(self.image, patch)
        self.position, self.image, self._captured = patch.position, patch.image, None
        self._load()

    def undo(self, lost: Image) -> None:
        mark, captured = self._captured or (None, None)
        if captured is not lost:
            raise NotPristine
        self._patcher.undo(self.image, lost, mark)
        self._captured = None
        self._load()

    def examine(self) -> None:
        """Do nothing: such a replica cannot be damaged."""

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def discard(self) -> None:
        self._patcher.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class WatchedLog(CommitLog):
    """A commit log that counts its events for its instance."""

    watch: PagedStores

    async def hydrate(self, directory: Path, *, at: int | None = None) -> Hydrated | None:
        hydrated = await super().hydrate(directory, at=at)
        if hydrated is not None:
            # Warm means that most bytes were on local disk; newer commits of other instances are fetched.
            is_warm = 2 * hydrated.fetched_bytes < hydrated.read_bytes
            self.watch.hydrated[self._user_id] = is_warm
            self.watch.counts["warm hydrates" if is_warm else "cold hydrates"] += 1
        return hydrated

    async def following(self, position: Position) -> list[NextCommit] | None:
        commits = await super().following(position)
        if commits:
            self.watch.patched.add(self._user_id)
        return commits

    async def append(self, pending: PendingCommit, *, in_doubt: bool = False) -> Position:
        self.watch.counts["appends"] += 1
        try:
            return await super().append(pending, in_doubt=in_doubt)
        except LostRace:
            self.watch.counts["lost"] += 1
            raise

    async def compact(self, position: Position) -> Compaction:
        done = await super().compact(position)
        self.watch.counts["compacted objects"] += len(done.written)
        self.watch.counts["compacted bytes"] += done.bytes
        return done


class PagedStores:
    """Makes vectorstores over paged replicas, with the interface of ``pool.stores.StoreFactory``.

    ``hydrated`` has the users hydrated since it was last cleared, each with whether that was from the warm tier, and
    ``patched`` those whose open replica got commits of other instances to take in.
    """

    def __init__(self, bucket: Bucket, settings: Settings, sources: VirtualSources) -> None:
        self._bucket = bucket
        self._settings = settings
        self._sources = sources
        self.shard = 0
        self.label = "0"
        self.figures = Figures()
        self._root = Path(settings.replica_dir) / "open"
        self._generation = itertools.count(1)
        self.warm = WarmTier(warm_dir(Path(settings.replica_dir)), settings.warm_bytes)
        self.hydrated: dict[str, bool] = {}
        self.patched: set[str] = set()
        self.counts: Counter[str] = Counter()

    def log(self, user_id: str) -> CommitLog:
        """Return a log of a user, which this instance watches."""
        log = WatchedLog(self._bucket, user_id, warm=self.warm, settings=self._settings, sources=self._sources)
        log.watch = self
        return log

    def make(self, user_id: str) -> Vectorstore:
        """Return a vectorstore that is not open yet."""

        def make_directory() -> Path:
            directory = self._root / f"{user_id}+{next(self._generation)}"
            directory.mkdir(parents=True)
            return directory

        def open_replica(_: str, directory: Path, position: Position, image: Image, settings: Settings) -> Replica:
            return cast(Replica, PagedReplica(directory, position, image, self._sources))

        log = self.log(user_id)
        builder = Builder(
            user_id,
            log,
            make_directory=make_directory,
            # Every user of a fleet has a log, so nothing is ever made from the template of an empty replica.
            template=cast(Template, None),
            workers=WORKERS,
            settings=self._settings,
            sources=self._sources,
            open_replica=open_replica,
        )
        return Vectorstore(log, builder, WORKERS, self._settings, self._sources)

    def close(self) -> None:
        """Remove the working directories."""
        shutil.rmtree(self._root, ignore_errors=True)
