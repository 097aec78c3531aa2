"""Makes vectorstores, over the resources that all slots share: bucket, warm tier, threads, template, directories."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from vectorpool.commitlog.fetch import store_errors
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.scratch import remove_scratch_of_the_dead, scratch_below
from vectorpool.commitlog.warm import WarmTier
from vectorpool.engine.index_rows import IndexRows
from vectorpool.engine.version import TESTED_VERSION, installed_version
from vectorpool.errors import Misconfigured
from vectorpool.kept_documents import Expiry, KeptDocuments
from vectorpool.local_paths import local_segment, open_dir, warm_dir
from vectorpool.names import excerpt, parse_slot_key, split_user_ids, users_prefix
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.clocked import ClockedBucket
from vectorpool.platform import native_marks
from vectorpool.platform.fsync import skip_fsync
from vectorpool.platform.privacy import make_private
from vectorpool.settings import Settings
from vectorpool.sources import SYSTEM, Sources
from vectorpool.telemetry.figures import Figures
from vectorpool.telemetry.parts import StoreClock
from vectorpool.vectorstore.builder import Builder
from vectorpool.vectorstore.compatibility import ENGINE
from vectorpool.vectorstore.replica import Replica
from vectorpool.vectorstore.template import Template
from vectorpool.vectorstore.vectorstore import Vectorstore

T = TypeVar("T")
logger = logging.getLogger(__name__)

_CLAIM_ATTEMPTS = 120
_CLAIM_PAUSE_S = 0.1


class StoreFactory:
    """Owns a shard's part of the replica directory; working directories of an earlier process there are removed."""

    def __init__(
        self,
        bucket: Bucket,
        settings: Settings,
        *,
        shard: int = 0,
        is_isolated: bool = False,
        sources: Sources = SYSTEM,
        figures: Figures | None = None,
    ) -> None:
        self.shard = shard
        self.label = f"isolated-{shard}" if is_isolated else str(shard)
        self.figures = Figures() if figures is None else figures
        self._bucket = bucket
        self._settings = settings
        self._sources = sources
        self._kept = KeptDocuments(bucket, settings, sources)
        self._root = open_dir(Path(settings.replica_dir), shard, is_isolated=is_isolated)
        for directory in (self._root.parent, warm_dir(Path(settings.replica_dir))):
            make_private(directory)
        self._lock = _claim(self._root)
        # An earlier process left these directories, and they may be damaged. The log has every commit of them.
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)
        self.warm = WarmTier(warm_dir(Path(settings.replica_dir)) / self._root.name, settings.warm_bytes)
        # Chroma is opened in these threads and nowhere else, and starts its own from them.
        initializer = skip_fsync if settings.skip_fsync else None
        self._workers = ThreadPoolExecutor(settings.workers, "chroma", initializer=initializer)
        self._template = Template(self._root / ".template")
        self._generation = itertools.count(1)
        self._has_told_refused = False
        self._open_replica = partial(Replica, index_rows=IndexRows(settings.index_rows_bytes))
        if installed_version() != TESTED_VERSION:
            # A version's migrations are read from a directory that it has just made.
            self._workers.submit(self._template.learn).result()

    async def list_users(self) -> list[str]:
        """Return the ids of all users that have anything in the bucket; log names that are no ids, once.

        Raises StoreUnavailable.
        """
        with store_errors(self._bucket, "listing the users"):
            found = await self._bucket.list_prefixes(users_prefix())
        ids, refused = split_user_ids(found)
        if refused and not self._has_told_refused:
            self._has_told_refused = True
            shown = ", ".join(map(excerpt, refused[:10]))
            logger.warning("%d names below users/ are no user ids, and are passed over: %s", len(refused), shown)
        return ids

    async def remove_expired_documents(self, user_id: str) -> Expiry:
        """Delete kept bytes of a user's documents whose time is over, as many as one call may.

        Raises StoreUnavailable.
        """
        with store_errors(self._bucket, "deleting kept documents"):
            return await self._kept.remove_expired(user_id)

    @property
    def bucket(self) -> Bucket:
        """The bucket of all users."""
        return self._bucket

    @property
    def swept_file(self) -> Path:
        """The file that says when this shard looked for deletions last; it stays as long as the cached objects."""
        return warm_dir(Path(self._settings.replica_dir)) / f"{self._root.name}.swept"

    @staticmethod
    def remove_orphans(scratch: Path) -> None:
        """Remove what processes that are no more left in the scratch directory. Blocking."""
        remove_scratch_of_the_dead(scratch)

    async def run(self, user_id: str, function: Callable[..., T], *arguments: object) -> T:
        """Run what blocks in the threads in which Chroma may be opened."""
        workers = native_marks.owned(self._workers, user_id)
        return await asyncio.get_running_loop().run_in_executor(workers, function, *arguments)

    def scratch(self) -> AbstractAsyncContextManager[Path]:
        """Give a block an empty directory for states that no request sees, and remove it. Raises LocalDiskFailed."""
        return scratch_below(self._settings.replica_dir)

    def open_replica(self, user_id: str, directory: Path, position: Position, image: Image) -> Replica:
        """Open a directory that no slot has. Blocking. Raises what ``Replica`` raises."""
        return Replica(user_id, directory, position, image, self._settings, self._sources)

    def empty(self, directory: Path) -> None:
        """Fill an empty directory as for a new user. Blocking."""
        self._template.copy_to(directory)

    def log(self, user_id: str, clock: StoreClock | None = None) -> CommitLog:
        """Return a user's commit log, whose calls of the store ``clock`` measures."""
        bucket = self._bucket if clock is None else ClockedBucket(self._bucket, clock, self._sources)
        return CommitLog(
            bucket,
            user_id,
            warm=self.warm,
            settings=self._settings,
            sources=self._sources,
            engine=ENGINE,
            figures=self.figures,
        )

    def make(self, key: str) -> Vectorstore:
        """Return the vectorstore of a slot's key, not open yet."""
        user_id, at = parse_slot_key(key)

        def make_directory() -> Path:
            directory = self._root / f"{local_segment(user_id)}+{next(self._generation)}"
            directory.mkdir(parents=True)
            return directory

        clock = StoreClock(self._sources)
        log = self.log(user_id, clock)
        workers = native_marks.owned(self._workers, user_id)
        builder = Builder(
            user_id,
            log,
            make_directory=make_directory,
            template=self._template,
            workers=workers,
            settings=self._settings,
            sources=self._sources,
            open_replica=self._open_replica,
            at=at,
        )
        return Vectorstore(log, builder, workers, self._settings, self._sources, clock)

    def close(self) -> None:
        """End the threads and remove the working directories; warm objects stay."""
        self._workers.shutdown(wait=True)
        self.warm.close()
        shutil.rmtree(self._root, ignore_errors=True)
        self._lock.close()


def _claim(root: Path) -> IO[bytes]:
    """Lock a shard's directory for this process, so that no other process removes or reads its open directories.

    A shard whose front process was killed still commits for ``drain_s``; a new shard waits until it ends.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    lock = root.with_name(root.name + ".lock").open("wb")
    for _ in range(_CLAIM_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            time.sleep(_CLAIM_PAUSE_S)
    lock.close()
    raise Misconfigured(
        f"Another instance uses the replica directory {root.parent.parent}. Stop it, or give this one its own "
        "with --replica-dir."
    )
