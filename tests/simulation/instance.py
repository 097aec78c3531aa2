"""One instance of the product in a simulated world: the real pool, vectorstores and commit logs, on fake files."""

from __future__ import annotations

import itertools
import random
import shutil
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, cast

from tests.simulation.loop import VirtualLoop
from tests.simulation.network import Network, VirtualSources, Wire
from tests.simulation.replica import FakeEngine, FakeReplica, FakeTemplate, fake_erase
from vectorpool.commitlog.image import Image
from vectorpool.commitlog.log import CommitLog
from vectorpool.commitlog.outcomes import Position
from vectorpool.commitlog.warm import WarmTier
from vectorpool.local_paths import warm_dir
from vectorpool.objects.bucket import Bucket
from vectorpool.objects.faulty import Faults
from vectorpool.pool.pool import Pool
from vectorpool.pool.stores import StoreFactory
from vectorpool.settings import Settings
from vectorpool.telemetry.figures import Figures
from vectorpool.vectorstore.builder import Builder
from vectorpool.vectorstore.replica import Replica
from vectorpool.vectorstore.template import Template
from vectorpool.vectorstore.vectorstore import Vectorstore

# The share of reads and writes that need Chroma, and of captures that find it needed no more.
OPENS = 0.15


class SimulatedStores:
    """Makes vectorstores over fake replicas, with the interface of ``pool.stores.StoreFactory``."""

    def __init__(self, bucket: Bucket, settings: Settings, sources: VirtualSources, breaks: float, level: int) -> None:
        self._bucket = bucket
        self._settings = settings
        self._sources = sources
        self._breaks = breaks
        self._engine = FakeEngine(level)
        self.shard = 0
        self.label = "0"
        self.figures = Figures()
        self._root = Path(settings.replica_dir) / "open"
        self._generation = itertools.count(1)
        self.warm = WarmTier(warm_dir(Path(settings.replica_dir)), settings.warm_bytes)

    def log(self, user_id: str) -> CommitLog:
        """Return a log of a user, with what this instance shares among its logs."""
        return CommitLog(
            self._bucket,
            user_id,
            warm=self.warm,
            settings=self._settings,
            sources=self._sources,
            engine=self._engine,
        )

    def make(self, user_id: str) -> Vectorstore:
        """Return a vectorstore that is not open yet."""

        def make_directory() -> Path:
            directory = self._root / f"{user_id}+{next(self._generation)}"
            directory.mkdir(parents=True)
            return directory

        def open_replica(
            user_id: str, directory: Path, position: Position, image: Image, settings: Settings
        ) -> Replica:
            breaks = lambda: self._breaks > 0 and self._sources.random() < self._breaks  # noqa: E731
            opens = lambda: self._sources.random() < OPENS  # noqa: E731
            return cast(Replica, FakeReplica(directory, position, image, breaks, opens, self._engine))

        log = self.log(user_id)
        # The virtual loop runs the work of worker threads in its own thread.
        workers = cast(Executor, None)
        builder = Builder(
            user_id,
            log,
            make_directory=make_directory,
            template=cast(Template, FakeTemplate(self._engine.level)),
            workers=workers,
            settings=self._settings,
            sources=self._sources,
            open_replica=open_replica,
            erase=fake_erase,
        )
        return Vectorstore(log, builder, workers, self._settings, self._sources)

    def close(self) -> None:
        """Remove the working directories."""
        shutil.rmtree(self._root, ignore_errors=True)


class Instance:
    """A process of a machine: its domain of the loop, its wire to the store, its pool. It can be frozen and killed."""

    def __init__(
        self,
        name: str,
        machine: Path,
        loop: VirtualLoop,
        network: Network,
        store: Bucket,
        faults: Faults,
        dice: random.Random,
        *,
        level: int = 0,
        **settings: Any,
    ) -> None:
        self.name = name
        self.level = level
        self.machine = machine
        self.settings = Settings(replica_dir=str(machine), **settings)
        self.domain = loop.new_domain(name)
        self.wire = Wire(store, network, faults)
        self.sources = sources = VirtualSources(loop, random.Random(dice.getrandbits(64)))
        # Working directories of an earlier process are removed, as the real factory does; warm objects stay.
        shutil.rmtree(machine / "open", ignore_errors=True)
        self.stores = SimulatedStores(self.wire, self.settings, sources, breaks=0.01, level=level)
        self.pool = Pool(cast(StoreFactory, self.stores), self.settings, sources)

    @property
    def is_dead(self) -> bool:
        """Whether it was killed."""
        return self.domain.is_dead

    @property
    def writes_back(self) -> bool:
        """Whether it acknowledges before it commits."""
        return self.settings.durability == "write-back"
