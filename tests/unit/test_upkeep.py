"""Rounds of upkeep: several instances share them, each log has its turn once an interval, and failures are told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from tests.bench.fleet.loop import FleetLoop
from tests.simulation.network import VirtualSources
from tests.support.commitlogs import Author, FaultyBucket, overwrite
from vectorpool import names
from vectorpool.commitlog import garbage
from vectorpool.commitlog.format import GRAVE
from vectorpool.commitlog.log import CommitLog
from vectorpool.documents.library import DocumentLibrary
from vectorpool.kept_documents import Expiry, KeptDocuments, KeptSize
from vectorpool.objects.bucket import Body, ObjectInfo
from vectorpool.objects.memory import MemoryBucket
from vectorpool.pool.stores import StoreFactory
from vectorpool.pool.upkeep import Upkeep
from vectorpool.settings import Settings
from vectorpool.supervision import Supervisor
from vectorpool.telemetry.figures import Figures

WEEK_S = 604_800.0
USERS = [f"u{number}" for number in range(12)]


class FarBucket(FaultyBucket):
    """A store whose requests take a second in the mean, so that instances meet at the same logs."""

    def __init__(self, store: MemoryBucket, sources: VirtualSources) -> None:
        super().__init__(store)
        self._sources = sources

    async def get(self, key: str) -> Body:
        await self._sources.sleep(2 * self._sources.random())
        return await super().get(key)

    async def list_objects(self, prefix: str, *, limit: int, after: str | None = None) -> list[ObjectInfo]:
        await self._sources.sleep(2 * self._sources.random())
        return await super().list_objects(prefix, limit=limit, after=after)


class Instance:
    """Upkeep over a bucket that counts; of ``StoreFactory`` it has what upkeep asks for."""

    def __init__(self, store: MemoryBucket, settings: Settings, sources: VirtualSources) -> None:
        self.bucket = FarBucket(store, sources)
        self._settings = settings
        self._sources = sources
        self.supervisor = Supervisor(sources)
        self.figures = Figures()
        self.upkeep = Upkeep(
            cast(StoreFactory, self), settings, sources, self.supervisor, owns=lambda user_id: user_id != "not-mine"
        )

    async def list_users(self) -> list[str]:
        return await self.bucket.list_prefixes(names.users_prefix())

    async def remove_expired_documents(self, user_id: str) -> Expiry:
        return await KeptDocuments(self.bucket, self._settings, self._sources).remove_expired(user_id)

    def log(self, user_id: str) -> CommitLog:
        return CommitLog(self.bucket, user_id, settings=self._settings, sources=self._sources)

    def asked(self, method: str) -> Counter[str]:
        """How often this was asked of the object that says what was verified, by user."""
        keys = (key for called, key in self.bucket.calls if called == method)
        return Counter(key.split("/")[1] for key in keys if key == names.verification_key(key.split("/")[1]))


class World:
    """Virtual time, one store, and the instances that look after it."""

    def __init__(self, root: Path, sources: VirtualSources, **settings: object) -> None:
        self.root = root
        self.sources = sources
        self.store = MemoryBucket(sources=sources)
        self.settings = Settings(replica_dir=str(root / "replicas"), **settings)  # type: ignore[arg-type]
        self.instances: list[Instance] = []

    async def write(self, user_id: str, commits: int = 3) -> Author:
        """Give a user a log of so many commits, of this moment."""
        author = Author(self.root / f"of-{user_id}-{len(self.store._objects)}", self.store, user_id=user_id)
        author.sources = self.sources  # type: ignore[assignment]
        author.write("chroma.sqlite3", bytes(4 * 4096))
        for number in range(commits):
            author.write("chroma.sqlite3", number.to_bytes(4, "little"), offset=0)
            await author.commit()
        return author

    def start(self) -> Instance:
        instance = Instance(self.store, self.settings, self.sources)
        instance.upkeep.start()
        self.instances.append(instance)
        return instance

    def asked(self, method: str) -> Counter[str]:
        return sum((instance.asked(method) for instance in self.instances), Counter[str]())

    async def stop(self) -> None:
        for instance in self.instances:
            await instance.upkeep.stop(1.0)


def live(root: Path, story: Callable[[World], Awaitable[None]], **settings: object) -> None:
    """Live through a story in virtual time, and stop every instance at its end."""
    loop = FleetLoop(1)
    world = World(root, VirtualSources(loop, loop.dice), **settings)

    async def told() -> None:
        await story(world)
        await world.stop()

    try:
        loop.run_until_complete(told())
    finally:
        loop.close()


@pytest.mark.parametrize("instances", [1, 4, 16])
def test_instances_share_the_rounds(tmp_path: Path, instances: int) -> None:
    """However many look after them, each log is verified about once an interval, and asked about once by each."""

    async def story(world: World) -> None:
        for user in USERS:
            await world.write(user)
        for _ in range(instances):
            world.start()
        await world.sources.sleep(4 * WEEK_S)
        verified, looks = world.asked("put"), world.asked("get")
        print(f"{sum(verified.values())} verifications and {sum(looks.values())} looks for {len(USERS)} users, 4 weeks")
        assert set(verified) == set(USERS)
        # One at the start, then one an interval and, in the mean, half a look's time more; two may meet at a log.
        assert 3 * len(USERS) <= sum(verified.values()) <= 5 * len(USERS)
        # A verification looks before it begins, so it is one of these.
        assert max(looks.values()) <= 5 * instances

    live(tmp_path, story)


def test_a_restart_costs_a_look_and_no_verification(tmp_path: Path) -> None:
    """An instance that knows nothing asks once about each user, and finds that another was there."""

    async def story(world: World) -> None:
        for user in USERS:
            await world.write(user)
        world.start()
        await world.sources.sleep(WEEK_S / 4)
        await world.instances[0].upkeep.stop(1.0)
        again = world.start()
        await world.sources.sleep(WEEK_S / 2)
        assert again.asked("get") == Counter(USERS)
        assert not again.asked("put")

    live(tmp_path, story)


def test_a_new_user_is_found_at_the_next_look(tmp_path: Path) -> None:
    """A log that appears is verified within a look's time, and one of another shard is left alone."""

    async def story(world: World) -> None:
        world.start()
        await world.sources.sleep(WEEK_S / 2)
        await world.write("late")
        await world.write("not-mine")
        await world.sources.sleep(WEEK_S / 5)
        assert world.asked("put") == Counter(["late"])

    live(tmp_path, story)


def test_a_user_without_a_log_is_asked_about_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Documents alone are nothing to verify and nothing to warn of; a log beside them is, an interval later."""

    async def story(world: World) -> None:
        key = names.document_key("papers", "7", "a.txt")
        await world.store.create(key, b"a source document")
        world.start()
        await world.sources.sleep(0.8 * WEEK_S)
        assert world.asked("get") == Counter(["papers"])
        await world.write("papers")
        await world.sources.sleep(0.5 * WEEK_S)
        assert world.asked("put") == Counter(["papers"])

    with caplog.at_level(logging.WARNING, "vectorpool"):
        live(tmp_path, story)
    assert not caplog.records


def test_a_store_that_is_away_is_asked_again_at_the_next_look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What could not be verified is warned of, not remembered, and verified at the next look."""

    async def story(world: World) -> None:
        await world.write("42")
        instance = world.start()
        instance.bucket.plan("list_objects", "lost")
        await world.sources.sleep(700)
        assert not world.asked("put")
        assert "a log could not be verified" in caplog.text
        await world.sources.sleep(WEEK_S / 5)
        assert world.asked("put") == Counter(["42"])

    with caplog.at_level(logging.WARNING, "vectorpool"):
        live(tmp_path, story)


def test_damage_is_told_though_the_garbage_cannot_be_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An operator sees that a log is damaged also where garbage removal then refuses to touch it."""

    async def story(world: World) -> None:
        await world.write("42")
        # Whatever a backup that cannot be read may keep, garbage removal deletes nothing.
        await overwrite(world.store, names.tag_key("42", "keep"), b"not a backup")
        world.start()
        await world.sources.sleep(1000)

    with caplog.at_level(logging.WARNING, "vectorpool"):
        live(tmp_path, story)
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "the garbage of a log could not be removed" in caplog.text
    assert told == [
        "a log is damaged: 1 problems, newest commit 3, newest intact commit 3; see vectorpool scrub",
    ]


@pytest.mark.parametrize("user_id", ["42", "with-documents-only"])
def test_a_turn_deletes_the_expired_bytes_of_documents(tmp_path: Path, user_id: str) -> None:
    """Of users with a log and without one; what is younger than the retention time stays, by whichever instance."""

    async def story(world: World) -> None:
        if user_id == "42":
            await world.write(user_id)
        library = DocumentLibrary(world.store, world.settings, world.sources)
        for text in ("first", "second"):
            await library.put(user_id, "7", "a.txt", text.encode())
        for _ in range(2):
            world.start()
        await world.sources.sleep(WEEK_S)
        assert (await library.kept_size(user_id)).documents == 1
        await library.put(user_id, "7", "a.txt", b"third")
        await world.sources.sleep(2 * WEEK_S)
        assert await library.kept_size(user_id) == KeptSize(1, len("second"))
        await world.sources.sleep(2 * WEEK_S)
        assert await library.kept_size(user_id) == KeptSize()
        assert (await library.get(user_id, "7", "a.txt")).data == b"third"

    live(tmp_path, story, retention_s=2 * WEEK_S - 2 * 24 * 3600)


def test_a_turn_removes_all_that_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log with more to delete than one garbage removal deletes is freed of it within one turn."""
    monkeypatch.setattr(garbage, "_PER_CALL", 4)

    async def story(world: World) -> None:
        author = await world.write("42", commits=20)
        await world.sources.sleep(2 * world.settings.retention_s)
        world.start()
        await world.sources.sleep(1000)
        page = await world.store.list_objects(names.log_prefix("42"), limit=1000)
        left = {info.key.rpartition("/")[2] for info in page if info.size != len(GRAVE) and "/floor/" not in info.key}
        assert author.position.seq == 20
        assert left == {names.commit_name(20), names.base_name(20)}

    live(tmp_path, story)
